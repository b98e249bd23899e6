"""How stored numbers become intensities: PET, nuclear medicine, padding, odd scales; by SimpleITK."""

import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset
from pydicom.uid import MRImageStorage, NuclearMedicineImageStorage, PositronEmissionTomographyImageStorage

from medsam2.errors import UnsupportedFormat
from medsam2.imaging.dicom.read import read_dicom
from medsam2.imaging.intensity import resolve_window

ARRAY = np.random.default_rng(5).integers(1, 2000, (5, 6, 8)).astype(np.uint16)
PET = {"Modality": "PT", "SOPClassUID": PositronEmissionTomographyImageStorage}
MR = {"Modality": "MR", "SOPClassUID": MRImageStorage}


def by_simpleitk(files):
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    return reader.Execute()


def by_file(files):
    return np.concatenate([SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))) for file in files])


def test_pet_with_a_slope_for_each_slice(dicom_series, tmp_path):
    def change(dataset):
        dataset.RescaleSlope, dataset.Units = 0.1 * dataset.InstanceNumber, "BQML"

    files = dicom_series(tmp_path, ARRAY, change=change, **PET)
    volume = read_dicom(tmp_path)
    np.testing.assert_allclose(volume.array, by_file(files[::-1]), rtol=1e-6)
    assert volume.modality == "PT"
    assert resolve_window(volume).source == "percentiles"


def nuclear(dicom_object, array, **elements):
    number = len(array)
    dataset = dicom_object(
        NuclearMedicineImageStorage,
        Modality="NM",
        SeriesInstanceUID="1.2.9",
        ImageType=["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"],
        Rows=6,
        Columns=8,
        NumberOfFrames=number,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
        PixelSpacing=[4.0, 4.5],
        SliceThickness=4.0,
        SpacingBetweenSlices=4.0,
        NumberOfSlices=number,
        SliceVector=list(range(1, number + 1)),
        PixelData=array.astype("<u2").tobytes(),
    )
    detector = Dataset()
    detector.ImagePositionPatient = [-10, 20, 100]
    detector.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.DetectorInformationSequence = [detector]
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def test_a_volume_of_nuclear_medicine(dicom_object, tmp_path):
    nuclear(dicom_object, ARRAY).save_as(tmp_path / "nm.dcm")
    image = SimpleITK.ReadImage(str(tmp_path / "nm.dcm"))
    volume = read_dicom(tmp_path / "nm.dcm")
    assert np.array_equal(volume.array, SimpleITK.GetArrayFromImage(image))
    assert volume.spacing == pytest.approx(image.GetSpacing())
    assert volume.origin == pytest.approx(image.GetOrigin())
    assert volume.modality == "NM"


def test_slices_that_go_down_and_gates_of_nuclear_medicine(dicom_object, tmp_path):
    both = np.concatenate((ARRAY, ARRAY + 1))
    nuclear(
        dicom_object,
        both,
        SliceVector=[*range(1, 6)] * 2,
        TimeSlotVector=[1] * 5 + [2] * 5,
        SpacingBetweenSlices=-4,
    ).save_as(tmp_path / "nm.dcm")
    volume = read_dicom(tmp_path / "nm.dcm", frame=1)
    assert np.array_equal(volume.array, ARRAY[::-1] + 1)
    assert volume.origin == pytest.approx((-10, 20, 84))


def test_projections_of_nuclear_medicine_are_no_slices(dicom_object, tmp_path):
    dataset = nuclear(dicom_object, ARRAY)
    del dataset.DetectorInformationSequence[0].ImagePositionPatient
    dataset.save_as(tmp_path / "nm.dcm")
    with pytest.raises(UnsupportedFormat, match="projections, not of slices; a reconstructed volume"):
        read_dicom(tmp_path / "nm.dcm")


@pytest.mark.parametrize("modality", ["XA", "MG", "US", "OPT"])
def test_volumes_of_others_are_read_by_what_their_frames_say(modality, enhanced_ct, tmp_path):
    enhanced_ct(ARRAY, [(0, 0, 2.5 * z) for z in range(5)], Modality=modality).save_as(tmp_path / "a.dcm")
    volume = read_dicom(tmp_path / "a.dcm")
    assert np.array_equal(volume.array + 1024, ARRAY)


