"""FreeSurfer's volumes, with nibabel as the second reader."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging import io

AFFINE = np.array([[-1, 0, 0, 12.5], [0, 0, 2, -33.25], [0, -0.5, 0, 101.125], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(5).integers(0, 250, (5, 4, 3))


def saved(path, voxels=VOXELS, dtype=np.uint8, affine=AFFINE):
    nib.save(nib.MGHImage(voxels.astype(dtype), affine), path)
    data = path.read_bytes()
    # From bytes, as nibabel leaves files of this format open.
    return nib.MGHImage.from_bytes(gzip.decompress(data) if path.suffix == ".mgz" else data)


@pytest.mark.parametrize("suffix", [".mgz", ".mgh", ".MGZ"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_voxels_and_grid_are_what_nibabel_reads(suffix, dtype, tmp_path):
    image = saved(tmp_path / f"a{suffix.lower()}", dtype=dtype)
    (tmp_path / f"a{suffix.lower()}").rename(tmp_path / f"scan{suffix}")
    volume = io.read(tmp_path / f"scan{suffix}")
    assert np.array_equal(volume.array, np.asarray(image.dataobj).T)
    assert volume.array.dtype == dtype
    np.testing.assert_allclose(volume.affine, image.affine, atol=1e-5)
    np.testing.assert_allclose(volume.spacing, (1, 0.5, 2), atol=1e-6)


def test_a_mask_of_it_lies_on_its_grid(tmp_path):
    image = saved(tmp_path / "scan.mgz")
    volume = io.read(tmp_path / "scan.mgz")
    io.write(volume.with_array(volume.array > 100), tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii.gz").affine, image.affine, atol=1e-4)


def test_a_frame_of_several(tmp_path):
    saved(tmp_path / "a.mgz", np.stack([VOXELS, VOXELS + 1], axis=-1))
    with pytest.raises(InputError, match="holds 2 frames"):
        io.read(tmp_path / "a.mgz")
    assert np.array_equal(io.read(tmp_path / "a.mgz", frame=1).array, VOXELS.T + 1)


def changed(path, field, value):
    """Write a file whose header claims something else."""
    saved(path.with_suffix(".mgh"))
    block = bytearray(path.with_suffix(".mgh").read_bytes())
    header = nib.freesurfer.MGHImage.header_class(bytes(block[:284]), check=False)
    header[field] = value
    block[: len(header.binaryblock[:90])] = header.binaryblock[:90]
    path.write_bytes(gzip.compress(bytes(block)) if path.suffix == ".mgz" else bytes(block))


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize(
    ("field", "value", "error", "match"),
    [
        ("dims", (30000, 30000, 30000, 1), UnsupportedFormat, "claims 27000000000284 bytes"),
        ("dims", (5, 0, 3, 1), InputError, "none may be smaller than 1"),
        ("dims", (-5, 4, 3, 1), InputError, "none may be smaller than 1"),
        ("type", 6, UnsupportedFormat, "data of the type 6"),
        ("version", 77, UnsupportedFormat, "not a FreeSurfer volume"),
        ("delta", (1, 0, 1), GeometryError, "affine"),
    ],
)
def test_impossible_headers(suffix, field, value, error, match, tmp_path):
    changed(tmp_path / f"a{suffix}", field, value)
    with pytest.raises(error, match=match):
        io.read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize("keep", [0, 50, 300])
def test_truncated(suffix, keep, tmp_path):
    saved(tmp_path / f"a{suffix}", np.random.default_rng(1).integers(0, 250, (20, 20, 20)))
    (tmp_path / f"a{suffix}").write_bytes((tmp_path / f"a{suffix}").read_bytes()[:keep])
    with pytest.raises(UnsupportedFormat):
        io.read(tmp_path / f"a{suffix}")
