"""Stills: greys as stored, colours as luma, one slice."""

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging.formats import still

GREYS = np.random.default_rng(5).integers(0, 256, (7, 9)).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_greys_are_exact_in_every_mode(suffix, mode, tmp_path):
    path = tmp_path / f"still{suffix}"
    Image.fromarray(GREYS).convert(mode).save(path)
    volume = still.read(path)
    assert volume.array.dtype == np.uint8
    assert np.array_equal(volume.array, GREYS[np.newaxis])
    assert (volume.shape, volume.spacing, volume.origin) == ((1, 7, 9), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert volume.modality is None


def test_jpeg_is_near(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "still.jpg", quality=95)
    read = still.read(tmp_path / "still.jpg").array[0]
    assert np.abs(read.astype(int) - smooth).max() <= 4


def test_colours_become_luma(tmp_path):
    Image.fromarray(np.array([[[200, 100, 50]]], np.uint8)).save(tmp_path / "still.png")
    assert still.read(tmp_path / "still.png").array.item() == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_stay(suffix, tmp_path):
    greys = GREYS.astype(np.uint16) * 257
    Image.fromarray(greys).save(tmp_path / f"still{suffix}")
    volume = still.read(tmp_path / f"still{suffix}")
    assert np.array_equal(volume.array[0], greys)
    assert volume.array.dtype.isnative


def test_single_bits_become_black_and_white(tmp_path):
    Image.fromarray(GREYS > 100).save(tmp_path / "still.png")
    assert np.array_equal(still.read(tmp_path / "still.png").array[0], (GREYS > 100) * np.uint8(255))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_stack_is_a_volume(dtype, tmp_path):
    stack = np.random.default_rng(6).integers(0, 256, (4, 7, 9)).astype(dtype)
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    volume = still.read(tmp_path / "stack.tif")
    assert volume.array.dtype == dtype
    assert np.array_equal(
        volume.array, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "stack.tif"))
    )
    assert np.array_equal(volume.array, stack)


def test_pages_that_are_no_stack_and_moving_pictures_are_refused(tmp_path):
    page, other = Image.fromarray(GREYS), Image.fromarray(GREYS[:5])
    page.save(tmp_path / "still.tif", save_all=True, append_images=[page, other])
    with pytest.raises(InputError, match="picture 2 of its 3 is 9 x 5 uint8, the first 9 x 7 uint8"):
        still.read(tmp_path / "still.tif")
    page.save(tmp_path / "still.png", save_all=True, append_images=[other.resize(page.size)])
    with pytest.raises(InputError, match="holds 2 pictures"):
        still.read(tmp_path / "still.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_upright_as_viewers_show_it(suffix, orientation, tmp_path):
    greys = np.zeros((40, 64), np.uint8)
    greys[:16, 40:56] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(greys).save(path, exif=exif)
    # What each orientation asks for, in numpy's words: TIFF 6.0, tag 274.
    turned = {
        1: greys, 2: greys[:, ::-1], 3: greys[::-1, ::-1], 4: greys[::-1], 5: greys.T,
        6: np.rot90(greys, -1), 7: greys[::-1, ::-1].T, 8: np.rot90(greys),
    }[orientation]  # fmt: skip
    shown = still.read(path).array[0]
    assert shown.shape == turned.shape
    assert np.array_equal(shown > 127, turned > 127)


def test_the_second_picture_of_a_phone_is_left_alone(tmp_path):
    photo, depth = Image.fromarray(GREYS), Image.fromarray(GREYS[:3])
    photo.save(tmp_path / "photo.jpg", format="MPO", save_all=True, append_images=[depth])
    assert still.read(tmp_path / "photo.jpg").shape == (1, 7, 9)


def test_what_is_no_picture(tmp_path):
    for data in (b"", b"This is no picture."):
        (tmp_path / "still.png").write_bytes(data)
        with pytest.raises(UnsupportedFormat, match="not a PNG, JPEG or TIFF"):
            still.read(tmp_path / "still.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_truncated(suffix, tmp_path):
    path = tmp_path / f"still{suffix}"
    Image.fromarray(np.tile(GREYS, (40, 40))).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnsupportedFormat) as caught:
        still.read(path)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "still.png"
    Image.fromarray(GREYS).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(InputError, match="more pixels than are safe"):
        still.read(path)
