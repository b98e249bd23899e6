"""Sessions of a named plane: the same anatomy gives the same mask, in whatever order the file has it."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from medsam2.errors import SessionError
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import InferenceOptions, Runtime
from medsam2.inference.session import Session

ORDERS = [
    (axes, signs)
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3))
    if (axes, signs) != ((0, 1, 2), (-1, -1, 1))  # as `scan` is: x to the left, y to the back, z up
][::7]


@pytest.fixture
def predictor(runtime: Runtime) -> Predictor:
    return Predictor(runtime)


def reordered(scan: Volume, axes: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """The same voxels at the same places, stored with x, y and z along other axes of the scan."""
    array = scan.array.T.transpose(axes)
    step, shape = np.eye(4), array.shape
    step[:3, :3] = 0
    for axis, (source, sign) in enumerate(zip(axes, signs, strict=True)):
        step[source, axis] = sign
        step[source, 3] = shape[axis] - 1 if sign < 0 else 0
    flipped = np.flip(array, [axis for axis, sign in enumerate(signs) if sign < 0])
    return Volume(np.ascontiguousarray(flipped.T), scan.affine @ step, scan.modality)


def box_in(scan: Volume, other: Volume, session: Session) -> tuple[int, list[float]]:
    """Where the block's middle slice and its box lie in another order, through world coordinates."""
    corners = np.array([[18, 12, 4, 1], [37, 25, 4, 1]], dtype=float)  # x, y, z of the scan
    voxels = (np.linalg.inv(other.affine) @ scan.affine @ corners.T)[:3].T
    in_slice = np.sort(np.delete(np.rint(voxels), session.axis, axis=1), axis=0)
    return int(np.rint(voxels[0, session.axis])), in_slice.ravel().tolist()


def found(predictor: Predictor, scan: Volume, volume: Volume) -> tuple[Session, Volume]:
    session = predictor.session(volume, plane="axial")
    z, box = box_in(scan, volume, session)
    session.add(1, slice=z, box=box)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    session.add(1, slice=z, points=[(x, y)])
    for _ in session.propagate():
        pass
    return session, session.result()


@pytest.mark.parametrize(("axes", "signs"), ORDERS)
def test_masks_agree_in_the_patient(
    predictor: Predictor, scan: Volume, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    other = reordered(scan, axes, signs)
    session, mask = found(predictor, scan, scan)
    turned_session, turned = found(predictor, scan, other)
    assert mask.array.any()
    np.testing.assert_array_equal(reordered(mask, axes, signs).array, turned.array)
    np.testing.assert_array_equal(turned.affine, other.affine)
    assert turned_session.measurements(1) == pytest.approx(session.measurements(1))
    assert turned_session.picture(1).size == session.picture(1).size


@pytest.mark.parametrize(("axes", "signs"), ORDERS[::2])
def test_everything_a_session_gives_is_in_the_files_order(
    predictor: Predictor, scan: Volume, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    volume = reordered(scan, axes, signs)
    session = predictor.session(volume, plane="axial")
    stack = np.moveaxis(volume.array, 2 - session.axis, 0)
    assert session.shape == stack.shape
    z, box = box_in(scan, volume, session)
    shown = session.add(7, slice=z, box=box)
    assert shown.shape == stack.shape[1:]
    seen = dict(session.propagate())
    # The prompted slice is reported first, and the object is there as it was shown.
    assert next(iter(seen)) == z
    np.testing.assert_array_equal(seen[z][7], shown)
    assert session.mask(7).shape == stack.shape
    np.testing.assert_array_equal(
        np.moveaxis(session.result().array, 2 - session.axis, 0), 7 * session.mask(7).astype(np.uint8)
    )
    np.testing.assert_array_equal(session.result(7).array, session.result().array // 7)
    assert list(session.scores(7)) == sorted(seen)
    assert session.frame(7, z).low_res_logits.shape[-1] > 1
    other = 0 if z else 1
    with pytest.raises(SessionError, match=rf"no prompt on slice {other}; prompts are on \[{z}\]"):
        session.remove(7, slice=other)
    with pytest.raises(SessionError, match=f"slice {z} has the object's only prompt"):
        session.remove(7, slice=z)


def test_a_drawn_mask_is_taken_where_it_was_drawn(predictor: Predictor, scan: Volume) -> None:
    volume = reordered(scan, (1, 0, 2), (1, 1, -1))  # a transposed file, upside down
    session = predictor.session(volume, plane="axial")
    drawn = np.zeros(session.shape[1:], dtype=bool)
    drawn[5:40, 2:20] = True
    shown = session.add(1, slice=3, mask=drawn)
    # The network's mask is coarse, but it must lie over the drawing and not beside it.
    assert (shown & drawn).sum() > 0.8 * max(shown.sum(), drawn.sum())


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_diameters_of_a_tilted_stack_are_those_in_the_patient(
    predictor: Predictor, scan: Volume, plane: str
) -> None:
    tilted = np.array(scan.affine)
    tilted[1, 2] += 1.5  # each slice lies so much further to the front, in mm
    options = InferenceOptions(keep_component=False)
    session = predictor.session(Volume(scan.array, tilted), plane=plane, options=options)
    height, width = session.shape[1:]
    row, column = np.ogrid[:height, :width]
    session.add(1, slice=1, mask=abs(row + column - height + 1) < 3)  # rises from the last row's first pixel
    kept = np.argwhere(session.mask(1)[1])[:, ::-1]
    others = [axis for axis in range(3) if axis != session.axis]
    places = kept @ tilted[:3, others].T
    distance = np.linalg.norm(places[:, None] - places, axis=-1).max()
    pixel = np.linalg.norm(tilted[:3, others].sum(axis=1))
    assert 0 < distance <= session.measurements(1)["longest_diameter_mm"] <= distance + pixel
