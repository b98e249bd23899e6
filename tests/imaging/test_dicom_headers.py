"""DICOM headers that lack what they should have or write it oddly; by pydicom and SimpleITK."""

import numpy as np
import pytest
import SimpleITK
from pydicom.uid import MediaStorageDirectoryStorage

from medsam2.errors import UnsupportedFormat
from medsam2.imaging.dicom.read import read_dicom

ARRAY = np.random.default_rng(5).integers(0, 2000, (5, 6, 8)).astype(np.uint16)
INSTEAD = {
    "SOPClassUID": "0008,0016",
    "SOPInstanceUID": "0008,0018",
    "Modality": "0008,0060",
    "BitsStored": "0028,0101",
    "BitsAllocated": "0028,0100",
    "SamplesPerPixel": "0028,0002",
    "PhotometricInterpretation": "0028,0004",
}
NEEDED = ("PixelRepresentation", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")


@pytest.mark.parametrize("is_empty", [False, True], ids=["missing", "empty"])
@pytest.mark.parametrize("keyword", INSTEAD)
def test_what_other_elements_say_is_read_and_named(keyword, is_empty, dicom_series, tmp_path):
    def change(dataset):
        if is_empty:
            setattr(dataset, keyword, None)
        else:
            delattr(dataset, keyword)

    dicom_series(tmp_path, ARRAY, change=change)
    with pytest.warns(UserWarning, match=rf"{keyword} \({INSTEAD[keyword]}\) is missing or empty in 5 of 5"):
        volume = read_dicom(tmp_path)
    assert np.array_equal(volume.array, ARRAY)
    assert volume.modality == "CT"


@pytest.mark.parametrize("is_empty", [False, True], ids=["missing", "empty"])
@pytest.mark.parametrize("keyword", NEEDED)
def test_what_nothing_else_says_is_named(keyword, is_empty, dicom_series, tmp_path):
    def change(dataset):
        if is_empty:
            setattr(dataset, keyword, None)
        else:
            delattr(dataset, keyword)

    dicom_series(tmp_path, ARRAY, change=change)
    with pytest.raises(ValueError, match=rf"{keyword} \(00\d\d,\d{{4}}\)") as caught:
        read_dicom(tmp_path)
    assert "damaged" not in str(caught.value)


def test_without_class_and_modality_both_are_named(dicom_slice, tmp_path):
    dataset = dicom_slice(ARRAY[0], (0, 0, 0), Modality="", SOPClassUID="")
    dataset.file_meta.MediaStorageSOPClassUID = ""
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=False)
    match = r"SOPClassUID \(0008,0016\) and Modality \(0008,0060\) are missing"
    with pytest.raises(UnsupportedFormat, match=match):
        read_dicom(tmp_path / "a.dcm")


def replaced(files, old, new):
    for file in files:
        content = file.read_bytes()
        assert old in content
        file.write_bytes(content.replace(old, new))


def test_decimal_commas_are_points(dicom_series, tmp_path):
    """SimpleITK reads the same files before their points become commas."""
    files = dicom_series(
        tmp_path,
        ARRAY,
        PixelSpacing=["0.75", "0.5"],
        RescaleSlope="0.25",
        WindowCenter="40.5",
        WindowWidth="350.5",
    )
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files[::-1]])
    image = reader.Execute()
    for points in (b"0.75\\0.5", b"0.25", b"40.5", b"350.5"):
        replaced(files, points, points.replace(b".", b","))
    volume = read_dicom(tmp_path)
    assert np.array_equal(volume.array, SimpleITK.GetArrayFromImage(image))
    assert volume.spacing == pytest.approx(image.GetSpacing())
    assert volume.window == (-134.75, 215.75)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (
            b"0.75\\0.5",
            b"0.7x\\0.5",
            r"PixelSpacing \(0028,0030\) is something else, where 2 numbers must be",
        ),
        (b"0.75\\0.5", b"0.75    ", r"PixelSpacing \(0028,0030\) is '0\.75', where 2 numbers must be"),
        (
            b"-10.0\\20.0",
            b"-10.0\\20,,",
            r"ImagePositionPatient \(0020,0032\) is '-10",
        ),
    ],
)
def test_a_number_that_is_none_is_named(old, new, match, dicom_series, tmp_path):
    files = dicom_series(tmp_path, ARRAY, PixelSpacing=["0.75", "0.5"])
    replaced(files[-1:], old, new)
    with pytest.raises(UnsupportedFormat, match=match):
        read_dicom(tmp_path)


def test_a_window_that_is_no_number_is_no_window(dicom_series, tmp_path):
    files = dicom_series(tmp_path, ARRAY, WindowCenter="12345", WindowWidth="400")
    replaced(files, b"12345", b"40 HU")
    assert read_dicom(tmp_path).window is None


def test_a_dicomdir_names_the_folder_to_give(dicom_series, dicom_object, tmp_path):
    dicom_series(tmp_path, ARRAY)
    directory = dicom_object(MediaStorageDirectoryStorage, FileSetID="DISC", DirectoryRecordSequence=[])
    del directory.SOPClassUID, directory.SOPInstanceUID  # as its kind has none but before the data set
    directory.save_as(tmp_path / "DICOMDIR")
    with pytest.raises(UnsupportedFormat) as caught:
        read_dicom(tmp_path / "DICOMDIR")
    assert str(caught.value).endswith(f"give the folder that it is in, {tmp_path}")
    assert np.array_equal(read_dicom(tmp_path).array, ARRAY)


@pytest.mark.parametrize(
    ("syntax", "words"),
    [
        (b"1.2.840.113619.5.2", r"in GE's own way \(1\.2\.840\.113619\.5\.2\)"),
        (b"1.3.46.670589.33.1", r"in Philips's own way"),
        (b"1.2.276.0.99.1.4.1", "in a manufacturer's own way"),
    ],
)
def test_private_encodings_are_called_so(syntax, words, dicom_series, tmp_path):
    files = dicom_series(tmp_path, ARRAY)
    replaced(files, b"1.2.840.10008.1.2.1\0", syntax.ljust(20, b"\0"))
    with pytest.raises(
        UnsupportedFormat, match=rf"{words}.*not read here; export .*Explicit VR Little Endian"
    ):
        read_dicom(tmp_path)
