"""The public scans are fetched from a server, checked, and become a list that `evaluate` reads."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from fetch_public_cases import CASES, LIST, main
from PIL import Image

from medsam2.evaluation.cases import read_cases, read_task
from medsam2.imaging import io
from medsam2.imaging.volume import Volume


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server of a folder, and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}", folder
        found.shutdown()
        thread.join()


def case(name: str, image: str, mask: str, **given: object) -> dict[str, object]:
    facts = {"label": 1, "modality": "MR", "window": None, "axis": 2, "key_slice": 1, "box": [1, 1, 3, 3]}
    return {"name": name, "image": image, "mask": mask, "target": "part", **facts, **given}


@pytest.fixture
def listed(server: tuple[str, Path], tmp_path: Path) -> Path:
    """A list of a scan with two parts, a picture with two, and files that are wrong or not there."""
    address, folder = server
    mask = np.zeros((3, 8, 8), np.uint8)
    mask[1, 1:4, 1:4], mask[1, 6, 6:8] = 1, 1
    io.write(Volume.from_array(mask * 100), folder / "scan.nii.gz")
    io.write(Volume.from_array(mask), folder / "mask.nii.gz")
    Image.fromarray(mask[1] * 100).save(folder / "picture.png")
    classes = Image.fromarray(mask[1] * 2)
    classes.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9])
    classes.save(folder / "classes.png")
    (folder / "other.nii.gz").write_bytes(b"another file")
    files = {
        name: {
            "url": f"{address}/{name}",
            "sha256": sha256((folder / name).read_bytes()).hexdigest(),
            "bytes": (folder / name).stat().st_size,
        }
        for name in ("scan.nii.gz", "mask.nii.gz", "picture.png", "classes.png")
    }
    files["other.nii.gz"] = {"url": f"{address}/other.nii.gz", "sha256": "0" * 64, "bytes": 5}
    files["gone.nii.gz"] = {"url": f"{address}/gone.nii.gz", "sha256": "0" * 64, "bytes": 5}
    derived = {
        "parts/two.nii.gz": {"from": "mask.nii.gz", "label": 1, "largest_components": 2},
        "parts/one.png": {"from": "classes.png", "label": 2, "largest_components": 1},
        "parts/none.png": {"from": "gone.nii.gz", "label": 2, "largest_components": 1},
    }
    cases = [
        case("scan", "scan.nii.gz", "parts/two.nii.gz", mask_voxels=9),
        case("small part", "scan.nii.gz", "parts/two.nii.gz", label=2, mask_voxels=2),
        case("picture", "picture.png", "parts/one.png", axis=None, key_slice=0, mask_voxels=9, modality="US"),
        case("lost", "gone.nii.gz", "mask.nii.gz"),
        case("changed", "scan.nii.gz", "other.nii.gz"),
    ]
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"files": files, "derived": derived, "cases": cases}))
    return path


def test_what_arrives_is_measured_and_what_does_not_is_named(
    listed: Path, server: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "public"
    assert main([str(folder), "--list", str(listed)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "gone.nii.gz cannot be downloaded: HTTP Error 404" in lines[1]
    assert "other.nii.gz is not the file that was measured" in lines[0]
    assert lines[2] == "parts/none.png: cannot be made, gone.nii.gz is not there"
    cases = read_cases(folder / CASES)
    assert [one.name for one in cases] == ["scan", "small part", "picture"]
    for one in cases:
        read_task(one)  # counts the voxels
    assert not (folder / "other.nii.gz").exists()


def test_files_that_are_there_are_not_fetched_again(
    listed: Path, server: tuple[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "public"
    main([str(folder), "--list", str(listed)])
    (server[1] / "scan.nii.gz").unlink()
    main([str(folder), "--list", str(listed)])
    assert len(read_cases(folder / CASES)) == 3


def test_the_list_of_the_repository_is_whole() -> None:
    listed = json.loads(LIST.read_text(encoding="utf-8"))
    assert len(listed["cases"]) == 30
    for facts in listed["files"].values():
        assert facts["url"].startswith("https://")
        assert len(facts["sha256"]) == 64
    every = [*listed["files"], *listed["derived"]]
    for facts in listed["derived"].values():
        assert facts["from"] in listed["files"]
    for one in listed["cases"]:
        assert one["licence"]
        for kind in ("image", "mask"):
            assert any(name == one[kind] or name.startswith(f"{one[kind]}/") for name in every)
