"""NIfTI: what is read, and that a mask lies on its scan's grid to the bit, as three readers see it."""

import gzip
import itertools
import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging import io
from medsam2.imaging.formats import nifti
from medsam2.imaging.geometry import orientation_code
from medsam2.imaging.volume import Volume

SHAPE_XYZ = (5, 4, 3)
GRID_FIELDS = (
    *("dim", "pixdim", "xyzt_units", "dim_info", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*axes)
]
AFFINE = np.array([[0, -0.8, 0, 12.5], [0.7, 0, 0, -33.25], [0, 0, 2.5, 101.125], [0, 0, 0, 1]])
SHEARED = np.array([[0.5, 0, 0.1, -90], [0, 0.5, -0.4, -120], [0, 0.1, 2.3, 30], [0, 0, 0, 1]])


def voxels(shape_xyz=SHAPE_XYZ, dtype=np.int16):
    return np.arange(np.prod(shape_xyz)).reshape(shape_xyz).astype(dtype)


def saved(path, affine=AFFINE, *, qform=1, sform=1, array=None, version=1, **fields):
    """Write a file with nibabel and return what nibabel reads in it."""
    array = voxels() if array is None else array
    image_class = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    image = image_class(array, np.eye(4))
    image.set_qform(affine, qform)
    image.set_sform(affine if sform else None, sform)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return nib.load(path)


def raw_header(path):
    """Return the header as it lies in the file, with nothing mended."""
    block = path.read_bytes()
    if path.suffix == ".gz":
        block = gzip.decompress(block)
    is_second = 540 in (int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big"))
    header_class = nib.Nifti2Header if is_second else nib.Nifti1Header
    return header_class(block[: header_class.sizeof_hdr], check=False)


def assert_same_grid(mask_path, scan_path):
    mask, scan = raw_header(mask_path), raw_header(scan_path)
    for name in GRID_FIELDS:
        assert mask[name].tobytes() == scan[name].tobytes(), name


def assert_same_to_itk(mask_path, scan_path):
    mask, scan = SimpleITK.ReadImage(mask_path), SimpleITK.ReadImage(scan_path)
    for question in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, question)() == getattr(scan, question)(), question


@pytest.fixture
def scan_path(tmp_path):
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def mask_path(tmp_path):
    return tmp_path / "mask.nii.gz"


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_every_orientation_is_kept(code, scan_path, mask_path):
    """A corner and an inner voxel are marked; all readers must find them at the same place in the patient."""
    to_ras = nib.orientations.axcodes2ornt(code)
    affine = np.linalg.inv(nib.orientations.inv_ornt_aff(to_ras, SHAPE_XYZ)) @ np.diag((0.75, 1.5, 2.5, 1))
    scan = saved(scan_path, affine)

    volume = nifti.read(scan_path)
    assert orientation_code(volume.affine) == code
    assert np.array_equal(volume.affine, scan.affine)
    assert np.array_equal(volume.array, np.asarray(scan.dataobj).T)

    marked = np.zeros(volume.shape, np.uint8)
    marked[0, 0, 0], marked[1, 3, 2] = 1, 2
    nifti.write(volume.with_array(marked), mask_path)

    assert_same_grid(mask_path, scan_path)
    assert_same_to_itk(mask_path, scan_path)
    by_nibabel = nib.load(mask_path)
    assert np.array_equal(by_nibabel.affine, scan.affine)
    assert np.argwhere(np.asarray(by_nibabel.dataobj) == 2).tolist() == [[2, 3, 1]]
    by_itk = SimpleITK.ReadImage(mask_path)
    lps = by_itk.TransformIndexToPhysicalPoint((2, 3, 1))
    np.testing.assert_allclose((volume.affine @ (2, 3, 1, 1))[:3] * (-1, -1, 1), lps, atol=1e-5)
    assert by_itk[2, 3, 1] == 2


