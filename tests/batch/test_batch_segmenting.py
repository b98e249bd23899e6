"""One case from its rows to its mask, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from medsam2.batch.cases import Case
from medsam2.batch.records import BatchSettings, CaseRecord, Failure, Task
from medsam2.batch.segmenting import attempt
from medsam2.imaging.io import read, write
from medsam2.inference.predictor import Predictor

BOX = [18, 12, 37, 25]
CaseMaker = Callable[..., Case]


@pytest.fixture
def done(predictor: Predictor, tmp_path: Path) -> Callable[..., CaseRecord | Failure]:
    masks = tmp_path / "masks"
    masks.mkdir()

    def run(case: Case, **settings: object) -> CaseRecord | Failure:
        task = Task(case=case, fingerprint="f")
        return attempt(task, predictor, BatchSettings(**settings), masks)  # type: ignore[arg-type]

    return run


def test_several_objects_become_one_mask_as_the_library_makes_it(
    case_of: CaseMaker, done: Callable[..., CaseRecord | Failure], predictor: Predictor, tmp_path: Path
) -> None:
    case = case_of(
        {"slice": 4, "box": BOX, "name": "block", "window": "0 200"},
        {"slice": 3, "box": [2, 2, 12, 12], "object": 3},
        {"slice": 5, "points": [[4, 4, 1]], "object": 3},
    )
    record = done(case, preview=True)
    assert isinstance(record, CaseRecord)
    assert record.files == ("one.nii.gz", "one.png")
    assert [(one.number, one.name) for one in record.objects] == [(1, "block"), (3, None)]
    assert (record.num_slices, record.window, record.fingerprint) == (8, (0.0, 200.0), "f")
    assert 1 < record.visited <= 16
    assert record.seconds > 0

    volume = read(case.place)
    session = predictor.session(volume, window=(0, 200))
    session.add(1, slice=4, box=BOX)
    session.add(3, slice=3, box=[2, 2, 12, 12])
    session.add(3, slice=5, points=[[4, 4]])
    for _ in session.propagate():
        pass
    found = read(tmp_path / "masks" / "one.nii.gz")
    np.testing.assert_array_equal(found.array, session.result().array)
    np.testing.assert_array_equal(found.affine, volume.affine)
    assert record.volume_ml == pytest.approx(sum(session.measurements(n)["volume_ml"] for n in (1, 3)))


def test_what_a_row_says_goes_before_the_options(
    case_of: CaseMaker, done: Callable[..., CaseRecord | Failure]
) -> None:
    own = done(
        case_of({"slice": 20, "box": [18, 2, 37, 6], "window": "10 90"}, plane="coronal"), window=(1, 2)
    )
    assert isinstance(own, CaseRecord)
    assert (own.num_slices, own.window) == (40, (10.0, 90.0))
    given = done(case_of(), window=(1, 200), output_type="seg.nrrd")
    assert isinstance(given, CaseRecord)
    assert (given.num_slices, given.window, given.files) == (8, (1.0, 200.0), ("one.seg.nrrd",))


def test_a_mask_file_starts_from_the_folder_of_the_table(
    case_of: CaseMaker, done: Callable[..., CaseRecord | Failure], tmp_path: Path
) -> None:
    case = case_of({"mask": "rough.mha", "mask_label": 2})
    volume = read(case.place)
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[4, 13:24, 19:36], labels[1, 0, 0] = 2, 1
    write(volume.with_array(labels), tmp_path / "rough.mha")
    record = done(case)
    assert isinstance(record, CaseRecord)
    assert record.objects[0].num_slices >= 1


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        ([{"slice": 99, "box": BOX}], {}, "row 2: slice 99 is outside"),
        ([{"slice": 4, "box": "1 2 3"}], {}, "row 2, box: '1 2 3' is not usable; give four numbers"),
        ([{"slice": 4}], {}, "row 2: says nothing"),
        (
            [{"slice": 4, "box": BOX, "window": "0 9"}, {"slice": 5, "box": BOX, "window": "lung"}],
            {},
            "several windows",
        ),
        ([{"slice": 4, "mask": "gone.nii"}], {}, "gone.nii: no such file"),
        ([{"slice": 4, "box": BOX, "window": "moon"}], {}, "moon"),
        ([{"slice": 4, "box": BOX}], {"frame": 3}, "no frame"),
        ([{"slice": 4, "box": BOX}], {"series": "1"}, "only DICOM has series"),
        ([{"slice": 4, "box": BOX}], {"place": __file__}, "this suffix is not read"),
    ],
    ids=["slice", "box", "nothing", "windows", "mask", "window", "frame", "series", "format"],
)
def test_a_case_that_cannot_be_is_a_sentence(
    case_of: CaseMaker,
    done: Callable[..., CaseRecord | Failure],
    tmp_path: Path,
    rows: list[dict[str, object]],
    changes: dict[str, object],
    words: str,
) -> None:
    failure = done(case_of(*rows, **changes))
    assert isinstance(failure, Failure)
    assert words in failure.error
    assert not list((tmp_path / "masks").iterdir())


def test_a_fault_of_the_machine_is_a_sentence_too(
    case_of: CaseMaker, done: Callable[..., CaseRecord | Failure], tmp_path: Path
) -> None:
    (tmp_path / "masks").rmdir()
    failure = done(case_of())
    assert isinstance(failure, Failure)
    assert "there is no folder" in failure.error


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """The scan of the other tests as an MR series, written by SimpleITK."""
    folder = tmp_path / "series"
    folder.mkdir()
    grey = np.random.default_rng(0).integers(0, 60, (8, 40, 56)).astype(np.int16)
    grey[2:7, 12:26, 18:38] += 150
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    study, identity, frame = (pydicom.uid.generate_uid() for _ in range(3))
    for z, plane in enumerate(grey):
        image = SimpleITK.GetImageFromArray(plane)
        for tag, value in {
            "0008|0060": "MR", "0008|0018": pydicom.uid.generate_uid(), "0020|000d": study,
            "0020|000e": identity, "0020|0052": frame, "0020|0032": f"0\\0\\{2 * z}",
            "0020|0037": "1\\0\\0\\0\\1\\0", "0018|0050": "2", "0020|0013": str(z + 1),
        }.items():  # fmt: skip
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{z:02d}.dcm"))
        writer.Execute(image)
    return folder


def test_dicom_masks_refer_to_the_image_or_to_the_source_that_the_row_names(
    case_of: CaseMaker, done: Callable[..., CaseRecord | Failure], series: Path, tmp_path: Path
) -> None:
    highdicom = pytest.importorskip("highdicom", reason="needs the extra dicom")
    for case in (
        case_of({"slice": 4, "box": BOX, "name": "block"}, place=series),
        case_of({"slice": 4, "box": BOX}, name="copy", place=series, source=str(series)),
    ):
        record = done(case, output_type="dicom-seg")
        assert isinstance(record, CaseRecord), record
        segmentation = highdicom.seg.segread(tmp_path / "masks" / record.files[0])
        sources = {pydicom.dcmread(file).SOPInstanceUID for file in series.iterdir()}
        assert {uid for _, _, uid in segmentation.get_source_image_uids()} <= sources
    alone = done(case_of({"slice": 4, "box": BOX}), output_type="dicom-seg")
    assert isinstance(alone, Failure)
    assert "dicom-seg refers to a DICOM series: give it in a column `source`" in alone.error
    remote = done(case_of({"slice": 4, "box": BOX}, source="s3://b/series"), output_type="rtstruct")
    assert isinstance(remote, Failure)
    assert "s3://b/series: a source is a folder" in remote.error
