"""NIfTI: every file that is refused, with one sentence and before memory is asked for."""

import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging.formats import nifti

ARRAY = np.random.default_rng(3).integers(0, 1000, (20, 16, 12)).astype(np.int16)


def content(array=ARRAY, **fields):
    """Return a file's bytes, with fields of its header set to the given values."""
    image = nib.Nifti1Image(array, np.diag((1.0, 1.0, 2.0, 1.0)))
    block = image.to_bytes()
    header = nib.Nifti1Header(block[:348])
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + block[348:]


def refused(path, data, error, match, **options):
    path.write_bytes(data)
    with pytest.raises(error, match=match) as caught:
        nifti.read(path, **options)
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scan.nii.gz"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x5c\x01",
        b"This is no image at all. " * 50,
        b"\0" * 128 + b"DICM" + b"\0" * 1000,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 1000,
        gzip.compress(b"This is no image at all. " * 50, mtime=0),
        content(magic=b"abc"),
        content(magic=b""),  # ANALYZE 7.5
        content()[:300],
    ],
)
def test_what_is_no_nifti(path, data):
    refused(path, data, UnsupportedFormat, "not a NIfTI file")


def test_half_of_a_pair(path):
    refused(path, content(magic=b"ni1"), UnsupportedFormat, "pair")


@pytest.mark.parametrize("num_bytes", [349, 352, 400, len(content()) - 1])
def test_truncated(path, num_bytes):
    refused(path, content()[:num_bytes], UnsupportedFormat, "truncated")


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.99])
def test_truncated_gzip(path, share):
    packed = gzip.compress(content())
    refused(path, packed[: int(len(packed) * share)], UnsupportedFormat, "truncated")


def test_gzip_without_its_checksum(path):
    refused(path, gzip.compress(content())[:-4], UnsupportedFormat, "truncated")


@pytest.mark.parametrize("place", [0.5, -6])
def test_damaged_gzip(path, place):
    packed = bytearray(gzip.compress(content()))
    position = int(len(packed) * place) if place > 0 else place
    packed[position] ^= 0xFF
    refused(path, bytes(packed), UnsupportedFormat, "damaged|truncated")


def test_gzip_that_holds_less_than_its_header_claims(path):
    refused(path, gzip.compress(content()[:3000]), UnsupportedFormat, "truncated")


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_header_that_claims_terabytes_costs_no_memory(path, compress):
    data = compress(content(dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)))
    tracemalloc.start()
    refused(path, data, UnsupportedFormat, "claims 70362301923678 bytes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("dim", "match"),
    [
        ((0, 1, 1, 1, 1, 1, 1, 1), "has 0 dimensions"),
        ((1, 20, 1, 1, 1, 1, 1, 1), "has 1 dimensions"),
        ((3, 20, 0, 12, 1, 1, 1, 1), "none may be smaller than 1"),
        ((3, 20, -16, 12, 1, 1, 1, 1), "none may be smaller than 1"),
        ((4, 20, 16, 12, 0, 1, 1, 1), "none may be smaller than 1"),
    ],
)
def test_dimensions_of_no_volume(path, dim, match):
    refused(path, content(dim=dim), InputError, match)


@pytest.mark.parametrize("num_dims", [8, -1, 30000])
def test_impossible_number_of_dimensions(path, num_dims):
    refused(path, content(dim=(num_dims, 20, 16, 12, 1, 1, 1, 1)), UnsupportedFormat, "damaged")


def test_several_frames_need_a_choice(path):
    data = content(np.stack([ARRAY] * 7, axis=-1))
    refused(path, data, InputError, "holds 7 frames.*frame=0")
    refused(path, data, InputError, "no frame 7; it holds 7", frame=7)
    refused(path, data, InputError, "no frame -1", frame=-1)
    refused(path, content(), InputError, "no frame 1; it holds 1", frame=1)


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (128, "RGB"),
        (2304, "RGBA"),
        (32, "complex"),
        (1792, "complex"),
        (1536, "128-bit"),
        (1, "single bits"),
        (0, "unknown type 0"),
        (999, "unknown type 999"),
    ],
)
def test_voxels_that_are_no_numbers(path, code, match):
    refused(path, content(datatype=code), UnsupportedFormat, match)


@pytest.mark.parametrize("offset", [0, 100, 352.5, -352, np.nan, np.inf])
def test_impossible_data_offsets(path, offset):
    refused(path, content(vox_offset=offset), UnsupportedFormat, "damaged|truncated")


def test_impossible_scaling(path):
    refused(path, content(scl_slope=2, scl_inter=np.nan), UnsupportedFormat, "scales")


def test_impossible_affines(path):
    refused(path, content(sform_code=1, srow_x=(0, 0, 0, 0)), GeometryError, "cannot be inverted")
    refused(path, content(sform_code=1, srow_x=(np.nan, 0, 0, 0)), GeometryError, "not finite")
    pixdim = (1, 0, 1, 1, 1, 1, 1, 1)
    refused(path, content(sform_code=0, qform_code=0, pixdim=pixdim), GeometryError, "cannot be inverted")
    refused(path, content(sform_code=0, qform_code=1, quatern_b=3), GeometryError, "qform is impossible")
    pixdim = (1, -1, 1, 1, 1, 1, 1, 1)
    refused(path, content(sform_code=0, qform_code=1, pixdim=pixdim), GeometryError, "qform is impossible")


def test_a_folder_and_a_missing_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.nii"):
        with pytest.raises(InputError, match="cannot be read"):
            nifti.read(path)


def test_errors_quote_no_text_of_the_header(path):
    data = content(dim=(1, 20, 1, 1, 1, 1, 1, 1), descrip=b"DOE JOHN", db_name=b"DOE JOHN")
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        nifti.read(path)
    assert "DOE" not in str(caught.value)


def test_a_constant_or_nan_image_is_read(path):
    """Masks are constant at times; `check_intensities` is there for images."""
    path.write_bytes(content(np.full((4, 5, 6), np.nan, np.float32)))
    assert np.isnan(nifti.read(path).array).all()


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_raise_nothing_but_our_own_errors(tmp_path, seed):
    generator = np.random.default_rng(seed)
    path = tmp_path / "scan.nii"
    for image_class in (nib.Nifti1Image, nib.Nifti2Image):
        whole = image_class(ARRAY[:5, :4, :3], np.diag((1.0, 2.0, 3.0, 1.0))).to_bytes()
        for _ in range(20):
            data = bytearray(whole)
            for position in generator.integers(0, len(whole) - 120, 4):
                data[position] = generator.integers(0, 256)
            path.write_bytes(data)
            try:
                volume = nifti.read(path)
            except InputError:
                continue
            nifti.write(volume, tmp_path / "mask.nii")
            assert np.array_equal(nifti.read(tmp_path / "mask.nii").affine, volume.affine)