@pytest.mark.parametrize("code", ORIENTATIONS[::5])
@pytest.mark.parametrize(("qform", "sform"), [(1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (4, 2), (2, 4)])
def test_lps_properties_are_what_simpleitk_reports(code, qform, sform, scan_path):
    to_ras = nib.orientations.axcodes2ornt(code)
    affine = np.linalg.inv(nib.orientations.inv_ornt_aff(to_ras, SHAPE_XYZ)) @ np.diag((0.75, 1.5, 2.5, 1))
    saved(scan_path, affine, qform=qform, sform=sform)
    volume, image = nifti.read(scan_path), SimpleITK.ReadImage(scan_path)
    np.testing.assert_allclose(volume.spacing, image.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(volume.origin, image.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(volume.direction, image.GetDirection(), atol=1e-6)


def test_neither_form_gives_the_grid_that_itk_assumes(scan_path, mask_path):
    saved(scan_path, qform=0, sform=0)
    volume, image = nifti.read(scan_path), SimpleITK.ReadImage(scan_path)
    np.testing.assert_allclose(volume.spacing, image.GetSpacing(), rtol=1e-6)
    assert (volume.origin, volume.direction) == (image.GetOrigin(), image.GetDirection())
    nifti.write(volume, mask_path)
    assert_same_grid(mask_path, scan_path)


@pytest.mark.parametrize("sform", [0, 2])
def test_qform_without_and_beside_sform(sform, scan_path, mask_path):
    scan = saved(scan_path, qform=1, sform=sform)
    volume = nifti.read(scan_path)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    nifti.write(volume.with_array(np.ones(volume.shape, np.uint8)), mask_path)
    assert_same_grid(mask_path, scan_path)
    assert_same_to_itk(mask_path, scan_path)
    assert nib.load(mask_path).get_qform(coded=True)[1] == 1
    assert np.array_equal(nib.load(mask_path).affine, scan.affine)


def test_sform_counts_where_both_differ_and_both_are_kept(scan_path, mask_path):
    image = nib.Nifti1Image(voxels(), np.eye(4))
    image.set_qform(AFFINE, 1)
    image.set_sform(SHEARED, 4)
    nib.save(image, scan_path)
    volume = nifti.read(scan_path)
    np.testing.assert_allclose(volume.affine, SHEARED, atol=1e-5)
    nifti.write(volume, mask_path)
    assert_same_grid(mask_path, scan_path)


@pytest.mark.parametrize("qform", [0, 1])
def test_sheared_affine_is_kept(qform, scan_path, mask_path):
    image = nib.Nifti1Image(voxels(), SHEARED)
    image.set_sform(SHEARED, 1)
    image.set_qform(SHEARED, qform)
    nib.save(image, scan_path)
    volume = nifti.read(scan_path)
    assert np.array_equal(volume.affine, nib.load(scan_path).affine)
    nifti.write(volume, mask_path)
    assert_same_grid(mask_path, scan_path)
    assert np.array_equal(nib.load(mask_path).affine, volume.affine)


def test_odd_headers_are_not_mended(tmp_path):
    """A qfac of 0, dimensions of 0 beyond the third, an odd fourth pixdim: legal, and nobody's to change."""
    scan_path, mask_path = tmp_path / "scan.nii", tmp_path / "mask.nii"
    saved(scan_path, sform=0)
    header = raw_header(scan_path)
    header["pixdim"][0], header["pixdim"][4] = 0, 2.2
    header["dim"][4:] = 0
    header["dim_info"] = 57
    header["xyzt_units"] = 10
    scan_path.write_bytes(header.binaryblock + scan_path.read_bytes()[348:])
    nifti.write(nifti.read(scan_path), mask_path)
    assert_same_grid(mask_path, scan_path)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_both_versions_and_byte_orders(version, endianness, suffix, tmp_path):
    scan_path, mask_path = tmp_path / f"scan{suffix}", tmp_path / f"mask{suffix}"
    image_class = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    header = image_class.header_class(endianness=endianness)
    header.set_data_dtype(np.dtype(np.int16).newbyteorder(endianness))
    nib.save(image_class(voxels(), AFFINE, header), scan_path)
    assert raw_header(scan_path).endianness == endianness

    volume = nifti.read(scan_path)
    assert volume.array.dtype == np.int16
    assert volume.array.dtype.isnative
    assert np.array_equal(volume.array, voxels().T)
    nifti.write(volume, mask_path)
    assert_same_grid(mask_path, scan_path)
    assert np.array_equal(np.asarray(nib.load(mask_path).dataobj).T, volume.array)
    if version == 1:  # ITK knows no NIfTI-2
        assert_same_to_itk(mask_path, scan_path)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_unscaled_dtypes_are_kept(dtype, scan_path, mask_path):
    array = voxels(dtype=dtype)
    array[0, 0, 0] = np.finfo(dtype).max if dtype[0] == "f" else np.iinfo(dtype).max
    image = nib.Nifti1Image(array, AFFINE, dtype=dtype)
    nib.save(image, scan_path)
    volume = nifti.read(scan_path)
    assert volume.array.dtype == np.dtype(dtype)
    assert np.array_equal(volume.array, array.T)
    nifti.write(volume, mask_path)
    again = nifti.read(mask_path)
    assert again.array.dtype == volume.array.dtype
    assert np.array_equal(again.array, volume.array)


@pytest.mark.parametrize(
    ("dtype", "result"), [("i2", "f4"), ("u1", "f4"), ("i4", "f8"), ("f4", "f4"), ("f8", "f8")]
)
@pytest.mark.parametrize(("slope", "inter"), [(1, -1024), (2.5, 0), (-0.013, 7)])
def test_scaled_dtypes_become_floats(dtype, result, slope, inter, tmp_path):
    path = tmp_path / "scan.nii"
    saved(path, array=voxels(dtype=dtype))
    header = raw_header(path)
    header["scl_slope"], header["scl_inter"] = slope, inter
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])
    volume = nifti.read(path)
    assert volume.array.dtype == np.dtype(result)
    np.testing.assert_allclose(volume.array, nib.load(path).get_fdata().T, rtol=1e-6)


@pytest.mark.parametrize(("slope", "inter"), [(0, 5), (np.nan, np.nan), (1, 0)])
def test_no_scaling_keeps_integers(slope, inter, tmp_path):
    path = tmp_path / "scan.nii"
    saved(path)
    header = raw_header(path)
    header["scl_slope"], header["scl_inter"] = slope, inter
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])
    assert np.array_equal(nifti.read(path).array, voxels().T)
    assert nifti.read(path).array.dtype == np.int16


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("mm", 1), ("micron", 0.001), ("unknown", 1)])
def test_units_become_millimetres_and_stay_in_the_file(unit, factor, scan_path, mask_path):
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.set_qform(AFFINE, 1)
    image.header.set_xyzt_units(unit)
    nib.save(image, scan_path)
    volume = nifti.read(scan_path)
    assert volume.spacing == pytest.approx((0.7 * factor, 0.8 * factor, 2.5 * factor))
    np.testing.assert_allclose(volume.origin, SimpleITK.ReadImage(scan_path).GetOrigin(), rtol=1e-6)
    nifti.write(volume, mask_path)
    assert_same_grid(mask_path, scan_path)


