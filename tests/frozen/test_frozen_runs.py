"""Twelve runs through the public doors, whose masks must stay the same to the voxel.

A change that only moves code leaves every mask as it is. A change that is meant to move a mask says so in
CHANGELOG.md under Numerics, and records the masks anew:

    python tests/frozen/test_frozen_runs.py --record
"""

from __future__ import annotations

import base64
import csv
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medsam2

HERE = Path(__file__).resolve().parent
RECORDING = HERE / "masks.npz"
MACHINE = "machine"  # in the recording: what it was made with
MOST_BYTES = 200_000
FEWEST_SLICES = 3  # of an object in a recording: one that ends at once would show little
WINDOW = (0, 255)

# Boxes of the two objects on slice 8, x_min y_min x_max y_max.
FIRST, SECOND = (15, 16, 33, 38), (39, 37, 53, 49)
# The same in a scan that is drawn twice as large, where the objects drift further.
LARGE = {"scale": 2, "lean": 2.0}
LARGE_FIRST, LARGE_SECOND = (30, 32, 66, 76), (78, 74, 106, 98)

# Of `medsam2 evaluate --json`; some are there for scans alone, some for pictures alone.
FIGURES = (
    "dice", "surface_dice", "strict_surface_dice", "key_slice_dice", "hd95_mm", "hd95_px", "assd_mm",
    "assd_px", "volume_ml", "true_volume_ml", "over_slices", "under_slices",
)  # fmt: skip

Found = Mapping[str, np.ndarray]


