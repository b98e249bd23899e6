"""DICOM as it comes: compressed, multi-frame, in mixed folders, and what is no scan."""

import shutil
import zipfile

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    GeneralECGWaveformStorage,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    RTDoseStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging import io
from medsam2.imaging import volume as volume_module
from medsam2.imaging.dicom import series as series_module
from medsam2.imaging.dicom.read import read_dicom, series_files
from medsam2.imaging.intensity import resolve_window

ARRAY = np.random.default_rng(5).integers(0, 2000, (5, 6, 8)).astype(np.uint16)
OBLIQUE = (0.8, 0.6, 0, 0, 0, -1)
CORONAL = (1, 0, 0, 0, 0, -1)


def by_simpleitk(folder):
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def assert_agrees(volume, image, atol=1e-4):
    assert np.array_equal(volume.array, SimpleITK.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.spacing, image.GetSpacing(), atol=atol)
    num_z, num_y, num_x = volume.shape
    for voxel in ((0, 0, 0), (num_x - 1, 0, num_z - 1), (1, num_y - 1, 0)):
        lps = (volume.affine @ (*voxel, 1))[:3] * (-1, -1, 1)
        np.testing.assert_allclose(lps, image.TransformIndexToPhysicalPoint(voxel), atol=atol)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), CORONAL, OBLIQUE])
def test_hounsfield_units_and_grid_are_those_of_simpleitk(orientation, dicom_series, tmp_path):
    step = 2.5 * np.cross(orientation[:3], orientation[3:])
    dicom_series(
        tmp_path,
        ARRAY,
        step=tuple(step),
        ImageOrientationPatient=list(orientation),
        RescaleSlope=1,
        RescaleIntercept=-1024,
    )
    volume = io.read(tmp_path)
    assert_agrees(volume, by_simpleitk(tmp_path))
    assert volume.array.min() < -900
    assert volume.modality == "CT"


@pytest.mark.parametrize(
    ("dtype", "bits", "slope", "inter", "expected"),
    [
        ("u2", 12, 1, -1024, np.int16),
        ("u2", 16, 1, -1024, np.int32),
        ("i2", 16, 1, 0, np.int16),
        ("u2", 16, 1, 0, np.uint16),
        ("u1", 8, 1, 0, np.uint8),
        ("u2", 16, 0.5, -3, np.float32),
    ],
)
def test_intensities_have_the_smallest_dtype_that_holds_them(
    dtype, bits, slope, inter, expected, dicom_series, tmp_path
):
    stored = (ARRAY % 250).astype(dtype)
    dicom_series(
        tmp_path, stored, BitsStored=bits, HighBit=bits - 1, RescaleSlope=slope, RescaleIntercept=inter
    )
    volume = read_dicom(tmp_path)
    assert volume.array.dtype == expected
    np.testing.assert_allclose(volume.array, stored.astype(float) * slope + inter)


