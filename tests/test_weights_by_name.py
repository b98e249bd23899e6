"""Names of weights: found where they lie, or fetched once, verified, with their licence shown."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from medsam2.checkpoints import resolve
from medsam2.errors import CheckpointError
from medsam2.hub import fetch, locate, weights_folder
from medsam2.model.config import PRESETS
from medsam2.weights import SPECS, WeightsSpec

OFFICIAL = SPECS["medsam2"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for weights, so that no test sees or touches the user's."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MEDSAM2_HOME", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def test_names_and_paths(tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    file.touch()
    assert resolve(file) == resolve(str(file)) == file
    with pytest.raises(CheckpointError, match=r"no such weights file: .*nothing\.pt"):
        resolve(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        resolve(tmp_path)
    with pytest.raises(
        CheckpointError, match="no weights are called 'medsam'; there are compact, "
    ) as caught:
        resolve("medsam")
    assert all(name in str(caught.value) for name in SPECS)


def test_every_name_has_its_facts() -> None:
    assert list(SPECS) == [
        "compact",
        "medsam2",
        "medsam2-ct-lesion",
        "medsam2-mri-liver-lesion",
        "medsam2-us-heart",
        "sam2.1-tiny",
    ]
    for spec in SPECS.values():
        assert spec.preset in PRESETS
        assert spec.licence
        assert (spec.repository is None) == (spec.name == "compact")


def test_files_that_were_copied_by_hand_are_found(home: Path) -> None:
    assert locate(OFFICIAL) is None
    path = home / "weights" / OFFICIAL.filename
    path.parent.mkdir(parents=True)
    path.write_bytes(b"copied")
    assert resolve("medsam2") == locate(OFFICIAL) == path


def test_the_hub_cache_is_looked_at_and_verified(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"cached").hexdigest()
    repository = tmp_path / "hub" / "models--wanglab--MedSAM2"
    blob = repository / "blobs" / digest
    link = repository / "snapshots" / ("c" * 40) / OFFICIAL.filename
    for path in (blob, link, repository / "refs" / "main"):
        path.parent.mkdir(parents=True)
    (repository / "refs" / "main").write_text("c" * 40)
    blob.write_bytes(b"cached")
    link.symlink_to(blob)
    assert resolve("medsam2") == link
    blob.write_bytes(b"spoilt")
    with pytest.raises(CheckpointError, match=f"is damaged: its SHA-256 is .*, not {digest}"):
        resolve("medsam2")


class Hub:
    """The Hugging Face hub with one file, in place of the two calls that go over the network."""

    def __init__(self, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        self.content = content
        self.etag: str | None = hashlib.sha256(content).hexdigest()
        self.size = len(content)
        self.downloads: list[tuple[str, str, str]] = []
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", self._metadata)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self._download)

    def _metadata(self, url: str) -> SimpleNamespace:
        assert url.endswith(f"/{OFFICIAL.repository}/resolve/main/{OFFICIAL.filename}")
        return SimpleNamespace(etag=self.etag, size=self.size, commit_hash="abc")

    def _download(self, repository: str, filename: str, *, revision: str, local_dir: Path) -> str:
        self.downloads.append((repository, filename, revision))
        path = local_dir / filename
        path.write_bytes(self.content)
        return str(path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(b"weights", monkeypatch)


def test_weights_are_fetched_once_and_verified_later(
    home: Path, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    path = resolve("medsam2")
    assert path == home / "weights" / "MedSAM2_latest.pt"
    assert hub.downloads == [("wanglab/MedSAM2", "MedSAM2_latest.pt", "abc")]
    assert [record.getMessage() for record in caplog.records] == [
        f"fetching the weights medsam2 from wanglab/MedSAM2/MedSAM2_latest.pt (licence: {OFFICIAL.licence})"
    ]
    record = path.with_name("MedSAM2_latest.pt.sha256")
    assert record.read_text() == f"{hub.etag}  MedSAM2_latest.pt\n"
    assert resolve("medsam2") == path
    assert len(hub.downloads) == 1
    path.write_bytes(b"rotten")
    with pytest.raises(CheckpointError, match="is damaged"):
        resolve("medsam2")


def test_a_damaged_download_is_not_kept(home: Path, hub: Hub) -> None:
    hub.etag = "0" * 64
    with pytest.raises(CheckpointError, match=r"what came from wanglab/MedSAM2/.* is damaged"):
        fetch(OFFICIAL)
    assert list((home / "weights").iterdir()) == []


def test_a_digest_known_beforehand_goes_before_the_hubs(hub: Hub) -> None:
    facts = {name: getattr(OFFICIAL, name) for name in OFFICIAL.__dataclass_fields__}
    with pytest.raises(CheckpointError, match=f"not {'1' * 64}"):
        fetch(WeightsSpec(**{**facts, "sha256": "1" * 64}))


def test_a_hub_without_digests_is_told_of(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.etag = '"short"'
    assert fetch(OFFICIAL).read_bytes() == hub.content
    assert "could not be verified" in caplog.text


def test_what_is_too_large_is_not_fetched(hub: Hub) -> None:
    hub.size = 1 << 40
    with pytest.raises(CheckpointError, match="is no checkpoint of these networks"):
        fetch(OFFICIAL)
    assert hub.downloads == []


def test_a_home_that_cannot_be_written(home: Path, hub: Hub) -> None:
    home.write_bytes(b"a file")
    with pytest.raises(CheckpointError, match=r"cannot keep weights in .*; set MEDSAM2_HOME"):
        fetch(OFFICIAL)


def test_the_default_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM2_HOME", "")
    assert weights_folder() == Path.home() / ".medsam2" / "weights"


def test_without_a_home_a_sentence_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: Path) -> Path:  # what pathlib does without HOME, for a user that the system does not know
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    for value, words in (
        (None, "this user has no home"),
        ("~nobody-here/w", "=~nobody-here/w names no home"),
    ):
        if value is None:
            monkeypatch.delenv("MEDSAM2_HOME", raising=False)
        else:
            monkeypatch.setenv("MEDSAM2_HOME", value)
        with pytest.raises(CheckpointError, match=f"{words}.*; set MEDSAM2_HOME to a folder"):
            locate(OFFICIAL)
    with pytest.raises(CheckpointError, match=r"no such weights file: ~/x\.pt; there is no home folder"):
        resolve("~/x.pt")


def test_a_home_that_may_not_be_looked_into(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bool:  # root, as which tests may run, may look everywhere
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refused)
    with pytest.raises(CheckpointError, match=r"may not be looked into; set MEDSAM2_HOME"):
        locate(OFFICIAL)


def test_without_a_network_one_sentence_says_what_to_copy_where(home: Path) -> None:
    script = (
        "from medsam2.checkpoints import resolve\n"
        "from medsam2.errors import CheckpointError\n"
        "try: resolve('medsam2-ct-lesion')\n"
        "except CheckpointError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)},
    )
    assert result.stdout == (
        "the weights 'medsam2-ct-lesion' are not on this machine and cannot be fetched (HF_HUB_OFFLINE is "
        "set); copy MedSAM2_CTLesion.pt from the repository wanglab/MedSAM2 on the Hugging Face hub to "
        f"{home}/weights/MedSAM2_CTLesion.pt\n"
    )
    assert result.stderr == ""
    assert not home.exists()
