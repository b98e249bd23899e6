"""Files of weights: nothing but plain tensors of the right network gets in."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medsam2 import checkpoints, hub
from medsam2.checkpoints import describe, load_network, save_weights
from medsam2.errors import CheckpointError
from medsam2.model.compact.config import COMPACT, CompactConfig
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.config import TINY_512, ModelConfig
from medsam2.model.network import Network
from medsam2.weights import guess_network

SMALL = ModelConfig(
    image_size=64,
    embed_dim=8,
    num_heads=1,
    stages=(1, 1, 1, 1),
    global_attention_blocks=(2,),
    window_pos_embed_size=(2, 2),
    window_spec=(4, 2, 4, 2),
    hidden_dim=64,
    memory_attention_layers=1,
)
SMALL_COMPACT = CompactConfig(image_size=64, channels=(8, 8, 16, 16, 16), blocks=(1, 1, 1, 2, 1))


@pytest.fixture(scope="module")
def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Network(SMALL).state_dict()


@pytest.fixture
def small_file(tmp_path: Path, small_state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "small.safetensors"
    save_weights(small_state, SMALL, path)
    return path


@pytest.fixture(scope="module")
def tiny_state() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        names = {name: value.shape for name, value in Network(TINY_512).state_dict().items()}
    # One zero for each tensor: the files stay small, and the shapes are what is looked at.
    return {name: torch.zeros(1).expand(shape) for name, shape in names.items()}


def test_round_trip(small_file: Path, small_state: dict[str, torch.Tensor]) -> None:
    network = load_network(small_file)
    assert network.config == SMALL
    assert not network.training
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, small_state[name].half().float(), rtol=0, atol=0)
    assert [path.name for path in small_file.parent.iterdir()] == [small_file.name]


def test_round_trip_of_a_compact_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = CompactNetwork(SMALL_COMPACT).state_dict()
    path = tmp_path / "small.safetensors"
    save_weights(state, SMALL_COMPACT, path)
    network = load_network(path)
    assert isinstance(network, CompactNetwork)
    assert network.config == SMALL_COMPACT
    assert not network.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, state[name].half().float(), rtol=0, atol=0)
    assert describe(path).preset is None
    save_weights(CompactNetwork(COMPACT).state_dict(), COMPACT, path)
    assert describe(path).preset == "compact"


def _rewritten(path: Path, state: dict[str, torch.Tensor], config: object, **change: object) -> Path:
    """Write a file whose stored configuration differs from one of ours."""
    save_weights(state, config, path)
    with checkpoints.safe_open(path, framework="pt") as file:
        table = json.loads(file.metadata()["medsam2.config"])
    save_file(state, path, metadata={"medsam2.config": json.dumps({**table, **change})})
    return path


def test_weights_of_the_former_compact_network_are_refused_in_one_sentence(
    tmp_path: Path, small_state: dict[str, torch.Tensor]
) -> None:
    path = _rewritten(tmp_path / "former.safetensors", small_state, SMALL, carries_mask=True)
    with pytest.raises(CheckpointError) as refused:
        load_network(path)
    assert str(refused.value) == (
        f"{path} holds weights of the former compact network (compact-256), which this version does not run; "
        "use the weights 'compact' that come with it, or train these anew with `medsam2 train`"
    )


def test_weights_that_an_earlier_version_wrote_of_the_official_network_still_load(
    tmp_path: Path, small_state: dict[str, torch.Tensor]
) -> None:
    path = _rewritten(tmp_path / "earlier.safetensors", small_state, SMALL, carries_mask=False)
    assert load_network(path).config == SMALL


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 1 << 40},
        {"image_size": 100},
        {"channels": [8, 8, 16, 16]},
        {"channels": [8, 8, 16, 16, 12]},
        {"channels": "wide"},
        {"blocks": [1, 1, 1, 0, 1]},
        {"blocks": [1, 1, 1, 1, 1]},
        {"fine_channels": 0},
        {"memory_layers": 3},
        {"depth": 2},
    ],
)
def test_impossible_configurations_of_a_compact_network(tmp_path: Path, change: dict[str, object]) -> None:
    state = CompactNetwork(SMALL_COMPACT).state_dict()
    path = _rewritten(tmp_path / "odd.safetensors", state, SMALL_COMPACT, **change)
    with pytest.raises(CheckpointError, match=r"odd\.safetensors"):
        load_network(path)


@pytest.mark.parametrize("wrapped", [False, True])
def test_official_files_hold_the_table_itself_or_under_a_name(
    tmp_path: Path, tiny_state: dict[str, torch.Tensor], wrapped: bool
) -> None:
    path = tmp_path / "official.pt"
    torch.save({"model": tiny_state, "epoch": 3} if wrapped else tiny_state, path)
    assert path.stat().st_size < 1 << 20
    network = load_network(path)
    assert network.config == TINY_512
    assert len(network.state_dict()) == 471


def test_safetensors_without_a_configuration_are_official(
    tmp_path: Path, small_state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "bare.safetensors"
    save_file(small_state, path)
    with pytest.raises(CheckpointError, match="another network"):
        load_network(path)


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, mark = tmp_path / "trap.pt", tmp_path / "sprung"
    torch.save({"model": Trap(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"trap\.pt is not a checkpoint that can be read safely"):
        load_network(path)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(CheckpointError, match="read safely"):
        load_network(plain)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_files(
    tmp_path: Path, small_file: Path, small_state: dict[str, torch.Tensor], suffix: str
) -> None:
    path = tmp_path / f"whole{suffix}"
    if suffix == ".pt":
        torch.save(small_state, path)
    else:
        path.write_bytes(small_file.read_bytes())
    whole = path.read_bytes()
    for share in (0.0, 0.001, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match=r"read safely|not a complete safetensors") as caught:
            load_network(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [[1, 2], {"model": 3}, {"a": "text"}, {1: torch.zeros(1)}, torch.zeros(2), "text"]
)
def test_files_without_a_table_of_tensors(tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="holds no table of tensors"):
        load_network(path)


def test_other_networks_are_named_with_their_keys(
    tmp_path: Path, tiny_state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "other.pt"

    def message(changed: dict[str, torch.Tensor]) -> str:
        torch.save({"model": changed}, path)
        with pytest.raises(CheckpointError, match=r"other\.pt is a checkpoint of another network") as caught:
            load_network(path)
        return str(caught.value)

    new = {name: value for name, value in tiny_state.items() if not name.startswith("obj_ptr_tpos_proj")}
    assert message(new).endswith("another network: it lacks obj_ptr_tpos_proj.weight, obj_ptr_tpos_proj.bias")
    old = {name: value for name, value in new.items() if name != "no_obj_embed_spatial"}
    assert "another network, SAM 2.0 tiny by its entries: it lacks no_obj_embed_spatial" in message(old)
    blocks = {f"image_encoder.trunk.blocks.{n}.norm1.bias": torch.zeros(8) for n in range(12, 16)}
    small = message({**tiny_state, **blocks})
    assert "SAM 2.1 small by its entries: it also has image_encoder.trunk.blocks.12.norm1.bias" in small
    assert small.endswith("and 1 more")
    wide = {**tiny_state, "no_obj_ptr": torch.zeros(1, 128)}
    assert message(wide).endswith("it has other shapes for no_obj_ptr")


def test_networks_are_told_by_their_entries(tiny_state: dict[str, torch.Tensor]) -> None:
    shapes = {name: tuple(value.shape) for name, value in tiny_state.items()}
    assert guess_network(shapes) == "SAM 2.1 tiny"
    patches = "image_encoder.trunk.patch_embed.proj.weight"
    large = {patches: (144, 3, 7, 7), **{f"image_encoder.trunk.blocks.{n}.x": () for n in range(48)}}
    assert guess_network(large) == "SAM 2.0 large"
    assert guess_network({**large, "no_obj_embed_spatial": (1, 64)}) == "SAM 2.1 large"
    assert guess_network({patches: (192, 3, 16, 16)}) == "EfficientTAM"
    assert guess_network({"image_encoder.patch_embed.proj.weight": (768, 3, 16, 16)}) is not None
    assert guess_network({patches: (99, 3, 7, 7)}) is None
    assert guess_network({"layer.weight": (1,)}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 1 << 40},
        {"image_size": 63},
        {"image_size": 64.0},
        {"stages": [1, 1, 1]},
        {"stages": "many"},
        {"embed_dim": 0},
        {"depth": 2},
    ],
)
def test_impossible_configurations(
    tmp_path: Path, small_state: dict[str, torch.Tensor], change: dict[str, object]
) -> None:
    path = _rewritten(tmp_path / "odd.safetensors", small_state, SMALL, **change)
    with pytest.raises(CheckpointError, match=r"odd\.safetensors"):
        load_network(path)


@pytest.mark.parametrize("text", ["{", "[]", "3", "{}", '{"image_size": null}'])
def test_unreadable_configurations(tmp_path: Path, small_state: dict[str, torch.Tensor], text: str) -> None:
    path = tmp_path / "odd.safetensors"
    save_file(small_state, path, metadata={"medsam2.config": text})
    with pytest.raises(CheckpointError, match="a configuration this version does not know"):
        load_network(path)


def test_a_header_cannot_ask_for_more_than_the_file_has(
    tmp_path: Path, small_state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "greedy.safetensors"
    wide = {"image_size": 2048, "embed_dim": 2048, "num_heads": 1, "stages": [9, 9, 9, 9]}
    rest = {"global_attention_blocks": [], "window_pos_embed_size": [7, 7], "window_spec": [8, 4, 14, 7]}
    save_file(small_state, path, metadata={"medsam2.config": json.dumps({**wide, **rest})})
    with pytest.raises(CheckpointError, match="another network"):  # at once: its weights would be 100 GB
        load_network(path)


def test_sizes_are_capped(
    tmp_path: Path,
    small_file: Path,
    small_state: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "big.pt"
    torch.save(small_state, path)
    monkeypatch.setattr(hub, "MAX_BYTES", 1000)
    for big in (path, small_file):
        with pytest.raises(CheckpointError, match="at most 1,000"):
            load_network(big)


def test_descriptions(small_file: Path) -> None:
    small_file.with_suffix(".md").write_text("# Small\n", encoding="utf-8")
    summary = describe(small_file)
    assert summary.config == SMALL
    assert summary.preset is None
    assert summary.num_entries == len(Network(SMALL).state_dict())
    assert summary.num_parameters == sum(p.numel() for p in Network(SMALL).parameters())
    assert summary.num_bytes == small_file.stat().st_size
    assert summary.sha256 == hashlib.sha256(small_file.read_bytes()).hexdigest()
    assert summary.card == "# Small\n"