def test_each_slice_has_a_scale_of_its_own(dicom_series, tmp_path):
    def change(dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = dataset.InstanceNumber, 0

    dicom_series(tmp_path, ARRAY, change=change)
    slopes = np.arange(5, 0, -1).reshape(5, 1, 1)
    assert np.array_equal(read_dicom(tmp_path).array, ARRAY.astype(int) * slopes)


def test_bits_that_are_not_stored_are_no_intensities(dicom_series, tmp_path):
    stored = (ARRAY | 0xF000).astype(np.uint16)
    dicom_series(tmp_path, stored, BitsStored=12, HighBit=11)
    assert np.array_equal(read_dicom(tmp_path).array, ARRAY & 0xFFF)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_slices(syntax, dicom_series, tmp_path):
    files = dicom_series(
        tmp_path, ARRAY, change=lambda dataset: dataset.compress(syntax), RescaleSlope=1, RescaleIntercept=-10
    )
    assert dcmread(files[0]).file_meta.TransferSyntaxUID == syntax
    volume = read_dicom(tmp_path)
    assert np.array_equal(volume.array, ARRAY.astype(int) - 10)
    assert (volume.spacing, volume.origin) == ((0.5, 0.75, 2.5), (-10, 20, 100))


@pytest.mark.parametrize(
    ("compressor", "syntax"), [("JPEG", JPEGLosslessSV1), ("JPEG2000", JPEG2000Lossless)]
)
def test_slices_compressed_by_simpleitk(compressor, syntax, tmp_path):
    writer = SimpleITK.ImageFileWriter()
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.KeepOriginalImageUIDOn()
    for z, pixels in enumerate(np.tile(ARRAY, (1, 8, 8)).astype(np.int16)):
        image = SimpleITK.GetImageFromArray(pixels[np.newaxis])
        image.SetOrigin((0, 0, 2.0 * z))
        for tag, value in (("0008|0060", "CT"), ("0020|000e", "1.2.3"), ("0008|0018", f"1.2.3.{z}")):
            image.SetMetaData(tag, value)
        writer.SetFileName(str(tmp_path / f"{z}.dcm"))
        writer.Execute(image)
    assert dcmread(tmp_path / "0.dcm").file_meta.TransferSyntaxUID == syntax
    assert_agrees(read_dicom(tmp_path), by_simpleitk(tmp_path))


def test_a_codec_that_nobody_has_is_named(dicom_series, tmp_path):
    def change(dataset):
        dataset.compress(RLELossless)
        dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")

    dicom_series(tmp_path, ARRAY, change=change)
    with pytest.raises(UnsupportedFormat, match=r"encoded as MPEG2 .*gdcmconv --raw"):
        read_dicom(tmp_path)


def test_frames_of_a_multi_frame_file_lie_where_they_say(enhanced_ct, tmp_path):
    order = [3, 0, 4, 1, 2]
    enhanced_ct(ARRAY[order], [(-10, 20, 100 + 2.5 * z) for z in order]).save_as(tmp_path / "ct.dcm")
    volume = io.read(tmp_path / "ct.dcm")
    assert np.array_equal(volume.array, ARRAY.astype(int) - 1024)
    assert (volume.spacing, volume.origin) == ((0.5, 0.75, 2.5), (-10, 20, 100))
    assert volume.window == (-135, 215)
    assert series_files(tmp_path / "ct.dcm") == [tmp_path / "ct.dcm"]


def test_a_multi_frame_file_in_order_is_read_as_by_simpleitk(enhanced_ct, tmp_path):
    dataset = enhanced_ct(ARRAY, [(-10, 20, 100 + 2.5 * z) for z in range(5)])
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "ct.dcm")
    assert_agrees(io.read(tmp_path / "ct.dcm"), SimpleITK.ReadImage(tmp_path / "ct.dcm"))


def test_frames_without_a_place_are_no_volume(enhanced_ct, tmp_path):
    dataset = enhanced_ct(ARRAY, [(0, 0, z) for z in range(5)])
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(tmp_path / "ct.dcm")
    with pytest.raises(GeometryError, match="0 of 5 slices say where they lie"):
        io.read(tmp_path / "ct.dcm")


def test_several_images_at_each_position_are_frames(dicom_series, dicom_slice, tmp_path):
    dicom_series(tmp_path, ARRAY)
    for z in range(5):
        late = dicom_slice(ARRAY[z] + 1, (-10, 20, 100 + 2.5 * z), InstanceNumber=20 - z)
        late.save_as(tmp_path / f"late{z}.dcm")
    with pytest.raises(InputError, match="holds 2 frames; a volume is one of them"):
        io.read(tmp_path)
    assert np.array_equal(io.read(tmp_path, frame=0).array, ARRAY)
    assert np.array_equal(io.read(tmp_path, frame=1).array, ARRAY + 1)
    with pytest.raises(InputError, match="has no frame 2"):
        io.read(tmp_path, frame=2)