def _sibling(name: str):
    """Import a module from this folder; tests are no package."""
    spec = importlib.util.spec_from_file_location(f"frozen_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


doors = _sibling("doors")


@cache
def predictor() -> medsam2.Predictor:
    """The shipped weights, as the runs through Python use them."""
    return medsam2.load("compact", device="cpu", precision="float32")


@cache
def volume() -> medsam2.Volume:
    """The scan of most runs."""
    return medsam2.Volume.from_array(doors.scan(), doors.SPACING, modality="MR")


@cache
def large_volume() -> medsam2.Volume:
    """A scan of 128 x 128 pixels: the network sees a part of a slice, which moves with the object."""
    return medsam2.Volume.from_array(doors.scan(**LARGE), doors.SPACING, modality="MR")


def propagate(session: medsam2.Session) -> None:
    """Follow all objects to their ends."""
    for _ in session.propagate():
        pass


def command_line(folder: Path, server) -> Found:
    """Segment a NIfTI file from a box; the report of the run names the weights."""
    image = doors.write_nifti(folder / "scan.nii.gz", doors.scan())
    words = ["--slice", 8, "--box", *FIRST, "--window", *WINDOW, "-o", folder / "mask.nii.gz"]
    doors.command("segment", image, *words, "--report", folder / "run.json", *doors.EXACT)
    weights = json.loads((folder / "run.json").read_text())["weights"]
    return {"mask": medsam2.read(folder / "mask.nii.gz").array, "weights": np.array(weights["sha256"])}


def score(folder: Path, server) -> Found:
    """Send the published table over HTTP, with an offset and a click beside the box."""
    image = doors.write_nifti(folder / "scan.nii.gz", doors.scan())
    table = {
        "nii_image": [base64.b64encode(image.read_bytes()).decode()],
        "bbox": [list(map(float, SECOND))],
        "key_slice_idx": [108],
        "dicom_window": [list(map(float, WINDOW))],
        "slice_offset": [100],
        "points": [[[46, 43]]],
        "point_labels": [[1]],
    }
    response = server.client.post("/score", json={"input_data": table})
    assert response.status_code == 200, response.text
    return {"mask": np.array(response.json()["mask"], dtype=np.uint8)}


def monai_label(folder: Path, server) -> Found:
    """Ask as a viewer with MONAI Label's plug-in does: clicks on a study of the server's folder."""
    params = {
        "foreground": [[24, 27, 8], [22, 33, 8]],
        "background": [[46, 43, 8], [10, 10, 8]],
        "window": list(WINDOW),
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
    }
    form = {"params": (None, json.dumps(params))}
    response = server.client.post("/infer/medsam2_3d?image=scan&output=image", files=form)
    assert response.status_code == 200, response.text
    path = folder / "label.nrrd"
    path.write_bytes(response.content)
    return {"mask": medsam2.read(path).array}


def corrections(folder: Path, server) -> Found:
    """Correct an object by clicks and a drawn mask on other slices than the first."""
    session = predictor().session(large_volume(), window=WINDOW)
    session.add(1, slice=8, box=LARGE_FIRST)
    propagate(session)
    first = session.result().array
    session.add(1, slice=11, points=[(55, 49)], labels=[0])
    session.add(1, slice=5, points=[(41, 58), (24, 84)], labels=[0, 1])
    propagate(session)
    clicked = session.result().array
    drawn = np.zeros((128, 128), dtype=np.uint8)
    drawn[52:74, 28:44] = 1
    session.add(1, slice=4, mask=drawn)
    propagate(session)
    return {"box": first, "clicks": clicked, "drawn": session.result().array}


def two_objects(folder: Path, server) -> Found:
    """Follow two objects together, from prompts on different slices; one claims a part of the other."""
    session = predictor().session(volume(), window=WINDOW)
    drawn = np.zeros((64, 64), dtype=np.uint8)
    drawn[30:54, 33:58] = 1  # roughly around the second object
    session.add(1, slice=8, mask=drawn)
    session.add(2, slice=6, box=SECOND)
    propagate(session)
    alone = {str(number): session.result(number).array for number in (1, 2)}
    assert (alone["1"] & alone["2"]).any()  # where they overlap, logits decide
    return {"labels": session.result().array, **alone}


def video(folder: Path, server) -> Found:
    """Follow a disc through a folder of frames, from a box in the middle."""
    frames = doors.write_frames(folder / "frames")
    words = ["--frame", 4, "--box", 34, 16, 62, 44, "--nifti", "-o", folder / "out"]
    doors.command("video", frames, *words, *doors.EXACT)
    return {"masks": medsam2.read(folder / "out" / "masks.nii.gz").array}


def batch(folder: Path, server) -> Found:
    """Work through a table of two scans, one of them with two objects."""
    rows = [["case", "image", "slice", "box"]]
    small, large = doors.scan(2), doors.scan(1, **LARGE)
    for case, grey, boxes in (("one", large, [LARGE_FIRST]), ("two", small, [FIRST, SECOND])):
        doors.write_nifti(folder / f"{case}.nii.gz", grey)
        rows += [[case, f"{case}.nii.gz", "8", " ".join(map(str, box))] for box in boxes]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    doors.command("batch", folder / "table.csv", "-o", folder / "out", "--window", *WINDOW, *doors.EXACT)
    masks = sorted((folder / "out" / "masks").glob("*.nii.gz"))
    return {path.name.removesuffix(".nii.gz"): medsam2.read(path).array for path in masks}


def evaluate(folder: Path, server) -> Found:
    """Measure a scan and a picture; what comes out is not masks but figures, which follow from them."""
    grey = doors.scan()
    doors.write_nifti(folder / "scan.nii.gz", grey)
    doors.write_nifti(folder / "reference.nii.gz", (grey > 115).astype(np.uint8))
    Image.fromarray(grey[8].astype(np.uint8)).save(folder / "picture.png")
    Image.fromarray((grey[8] > 115).astype(np.uint8) * 255).save(folder / "picture_reference.png")
    case = {
        "name": "scan", "image": "scan.nii.gz", "mask": "reference.nii.gz", "label": 1, "modality": "MR",
        "window": list(WINDOW), "axis": 2, "key_slice": 8, "box": list(FIRST), "target": "ball",
    }  # fmt: skip
    picture = case | {
        "name": "picture", "image": "picture.png", "mask": "picture_reference.png", "label": 255,
        "modality": "US", "window": None, "axis": None, "key_slice": 0, "spacing": None,
    }  # fmt: skip
    (folder / "cases.json").write_text(json.dumps([case, picture]))
    words = ["--protocol", "interactive", "--clicks", 2, "--memory", "self-sorting", "--json"]
    answer = json.loads(doors.command("evaluate", folder / "cases.json", *words, *doors.EXACT))
    return {
        case["name"]: np.array(
            [case[figure] for figure in FIGURES if case[figure] is not None]
            + [step[figure] for step in case["steps"] for figure in ("dice", "surface_dice")]
        )
        for case in answer["cases"]
    }


def official_network(folder: Path, server) -> Found:
    """Run the official network with known weights, in the published order of operations and the fast one."""
    weights = doors.write_golden_weights(folder / "golden.safetensors")
    image = medsam2.Volume.from_array(doors.golden_slices(3))
    found = {}
    for precision in ("float32", "float32-fast"):
        session = medsam2.load(weights, device="cpu", precision=precision).session(image, window=WINDOW)
        session.add(1, slice=1, box=(170, 200, 290, 330))
        session.add(2, slice=1, points=[(300, 300), (120, 90)], labels=[1, 0])
        propagate(session)
        found[precision] = session.result().array
    weights.unlink()  # 156 MB, which pytest would keep for days
    return found


def dicom(folder: Path, server) -> Found:
    """Read a DICOM series, cut it in coronal slices, and read the DICOM segmentation back."""
    grey = doors.scan(3)
    instances = doors.write_series(folder / "series", grey)
    words = ["--slice", 27, "--box", 14, 2, 33, 14, "--plane", "coronal", "--window", *WINDOW]
    form = ["-o", folder / "mask.dcm", "--output-type", "dicom-seg"]
    doors.command("segment", folder / "series", *words, *form, *doors.EXACT)
    return {"mask": doors.read_segmentation(folder / "mask.dcm", instances)}


def undo(folder: Path, server) -> Found:
    """Take a correction back, follow the object again, and do the correction again."""
    session = predictor().session(large_volume(), window=WINDOW)
    session.add(2, slice=8, box=LARGE_SECOND)
    propagate(session)
    session.add(2, slice=11, points=[(55, 49), (70, 60)], labels=[0, 1])
    propagate(session)
    # The later change goes first: both the click and an object that was added after it.
    session.add(1, slice=8, box=LARGE_FIRST)
    assert session.undo()
    assert session.undo()
    propagate(session)
    taken_back = session.result().array
    assert session.redo()
    propagate(session)
    return {"undone": taken_back, "redone": session.result().array}


def series_in_time(folder: Path, server) -> Found:
    """Segment a named frame of a 4D file, in sagittal slices and with the other memory policy."""
    image = doors.write_nifti(folder / "series.nii.gz", doors.scan(8, shift=9), doors.scan(9, shift=-3))
    words = ["--frame", 1, "--plane", "sagittal", "--slice", 21, "--box", 16, 2, 38, 14]
    more = ["--window", *WINDOW, "--memory", "self-sorting", "-o", folder / "mask.nii.gz"]
    doors.command("segment", image, *words, *more, *doors.EXACT)
    return {"mask": medsam2.read(folder / "mask.nii.gz").array}


RUNS: Mapping[str, Callable[..., Found]] = {
    run.__name__: run
    for run in (
        command_line, score, monai_label, corrections, two_objects, video,
        batch, evaluate, official_network, dicom, undo, series_in_time,
    )
}  # fmt: skip


def check_worth(found: Found, where: str) -> None:
    """Refuse to keep a result that would show little: an empty mask, say."""
    for name, value in found.items():
        if value.dtype.kind == "f":
            assert np.isfinite(value).all(), f"{where}/{name}: a figure is not a number"
            assert value[0] > 0.5, f"{where}/{name}: Dice is {value[0]:.2f}"
        elif value.dtype.kind != "U":
            num_slices = np.count_nonzero(value.any(axis=(1, 2)))
            assert value.ndim == 3, f"{where}/{name}: shape {value.shape}"
            assert num_slices >= FEWEST_SLICES, f"{where}/{name}: the object is in {num_slices} slices"
            assert np.count_nonzero(value) < value.size / 2, f"{where}/{name}: the object fills the image"


def difference(expected: np.ndarray, found: np.ndarray) -> str | None:
    """Say how a result differs from the recording; None if it does not."""
    if expected.dtype.kind == "U":
        return None if expected == found else f"{found} instead of {expected}"
    if expected.shape != found.shape:
        return f"shape {found.shape} instead of {expected.shape}"
    if expected.dtype.kind == "f":
        # One voxel changes a Dice by 1e-4; the last digits are the metrics' own affair.
        is_close = np.isclose(found, expected, rtol=1e-6, atol=1e-9)
        return None if is_close.all() else f"figures {found[~is_close]} instead of {expected[~is_close]}"
    places = np.argwhere(expected != found)
    if not len(places):
        return None
    slices = sorted({int(z) for z in places[:, 0]})
    return (
        f"{len(places)} of {expected.size} voxels differ, in slices {slices}; the object had "
        f"{np.count_nonzero(expected)} voxels and now has {np.count_nonzero(found)}"
    )


def recorded() -> dict[str, np.ndarray]:
    """Read all that was recorded, under the names `run/result`."""
    with np.load(RECORDING, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def machine() -> str:
    """Say what the last digits of logits depend on, beside the code."""
    import torch

    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def record() -> None:
    """Run everything and write the recording anew."""
    kept = {MACHINE: np.array(machine())}
    with (
        doors.one_thread(),
        tempfile.TemporaryDirectory() as name,
        closing(doors.Server(Path(name))) as server,
    ):
        for run, make in RUNS.items():
            folder = Path(name) / run
            folder.mkdir()
            found = make(folder, server)
            check_worth(found, run)
            kept |= {f"{run}/{result}": value for result, value in found.items()}
            print(f"{run}: {', '.join(found)}", flush=True)
    np.savez_compressed(RECORDING, **kept)
    print(f"{RECORDING}: {RECORDING.stat().st_size} bytes")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with doors.one_thread():
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A server that starts when a run first asks it."""
    with closing(doors.Server(tmp_path_factory.mktemp("server"))) as server:
        yield server


@pytest.mark.parametrize("run", RUNS)
def test_a_run_gives_the_recorded_masks(run: str, tmp_path: Path, server) -> None:
    found = RUNS[run](tmp_path, server)
    kept = recorded()
    names = sorted(name for name in kept if name.startswith(f"{run}/"))
    assert sorted(f"{run}/{result}" for result in found) == names
    differences = {name: difference(kept[name], found[name.partition("/")[2]]) for name in names}
    said = [f"{name}: {text}" for name, text in differences.items() if text is not None]
    assert not said, "\n".join([*said, f"recorded with {kept[MACHINE]}; this is {machine()}"])


def test_the_recording_is_whole_small_and_worth_keeping() -> None:
    kept = recorded()
    assert len(RUNS) == 12
    assert {name.partition("/")[0] for name in kept} == {*RUNS, MACHINE}
    assert RECORDING.stat().st_size < MOST_BYTES
    check_worth({name: value for name, value in kept.items() if name != MACHINE}, "recording")


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit("usage: python tests/frozen/test_frozen_runs.py --record")
    record()
