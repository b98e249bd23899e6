"""Which slices of a DICOM series make a volume: phases apart, spacings, scouts, copies; by SimpleITK."""

import re
import shutil

import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.dicom.read import read_dicom, series_files

NUM = 6
ARRAY = np.arange(NUM, dtype=np.int16)[:, None, None] + np.zeros((1, 6, 8), np.int16)
STEP = (0.0, 0.0, 2.5)
CORONAL = (1, 0, 0, 0, 0, -1)


@pytest.fixture
def write(dicom_slice, tmp_path):
    """Write slices at heights, with names in no order, as an archive gives them."""
    names = iter(np.random.default_rng(3).permutation(10_000))

    def write(heights, values, numbers=None, position=(-10, 20), **elements):
        files = []
        for index, height in enumerate(heights):
            own = {key: value[index] if isinstance(value, list) else value for key, value in elements.items()}
            own["InstanceNumber"] = index + 1 if numbers is None else numbers[index]
            own.setdefault("SeriesInstanceUID", "1.2.3.4")
            pixels = np.full((6, 8), values[index], np.int16)
            files.append(tmp_path / f"{next(names):05d}.dcm")
            dicom_slice(pixels, (*position, height), **own).save_as(files[-1])
        return files

    return write


def by_simpleitk(files):
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    return SimpleITK.GetArrayFromImage(reader.Execute())