@pytest.mark.parametrize(
    ("padding", "stored", "dtype"),
    [
        ({"PixelPaddingValue": 65535}, 65535, np.uint16),
        ({"PixelPaddingValue": -32768}, -32768, np.int16),
        ({"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 65535}, 61234, np.uint16),
    ],
)
def test_padding_is_no_intensity(padding, stored, dtype, dicom_series, tmp_path):
    array = (ARRAY % 1000 + 1).astype(dtype)
    clean, padded = array.copy(), array.copy()
    clean[:, :, :3], padded[:, :, :3] = 0, stored
    dicom_series(tmp_path / "clean", clean, **MR)
    dicom_series(tmp_path / "padded", padded, **MR, **padding)
    expected, volume = (read_dicom(tmp_path / name) for name in ("clean", "padded"))
    assert np.array_equal(volume.array, expected.array)
    assert resolve_window(volume) == resolve_window(expected)


def test_padding_of_a_ct_is_its_lowest_number(dicom_series, tmp_path):
    stored = ARRAY.astype(np.int16)
    stored[:, 0] = -2000
    dicom_series(tmp_path, stored, PixelPaddingValue=-2000, RescaleIntercept=-1024)
    array = read_dicom(tmp_path).array
    assert (array[:, 0] == int(ARRAY[:, 1:].min()) - 1024).all()
    assert np.array_equal(array[:, 1:], ARRAY[:, 1:].astype(int) - 1024)


def test_padding_among_what_was_measured_is_none(dicom_series, tmp_path):
    """Some scanners declare 0, which is water."""
    stored = ARRAY.astype(np.int16) - 1000
    stored[:, 0] = 0
    dicom_series(tmp_path, stored, PixelPaddingValue=0)
    assert np.array_equal(read_dicom(tmp_path).array, stored)


def without_scale(dataset):
    del dataset.RescaleSlope, dataset.RescaleIntercept


def test_a_ct_without_a_scale_is_not_taken_for_hounsfield_units(dicom_series, tmp_path):
    dicom_series(tmp_path, ARRAY, change=without_scale, WindowCenter=40, WindowWidth=400)
    match = r"RescaleSlope \(0028,1053\) and RescaleIntercept \(0028,1052\) are missing.*no Hounsfield units"
    with pytest.warns(UserWarning, match=match):
        volume = read_dicom(tmp_path)
    assert volume.modality is None
    assert resolve_window(volume).source == "percentiles"


def test_a_ct_without_a_scale_may_be_in_hounsfield_units(dicom_series, tmp_path):
    dicom_series(tmp_path, ARRAY.astype(np.int16) - 1000, change=without_scale)
    with pytest.warns(
        UserWarning, match="are missing; the numbers are taken for Hounsfield units as they are"
    ):
        assert read_dicom(tmp_path).modality == "CT"


@pytest.mark.parametrize("value", [None, 0])
def test_slices_that_lack_a_slope_have_that_of_the_others(value, dicom_series, tmp_path):
    def change(dataset):
        if dataset.InstanceNumber == 2:
            dataset.RescaleSlope = value

    dicom_series(tmp_path, ARRAY, change=change, RescaleSlope=2, RescaleIntercept=-1024)
    what = "missing" if value is None else "0"
    with pytest.warns(
        UserWarning, match=rf"RescaleSlope \(0028,1053\) is {what} in 1 of 5 slices; 2 is taken"
    ):
        volume = read_dicom(tmp_path)
    assert np.array_equal(volume.array, 2 * ARRAY.astype(int) - 1024)


def test_a_slice_that_lacks_a_slope_where_others_differ_is_refused(dicom_series, tmp_path):
    def change(dataset):
        dataset.RescaleSlope = None if dataset.InstanceNumber == 2 else 0.1 * dataset.InstanceNumber

    dicom_series(tmp_path, ARRAY, change=change, **PET)
    with pytest.raises(UnsupportedFormat, match=r"RescaleSlope \(0028,1053\) is missing in 1 of 5 slices"):
        read_dicom(tmp_path)


def test_a_slope_of_zero_is_one_as_in_simpleitk(dicom_series, tmp_path):
    files = dicom_series(tmp_path, ARRAY, RescaleSlope=0, RescaleIntercept=-1024)
    with pytest.warns(UserWarning, match=r"RescaleSlope \(0028,1053\) is 0 in 5 of 5 slices; 1 is taken"):
        volume = read_dicom(tmp_path)
    assert np.array_equal(volume.array, SimpleITK.GetArrayFromImage(by_simpleitk(files[::-1])))


def test_an_empty_slice_of_a_pet_may_have_a_slope_of_zero(dicom_series, tmp_path):
    array = ARRAY.copy()
    array[3] = 0

    def change(dataset):
        dataset.RescaleSlope = 0 if dataset.InstanceNumber == 2 else 0.1 * dataset.InstanceNumber

    dicom_series(tmp_path / "empty", array, change=change, **PET)
    assert not read_dicom(tmp_path / "empty").array[3].any()
    dicom_series(tmp_path / "full", ARRAY, change=change, **PET)
    with pytest.raises(UnsupportedFormat, match=r"RescaleSlope \(0028,1053\) is 0, which would"):
        read_dicom(tmp_path / "full")