@pytest.mark.parametrize("shape", [(5, 4, 3, 1), (5, 4, 3, 1, 1), (5, 4, 1)])
def test_one_frame_and_one_slice_are_volumes(shape, scan_path, mask_path):
    scan = saved(scan_path, array=voxels(shape))
    volume = nifti.read(scan_path)
    assert volume.shape == tuple(reversed(shape[:3]))
    nifti.write(volume, mask_path)
    mask = nib.load(mask_path)
    assert mask.shape == shape[:3]
    assert np.array_equal(mask.affine, scan.affine)
    assert np.array_equal(mask.get_fdata(), scan.get_fdata().reshape(shape[:3]))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_frame_of_many_is_picked(suffix, tmp_path):
    path = tmp_path / f"series{suffix}"
    array = voxels((5, 4, 3, 6))
    saved(path, array=array)
    for frame in (0, 3, 5):
        assert np.array_equal(nifti.read(path, frame=frame).array, array[..., frame].T)


def test_compression_is_seen_from_the_content(tmp_path):
    saved(tmp_path / "scan.nii")
    plain = (tmp_path / "scan.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(plain)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain))
    for name in ("plain.nii.gz", "packed.nii"):
        assert np.array_equal(nifti.read(tmp_path / name).array, voxels().T)


def test_extensions_before_the_data_are_stepped_over(tmp_path):
    path = tmp_path / "scan.nii"
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 1000))
    nib.save(image, path)
    assert np.array_equal(nifti.read(path).array, voxels().T)


