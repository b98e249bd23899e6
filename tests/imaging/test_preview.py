"""The picture shows what it says: outline and box where they are, slices from first to last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam2.errors import InputError
from medsam2.measure.preview import BOX, KEY_SIDE, OUTLINE, draw_preview, write_preview


def _stack() -> tuple[np.ndarray, np.ndarray]:
    greys = np.full((9, 64, 64), 90, np.uint8)
    mask = np.zeros(greys.shape, bool)
    mask[2:7, 20:40, 24:44] = True
    return greys, mask


def _places(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((np.asarray(picture) == colour).all(axis=2))


def test_outline_and_box_lie_where_the_object_is() -> None:
    greys, mask = _stack()
    picture = draw_preview(greys.__getitem__, mask, 4, box_xyxy=(20, 16, 47, 43))
    scale = KEY_SIDE / 64
    key = picture.crop((0, 0, picture.width, KEY_SIDE))
    rows, columns = _places(key, OUTLINE).T
    assert rows.min() == pytest.approx(20 * scale, abs=scale / 2)
    assert rows.max() == pytest.approx(40 * scale, abs=scale / 2)
    assert columns.min() == pytest.approx(24 * scale, abs=scale / 2)
    rows, columns = _places(key, BOX).T
    assert (rows.min(), columns.min()) == (16 * scale, 20 * scale)
    assert rows.max() == pytest.approx(44 * scale, abs=2)


def test_only_the_slices_that_are_drawn_are_asked_for() -> None:
    greys, mask = _stack()
    asked: list[int] = []

    def grey(z: int) -> np.ndarray:
        asked.append(z)
        return greys[z]

    draw_preview(grey, mask, 4)
    assert set(asked) == {2, 3, 4, 5, 6}


def test_pixels_that_are_not_square_are_drawn_so() -> None:
    greys, mask = _stack()
    flat = draw_preview(greys.__getitem__, mask, 4, aspect=0.5)
    square = draw_preview(greys.__getitem__, mask, 4)
    assert flat.height < square.height


def test_an_empty_mask_still_gives_a_picture(tmp_path: Path) -> None:
    greys, mask = _stack()
    write_preview(draw_preview(greys.__getitem__, mask & False, 4), tmp_path / "look.png")
    with Image.open(tmp_path / "look.png") as picture:
        assert picture.width >= KEY_SIDE
    with pytest.raises(InputError, match="cannot be written"):
        write_preview(Image.new("RGB", (4, 4)), tmp_path / "no" / "look.png")