HEIGHTS = [100 + 2.5 * z for z in range(NUM)]
TRAITS = {
    "AcquisitionNumber": (1, 2),
    "TemporalPositionIdentifier": (1, 2),
    "EchoNumbers": (1, 2),
    "EchoTime": (4.6, 92.0),
    "DiffusionBValue": (0.0, 800.0),
    "AcquisitionTime": ("120000", "120100"),
    "ContentTime": ("120000", "120100"),
    "TriggerTime": (0.0, 350.0),
    "ConvolutionKernel": ("B30f", "B70f"),
    "KVP": (80, 140),
    "ImageType": (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
    "NominalPercentageOfCardiacPhase": (30.0, 70.0),
}


@pytest.mark.parametrize("keyword", TRAITS)
def test_volumes_whose_numbers_begin_anew_are_told_apart(keyword, write, tmp_path):
    files = [
        write(HEIGHTS, 100 * phase + np.arange(NUM), **{keyword: [value] * NUM})
        for phase, value in enumerate(TRAITS[keyword])
    ]
    for phase in range(2):
        assert np.array_equal(read_dicom(tmp_path, frame=phase).array, by_simpleitk(files[phase]))
    with pytest.raises(InputError, match="holds 2 frames"):
        read_dicom(tmp_path)


def test_two_traits_make_four_volumes(write, tmp_path):
    for number, (echo, phase) in enumerate([(1, 1), (1, 2), (2, 1), (2, 2)]):
        write(HEIGHTS, 100 * number + np.arange(NUM), EchoNumbers=echo, AcquisitionNumber=phase)
    found = [read_dicom(tmp_path, frame=frame).array[:, 0, 0] for frame in range(4)]
    np.testing.assert_array_equal(found, 100 * np.arange(4)[:, None] + np.arange(NUM))


def test_times_that_differ_from_slice_to_slice_are_an_order(write, tmp_path):
    for phase in range(3):
        times = [12 * z + 300.0 * phase for z in range(NUM)]
        write(HEIGHTS, 100 * phase + np.arange(NUM), numbers=[1] * NUM, TriggerTime=times)
    assert np.array_equal(read_dicom(tmp_path, frame=2).array[:, 0, 0], 200 + np.arange(NUM))


@pytest.mark.parametrize("numbers", [[1, 2, 1, 2], [0] * 4])
def test_what_nothing_tells_apart_is_refused(numbers, write, tmp_path):
    write([0.0, 2.5, 0.0, 2.5], [0, 1, 100, 101], numbers=numbers)
    with pytest.raises(GeometryError, match=r"nothing says which of them .*InstanceNumber \(0020,0013\)"):
        read_dicom(tmp_path, frame=0)


def test_a_phase_with_one_image_in_excess_is_not_mixed(write, tmp_path):
    write(HEIGHTS, np.arange(NUM), AcquisitionNumber=1)
    write(HEIGHTS, np.arange(NUM), numbers=range(7, 13), AcquisitionNumber=[2, 2, 1, 2, 2, 2])
    with pytest.raises(GeometryError, match=r"AcquisitionNumber \(0020,0012\), which tells them apart"):
        read_dicom(tmp_path, frame=0)


def test_phases_at_places_in_between_are_two_volumes_and_not_one_of_half_the_step(write, tmp_path):
    write(HEIGHTS, np.arange(NUM), TemporalPositionIdentifier=1)
    write([height + 1.25 for height in HEIGHTS], 100 + np.arange(NUM), TemporalPositionIdentifier=2)
    volume = read_dicom(tmp_path, frame=1)
    assert np.array_equal(volume.array[:, 0, 0], 100 + np.arange(NUM))
    assert (volume.spacing[2], volume.origin[2]) == (2.5, 101.25)


def test_phases_may_reach_less_far_than_others(write, tmp_path):
    write(HEIGHTS, np.arange(NUM), AcquisitionNumber=1)
    write(HEIGHTS[2:], 100 + np.arange(4), AcquisitionNumber=2)
    volume = read_dicom(tmp_path, frame=1)
    assert np.array_equal(volume.array[:, 0, 0], 100 + np.arange(4))
    assert volume.origin[2] == 105
    with pytest.raises(InputError, match="0 is AcquisitionNumber 1; 1 is AcquisitionNumber 2"):
        read_dicom(tmp_path)


def test_an_acquisition_for_each_slice_is_one_volume(write, tmp_path, recwarn):
    write(
        HEIGHTS,
        np.arange(NUM),
        AcquisitionNumber=list(range(1, 7)),
        TemporalPositionIdentifier=list(range(6)),
    )
    assert read_dicom(tmp_path).shape == (NUM, 6, 8)
    assert not recwarn


def test_one_uid_for_all_slices_is_a_fault_and_no_copy(write, tmp_path):
    files = write(HEIGHTS, np.arange(NUM), SOPInstanceUID="1.2.3")
    shutil.copy(files[0], tmp_path / "copy.dcm")
    with pytest.warns(UserWarning, match=r"6 different files share 1 SOPInstanceUID \(0008,0018\)"):
        volume = read_dicom(tmp_path)
    assert np.array_equal(volume.array, by_simpleitk(files))


def test_one_uid_for_phases_that_nothing_tells_apart_is_refused(write, tmp_path):
    for phase in range(2):
        write(HEIGHTS, 100 * phase + np.arange(NUM), SOPInstanceUID="1.2.3")
    with (
        pytest.warns(UserWarning, match="12 different files"),
        pytest.raises(GeometryError, match="nothing says which of them"),
    ):
        read_dicom(tmp_path, frame=0)


@pytest.mark.parametrize(
    ("heights", "beside_mm", "worst"),
    [
        ([0, 5, 10, 15, 20, 25.2], None, None),
        ([0, 5, 10, 15.4, 20.8, 26.2], 0.48, 2),
        ([0, 5, 10.4, 15, 20, 25], 0.4, 2),
    ],
)
def test_slices_beside_their_places_are_told(heights, beside_mm, worst, write, tmp_path, recwarn):
    """By a hundredth of a step, as ITK warns of non uniform sampling."""
    places = np.array(heights, float)
    write(heights, np.arange(NUM))
    step = places[-1] / 5
    expected = np.abs(places - step * np.arange(NUM)).max()
    volume = read_dicom(tmp_path)
    assert volume.spacing[2] == pytest.approx(step)
    said = [str(one.message) for one in recwarn]
    assert bool(said) == (expected > 0.01 * step)
    if beside_mm is not None:
        assert f"up to {beside_mm:g} mm beside their places" in said[0]
        assert f"(slice {worst}, from 0)" in said[0]


@pytest.mark.parametrize("axis", [0, 1])
def test_slices_pushed_aside_are_told_too(axis, dicom_slice, tmp_path):
    for z in range(NUM):
        position = [0.0, 0.0, 5.0 * z]
        position[axis] = 0.5 * (z == 3)
        dicom_slice(ARRAY[z], tuple(position), InstanceNumber=z).save_as(tmp_path / f"{z}.dcm")
    with pytest.warns(UserWarning, match=r"up to 0\.5 mm beside their places.*slice 3"):
        read_dicom(tmp_path)


def test_a_small_tilt_is_told(dicom_series, tmp_path):
    dicom_series(tmp_path, np.tile(ARRAY, (10, 1, 1)), step=(0.0, 0.01, 2.5))
    with pytest.warns(UserWarning, match=r"up to 0\.59 mm beside their places"):
        read_dicom(tmp_path)


@pytest.mark.parametrize("thick", [7.38, 8.44, 12.0, 2.0])
def test_unlike_spacings_are_parts(thick, write, tmp_path):
    heights = [4.22 * z for z in range(5)] + [4 * 4.22 + thick * z for z in range(1, 8)]
    files = write(heights, range(12))
    match = (
        rf"0 is slices 0 to 4, 4\.22 mm apart; frame 1 is slices 4 to 11, {thick:g} mm apart; slices 4 to 11"
    )
    with pytest.warns(UserWarning, match=match):
        volume = read_dicom(tmp_path)
    assert np.array_equal(volume.array, by_simpleitk(files[4:]))
    assert volume.spacing[2] == pytest.approx(thick)
    assert volume.origin[2] == pytest.approx(4 * 4.22)
    assert read_dicom(tmp_path, frame=1).shape == volume.shape
    lower = read_dicom(tmp_path, frame=0)
    assert np.array_equal(lower.array, by_simpleitk(files[:5]))
    assert lower.spacing[2] == pytest.approx(4.22)
    assert series_files(tmp_path, frame=0) == files[:5]


def test_a_last_slice_that_is_nearer_is_left_out(write, tmp_path):
    write([0, 5, 10, 15, 18], range(5))
    with pytest.warns(UserWarning, match="slices 0 to 3 are read"):
        assert read_dicom(tmp_path).shape == (4, 6, 8)


@pytest.mark.parametrize("heights", [[0, 1, 2, 3, 5, 6], [0, 1, 2, 4, 6, 8, 9, 10], [0, 1, 3, 7, 8.5, 20]])
def test_slices_that_are_missing_are_no_other_spacing(heights, write, tmp_path):
    write(heights, range(len(heights)))
    with pytest.raises(GeometryError, match="missing"):
        read_dicom(tmp_path)


def test_slices_of_a_few_micrometres_are_not_one_place(dicom_series, tmp_path):
    dicom_series(tmp_path, ARRAY, step=(0, 0, 0.008), PixelSpacing=[0.008, 0.008], SliceThickness=0.008)
    assert read_dicom(tmp_path).spacing == pytest.approx((0.008, 0.008, 0.008))


@pytest.mark.parametrize(
    "elements",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": list(CORONAL)},
        {"ImageOrientationPatient": list(CORONAL)},
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        {"SOPClassUID": SecondaryCaptureImageStorage, "ImageOrientationPatient": None},
    ],
    ids=["localizer", "coronal", "sagittal", "screen shot"],
)
def test_a_scout_among_the_slices_is_left_out_with_a_word(elements, dicom_series, dicom_slice, tmp_path):
    files = dicom_series(tmp_path, ARRAY)
    scout = dicom_slice(np.zeros((12, 8), np.int16), (0, 0, 160), InstanceNumber=99, **elements)
    scout.save_as(tmp_path / "scout.dcm")
    with pytest.warns(UserWarning, match=r"no slices of the scan; they are left out: 1 \w+ of 8 x 12 pixels"):
        volume = read_dicom(tmp_path)
    assert np.array_equal(volume.array, by_simpleitk(files[::-1]))


