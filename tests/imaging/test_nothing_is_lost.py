"""A write that fails, or is killed, leaves the file that was there or none, and says so: every writer."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

OLD = b"what was there before"
NAMES = (
    *("m.nii.gz", "m.nii", "m.nrrd", "m.seg.nrrd", "m.mha", "m.npz", "seg.dcm", "rtstruct.dcm", "m.stl"),
    *("picture.png", "statistics.json", "statistics.csv", "report.json", "video", "weights.safetensors"),
)
DISK_BYTES, PAGE_BYTES = 1 << 20, 4096
VARYING_BYTES = {"video": 200, "seg.dcm": 200, "rtstruct.dcm": 200}  # and new UIDs


def make_writers(work: Path) -> dict[str, Callable[[Path], object]]:
    """Each writes one file, or a folder for the video, of some 20 to 400 kB."""
    import torch
    from PIL import Image

    from medsam2.checkpoints import save_weights
    from medsam2.imaging.outputs.write import write_labels
    from medsam2.imaging.replacing import filling
    from medsam2.imaging.video.outputs import VideoWriter
    from medsam2.imaging.volume import Volume
    from medsam2.inference.record import FileFacts, Record, RunReport, WeightsFacts, WindowFacts
    from medsam2.measure.preview import write_preview
    from medsam2.measure.sizes import ObjectStatistics, write_statistics
    from medsam2.model.config import TINY_512

    chance = np.random.default_rng(0)
    array = chance.integers(0, 3, (7, 22, 30)).astype(np.uint8)
    large = Volume.from_array(chance.integers(0, 3, (12, 64, 72)).astype(np.uint8), (0.8, 0.8, 5.0))
    series, labels = write_series(work / "series", array)
    greys = Image.fromarray(chance.integers(0, 255, (90, 90), dtype=np.uint8))
    found = [ObjectStatistics(label=label, name=f"object {label}") for label in range(1, 255)]
    facts = [FileFacts(path=f"{label}", num_files=1, size_bytes=1, sha256="0" * 64) for label in range(99)]
    frames = chance.integers(0, 255, (5, 64, 64, 3), dtype=np.uint8)

    def labels_as(kind: str, volume: Volume, source: Path | None = None) -> Callable[[Path], object]:
        return lambda path: write_labels(volume, path, kind=kind, source=source)

    def video(folder: Path) -> None:
        with filling(folder) as temporary, VideoWriter(temporary / "overlay.mp4", (64, 64), 10) as writer:
            for index, frame in enumerate(frames):
                writer.write(frame, index / 10)

    def report(path: Path) -> None:
        RunReport(
            record=Record(
                prompts=(), window=WindowFacts(lower=0, upper=1, source="caller"), device="cpu",
                precision="float32", memory="recent", num_slices=1, visited=1, seconds=1.0,
            ),
            weights=WeightsFacts(name="x", sha256="0"), input_files=facts, output_files=(),
            runtime_seconds=1.0,
        ).write(path)  # fmt: skip

    return {
        "m.nii.gz": labels_as("nifti", large),
        "m.nii": labels_as("nifti", large),
        "m.nrrd": labels_as("nrrd", large),
        "m.seg.nrrd": labels_as("seg.nrrd", large),
        "m.mha": labels_as("mha", large),
        "m.npz": labels_as("npz", large),
        "seg.dcm": labels_as("dicom-seg", labels, series),
        "rtstruct.dcm": labels_as("rtstruct", labels, series),
        "m.stl": labels_as("stl", labels.with_array((labels.array == 1).astype(np.uint8))),
        "picture.png": lambda path: write_preview(greys, path),
        "statistics.json": lambda path: write_statistics(found, path),
        "statistics.csv": lambda path: write_statistics(found, path),
        "report.json": report,
        "video": video,
        "weights.safetensors": lambda path: save_weights(
            {"a": torch.zeros(40_000)}, TINY_512, path, dtype=torch.float32
        ),
    }


def write_series(folder: Path, array: np.ndarray) -> tuple[Path, object]:
    """Write a CT, and give labels on its grid."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    from medsam2.imaging.io import read

    folder.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for index, plane in enumerate(array):
        file = pydicom.Dataset()
        file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, generate_uid()
        file.StudyInstanceUID, file.SeriesInstanceUID, file.FrameOfReferenceUID = study, series, frame
        file.PatientName = file.PatientID = file.PatientBirthDate = file.PatientSex = ""
        file.StudyDate = file.StudyTime = file.StudyID = file.AccessionNumber = ""
        file.ReferringPhysicianName = file.Manufacturer = file.PositionReferenceIndicator = ""
        file.Modality, file.InstanceNumber, file.ImageType = "CT", index + 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
        file.ImageOrientationPatient, file.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * index]
        file.PixelSpacing, file.SliceThickness = [0.75, 0.5], 2
        file.Rows, file.Columns = plane.shape
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit, file.PixelRepresentation = 15, 1
        file.RescaleIntercept, file.RescaleSlope = 0, 1
        file.PixelData = plane.astype(np.int16).tobytes()
        file.file_meta = pydicom.dataset.FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.save_as(folder / f"{index}.dcm", enforce_file_format=True)
    return folder, read(folder).with_array(array)


