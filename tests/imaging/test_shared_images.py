"""Every development image is read as nibabel and SimpleITK read it; skipped where the images are not."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medsam2.errors import InputError, MedSAM2Error
from medsam2.imaging import io
from medsam2.imaging.geometry import orientation_code, slices_along
from medsam2.imaging.intensity import check_intensities, resolve_window, to_uint8

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="the development scans (../shared/data) are not here"
)


def found(*patterns):
    return sorted(path for pattern in patterns for path in DATA.rglob(pattern)) or [DATA / "none"]


def name_of(path):
    return str(path.relative_to(DATA))


@pytest.mark.parametrize("path", found("*.nii", "*.nii.gz"), ids=name_of)
def test_nifti_files(path, tmp_path):
    scan = nib.load(path)
    num_frames = int(np.prod(scan.shape[3:]))
    if num_frames > 1:
        with pytest.raises(InputError, match=f"holds {num_frames} frames"):
            io.read(path)
    volume = io.read(path, frame=num_frames - 1)
    stored = np.asarray(scan.dataobj).reshape(*scan.shape[:3], -1)[..., -1].T
    np.testing.assert_allclose(volume.array, stored, rtol=1e-6)
    assert np.array_equal(volume.affine, scan.affine)
    assert orientation_code(volume.affine) == "".join(nib.aff2axcodes(scan.affine))

    io.write(volume.with_array(np.ones(volume.shape, np.uint8)), tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == scan.shape[:3]
    assert np.array_equal(mask.affine, scan.affine)
    for name in (
        "pixdim",
        "qform_code",
        "sform_code",
        "quatern_b",
        "srow_x",
        "srow_y",
        "srow_z",
        "xyzt_units",
    ):
        assert mask.header[name].tobytes() == scan.header[name].tobytes()


@pytest.mark.parametrize("path", found("*.nrrd"), ids=name_of)
def test_nrrd_files(path):
    volume, image = io.read(path), SimpleITK.ReadImage(path)
    assert np.array_equal(volume.array, SimpleITK.GetArrayFromImage(image))
    assert (volume.spacing, volume.origin, volume.direction) == (
        image.GetSpacing(),
        image.GetOrigin(),
        image.GetDirection(),
    )


@pytest.mark.parametrize("path", found("*.png"), ids=name_of)
def test_stills(path):
    image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
    volume = io.read(path)
    assert volume.shape == (1, *image.shape[:2])
    if image.ndim == 2:
        assert np.array_equal(volume.array[0], image)


def test_dicom_series_lies_on_its_mask():
    volume, mask = io.read(DATA / "ct_dcmqi_liver" / "dicom"), io.read(DATA / "ct_dcmqi_liver" / "mask.nrrd")
    assert (volume.shape, volume.modality) == (mask.shape, "CT")
    np.testing.assert_allclose(volume.affine, mask.affine, atol=1e-3)
    liver = volume.array[mask.array == 1]
    assert 20 < np.median(liver) < 200


def test_the_same_brain_in_six_orientations():
    """Each file must put the centre of the brain at the same place in the patient."""
    centres = []
    for path in found("orientations/*.nii.gz"):
        volume = io.read(path)
        z, y, x = (np.mean(axis) for axis in np.nonzero(volume.array > 60))
        centres.append((volume.affine @ (x, y, z, 1))[:3])
    np.testing.assert_allclose(centres, np.broadcast_to(centres[0], (len(centres), 3)), atol=1.0)


@pytest.mark.filterwarnings("ignore:.*image series:UserWarning")
@pytest.mark.parametrize("path", found("*"), ids=name_of)
def test_nothing_but_our_own_errors(path):
    try:
        io.read(path)
    except MedSAM2Error as error:
        assert "\n" not in str(error)  # noqa: PT017  - whether it raises is not the point here


CASES = json.loads((DATA / "cases.json").read_text()) if DATA.is_dir() else []


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_windows_show_the_target(case):
    volume, mask = io.read(DATA / case["image"]), io.read(DATA / case["mask"])
    assert volume.array.size == mask.array.size
    check_intensities(volume.array)
    is_dicom = (DATA / case["image"]).is_dir()
    by_modality = {"CT": "file" if is_dicom else "soft-tissue", "US": "display", "MR": "percentiles"}
    assert resolve_window(volume).source == by_modality[case["modality"]]
    target = np.isin(mask.array, case["label"])
    greys = to_uint8(volume.array, resolve_window(volume, case["window"]))[target.reshape(volume.shape)]
    assert 0 < np.median(greys) < 255

    if case["axis"] is not None:
        on_key_slice = slices_along(target, case["axis"])[case["key_slice"]]
        rows, columns = (np.flatnonzero(on_key_slice.any(axis=axis)) for axis in (1, 0))
        assert [columns[0], rows[0], columns[-1], rows[-1]] == case["box"]