def test_no_text_of_the_scan_reaches_the_mask(scan_path, mask_path, tmp_path):
    image = nib.Nifti1Image(voxels(), AFFINE)
    for name, size in (
        ("descrip", 80),
        ("aux_file", 24),
        ("intent_name", 16),
        ("db_name", 18),
        ("data_type", 10),
    ):
        image.header[name] = b"SECRET DOE JOHN 1950"[:size]
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"SECRET DOE JOHN"))
    image.header["cal_max"], image.header["intent_code"] = 77, 1002
    nib.save(image, scan_path)
    volume = nifti.read(scan_path)
    assert b"SECRET" not in volume.nifti_header
    plain_path = tmp_path / "mask.nii"
    nifti.write(volume.with_array(np.zeros(volume.shape, np.uint8)), plain_path)
    assert b"SECRET" not in plain_path.read_bytes()
    header = nib.load(plain_path).header
    assert not header.extensions
    assert (header["cal_max"], header["intent_code"]) == (0, 0)


def test_the_same_mask_gives_the_same_bytes(tmp_path):
    volume = Volume.from_array(voxels().T)
    nifti.write(volume, tmp_path / "one.nii.gz")
    nifti.write(volume, tmp_path / "two.nii.gz")
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


@pytest.mark.parametrize("affine", [np.diag((-0.7, -0.7, 3.0, 1.0)), AFFINE, SHEARED])
def test_a_volume_that_never_was_nifti_is_written_from_its_affine(affine, mask_path):
    volume = Volume(np.ascontiguousarray(voxels().T), affine)
    nifti.write(volume, mask_path)
    np.testing.assert_allclose(nifti.read(mask_path).affine, affine, atol=1e-5)
    mask = nib.load(mask_path)
    assert (mask.header["qform_code"], mask.header["sform_code"]) == (1, 1)
    assert np.array_equal(np.asarray(mask.dataobj).T, volume.array)
    image = SimpleITK.ReadImage(mask_path)
    np.testing.assert_allclose(image.GetOrigin(), volume.origin, atol=1e-5)
    np.testing.assert_allclose(image.GetSpacing(), volume.spacing, rtol=1e-5)
    if affine is not SHEARED:
        np.testing.assert_allclose(image.GetDirection(), volume.direction, atol=1e-6)


def test_a_volume_moved_to_another_grid_forgets_its_header(scan_path, mask_path):
    saved(scan_path)
    volume = nifti.read(scan_path)
    moved = Volume(volume.array, np.diag((2.0, 2.0, 2.0, 1.0)), nifti_header=volume.nifti_header)
    nifti.write(moved, mask_path)
    assert np.array_equal(nib.load(mask_path).affine, moved.affine)
    cropped = Volume(volume.array[1:], volume.affine, nifti_header=volume.nifti_header)
    nifti.write(cropped, mask_path)
    assert nib.load(mask_path).shape == (5, 4, 2)


def test_more_slices_than_nifti1_can_count(tmp_path):
    volume = Volume.from_array(np.zeros((40_000, 1, 1), np.uint8))
    nifti.write(volume, tmp_path / "long.nii")
    assert raw_header(tmp_path / "long.nii").sizeof_hdr == 540
    assert nifti.read(tmp_path / "long.nii").shape == (40_000, 1, 1)
    assert nib.load(tmp_path / "long.nii").shape == (1, 1, 40_000)


def test_booleans_are_written_as_labels(mask_path):
    nifti.write(Volume.from_array(voxels().T > 30), mask_path)
    mask = nib.load(mask_path)
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(mask.dataobj).T, (voxels().T > 30).astype(np.uint8))


def test_views_are_written_as_they_look(mask_path):
    array = voxels().T[::-1, :, ::2]
    nifti.write(Volume.from_array(array), mask_path)
    assert np.array_equal(nifti.read(mask_path).array, array)


