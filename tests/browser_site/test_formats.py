"""Files that the static site reads and writes: the same voxels, grids and masks as the program's."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

import medsam2
from medsam2.imaging.intensity import resolve_window
from medsam2.measure.overlap import dice

pytestmark = pytest.mark.slow
AGREES = 0.995
SHAPE = (12, 56, 64)
BOX = (22, 18, 41, 37)
VOXELS = """async () => {
    const { state } = await import("/page/state.js");
    const { voxels, slope, shift, size, affine } = state.volume;
    return [Array.from(voxels, (voxel) => voxel * slope + shift), size, affine];
}"""


def _ball(seed: int = 0) -> np.ndarray:
    """A bright ball in noise, (z, y, x), in Hounsfield units."""
    grid = np.mgrid[tuple(slice(side) for side in SHAPE)]
    distance = sum(
        ((axis - (side - 1) / 2) / radius) ** 2
        for axis, side, radius in zip(grid, SHAPE, (4, 10, 10), strict=True)
    )
    return (np.random.default_rng(seed).normal(20, 8, SHAPE) + 120 * (distance < 1)).astype(np.int16)


def _write_series(
    folder: Path,
    array: np.ndarray,
    *,
    across: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    tilt: float = 0.0,
    without: int | None = None,
    syntax: str = ExplicitVRLittleEndian,
    change: Callable[[Dataset, int], None] = lambda *_: None,
) -> Path:
    """Write a CT series as a scanner does: 12 bits of 16, shifted by 1024, files in no order."""
    folder.mkdir()
    series, study, place = generate_uid(), generate_uid(), generate_uid()
    normal = np.cross(across[:3], across[3:])
    step = 2.5 * normal + tilt * np.array(across[3:])
    for number, pixels in enumerate(array):
        if number == without:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = syntax
        one = Dataset()
        one.file_meta = meta
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, place
        one.SpecificCharacterSet, one.PatientName, one.PatientID = "ISO_IR 192", "Müller^Jörg", "secret-7"
        one.PatientBirthDate = one.PatientSex = one.AccessionNumber = one.StudyID = ""
        one.StudyDate, one.StudyTime, one.ReferringPhysicianName = "20260102", "101112", ""
        one.StudyDescription = "secret words"
        one.Modality, one.SeriesNumber, one.InstanceNumber = "CT", 3, len(array) - number
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        position = np.array((-20.0, -15.0, 30.0)) + number * step
        one.ImagePositionPatient = [float(round(value, 4)) for value in position]
        one.ImageOrientationPatient = [float(value) for value in across]
        one.PixelSpacing, one.SliceThickness = [0.8, 0.7], 2.5
        one.Rows, one.Columns = pixels.shape
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
        one.RescaleSlope, one.RescaleIntercept, one.WindowCenter, one.WindowWidth = 1, -1024, 60, 350
        stored = (pixels + 1024).astype("<u2").tobytes()
        one.PixelData = (
            pydicom.encaps.encapsulate([stored]) if meta.TransferSyntaxUID.is_compressed else stored
        )
        change(one, number)
        one.save_as(folder / f"{7919 * number % 1009:04d}", enforce_file_format=True)
    return folder


def _drop_all(screen, paths: list[Path]) -> None:
    screen.page.set_input_files("#file", paths)
    screen.is_open()


def _is_read_as(screen, path: Path) -> medsam2.Volume:
    """Check that the page has the voxels, the grid and the window that the program finds."""
    values, size, affine = screen.page.evaluate(VOXELS)
    volume = medsam2.read(path)
    assert tuple(size[::-1]) == volume.shape
    np.testing.assert_allclose(np.reshape(values, volume.shape), volume.array, rtol=1e-6)
    np.testing.assert_allclose(affine, volume.affine[:3], atol=1e-4)
    window = resolve_window(volume)
    assert screen.state("session.window") == pytest.approx([window.lower, window.upper])
    return volume


def _segment(screen) -> None:
    screen.go_to(5)
    screen.draw_box(BOX)
    screen.propagate()
    assert len(screen.slices()) > 5


TURNED = (0, 1, 0, 0, 0, -1)  # a sagittal series
OBLIQUE = (0.96, 0.28, 0, -0.28, 0.96, 0)


@pytest.mark.filterwarnings("ignore:.*gantry was tilted")
@pytest.mark.parametrize(("across", "tilt"), [((1, 0, 0, 0, 1, 0), 0.0), (TURNED, 0.0), (OBLIQUE, 0.4)])
def test_a_dicom_series_and_its_segmentation(
    screen, tmp_path: Path, across: tuple[float, ...], tilt: float
) -> None:
    highdicom = pytest.importorskip("highdicom", reason="needs the extra dicom")
    folder = _write_series(tmp_path / "series", _ball(), across=across, tilt=tilt)
    screen.open()
    _drop_all(screen, sorted(folder.iterdir()))
    volume = _is_read_as(screen, folder)
    assert ("tilted" in screen.notices()) == bool(tilt)
    _segment(screen)
    saved = medsam2.read(screen.export("NIfTI", tmp_path))
    np.testing.assert_allclose(saved.affine, volume.affine, atol=1e-4)
    expected = medsam2.load("compact").segment(volume, slice=5, box=BOX)
    assert dice(saved.array > 0, expected.array > 0) >= AGREES
    segmentation = highdicom.seg.segread(screen.export("DICOM SEG", tmp_path))
    assert segmentation.SegmentationType == "BINARY"
    assert [one.SegmentLabel for one in segmentation.SegmentSequence] == ["object 1"]
    sources = [pydicom.dcmread(path) for path in folder.iterdir()]
    sources.sort(key=lambda one: -one.InstanceNumber)
    found = segmentation.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in sources], assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(found[..., 0], saved.array)
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        uid = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        (source,) = [one for one in sources if one.SOPInstanceUID == uid]
        assert group.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
    assert str(segmentation.PatientName) == "Müller^Jörg"
    assert segmentation.StudyInstanceUID == sources[0].StudyInstanceUID
    assert segmentation.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    assert "StudyDescription" not in segmentation


def _scaled_by_slice(one: Dataset, number: int) -> None:
    one.Modality, one.RescaleSlope, one.RescaleIntercept = "PT", 0.5 + 0.01 * number, 0


def _padded(one: Dataset, number: int) -> None:
    one.Modality, one.PixelPaddingValue = "MR", 4095
    pixels = np.frombuffer(one.PixelData, "<u2").copy()
    pixels[: 100 + number] = 4095
    one.PixelData = pixels.tobytes()
    del one.RescaleSlope, one.RescaleIntercept


def _inverted(one: Dataset, number: int) -> None:
    one.Modality, one.PhotometricInterpretation = "MR", "MONOCHROME1"


def _signed(one: Dataset, number: int) -> None:
    """With other bits above those that count, as overlays were stored once."""
    one.PixelRepresentation = 1
    pixels = np.frombuffer(one.PixelData, "<u2") & 0x07FF | 0x6000
    one.PixelData = pixels.tobytes()


def _without_unit(one: Dataset, number: int) -> None:
    del one.RescaleSlope, one.RescaleIntercept


@pytest.mark.filterwarnings("ignore:.*missing")
@pytest.mark.parametrize("change", [_scaled_by_slice, _padded, _inverted, _signed, _without_unit])
def test_numbers_of_dicom_mean_what_they_mean_to_the_program(
    screen, tmp_path: Path, change: Callable[[Dataset, int], None]
) -> None:
    folder = _write_series(tmp_path / "series", _ball(), change=change)
    screen.open()
    _drop_all(screen, sorted(folder.iterdir()))
    _is_read_as(screen, folder)


def test_a_file_of_several_frames_is_a_volume(screen, tmp_path: Path) -> None:
    """As enhanced CT stores it: places of frames lie in groups, and the frames are in no order."""
    folder = _write_series(tmp_path / "series", _ball())
    slices = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda one: one.SOPInstanceUID)
    whole = pydicom.dcmread(next(iter(folder.iterdir())))
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    whole.NumberOfFrames = len(slices)
    whole.PixelData = b"".join(one.PixelData for one in slices)

    def group(**elements: object) -> Dataset:
        found = Dataset()
        for name, value in elements.items():
            setattr(found, name, value)
        return found

    shared = group(
        PlaneOrientationSequence=[group(ImageOrientationPatient=whole.ImageOrientationPatient)],
        PixelMeasuresSequence=[group(PixelSpacing=whole.PixelSpacing, SliceThickness=2.5)],
        PixelValueTransformationSequence=[group(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
        FrameVOILUTSequence=[group(WindowCenter=60, WindowWidth=350)],
    )
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = [
        group(PlanePositionSequence=[group(ImagePositionPatient=one.ImagePositionPatient)]) for one in slices
    ]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(whole, name)
    del whole.RescaleIntercept, whole.WindowCenter, whole.WindowWidth
    path = tmp_path / "whole.dcm"
    whole.save_as(path, enforce_file_format=True)
    screen.open()
    screen.drop(path)
    _is_read_as(screen, path)


def test_a_zip_of_a_series_is_unpacked(screen, tmp_path: Path) -> None:
    folder = _write_series(tmp_path / "series", _ball())
    with zipfile.ZipFile(tmp_path / "series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, f"inside/{path.name}")
    screen.open()
    screen.drop(tmp_path / "series.zip")
    _is_read_as(screen, folder)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("dtype", ["int16", "float32", "uint8"])
def test_a_nrrd_and_its_mask(screen, tmp_path: Path, dtype: str, is_packed: bool) -> None:
    image = sitk.GetImageFromArray(_ball().clip(0).astype(dtype))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-20, 15, 30))
    image.SetDirection((0.96, -0.28, 0, 0.28, 0.96, 0, 0, 0, 1))
    sitk.WriteImage(image, tmp_path / "scan.nrrd", useCompression=is_packed)
    screen.open()
    screen.drop(tmp_path / "scan.nrrd")
    _is_read_as(screen, tmp_path / "scan.nrrd")
    if is_packed:
        _segment(screen)
        saved = sitk.ReadImage(screen.export("NRRD", tmp_path))
        for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(saved, name)() == pytest.approx(getattr(image, name)()), name
        mask = sitk.GetArrayFromImage(saved)
        assert mask.sum() == screen.num_voxels()


@pytest.mark.parametrize("kind", ["big-endian", "scaled", "qform", "no place", "nifti-2", "int64"])
def test_kinds_of_nifti(screen, tmp_path: Path, kind: str) -> None:
    affine = np.array([[-0.7, 0.1, 0, 20], [0.1, 0.8, 0, -15], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    array = _ball().T
    path = tmp_path / "scan.nii"
    image = nibabel.Nifti1Image(array, affine)
    if kind == "big-endian":
        image = nibabel.Nifti1Image(array, affine, nibabel.Nifti1Header(endianness=">"))
    if kind == "nifti-2":
        image = nibabel.Nifti2Image(array, affine)
    if kind == "int64":
        image = nibabel.Nifti1Image(array.astype(np.int64), affine, dtype=np.int64)
    if kind == "scaled":
        image.header.set_slope_inter(0.5, -10)
    if kind == "qform":
        turned = np.diag((-0.7, 0.8, -2.5, 1.0))
        image.set_qform(turned, code=1)
        image.set_sform(None, code=0)
    if kind == "no place":
        image.set_qform(None, code=0)
        image.set_sform(None, code=0)
    nibabel.save(image, path)
    screen.open()
    screen.drop(path)
    volume = _is_read_as(screen, path)
    _segment(screen)
    saved = screen.export("NIfTI", tmp_path)
    mask = medsam2.read(saved)
    assert mask.shape == volume.shape
    np.testing.assert_array_equal(mask.affine, volume.affine)
    assert np.count_nonzero(mask.array) == screen.num_voxels()
    header = nibabel.load(saved).header
    assert (header.sizeof_hdr, header.endianness) == (image.header.sizeof_hdr, image.header.endianness)


def test_a_plane_by_name_is_turned_as_in_python(screen, tmp_path: Path) -> None:
    """Stored from the head to the feet and from left to right, so that each plane is turned."""
    affine = np.diag((1.0, -1.2, -1.5, 1.0))
    grid = np.mgrid[:36, :40, :44]
    distance = sum(((one - middle) / 9) ** 2 for one, middle in zip(grid, (18, 17, 24), strict=True))
    grey = np.random.default_rng(3).normal(60, 8, grid[0].shape) + 100 * (distance < 1)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.int16), affine), path)
    screen.open()
    screen.drop(path)
    screen.page.locator(".pane", has_text="Sagittal").locator(".draw-here").click(force=True)
    screen.rests()
    assert screen.state("session.axis") == 0
    screen.go_to(24)
    box = (9, 10, 25, 26)
    screen.draw_box(box)
    screen.propagate()
    saved = medsam2.read(screen.export("NIfTI", tmp_path))
    expected = medsam2.load("compact").segment(path, slice=24, box=box, plane="sagittal")
    assert dice(saved.array > 0, expected.array > 0) >= AGREES
    assert dice(saved.array > 0, distance < 1) > 0.9


def _bad_files(folder: Path) -> dict[str, tuple[list[Path], str]]:
    """Files that cannot be opened, and what the page says of them."""

    def made(name: str, content: bytes) -> list[Path]:
        (folder / name).write_bytes(content)
        return [folder / name]

    image = nibabel.Nifti1Image(_ball().T, np.eye(4))
    nibabel.save(image, folder / "good.nii")
    good = (folder / "good.nii").read_bytes()
    series = nibabel.Nifti1Image(np.stack((_ball().T,) * 3, axis=-1), np.eye(4))
    nibabel.save(series, folder / "series.nii.gz")
    huge = bytearray(good[:352])
    huge[40:48] = np.array((3, 1300, 1300, 1300), "<i2").tobytes()
    pair = good[:344] + b"ni1\0" + good[348:]
    flat = nibabel.Nifti1Image(np.full(SHAPE[::-1], 7, np.int16), np.eye(4))
    nibabel.save(flat, folder / "flat.nii.gz")
    missing = _write_series(folder / "missing", _ball(), without=6)
    packed = _write_series(folder / "packed", _ball(), syntax=JPEG2000Lossless)
    return {
        "a text": (made("notes.txt", b"not a scan at all" * 50), "is no scan"),
        "nothing": (made("empty.nii", b""), "is empty"),
        "a picture": (made("photo.png", b"\x89PNG\r\n\x1a\n" + bytes(600)), "a picture"),
        "cut off": (made("cut.nii.gz", gzip.compress(good)[: len(good) // 3]), "damaged"),
        "short": (made("short.nii", good[: len(good) // 2]), "ends early"),
        "several volumes": ([folder / "series.nii.gz"], "3 volumes"),
        "too large": (made("huge.nii.gz", gzip.compress(bytes(huge))), "4.1 GiB"),
        "half of a pair": (made("half.hdr", pair), "half of a pair"),
        "all alike": ([folder / "flat.nii.gz"], "nothing to segment"),
        "a missing slice": (sorted(missing.iterdir()), "slice is missing after slice 6"),
        "packed pixels": (sorted(packed.iterdir()), "gdcmconv --raw"),
        "a detached header": (made("a.nhdr", b"NRRD0004\ndata file: a.raw\n\n" + bytes(600)), "another file"),
        "a zip of nothing": (made("none.zip", b"PK\x05\x06" + bytes(18)), "is no scan"),
        "not DICOM": (made("x.dcm", bytes(2000)), "DICM at byte 128"),
    }


def test_what_is_no_scan_gets_a_sentence_and_the_page_goes_on(screen, save_scan, tmp_path: Path) -> None:
    screen.open()
    for what, (paths, sentence) in _bad_files(tmp_path).items():
        said = screen.refuses(*paths)
        assert sentence in said, what
        assert said.endswith("."), what
        assert not screen.page.locator("#work").is_visible(), what
    screen.drop(save_scan(tmp_path / "ball.nii.gz"))
    screen.go_to(5)
    screen.draw_box(BOX)
    assert screen.slices() == [5]
