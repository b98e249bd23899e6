"""A data set with every fault that we know: all are found, nothing else is, and the report shows it."""

from __future__ import annotations

import base64
import dataclasses
import json
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medsam2.errors import InputError
from medsam2.training.datasets.checking import ERROR, WARNING, CheckLimits, check_scans
from medsam2.training.datasets.layouts import read_data_set
from medsam2.training.datasets.report import as_json, write_report
from medsam2.training.datasets.scan import DataSet, ReadOptions
from medsam2.training.datasets.summary import SetReport, summarise

SHAPE = (6, 20, 24)  # (z, y, x)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def ct(seed: int) -> np.ndarray:
    """Air around a block of tissue, (z, y, x)."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-1020, -980, SHAPE)
    image[:, 3:17, 3:21] = rng.integers(0, 80, (SHAPE[0], 14, 18))
    return image.astype(np.int16)


def organ() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:5, 5:12, 6:14] = 1
    mask[2:4, 13:16, 10:17] = 2
    return mask


def write(
    root: Path,
    name: str,
    image: np.ndarray,
    mask: np.ndarray,
    *,
    part: str = "Tr",
    image_grid: np.ndarray = AFFINE,
    mask_grid: np.ndarray = AFFINE,
) -> None:
    for folder, suffix, array, grid in (
        (f"images{part}", "_0000", image, image_grid),
        (f"labels{part}", "", mask, mask_grid),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array.T, grid), root / folder / f"{name}{suffix}.nii.gz")


def moved(distance_mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] = distance_mm
    return affine


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def turned() -> np.ndarray:
    """The grid of `AFFINE` counted from the other end of x."""
    affine = AFFINE.copy()
    affine[0, 0], affine[0, 3] = 1.0, -(SHAPE[2] - 1)
    return affine


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, SetReport]:
    root = tmp_path_factory.mktemp("broken")
    good = organ()
    write(root, "good_1", ct(1), good)
    write(root, "good_2", ct(2), good)
    write(root, "size", ct(3), good[:5])
    write(root, "place", ct(4), good, mask_grid=moved(1.5))
    write(root, "order", ct(5), np.ascontiguousarray(good[:, :, ::-1]), mask_grid=turned())
    write(root, "empty", ct(6), good * 0)
    write(root, "unknown", ct(7), good * 4)
    write(root, "fractions", ct(8), good * np.float32(0.5))
    write(root, "floats", ct(9), good.astype(np.float32))
    write(root, "constant", ct(10) * 0 + 40, good)
    with_hole = ct(11).astype(np.float32)
    with_hole[0, 0, :3] = np.nan
    write(root, "hole", with_hole, good)
    write(root, "grey8", np.clip(ct(12) + 100, 0, 255).astype(np.uint8), good)
    write(root, "shifted", ct(13) + 1024, good)
    write(root, "scaled", ct(14).astype(np.float32) / 2000 + 0.5, good)
    write(root, "clipped", np.maximum(ct(15), -160), good)
    write(root, "again", ct(1).astype(np.float32), good)
    tiny = good * 0
    tiny[2, 8, 8] = tiny[2, 9, 9] = 2
    tiny[1:3, 5:12, 6:14] = np.where(tiny[1:3, 5:12, 6:14] == 0, 1, tiny[1:3, 5:12, 6:14])
    write(root, "tiny", ct(16), tiny)
    thick = np.diag([-1.0, -1.0, 7.0, 1.0])
    write(root, "thick", ct(17), good, image_grid=thick, mask_grid=thick)
    write(root, "cut_image", ct(18), good)
    truncate(root / "imagesTr" / "cut_image_0000.nii.gz")
    write(root, "cut_mask", ct(19), good)
    (root / "labelsTr" / "cut_mask.nii.gz").write_bytes(b"no mask at all" * 40)
    write(root, "alone", ct(20), good)
    (root / "labelsTr" / "alone.nii.gz").unlink()
    write(root, "good_9", ct(21), good, part="Ts")
    labels = {"background": 0, "liver": 1, "vessel": 2, "never": 3}
    table = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 21}
    (root / "dataset.json").write_text(json.dumps(table))
    found = read_data_set(root)
    # nnU-Net says what is for testing, not what is for training: say it, and let a patient be in both.
    scans = [
        dataclasses.replace(
            scan, split=scan.split or "train", patient="good_2" if scan.split else scan.patient
        )
        for scan in found.scans
    ]
    data = dataclasses.replace(found, scans=tuple(scans))
    return data, summarise(data, list(check_scans(data.scans)))


def test_every_fault_is_found_and_nothing_else(broken: tuple[DataSet, SetReport]) -> None:
    _, report = broken
    assert {(f.severity, f.code, f.case) for f in report.findings} == {
        (ERROR, "grid-size", "size"),
        (ERROR, "grid-place", "place"),
        (WARNING, "grid-order", "order"),
        (ERROR, "mask-empty", "empty"),
        (ERROR, "label-unknown", "unknown"),
        (ERROR, "mask-values", "fractions"),
        (WARNING, "mask-float", "floats"),
        (ERROR, "image-constant", "constant"),
        (ERROR, "image-not-finite", "hole"),
        (WARNING, "image-uint8", "grey8"),
        (ERROR, "ct-not-hu", "shifted"),
        (ERROR, "ct-not-hu", "scaled"),
        (WARNING, "ct-clipped", "clipped"),
        (ERROR, "duplicate", "good_1"),
        (WARNING, "object-tiny", "tiny"),
        (WARNING, "anisotropy", "thick"),
        (ERROR, "image-unreadable", "cut_image"),
        (ERROR, "mask-unreadable", "cut_mask"),
        (WARNING, "gap", None),
        (WARNING, "label-unused", None),
        (ERROR, "patient-in-two-splits", None),
    }
    assert len(report.findings) == 21
    assert (report.num_errors, report.num_warnings) == (13, 8)
    assert report.num_cases == 21


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("grid-size", "the mask has 24 x 20 x 5 voxels (x, y, z), the image 24 x 20 x 6"),
        ("grid-place", "the mask's voxels lie up to 1.5 voxels away from the image's"),
        ("label-unknown", "the mask has 4, 8, the table of labels 1 (liver), 2 (vessel), 3 (never)"),
        ("mask-values", "the mask has fractions, for example 0.5; labels are whole numbers"),
        ("image-not-finite", "3 of 2880 voxels are NaN or infinite"),
        ("image-constant", "every voxel of the image is 40"),
        ("object-tiny", "vessel has 2 pixels in its largest slice, 2; training draws none below 12"),
        (
            "duplicate",
            "the image is that of again once more, with the same mask, so a split may have it on both",
        ),
        ("gap", "alone: no mask in labelsTr"),
        ("patient-in-two-splits", "the patient good_2 is in train and test"),
    ],
)
def test_findings_say_what_was_received(broken: tuple[DataSet, SetReport], code: str, sentence: str) -> None:
    _, report = broken
    (text,) = [finding.text for finding in report.findings if finding.code == code]
    assert sentence in text


def test_the_summary_counts_as_nibabel_does(broken: tuple[DataSet, SetReport]) -> None:
    data, report = broken
    liver = next(label for label in report.labels if label.value == 1)
    volumes = {}
    for scan in data.scans:
        try:
            mask = nibabel.load(scan.mask)
            count = int((np.asarray(mask.dataobj) == 1).sum())
        except (nibabel.filebasedimages.ImageFileError, OSError, EOFError):
            continue
        volumes[scan.name] = count * float(np.prod(mask.header.get_zooms())) / 1000
    del volumes["fractions"], volumes["cut_image"]  # their labels cannot be trusted, or not be placed
    found = [volume for volume in volumes.values() if volume]
    assert liver.num_cases == len(found)
    expected = (min(found), float(np.median(found)), max(found))
    assert liver.volume_ml == pytest.approx(expected)
    assert liver.name == "liver"
    assert report.spacing_mm == ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (2.0, 2.0, 7.0))
    assert report.size_voxels == ((24.0,) * 3, (20.0,) * 3, (6.0,) * 3)
    assert report.splits == {"train": 20, "test": 1}
    assert report.modalities == {"CT": 20}
    case = next(case for case in report.cases if case.name == "good_2")
    assert case.percentiles[1] == pytest.approx(np.percentile(ct(2), 0.5))
    assert (case.percentiles[0], case.percentiles[-1]) == (ct(2).min(), ct(2).max())


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pictures: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        if tag == "img":
            self.pictures.append(str(dict(attrs)["src"]))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_has_every_finding_and_pictures_that_open(
    broken: tuple[DataSet, SetReport], tmp_path: Path
) -> None:
    data, report = broken
    nasty = dataclasses.replace(report.findings[0], text="<script>alert(1)</script>")
    report = dataclasses.replace(report, findings=(*report.findings, nasty))
    path = write_report(report, data, tmp_path / "new" / "report")
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert all(finding.text in page.text for finding in report.findings)
    assert len(page.pictures) == 7
    for name in page.pictures:
        content = base64.b64decode(name.removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(BytesIO(content)) as picture:
            colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
        assert (255, 72, 0) in colours, "an outline is drawn"
    record = json.loads((path.parent / "report.json").read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(as_json(report)))
    assert {path.name for path in path.parent.iterdir()} == {
        "report.html", "report.json", "contact_sheet.png", *(f"case_{n}.png" for n in range(1, 7)),
    }  # fmt: skip


def test_a_clean_set_has_no_findings_and_workers_agree(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path, f"p{number}", ct(number), organ())
    found = read_data_set(tmp_path, options=ReadOptions(modality="CT", labels={1: "liver", 2: "vessel"}))
    here = list(check_scans(found.scans))
    assert summarise(found, here).findings == ()
    assert list(check_scans(found.scans, workers=2)) == here


def test_the_slices_are_those_of_the_plane(tmp_path: Path) -> None:
    write(tmp_path, "a", ct(0), organ())
    found = read_data_set(tmp_path)
    (axial,) = check_scans(found.scans, CheckLimits(plane="axial"))
    (sagittal,) = check_scans(found.scans, CheckLimits(plane="sagittal"))
    assert (axial.labels[0].num_slices, axial.labels[0].key_area) == (4, 56)
    assert (sagittal.labels[0].num_slices, sagittal.labels[0].key_area) == (8, 28)


@pytest.mark.parametrize("wrong", [{"smallest_area": 0}, {"largest_anisotropy": float("nan")}])
def test_limits_are_limits(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="limits are an area of at least 1"):
        CheckLimits(**wrong)
