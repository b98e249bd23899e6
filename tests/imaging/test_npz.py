"""npz files of the MedSAM family, written by numpy; and none of their pickles."""

import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging import io
from medsam2.imaging.formats import voxels

IMGS = np.random.default_rng(5).integers(0, 256, (4, 5, 6)).astype(np.uint8)
GTS = (IMGS > 200).astype(np.uint8)
BOXES = np.array([[1, 1, 0, 4, 3, 2], [0, 0, 1, 2, 2, 3]])


class Trap:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("spill_bytes", [0, voxels.SPILL_BYTES])
@pytest.mark.parametrize("dtype", [np.uint8, ">i2", np.float32])
def test_an_image_with_its_spacing(save, spill_bytes, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(voxels, "SPILL_BYTES", spill_bytes)
    save(tmp_path / "a.npz", imgs=IMGS.astype(dtype), gts=GTS, spacing=(0.5, 0.75, 3.0))
    volume = io.read(tmp_path / "a.npz")
    assert np.array_equal(volume.array, IMGS)
    assert volume.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert (volume.spacing, volume.origin) == ((0.5, 0.75, 3.0), (0, 0, 0))


def test_without_spacing_voxels_are_1_mm_apart(tmp_path):
    np.savez(tmp_path / "a.npz", imgs=np.asfortranarray(IMGS))
    volume = io.read(tmp_path / "a.npz")
    assert np.array_equal(volume.array, IMGS)
    assert volume.spacing == (1, 1, 1)


def test_stills(tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "still.png")
    np.savez(tmp_path / "colours.npz", imgs=colours, gts=np.zeros((7, 9), np.uint8))
    np.savez(tmp_path / "grey.npz", imgs=IMGS[0])
    assert np.array_equal(io.read(tmp_path / "colours.npz").array, io.read(tmp_path / "still.png").array)
    assert np.array_equal(io.read(tmp_path / "grey.npz").array, IMGS[:1])
    np.savez(tmp_path / "video.npz", imgs=colours[np.newaxis])
    with pytest.raises(InputError, match="1 pictures in colour; a volume has one number per voxel"):
        io.read(tmp_path / "video.npz")
    np.savez(tmp_path / "floats.npz", imgs=colours.astype(float))
    with pytest.raises(InputError, match="pictures are of uint8"):
        io.read(tmp_path / "floats.npz")


def test_pickles_are_never_read(tmp_path):
    trap = np.array([Trap(tmp_path / "trace")], object)
    np.savez(tmp_path / "a.npz", imgs=IMGS, gts=GTS, spacing=np.repeat(trap, 3))
    with pytest.raises(UnsupportedFormat, match="'spacing' holds Python objects"):
        io.read(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", imgs=trap)
    with pytest.raises(UnsupportedFormat, match="'imgs' holds Python objects"):
        io.read(tmp_path / "b.npz")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("arrays", "error", "match"),
    [
        ({"imgs": IMGS, "spacing": (1, 2)}, GeometryError, "three positive numbers"),
        ({"imgs": IMGS, "spacing": (1, 0, 2)}, GeometryError, "three positive numbers"),
    ],
)
def test_what_does_not_fit_is_refused(arrays, error, match, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(error, match=match):
        io.read(tmp_path / "a.npz")


@pytest.mark.parametrize("imgs", [np.zeros(5), np.zeros((2, 3, 4, 5)), np.zeros((0, 4, 4)), np.array(["a"])])
def test_what_is_no_volume(imgs, tmp_path):
    np.savez(tmp_path / "a.npz", imgs=imgs)
    with pytest.raises(InputError) as caught:
        io.read(tmp_path / "a.npz")
    assert str(caught.value).startswith(f"{tmp_path / 'a.npz'}: ")


def test_an_archive_without_an_image_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "a.npz", segs=GTS, spacing=(1, 1, 1))
    with pytest.raises(InputError, match="no array 'imgs'; it holds segs, spacing"):
        io.read(tmp_path / "a.npz")


def written_with_header(path, header):
    """Write `imgs` with a header of one's own, and a few numbers."""
    text = header.encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "imgs.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"0" * 1000
        )


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ("(100000, 100000, 1000)", "claims 10000000000128 bytes, the file holds less"),
        ("(-5, 4, 4)", "damaged"),
        ("(1000000000000000000000000, 0, 2)", "damaged"),
        ("'x'", "damaged"),
    ],
)
def test_impossible_headers_cost_nothing(shape, match, tmp_path):
    written_with_header(tmp_path / "a.npz", f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}")
    with pytest.raises(UnsupportedFormat, match=match):
        io.read(tmp_path / "a.npz")


@pytest.mark.parametrize("keep", [0, 30, 100, -30])
def test_truncated(keep, tmp_path):
    np.savez(tmp_path / "a.npz", imgs=IMGS)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:keep])
    with pytest.raises(UnsupportedFormat, match=r"cannot be read as \.npz"):
        io.read(tmp_path / "a.npz")
