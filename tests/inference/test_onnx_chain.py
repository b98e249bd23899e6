"""What is said of the parts of an exported network, and what each computes, without ONNX itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medsam2.errors import InputError
from medsam2.inference.onnx import compact_parts, official_parts
from medsam2.inference.onnx.chain import CHAIN_FILE, FORMAT, Chain, read_facts, weights_digest
from medsam2.inference.onnx.export import chain_of
from medsam2.inference.predictor import load
from medsam2.inference.zoom import views_of_clicks
from medsam2.model.compact.config import COMPACT
from medsam2.model.compact.memory import CompactMemories
from medsam2.model.compact.network import PLANES, CompactNetwork
from medsam2.model.config import TINY_512
from medsam2.model.network import ImageFeatures, MemoryTokens, Network
from medsam2.prompts.types import prompt_from

CHAINS = {
    "official": official_parts.official_chain(TINY_512),
    "compact": compact_parts.compact_chain(COMPACT),
}
COMPUTES = {"official": official_parts.COMPUTES, "compact": compact_parts.COMPUTES}
NO_PLANE = {"before", "beyond", "slice", "is_prompted"}  # shown as they are, or made by the caller


@pytest.fixture(autouse=True)
def _no_gradients():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_every_value_is_made_before_it_is_used(chain: Chain) -> None:
    parts = {part.name: part for part in chain.parts}
    run = set()
    for steps in chain.procedures.values():
        made: set[str] = set()
        for step in steps:
            if step.part is None:
                assert step.says
                assert not step.inputs
            else:
                run.add(step.part)
                assert list(step.inputs) == [one.name for one in parts[step.part].inputs]
                assert list(step.outputs.values()) == [one.name for one in parts[step.part].outputs]
                assert set(step.inputs.values()) <= made, f"{step.part} gets what is not there"
            made |= step.outputs.keys()
    assert run == parts.keys(), "a part that no procedure runs"


@pytest.mark.parametrize("name", CHAINS)
def test_every_part_is_computed(name: str) -> None:
    assert [part.name for part in CHAINS[name].parts] == list(COMPUTES[name])


def test_the_compact_chain_makes_every_plane() -> None:
    steps = CHAINS["compact"].procedures
    made = {value for step in (*steps["prompted_slice"], *steps["next_slice"]) for value in step.outputs}
    assert CHAINS["compact"].constants["planes"] == list(PLANES)
    assert set(PLANES) - NO_PLANE <= made


@pytest.mark.parametrize("shape_yx", [(40, 56), (101, 122), (512, 512)])
@pytest.mark.parametrize("places", [[(20, 17)], [(3, 5), (30, 39)]])
def test_the_compact_chain_says_how_far_away_clicks_are_looked_at(
    shape_yx: tuple[int, int], places: list[tuple[float, float]]
) -> None:
    constants, longest = CHAINS["compact"].constants, max(shape_yx)
    extent = max(max(ends) - min(ends) + 1 for ends in zip(*places, strict=True))
    sides = [max(constants["least_view_side"], constants["view_over_box"] / 2 * extent)]
    while sides[-1] < longest:
        sides.append(sides[-1] * constants["look_growth"])
    views = views_of_clicks(prompt_from(0, points=places), shape_yx)
    assert [view.width for view in views] == [round(side) for side in sides[:-1]] + [longest]


def test_the_compact_chain_says_what_its_constants_are_for() -> None:
    chain = CHAINS["compact"]
    steps = [step for procedure in chain.procedures.values() for step in procedure]
    told = " ".join(text for step in steps for text in (step.says, *step.outputs.values()))
    assert [name for name in chain.constants if name not in told] == []


def test_the_compact_chain_tells_every_way_to_find_a_slice() -> None:
    prompted = {"prompted_slice", "clicked_slice", "drawn_slice", "corrected_slice"}
    assert CHAINS["compact"].procedures.keys() == prompted | {"next_slice", "corrected_next_slice"}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_chain_is_plain_json(chain: Chain) -> None:
    json.dumps([dict(chain.config), dict(chain.constants)], allow_nan=False)


def test_stacked_memories_of_the_official_network(network: Network) -> None:
    side, dim = network.config.grid_size, network.config.hidden_dim
    level2 = torch.randn(2, dim, side, side)
    spatial, pointers = torch.randn(2, 3, 64, side, side), torch.randn(2, 4, dim)
    distances = [0.0, 0.2, 0.4, 1.0]
    expected = network.attend_memory(
        ImageFeatures(level0=level2, level1=level2, level2=level2),
        MemoryTokens(
            spatial=spatial.unbind(1), codes=[6, 1, 0], pointers=pointers.unbind(1), distances=distances
        ),
    )
    codes = torch.tensor([6, 1, 0], dtype=torch.int32)
    found = network.with_memory(level2, spatial, codes, pointers, torch.tensor(distances))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_stacked_memories_of_the_compact_network(compact_network: CompactNetwork) -> None:
    side, dim = compact_network.config.grid_size, compact_network.config.channels[3]
    level2 = torch.randn(2, dim, side, side)
    spatial, pointers = torch.randn(2, 3, 64, side, side), torch.randn(2, 2, 64)
    squares, distances = [(0.0, 0.0, 1.0), (-0.5, 0.25, 2.0), (0.1, 0.1, 0.5)], [0.2, 1.0]
    memories = CompactMemories(
        spatial=spatial.unbind(1), codes=[6, 1, 0], squares=squares, pointers=pointers.unbind(1),
        distances=distances,
    )  # fmt: skip
    expected = compact_network.attend_memory(level2, memories)
    found = compact_network.with_memory(
        level2, spatial, torch.tensor([6, 1, 0]), torch.tensor(squares), pointers, torch.tensor(distances)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("is_prompted", [True, False])
def test_memories_are_encoded_from_small_masks(network: Network, is_prompted: bool) -> None:
    side, size = network.config.grid_size, network.config.image_size
    level2 = torch.randn(2, network.config.hidden_dim, side, side)
    logits, present = torch.randn(2, 1, size // 4, size // 4), torch.tensor([[1.0], [-1.0]])
    large = torch.nn.functional.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
    features = ImageFeatures(level0=level2, level1=level2, level2=level2)
    expected = network.encode_memory(features, large, present, binarise=is_prompted)
    for mask in (logits, large):
        found = official_parts.encode_memory(network, level2, mask, present, torch.tensor([is_prompted]))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_folder_without_parts_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"holds no {CHAIN_FILE}; a folder of parts is made by"):
        read_facts(tmp_path)
    with pytest.raises(InputError, match="holds no"):
        weights_digest(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", f"has format None, and this version reads {FORMAT}; export the network again"),
        ('{"format": 0}', f"has format 0, and this version reads {FORMAT}; export the network again"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / CHAIN_FILE).write_text(text)
    with pytest.raises(InputError) as refused:
        read_facts(tmp_path)
    assert str(refused.value) == f"{tmp_path / CHAIN_FILE}: {sentence}"


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(InputError) as refused:
        load("compact", runtime="tensorrt")
    assert str(refused.value) == "runtime is torch or onnx, not 'tensorrt'"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "cuda"}, "runtime onnx computes on the CPU: device is auto or cpu, not 'cuda'"),
        (
            {"precision": "bfloat16"},
            "runtime onnx computes in float32: precision is auto or float32, not 'bfloat16'",
        ),
    ],
)
def test_what_onnx_runtime_does_not_do(options: dict[str, str], sentence: str) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    with pytest.raises(InputError) as refused:
        load("compact", runtime="onnx", **options)
    assert str(refused.value) == sentence


def test_networks_have_chains_of_their_kind(network: Network, compact_network: CompactNetwork) -> None:
    assert chain_of(network).network == "official"
    assert chain_of(compact_network).network == "compact"
