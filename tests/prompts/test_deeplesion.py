"""DeepLesion's table, in the layout in which it is published."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from medsam2.errors import PromptError
from medsam2.prompts.files import read_prompts
from medsam2.prompts.statements import Prompts

COLUMNS = [
    *("File_name", "Patient_index", "Study_index", "Series_ID", "Key_slice_index"),
    *("Measurement_coordinates", "Bounding_boxes", "Lesion_diameters_Pixel_", "Normalized_lesion_location"),
    *("Coarse_lesion_type", "Possibly_noisy", "Slice_range", "Spacing_mm_px_", "Image_size"),
    *("DICOM_windows", "Patient_gender", "Patient_age", "Train_Val_Test"),
]
SUBVOLUME = Path("000005_01_02_103-115.nii.gz")


def lesion(series: str, key: int, box: str, **other: object) -> dict[str, object]:
    patient, study, number = (int(part) for part in series.split("_"))
    return {
        "File_name": f"{series}_{key:03d}.png",
        "Patient_index": patient, "Study_index": study, "Series_ID": number, "Key_slice_index": key,
        "Measurement_coordinates": "35, 25, 45, 35, 36, 34, 44, 26",
        "Bounding_boxes": box,
        "Lesion_diameters_Pixel_": "14.1, 11.3",
        "Normalized_lesion_location": "0.4, 0.3, 0.4",
        "Coarse_lesion_type": 5, "Possibly_noisy": 0, "Slice_range": "103, 115",
        "Spacing_mm_px_": "0.5, 0.5, 5", "Image_size": "512, 512", "DICOM_windows": "-1500, 500",
        "Patient_gender": "F", "Patient_age": 62, "Train_Val_Test": 1,
    } | other  # fmt: skip


ROWS = [
    lesion("000004_01_01", 109, "1, 2, 3, 4"),
    lesion("000005_01_02", 109, "30.5, 20.5, 50.25, 40"),
    lesion("000005_01_02", 111, "80, 90, 100, 110"),
    lesion("000005_01_02", 240, "80, 90, 100, 110", Slice_range="234, 246", Coarse_lesion_type=-1),
]


def table(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "DL_info.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path, image: Path, num_slices: int) -> Prompts:
    return read_prompts(path, image=image, num_slices=num_slices)


def test_the_lesions_of_a_subvolume(tmp_path: Path) -> None:
    prompts = read(table(tmp_path, ROWS), SUBVOLUME, 13)
    assert [(item.number, item.name) for item in prompts.objects] == [(1, "lung lesion"), (2, "lung lesion")]
    first, second = (item.statements[0] for item in prompts.objects)
    assert (first.slice_index, second.slice_index) == (6, 8)  # 109 and 111 less 103
    assert first.box is not None
    assert first.box.xyxy == (29.5, 19.5, 49.25, 39)  # the table counts pixels from 1
    assert prompts.windows == ((-1500, 500),)
    assert prompts.is_shown


@pytest.mark.parametrize(
    ("image", "num_slices", "slices"),
    [
        ("000005_01_02.nii.gz", 300, [108, 110, 239]),  # the whole series, counted from 1
        ("000005_01_02_234-246.nii", 13, [6]),
        ("000004_01_01.nii.gz", 13, [6]),  # as many as its slice range
    ],
)
def test_slices_are_counted_from_the_images_first(
    tmp_path: Path, image: str, num_slices: int, slices: list[int]
) -> None:
    prompts = read(table(tmp_path, ROWS), Path(image), num_slices)
    assert [item.statements[0].slice_index for item in prompts.objects] == slices


def test_a_table_of_one_series_is_for_any_name(tmp_path: Path) -> None:
    prompts = read(table(tmp_path, ROWS[1:3]), Path("scan.nii.gz"), 13)
    assert [item.statements[0].slice_index for item in prompts.objects] == [6, 8]


@pytest.mark.parametrize(
    ("rows", "image", "num_slices", "words"),
    [
        (ROWS, "scan.nii.gz", 13, ("2 series", "scan.nii.gz", "000001_01_01_103-115")),
        (ROWS, "000009_01_01_001-013.nii.gz", 13, ("no row for series 000009_01_01",)),
        (ROWS, "000005_01_02_103-115.nii.gz", 14, ("slices 103 to 115", "holds 14")),
        (ROWS, "000005_01_02.nii.gz", 13, ("cannot be told", "103-115, 234-246")),
        (ROWS, "000005_01_02_001-013.nii.gz", 13, ("slices", "1 to 13", "109, 111, 240")),
        ([ROWS[1] | {"Bounding_boxes": "1, 2, 3"}], SUBVOLUME, 13, ("row 2, Bounding_boxes", "'1, 2, 3'")),
        ([ROWS[1] | {"Key_slice_index": "x"}], SUBVOLUME, 13, ("row 2, Key_slice_index", "'x'", "a number")),
        ([ROWS[1] | {"DICOM_windows": "5, 5"}], SUBVOLUME, 13, ("DICOM_windows", "'5, 5'", "lower < upper")),
        ([ROWS[1] | {"File_name": "a.png"}], SUBVOLUME, 13, ("row 2, File_name", "'a.png'", "_109.png")),
    ],
)  # fmt: skip
def test_refusals(
    tmp_path: Path, rows: list[dict[str, object]], image: str, num_slices: int, words: tuple[str, ...]
) -> None:
    path = table(tmp_path, rows)
    with pytest.raises(PromptError) as refused:
        read(path, Path(image), num_slices)
    assert str(refused.value).startswith(str(path))
    for word in words:
        assert word in str(refused.value)