def test_frames_of_a_file_are_told_apart_by_their_groups(enhanced_ct, tmp_path):
    places = [(0, 0, 2.5 * (z // 2)) for z in range(8)]
    pixels = np.arange(8, dtype=np.uint16)[:, None, None] + np.zeros((1, 6, 8), np.uint16)
    dataset = enhanced_ct(pixels, places)
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        content = Dataset()
        # Against the order of frames in every other place.
        content.TemporalPositionIndex = 1 + (number % 2 if number % 4 < 2 else 1 - number % 2)
        frame.FrameContentSequence = [content]
    dataset.save_as(tmp_path / "ct.dcm")
    assert (read_dicom(tmp_path, frame=0).array[:, 0, 0] + 1024).tolist() == [0, 3, 4, 7]
    assert (read_dicom(tmp_path, frame=1).array[:, 0, 0] + 1024).tolist() == [1, 2, 5, 6]


def test_warnings_and_errors_name_no_patient(write, tmp_path):
    write([0.0, 2.5, 0.0, 2.5], [0, 1, 100, 101], numbers=[1, 2, 1, 2], SOPInstanceUID="1.2.3")
    with (
        pytest.warns(UserWarning, match="share") as caught,
        pytest.raises(GeometryError) as refused,
    ):
        read_dicom(tmp_path)
    assert not re.search("DOE|4711", f"{caught[0].message} {refused.value}")
