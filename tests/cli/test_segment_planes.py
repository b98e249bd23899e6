"""`medsam2 segment --plane`: the same brain in six voxel orders, compared in the patient by SimpleITK."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from medsam2.cli.main import run

BRAINS = (
    Path(__file__).resolve().parents[2].parent / "shared" / "data" / "robustness" / "nifti" / "orientations"
)
ORDERS = ("RAS", "LAS", "LPI", "AIL", "ASR", "SLA")
# Corners of a box around the left ventricle and a voxel of its slice, (x, y, z) of the RAS file.
VENTRICLE = {
    "axial": ((20, 26, 38), (31, 54, 38)),
    "coronal": ((20, 40, 33), (31, 40, 44)),
    "sagittal": ((26, 30, 30), (26, 56, 45)),
}
ENDS = {"axial": "SI", "coronal": "AP", "sagittal": "LR"}


def prompt_in(path: Path, plane: str) -> list[str]:
    """Slice and box in a file, by nibabel's affines alone."""
    source, target = nibabel.load(BRAINS / "RAS.nii.gz"), nibabel.load(path)
    world = nibabel.affines.apply_affine(source.affine, VENTRICLE[plane])
    corners = np.rint(nibabel.affines.apply_affine(np.linalg.inv(target.affine), world)).astype(int)
    axis = next(a for a, end in enumerate(nibabel.aff2axcodes(target.affine)) if end in ENDS[plane])
    box = np.sort(np.delete(corners, axis, axis=1), axis=0)
    return ["--slice", str(corners[0, axis]), "--box", *map(str, box.ravel())]


def mask_in_patient(path: Path, folder: Path, plane: str) -> np.ndarray:
    output = folder / f"{path.name}"
    assert run(["segment", str(path), "--plane", plane, *prompt_in(path, plane), "-o", str(output)]) == 0
    grid = SimpleITK.ReadImage(str(BRAINS / "RAS.nii.gz"))
    mask = SimpleITK.ReadImage(str(output))
    resampled = SimpleITK.Resample(mask, grid, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
    return SimpleITK.GetArrayFromImage(resampled) > 0


@pytest.mark.skipif(not BRAINS.is_dir(), reason="the development scans (../shared/data) are not here")
@pytest.mark.parametrize(
    ("plane", "orders"),
    [
        ("axial", ("RAS", "AIL", "SLA")),
        *(pytest.param(plane, ORDERS, marks=pytest.mark.slow) for plane in ENDS),
    ],
)
def test_the_same_prompt_in_the_patient_gives_the_same_mask(
    tmp_path: Path, plane: str, orders: tuple[str, ...]
) -> None:
    masks = {order: mask_in_patient(BRAINS / f"{order}.nii.gz", tmp_path, plane) for order in orders}
    assert masks["RAS"].sum() > 100
    for first, second in combinations(orders, 2):
        both = 2 * (masks[first] & masks[second]).sum()
        assert both / (masks[first].sum() + masks[second].sum()) >= 0.97, (first, second)


@pytest.mark.parametrize(
    ("tilt_deg", "lines"),
    [
        (0, ["coronal slices are those along the file's second axis, y: 0 to 27"]),
        (
            17.25,
            [
                "coronal slices are those along the file's second axis, y: 0 to 27",
                "the scan is oblique: these slices lean 17.2 degrees out of the coronal plane",
            ],
        ),
    ],
)
def test_the_axis_and_its_angle_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tilt_deg: float, lines: list[str]
) -> None:
    grey = np.random.default_rng(0).normal(60, 6, (24, 28, 6))  # (x, y, z)
    grey[8:16, 9:19, 1:5] += 120
    c, s = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([-1, 1, 2])
    nibabel.save(nibabel.Nifti1Image(grey.astype(np.int16), affine), tmp_path / "scan.nii.gz")
    prompt = ["--plane", "coronal", "--slice", "13", "--box", "8", "1", "15", "4", "--window", "0", "255"]
    assert run(["segment", str(tmp_path / "scan.nii.gz"), *prompt, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"medsam2: {line}" for line in lines]
    facts = json.loads(captured.out)
    assert (facts["plane"], facts["axis"]) == ("coronal", 1)
    assert facts["tilt_deg"] == pytest.approx(tilt_deg, abs=0.01)
    sizes = {key: facts[key] for key in ("volume_ml", "longest_diameter_mm", "num_slices")}
    assert facts["objects"] == [{"number": 1, "name": None, **sizes}]