def test_half_floats_are_refused_and_leave_nothing(mask_path):
    with pytest.raises(InputError, match=r"float16.*uint8"):
        nifti.write(Volume.from_array(np.ones((2, 2, 2), np.float16)), mask_path)
    assert list(mask_path.parent.iterdir()) == []


def test_writing_nothing_odd_warns(scan_path, mask_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nifti.write(Volume.from_array(voxels().T), mask_path)
        nib.load(mask_path).get_fdata()


@pytest.mark.parametrize("names", [("m.hdr", "m.img"), ("m.hdr.gz", "m.img.gz"), ("M.HDR", "M.IMG")])
@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_a_pair_of_header_and_voxels(kind, names, tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.array([[0, -0.8, 0, 3], [0.7, 0, 0, 4], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
    image = kind(array.T, affine)
    ending = ".gz" if names[0].endswith(".gz") else ""
    image.to_filename(tmp_path / f"made.hdr{ending}")
    for old, new in zip(("hdr", "img"), names, strict=True):
        (tmp_path / f"made.{old}{ending}").rename(tmp_path / new)
    for name in names:
        volume = io.read(tmp_path / name)
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_allclose(volume.affine, affine)
    io.write(volume, tmp_path / "again.nii.gz")
    again = nib.load(tmp_path / "again.nii.gz")
    np.testing.assert_allclose(again.affine, affine)
    np.testing.assert_array_equal(np.asarray(again.dataobj).T, array)
    (tmp_path / names[1]).unlink()
    with pytest.raises(InputError, match=r"is half of a pair, and [mM]\.(img|IMG) is not beside it"):
        io.read(tmp_path / names[0])


def test_an_analyze_pair_does_not_say_left_from_right(tmp_path):
    nib.AnalyzeImage(np.zeros((4, 3, 2), np.int16), np.eye(4)).to_filename(tmp_path / "m.hdr")
    with pytest.raises(UnsupportedFormat, match=r"is ANALYZE 7\.5, which does not tell left from right"):
        io.read(tmp_path / "m.hdr")


@pytest.mark.parametrize("forms", ["sform", "qform", "none"])
def test_a_slice_is_a_volume_of_one(forms, tmp_path):
    array = np.arange(12, dtype=np.int16).reshape(3, 4)
    image = nib.Nifti1Image(array.T, np.diag([-0.8, -0.7, 2.0, 1.0]) if forms != "none" else None)
    image.header.set_xyzt_units("mm")
    if forms == "qform":
        image.set_qform(image.affine, code=1)
        image.set_sform(None, code=0)
    if forms == "none":
        image.header["pixdim"][1:4] = 0.8, 0.7, 2.0
    for num_dims, step in ((2, None), (3, None), (2, 0), (3, 0)):
        raw = bytearray(image.header.binaryblock)
        raw[40:42] = num_dims.to_bytes(2, "little")
        if step == 0 and forms != "sform":
            raw[88:92] = bytes(4)  # pixdim[3]
        if step == 0 and forms == "sform":
            raw[288:292] = raw[304:308] = raw[320:324] = bytes(4)  # the third column
        raw[108:112] = np.float32(352).tobytes()
        raw[344:348] = b"n+1\0"
        (tmp_path / "m.nii").write_bytes(bytes(raw) + bytes(4) + array.tobytes())
        volume = io.read(tmp_path / "m.nii")
        np.testing.assert_array_equal(volume.array, array[np.newaxis])
        np.testing.assert_allclose(volume.spacing, (0.8, 0.7, 1.0 if step == 0 else 2.0), rtol=1e-6)
        if (forms, step) != ("sform", 0):  # which ITK refuses
            theirs = SimpleITK.ReadImage(tmp_path / "m.nii")
            np.testing.assert_allclose(volume.origin[:2], theirs.GetOrigin()[:2], atol=1e-6)
            np.testing.assert_allclose(volume.spacing[:2], theirs.GetSpacing()[:2], rtol=1e-6)
        io.write(volume, tmp_path / "again.nii")
        again = io.read(tmp_path / "again.nii")
        np.testing.assert_array_equal(again.affine, volume.affine)
        assert SimpleITK.ReadImage(tmp_path / "again.nii").GetSize()[:2] == (4, 3)
