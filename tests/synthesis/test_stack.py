"""Whole stacks: what training relies on."""

import numpy as np
import pytest
from scipy import ndimage

from medsam2.errors import InputError
from medsam2.synthesis.stack import LOOKS, SyntheticStack, generate_stack

SHAPE = (20, 128, 128)


@pytest.fixture(scope="module")
def stacks() -> list[SyntheticStack]:
    return [generate_stack(seed, shape=SHAPE, look=LOOKS[seed % 3]) for seed in range(12)]


def contrast(stack: SyntheticStack, number: int) -> float:
    """Return the mean of an object minus the mean of a ring around it on its largest slice."""
    mask = stack.labels == number
    key = int(mask.sum(axis=(1, 2)).argmax())
    inside = mask[key]
    ring = ndimage.binary_dilation(inside, iterations=3) & ~inside
    image = stack.image[key].astype(float)
    return float(image[inside].mean() - image[ring].mean())


def test_the_same_seed_gives_the_same_stack() -> None:
    first, second, other = (generate_stack(seed, shape=SHAPE) for seed in (3, 3, 4))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)
    assert first.spacing_mm == second.spacing_mm
    assert not np.array_equal(first.image, other.image)


def test_the_full_size() -> None:
    stack = generate_stack(0)
    assert stack.image.shape == stack.labels.shape == (28, 192, 192)
    assert stack.image.dtype == stack.labels.dtype == np.uint8


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("shape", [(4, 32, 32), (9, 64, 100)])
def test_other_sizes(look: str, shape: tuple[int, int, int]) -> None:
    stack = generate_stack(1, shape=shape, look=look)
    assert stack.look == look
    assert stack.image.shape == shape


@pytest.mark.parametrize(("shape", "look"), [((3, 64, 64), None), ((8, 16, 64), "ct"), (SHAPE, "pet")])
def test_wrong_arguments(shape: tuple[int, int, int], look: str | None) -> None:
    with pytest.raises(InputError):
        generate_stack(0, shape=shape, look=look)


def test_every_label_is_one_visible_piece(stacks: list[SyntheticStack]) -> None:
    for stack in stacks:
        count = int(stack.labels.max())
        assert count >= 3
        for number in range(1, count + 1):
            _, pieces = ndimage.label(stack.labels == number, structure=np.ones((3, 3, 3)))
            assert pieces == 1


def test_most_objects_begin_and_end_inside_the_stack(stacks: list[SyntheticStack]) -> None:
    ends = [
        window[0].start > 0 and window[0].stop < SHAPE[0]
        for stack in stacks
        for window in ndimage.find_objects(stack.labels)
    ]
    assert 0.35 < np.mean(ends) < 0.95


def test_objects_of_many_sizes(stacks: list[SyntheticStack]) -> None:
    areas = np.array(
        [
            (stack.labels == number).sum(axis=(1, 2)).max()
            for stack in stacks
            for number in range(1, int(stack.labels.max()) + 1)
        ]
    )
    diameters = 2 * np.sqrt(areas / np.pi)
    assert np.percentile(diameters, 10) < 8
    assert np.percentile(diameters, 95) > 25


def test_objects_differ_from_their_surroundings_both_ways(stacks: list[SyntheticStack]) -> None:
    contrasts = np.array(
        [contrast(stack, number) for stack in stacks for number in range(1, int(stack.labels.max()) + 1)]
    )
    assert np.mean(np.abs(contrasts) > 4) > 0.8
    assert np.mean(contrasts > 4) > 0.15
    assert np.mean(contrasts < -4) > 0.15


def test_slices_are_thick_and_thin() -> None:
    ratios = []
    for seed in range(30):
        x_mm, y_mm, z_mm = generate_stack(seed, shape=(4, 32, 32), look="ct").spacing_mm
        assert x_mm == y_mm
        assert 0.5 <= x_mm <= 1.5
        ratios.append(z_mm / x_mm)
    assert min(ratios) < 1.2
    assert max(ratios) > 4.0


def test_all_looks_are_drawn() -> None:
    looks = [generate_stack(seed, shape=(4, 32, 32)).look for seed in range(40)]
    assert set(looks) == set(LOOKS)
    assert looks.count("ct") > looks.count("us")


def test_looks_differ(stacks: list[SyntheticStack]) -> None:
    # Layers and speckle in ultrasound are wider than deep.
    across, along = (
        {
            look: np.mean(
                [np.abs(np.diff(s.image.astype(float), axis=axis)).mean() for s in stacks if s.look == look]
            )
            for look in LOOKS
        }
        for axis in (2, 1)
    )
    ratios = {look: across[look] / along[look] for look in LOOKS}
    assert ratios["us"] < 0.85 * min(ratios["ct"], ratios["mr"])