def attempt(write: Callable[[Path], object], path: Path) -> str:
    """Write where it cannot work out, and say in a word how it ended."""
    from medsam2.errors import MedSAM2Error

    try:
        write(path)
    except MedSAM2Error as error:
        ended = "refused" if str(error).startswith(f"{path}: cannot be written") else f"refused: {error}"
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    else:
        ended = "SAID WRITTEN"
    left = sorted(one.name for one in path.parent.iterdir() if one.name != "filler")
    expected = [] if path.name == "video" else [path.name]
    if left != expected:
        return f"{ended}, left {left}"
    return ended if not expected or path.read_bytes() == OLD else f"{ended}, what was there is gone"


def all_limits(writers: dict[str, Callable[[Path], object]], work: Path) -> Iterator[tuple[str, str, str]]:
    """Limit the size of files, as a quota does, from nothing to a little less than is needed."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for name, write in writers.items():
        whole = work / "whole" / name
        whole.parent.mkdir(exist_ok=True)
        write(whole)
        size = max(one.stat().st_size for one in (whole, *whole.rglob("*")) if one.is_file())
        for limit in (0, 300, size // 2, size - VARYING_BYTES.get(name, 1)):
            place = fresh(work / "limited", name)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                ended = attempt(write, place)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            yield name, f"{limit} of {size} bytes", ended


def full_disks(writers: dict[str, Callable[[Path], object]], disk: Path) -> Iterator[tuple[str, str, str]]:
    """Leave nothing, or one page, of a real disk; then make it one that is only read."""
    for name, write in writers.items():
        for num_free in (0, 1):
            place = fresh(disk / "folder", name)
            free = shutil.disk_usage(disk).free
            (place.parent / "filler").write_bytes(bytes(free - num_free * PAGE_BYTES))
            yield name, f"{num_free} pages free", attempt(write, place)
    for name, write in writers.items():
        place = fresh(disk / "folder", name)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        try:
            yield name, "read-only", attempt(write, place)
        finally:
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def killed(writers: dict[str, Callable[[Path], object]], work: Path) -> Iterator[tuple[str, str, str]]:
    """End the process once its temporary file is there, at once or a little later."""
    for name, write in writers.items():
        for delay_s in (0.0, 0.002, 0.01):
            place = fresh(work / "killed", name)
            child = os.fork()
            if child == 0:
                write(place)
                os._exit(0)
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                if any(one.name.startswith(".") for one in place.parent.iterdir()):
                    time.sleep(delay_s)
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    break
            yield name, f"killed after {delay_s} s", "refused" if is_whole(place, work) else "DAMAGED"


def is_whole(place: Path, work: Path) -> bool:
    """Whether a file is the old one, or as long as the new one."""
    if place.name == "video":
        return not place.exists() or (place / "overlay.mp4").stat().st_size > 0
    content = place.read_bytes()
    missing = abs(len(content) - (work / "whole" / place.name).stat().st_size)
    return content == OLD or missing < VARYING_BYTES.get(place.name, 1)


def fresh(folder: Path, name: str) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if name != "video":
        (folder / name).write_bytes(OLD)
    return folder / name


def main(work: Path, disk: Path | None) -> None:
    writers = make_writers(work)
    assert tuple(writers) == NAMES
    ended = [*all_limits(writers, work), *killed(writers, work)]
    if disk is not None:
        ended += full_disks(writers, disk)
    (work / "ended.json").write_text(json.dumps(ended))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, str]]:
    """What each writer said under each limit, in a process of its own."""
    for package in ("highdicom", "trimesh", "av"):
        pytest.importorskip(package)
    work = tmp_path_factory.mktemp("work")
    disk = work / "disk"
    disk.mkdir()
    program = [sys.executable, __file__, str(work)]
    on_disk = f"mount -t tmpfs -o size={DISK_BYTES} tmpfs {disk} && exec " + " ".join([*program, str(disk)])
    can_mount = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs tmpfs {disk}"], capture_output=True, check=False
    )
    command = program if can_mount.returncode else ["unshare", "-rm", "sh", "-c", on_disk]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return [tuple(one) for one in json.loads((work / "ended.json").read_text())]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_there_stays_and_the_failure_is_told(ended, name):
    own = {where: how for writer, where, how in ended if writer == name}
    assert len(own) >= 7
    assert {where: how for where, how in own.items() if how != "refused"} == {}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