def test_missing_slices_are_counted_and_placed(dicom_series, tmp_path):
    array = np.tile(ARRAY, (3, 1, 1))
    files = dicom_series(tmp_path, array)[::-1]
    for z in (4, 5, 10):
        files[z].unlink()
    match = r"2\.5 to 7\.5 mm apart; 3 are missing after slice 3, 7 \(of 12, from 0\)"
    with pytest.raises(GeometryError, match=match):
        read_dicom(tmp_path)


@pytest.fixture
def study(dicom_series, dicom_slice, tmp_path):
    """A folder as a viewer exports it: an axial scan, a smaller one, a localizer, and a file of text."""
    dicom_series(tmp_path / "a" / "scan", ARRAY, SeriesInstanceUID="1.2.1", SeriesNumber=2)
    dicom_series(tmp_path / "b", ARRAY[:2] + 1, SeriesInstanceUID="1.2.2", SeriesNumber=3)
    views = (("1", 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1))
    for number, view in enumerate(views * 3):
        dicom_slice(
            ARRAY[0],
            (number, number, number),
            SeriesInstanceUID="1.2.3",
            SeriesNumber=1,
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
            ImageOrientationPatient=list(view),
        ).save_as(tmp_path / f"localizer{number}")
    (tmp_path / "a" / "notes.txt").write_text("DICOM")
    return tmp_path


def test_a_study_gives_its_largest_series_whatever_the_localizer(study):
    with pytest.warns(
        UserWarning, match=r"3 image series.*series 2 \(CT, 5 slices, UID 1\.2\.1\)\. Not read"
    ):
        volume = io.read(study)
    assert np.array_equal(volume.array, ARRAY)


@pytest.mark.parametrize("series", [3, "3", "1.2.2"])
def test_a_series_is_chosen_by_number_or_uid(series, study, recwarn):
    assert np.array_equal(io.read(study, series=series).array, ARRAY[:2] + 1)
    assert not recwarn


def test_a_localizer_is_refused_with_what_is_in_it(study):
    match = "is a localizer, of 3 axial of 8 x 6 pixels, 3 coronal of 8 x 6 pixels, 3 sagittal of 8 x 6"
    with pytest.raises(InputError, match=match):
        io.read(study, series=1)


def test_several_orientations_in_a_series_are_listed(dicom_series, dicom_slice, tmp_path):
    dicom_series(tmp_path, ARRAY)
    for number in range(2):
        dicom_slice(
            ARRAY[0], (0, number, 0), InstanceNumber=90 + number, ImageOrientationPatient=list(CORONAL)
        ).save_as(tmp_path / f"coronal{number}.dcm")
    with pytest.raises(GeometryError, match="it holds 5 axial of 8 x 6 pixels, 2 coronal of 8 x 6 pixels"):
        read_dicom(tmp_path)


def test_two_series_of_one_number_are_told_apart_by_uid(dicom_series, tmp_path):
    for uid in ("1.2.1", "1.2.2"):
        dicom_series(tmp_path, ARRAY, SeriesInstanceUID=uid)
    with pytest.raises(InputError, match="2 series are called '3'; give the number or UID"):
        read_dicom(tmp_path, series=3)


def test_copies_of_a_file_count_once(dicom_series, tmp_path):
    for file in dicom_series(tmp_path / "first", ARRAY):
        shutil.copy(file, tmp_path / file.name)
    assert np.array_equal(read_dicom(tmp_path).array, ARRAY)


