"""Files that readers trip over: each is read as another reader reads it, or gives its sentence."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging import io
from medsam2.imaging.geometry import orientation_code
from medsam2.imaging.intensity import resolve_window

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "robustness"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the development scans (../shared/data/robustness) are not here"
)

# path -> orientation, number of frames
BY_NIBABEL = {
    "mgz/test.mgz": (None, 2),  # its axes lie between those of the body, equally near to several
    "nifti/anatomical.nii": ("LAS", 1),
    "nifti/dmri.nii.gz": ("LAS", 7),
    "nifti/example4d.nii.gz": ("LAS", 2),
    "nifti/example_nifti2.nii.gz": ("LAS", 2),
    "nifti/functional.nii": ("LAS", 20),
    "nifti/orientations/AIL.nii.gz": ("AIL", 1),
    "nifti/orientations/ASR.nii.gz": ("ASR", 1),
    "nifti/orientations/LAS.nii.gz": ("LAS", 1),
    "nifti/orientations/LPI.nii.gz": ("LPI", 1),
    "nifti/orientations/RAS.nii.gz": ("RAS", 1),
    "nifti/orientations/SLA.nii.gz": ("SLA", 1),
    "nifti/reoriented_anat_moved.nii": ("RAS", 1),
    "nifti/shear.nii.gz": ("RAS", 1),
    "nifti/standard.nii.gz": ("RAS", 1),
}
BY_SIMPLEITK = {
    "dicom/enh.dcm": ("MR", "LPS", (-54.5, 1296.5)),
    "dicom/pydicom/CT_small.dcm": ("CT", "LPS", None),
    "dicom/pydicom/MR_small_RLE.dcm": ("MR", "LPS", (-200.0, 1400.0)),
    "dicom/pydicom/MR_small_bigendian.dcm": ("MR", "LPS", (-200.0, 1400.0)),
    "dicom/pydicom/MR_small_jpeg_ls_lossless.dcm": ("MR", "LPS", (-200.0, 1400.0)),
}
BY_PYDICOM = ("dicom/pydicom/examples_rgb_color.dcm",)
REFUSED = {
    "dicom/pydicom/MR_truncated.dcm": (
        "its pixels are damaged or truncated: there are fewer than the header claims"
    ),
    "dicom/pydicom/examples_ybr_color.dcm": "is a cine of 30 frames; `medsam2 video` takes it",
    "dicom/pydicom/liver_1frame.dcm": (
        "holds no scan but 1 Segmentation Storage; CT, MR, PET and other slices that say where in the "
        "patient they lie are read"
    ),
    "dicom/pydicom/rtdose.dcm": (
        "holds no scan but 1 RT Dose Storage; CT, MR, PET and other slices that say where in the patient "
        "they lie are read"
    ),
}
VIDEOS = {"video/us_cine_30f.avi", "video/us_cine_30f.mp4"}


def corners(shape):
    """Some voxels (x, y, z) of a shape (z, y, x)."""
    num_z, num_y, num_x = shape
    return [(0, 0, 0), (num_x - 1, 0, 0), (0, num_y - 1, 0), (0, 0, num_z - 1), (1, num_y // 2, num_z // 2)]


def test_every_file_is_in_a_table():
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert files == {*BY_NIBABEL, *BY_SIMPLEITK, *BY_PYDICOM, *REFUSED, *VIDEOS}


@pytest.mark.parametrize("name", BY_NIBABEL)
def test_read_as_by_nibabel(name):
    orientation, num_frames = BY_NIBABEL[name]
    scan = nib.load(FOLDER / name)
    stored = np.asarray(scan.dataobj).reshape(*scan.shape[:3], -1)
    if num_frames > 1:
        with pytest.raises(InputError, match=f"holds {num_frames} frames; a volume is one of them"):
            io.read(FOLDER / name)
        with pytest.raises(InputError, match=f"has no frame {num_frames}; it holds {num_frames}"):
            io.read(FOLDER / name, frame=num_frames)
    for frame in {0, num_frames - 1}:
        volume = io.read(FOLDER / name, frame=frame)
        np.testing.assert_allclose(volume.array, stored[..., frame].T, rtol=1e-6)
    if orientation is not None:
        assert orientation_code(volume.affine) == "".join(nib.aff2axcodes(scan.affine)) == orientation
    np.testing.assert_allclose(volume.spacing, nib.affines.voxel_sizes(scan.affine), rtol=1e-6)
    for voxel in corners(volume.shape):
        ras = nib.affines.apply_affine(scan.affine, voxel)
        np.testing.assert_allclose((volume.affine @ (*voxel, 1))[:3], ras, atol=1e-4)


@pytest.mark.parametrize("name", BY_SIMPLEITK)
def test_dicom_read_as_by_simpleitk(name):
    modality, orientation, window = BY_SIMPLEITK[name]
    volume, image = io.read(FOLDER / name), SimpleITK.ReadImage(FOLDER / name)
    assert np.array_equal(volume.array, SimpleITK.GetArrayFromImage(image))
    assert (volume.modality, orientation_code(volume.affine)) == (modality, orientation)
    assert volume.window == window
    # A single slice has no next one; ITK calls its step 1 where the file names a thickness only.
    num_steps = 2 if volume.shape[0] == 1 else 3
    np.testing.assert_allclose(volume.spacing[:num_steps], image.GetSpacing()[:num_steps], atol=1e-6)
    for voxel in corners(volume.shape):
        lps = image.TransformIndexToPhysicalPoint(voxel)
        np.testing.assert_allclose((volume.affine @ (*voxel, 1))[:3], lps * np.array((-1, -1, 1)), atol=1e-3)


def test_a_truncated_slice_is_whole_in_its_other_encodings():
    one, *others = (io.read(FOLDER / name).array for name in BY_SIMPLEITK if "MR_small" in name)
    assert len(others) == 2
    assert all(np.array_equal(one, other) for other in others)


@pytest.mark.parametrize("name", BY_PYDICOM)
def test_a_still_in_colour_becomes_grey(name):
    volume, dataset = io.read(FOLDER / name), pydicom.dcmread(FOLDER / name)
    colours = dataset.pixel_array.astype(float)
    luma = colours @ (0.299, 0.587, 0.114)
    assert volume.shape == (1, *colours.shape[:2])
    assert volume.modality == "US"
    assert np.abs(volume.array[0] - luma).max() <= 1
    assert resolve_window(volume).source == "display"


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_its_sentence(name):
    with pytest.raises(UnsupportedFormat) as caught:
        io.read(FOLDER / name)
    assert str(caught.value) == f"{FOLDER / name}: {REFUSED[name]}"


@pytest.mark.parametrize("name", sorted(VIDEOS))
def test_videos_are_no_volumes(name):
    with pytest.raises(UnsupportedFormat, match=r"this suffix is not read; .*`medsam2 video` takes videos"):
        io.read(FOLDER / name)


def test_the_folder_of_all_is_a_study_with_several_series():
    with pytest.warns(UserWarning, match="5 image series; the one with most slices is read: series 6"):
        volume = io.read(FOLDER / "dicom")
    assert np.array_equal(volume.array, io.read(FOLDER / "dicom" / "enh.dcm").array)


def test_the_window_of_a_ct_is_used_and_that_of_an_mr_is_not():
    ct = io.read(FOLDER.parent / "ct_dcmqi_liver" / "dicom")
    assert (ct.window, resolve_window(ct).source) == ((-160.0, 240.0), "file")
    mr = io.read(FOLDER / "dicom" / "enh.dcm")
    assert mr.window is not None
    assert resolve_window(mr).source == "percentiles"
