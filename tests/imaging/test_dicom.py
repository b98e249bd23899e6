"""DICOM: a series in a folder, made here by SimpleITK's own writer."""

import numpy as np
import pytest
import SimpleITK

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging.dicom.read import read_dicom

ARRAY = np.random.default_rng(5).integers(-1000, 1000, (5, 6, 8)).astype(np.int16)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def write_series(
    folder,
    *,
    positions,
    names=None,
    modality="CT",
    series="1.2.3.4",
    orientation=AXIAL,
    array=ARRAY,
    first_instance=0,
):
    """Write one file per position (LPS, mm), in the order given."""
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index, position in enumerate(positions):
        image = SimpleITK.GetImageFromArray(array[index])
        image.SetSpacing((0.5, 0.75))
        tags = {
            "0008|0060": modality,
            "0010|0010": "DOE^JOHN",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0008|0018": f"{series}.{first_instance + index}",
            "0020|0032": "\\".join(f"{value:g}" for value in position),
            "0020|0037": "\\".join(f"{value:g}" for value in orientation),
            "0020|0013": str(first_instance + index),
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / (names[index] if names else f"{series}.{index}.dcm")))
        writer.Execute(image)


def along_z(steps):
    return [(-10, 20, z) for z in steps]


def test_slices_are_sorted_by_position_and_not_by_name(tmp_path):
    order = [3, 0, 4, 1, 2]
    write_series(
        tmp_path, positions=along_z(100 + 2.5 * np.array(order)), names=[f"{i}.dcm" for i in range(5)]
    )
    volume = read_dicom(tmp_path)
    assert np.array_equal(volume.array, ARRAY[np.argsort(order)])
    assert volume.modality == "CT"
    assert volume.spacing == pytest.approx((0.5, 0.75, 2.5))
    assert volume.origin == pytest.approx((-10, 20, 100))
    assert volume.direction == pytest.approx((1, 0, 0, 0, 1, 0, 0, 0, 1))


def test_coronal_mr(tmp_path):
    write_series(tmp_path, positions=[(0, y, 0) for y in (0, 2, 4, 6, 8)], modality="MR", orientation=CORONAL)
    volume = read_dicom(tmp_path)
    assert volume.modality == "MR"
    step = volume.affine[:3, 2]
    assert np.abs(step).tolist() == pytest.approx([0, 2, 0])
    first_y = -volume.affine[1, 3]
    assert np.array_equal(volume.array, ARRAY if first_y == 0 else ARRAY[::-1])


def test_a_tilted_gantry_shears_the_affine(tmp_path):
    write_series(tmp_path, positions=[(0, 0.5 * i, 2 * i) for i in range(5)])
    with pytest.warns(UserWarning, match=r"gantry was tilted by 14\.0 degrees"):
        volume = read_dicom(tmp_path)
    np.testing.assert_allclose(volume.affine[:3, 2], (0, -0.5, 2), atol=1e-9)
    np.testing.assert_allclose(volume.affine[:3, :2], [(-0.5, 0), (0, -0.75), (0, 0)], atol=1e-9)


def test_a_single_slice_is_a_volume(tmp_path):
    write_series(tmp_path, positions=along_z([7]))
    assert read_dicom(tmp_path).shape == (1, 6, 8)


def test_of_several_series_the_largest_is_read_and_named(tmp_path):
    write_series(tmp_path, positions=along_z([0, 1]), series="1.2.3.4")
    write_series(tmp_path, positions=along_z([0, 1, 2, 3]), series="1.2.3.5")
    with pytest.warns(UserWarning, match=r"2 image series.* 4 slices, UID 1\.2\.3\.5.*Not read.* 2 slices"):
        volume = read_dicom(tmp_path)
    assert volume.shape == (4, 6, 8)
    assert read_dicom(tmp_path, series="1.2.3.4").shape == (2, 6, 8)
    with pytest.raises(InputError, match=r"no series '7'.*UID 1\.2\.3\.4.*UID 1\.2\.3\.5"):
        read_dicom(tmp_path, series=7)


@pytest.mark.parametrize(
    ("steps", "match"),
    [([0, 1, 2, 4, 5], "1 to 2 mm apart; one is missing"), ([0, 1, 2, 2, 3], "at the same position")],
)
def test_missing_and_double_slices_are_refused(steps, match, tmp_path):
    write_series(tmp_path, positions=along_z(steps))
    with pytest.raises(GeometryError, match=match):
        read_dicom(tmp_path)


def test_slices_of_different_sizes_are_refused(tmp_path):
    write_series(tmp_path, positions=along_z([0, 1, 2]))
    write_series(tmp_path, positions=along_z([3]), names=["other.dcm"], array=ARRAY[:, :3], first_instance=9)
    with pytest.raises(GeometryError, match="differ in size"):
        read_dicom(tmp_path)


def test_pictures_without_a_place_are_refused(dicom_slice, tmp_path):
    for number in range(2):
        picture = dicom_slice(ARRAY[number], (0, 0, number), Modality="US")
        del picture.ImagePositionPatient
        picture.save_as(tmp_path / f"{number}.dcm")
    with pytest.raises(UnsupportedFormat, match="'US', and its images do not say where in the patient"):
        read_dicom(tmp_path)


def test_a_folder_without_dicom(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(UnsupportedFormat, match="no DICOM image"):
        read_dicom(tmp_path)


def test_errors_name_no_patient(tmp_path):
    write_series(tmp_path, positions=along_z([0, 1, 2, 4, 5]))
    with pytest.raises(GeometryError) as caught:
        read_dicom(tmp_path)
    assert "DOE" not in str(caught.value)