@pytest.mark.parametrize(
    "sop_class",
    [
        RTDoseStorage,
        RTStructureSetStorage,
        SegmentationStorage,
        GeneralECGWaveformStorage,
        BasicTextSRStorage,
    ],
)
def test_what_is_no_scan_is_refused_by_name_and_passed_over_beside_one(
    sop_class, dicom_object, dicom_series, tmp_path
):
    elements = {"Rows": 4, "Columns": 4} if sop_class in (RTDoseStorage, SegmentationStorage) else {}
    dicom_object(sop_class, Modality="OT", SeriesInstanceUID="1.2.7", **elements).save_as(tmp_path / "x.dcm")
    for path in (tmp_path / "x.dcm", tmp_path):
        with pytest.raises(UnsupportedFormat, match=f"holds no scan but 1 {sop_class.name}"):
            io.read(path)
    dicom_series(tmp_path, ARRAY)
    assert np.array_equal(io.read(tmp_path).array, ARRAY)


def test_a_cine_is_for_the_video_command(dicom_object, tmp_path):
    dataset = dicom_object(
        UltrasoundMultiFrameImageStorage, Modality="US", Rows=4, Columns=4, NumberOfFrames=12
    )
    dataset.BitsAllocated, dataset.PixelRepresentation, dataset.PixelData = 8, 0, bytes(4 * 4 * 12)
    dataset.save_as(tmp_path / "cine.dcm")
    with pytest.raises(UnsupportedFormat, match="a cine of 12 frames; `medsam2 video` takes it"):
        io.read(tmp_path / "cine.dcm")


def test_a_mosaic_is_not_taken_for_a_slice(dicom_slice, tmp_path):
    dicom_slice(ARRAY[0], (0, 0, 0), ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]).save_as(
        tmp_path / "a.dcm"
    )
    with pytest.raises(UnsupportedFormat, match="mosaic"):
        io.read(tmp_path / "a.dcm")


def test_an_ultrasound_still_is_a_picture(dicom_slice, tmp_path):
    dataset = dicom_slice(
        (ARRAY[0] % 250).astype(np.uint8), (0, 0, 0), SOPClassUID=UltrasoundImageStorage, Modality="US"
    )
    for name in ("ImagePositionPatient", "ImageOrientationPatient"):
        del dataset[name]
    dataset.save_as(tmp_path / "still")  # no suffix, as on most discs
    volume = io.read(tmp_path / "still")
    assert np.array_equal(volume.array[0], ARRAY[0] % 250)
    assert (volume.modality, volume.spacing[:2]) == ("US", (0.5, 0.75))


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_inverted_greys_are_turned_except_hounsfield_units(modality, dicom_series, tmp_path):
    """MONOCHROME1 says how to show numbers; in CT these are what counts."""
    dicom_series(
        tmp_path,
        ARRAY,
        Modality=modality,
        SOPClassUID=MRImageStorage,
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        HighBit=11,
        RescaleSlope=2,
        RescaleIntercept=-10,
        WindowCenter=1000,
        WindowWidth=400,
    )
    volume = read_dicom(tmp_path)
    stored = ARRAY.astype(int)
    expected = 2 * (stored if modality == "CT" else 4095 - stored) - 10
    assert np.array_equal(volume.array, expected)
    # A voxel at the window's centre stays there.
    centre = 1000 if modality == "CT" else 2 * (4095 - (1000 + 10) / 2) - 10
    assert volume.window == (centre - 200, centre + 200)


def test_the_window_that_most_slices_ask_for_is_carried(dicom_series, tmp_path):
    def change(dataset):
        if dataset.InstanceNumber != 2:
            dataset.WindowCenter, dataset.WindowWidth = [-600, 40], [1500, 400]
        else:
            dataset.WindowCenter, dataset.WindowWidth = 300, 2000

    dicom_series(tmp_path, ARRAY, change=change)
    volume = read_dicom(tmp_path)
    assert volume.window == (-1350, 150)
    window = resolve_window(volume)
    assert (window.lower, window.upper, window.source) == (-1350, 150, "file")


@pytest.mark.parametrize("width", [0, -5])
def test_a_window_without_width_is_none(width, dicom_series, tmp_path):
    dicom_series(tmp_path, ARRAY, WindowCenter=40, WindowWidth=width)
    assert read_dicom(tmp_path).window is None


def test_files_come_in_the_order_of_slices(dicom_series, tmp_path):
    files = dicom_series(tmp_path / "scan", ARRAY)
    assert series_files(tmp_path / "scan") == files[::-1]
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in files:
            archive.write(file, f"DICOM/{file.name}")
    assert series_files(tmp_path / "scan.zip") == [file.read_bytes() for file in files[::-1]]


def test_a_zip_is_read_as_its_folder(study, tmp_path_factory):
    path = tmp_path_factory.mktemp("zip") / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in study.rglob("*"):
            archive.write(file, file.relative_to(study))
    with pytest.warns(UserWarning, match="image series") as caught:
        volume = io.read(path)
    assert np.array_equal(volume.array, ARRAY)
    assert str(caught[0].message).startswith(f"{path}: holds 3 image series")
    with pytest.raises(InputError) as refused:
        io.read(path, series=1)
    assert str(refused.value).startswith(f"{path}: the series is a localizer")


@pytest.mark.parametrize("keep", [0, 100, 200, 600, -40])
def test_truncated_files(keep, dicom_slice, tmp_path):
    path = tmp_path / "a.dcm"
    dicom_slice(ARRAY[0], (0, 0, 0)).save_as(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UnsupportedFormat) as caught:
        io.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_a_header_that_claims_more_than_its_file_holds(syntax, enhanced_ct, tmp_path):
    dataset = enhanced_ct(ARRAY, [(0, 0, z) for z in range(5)])
    if syntax is not None:
        dataset.compress(syntax)
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 60000, 60000, 5
    dataset.save_as(tmp_path / "ct.dcm")
    with pytest.raises(UnsupportedFormat, match="claims 36000000000 bytes, the file holds less"):
        io.read(tmp_path / "ct.dcm")


def test_a_series_that_is_too_large_is_refused(dicom_series, tmp_path, monkeypatch):
    dicom_series(tmp_path, ARRAY)
    monkeypatch.setattr(volume_module, "LARGEST_VOLUME_BYTES", ARRAY.nbytes - 1)
    with pytest.raises(UnsupportedFormat, match=r"claims 5 x 6 x 8 voxels \(z, y, x\)"):
        read_dicom(tmp_path)


def test_a_folder_with_too_many_files_is_refused(dicom_series, tmp_path, monkeypatch):
    dicom_series(tmp_path, ARRAY)
    monkeypatch.setattr(series_module, "MAX_FILES", 4)
    with pytest.raises(InputError, match="more than 4 files"):
        read_dicom(tmp_path)


def test_folders_are_searched_to_a_depth(dicom_series, tmp_path):
    deepest = tmp_path.joinpath(*"a" * series_module.MAX_DEPTH)
    dicom_series(deepest, ARRAY)
    assert read_dicom(tmp_path).shape == ARRAY.shape
    (deepest / "deeper").mkdir()
    for file in deepest.glob("*.dcm"):
        file.rename(deepest / "deeper" / file.name)
    with pytest.raises(UnsupportedFormat, match="no DICOM image"):
        read_dicom(tmp_path)


def test_files_from_before_the_preamble(dicom_slice, tmp_path):
    dataset = dicom_slice(ARRAY[0], (0, 0, 0))
    dataset.save_as(tmp_path / "new.dcm")
    data = (tmp_path / "new.dcm").read_bytes()
    start = data.index(b"\x08\x00\x08\x00CS")
    (tmp_path / "old.dcm").write_bytes(data[start:])
    (tmp_path / "new.dcm").unlink()
    assert np.array_equal(io.read(tmp_path / "old.dcm").array[0], ARRAY[0])


def test_no_text_of_the_patient_is_in_errors_or_warnings(study):
    with pytest.warns(UserWarning, match="series") as caught:
        io.read(study)
    with pytest.raises(InputError) as refused:
        io.read(study, series=77)
    assert "DOE" not in f"{caught[0].message} {refused.value}"
