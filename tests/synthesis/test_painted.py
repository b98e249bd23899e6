"""Painted stacks: masks that agree with the greys to the voxel, what is one object, what is listed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medsam2.synthesis.label_map import LabelMap, make_label_map
from medsam2.synthesis.lesions import Lesion, add_lesions
from medsam2.synthesis.listing import (
    Group,
    count_contacts,
    draw_alike,
    draw_groups,
    list_objects,
    outline_contrast,
)
from medsam2.synthesis.painted import Anatomy, Contrast, PaintedStack, find_pairs, paint_greys, paint_stack
from medsam2.synthesis.render import Grid

SHAPE = (16, 64, 64)
NAMES = {1: "body", 2: "liver", 3: "kidney, left", 4: "kidney, right", 5: "vessel"}


def small_body() -> LabelMap:
    """A trunk with a liver, a vessel in it and two kidneys, voxels of 2 mm."""
    z, y, x = np.indices((40, 60, 80))
    values = np.zeros((40, 60, 80), int)
    values[((y - 30) / 27) ** 2 + ((x - 40) / 37) ** 2 < 1] = 1
    values[((z - 20) / 14) ** 2 + ((y - 22) / 12) ** 2 + ((x - 26) / 14) ** 2 < 1] = 2
    values[((z - 20) / 10) ** 2 + ((y - 42) / 7) ** 2 + ((x - 22) / 6) ** 2 < 1] = 3
    values[((z - 20) / 10) ** 2 + ((y - 42) / 7) ** 2 + ((x - 58) / 6) ** 2 < 1] = 4
    values[(y - 22) ** 2 + (x - 26) ** 2 < 9] = 5
    return make_label_map("small body", values, (2.0, 2.0, 2.0), NAMES)


@pytest.fixture(scope="module")
def stacks() -> list[PaintedStack]:
    body = small_body()
    painted = [paint_stack(body, np.random.default_rng(seed), SHAPE) for seed in range(40)]
    return [stack for stack in painted if stack is not None]


def as_it_lies(label_map: LabelMap, layers: int = 1) -> Anatomy:
    """The map as a stack, nothing turned, each structure an object."""
    labels = label_map.labels
    return Anatomy(
        grid=Grid(
            shape=(labels.shape[0] // layers, labels.shape[1], labels.shape[2]),
            spacing_mm=label_map.spacing_mm,
            thickness_mm=2.0 * layers,
        ),
        layers=layers,
        labels=labels,
        names=label_map.label_names,
        pairs=(),
        lesions=(),
        groups=tuple(Group(labels=(label,)) for label in range(1, len(label_map.label_names) + 1)),
        alike=(),
    )


def plain(*greys: float) -> Contrast:
    """Greys without texture, that of the background first."""
    none = np.zeros(len(greys), np.float32)
    return Contrast(grey=np.array(greys, np.float32), fine=none.copy(), coarse=none.copy())


def test_greys_agree_with_labels_to_the_voxel() -> None:
    body = small_body()
    anatomy = as_it_lies(body)
    grey = paint_greys(np.random.default_rng(0), anatomy, plain(0.0, 0.2, 0.5, 0.7, 0.8, 1.0))
    means = [float(grey[body.labels == label].mean()) for label in range(1, 6)]
    assert means == sorted(means)
    for label, mean in enumerate(means, start=1):
        assert np.allclose(grey[body.labels == label], mean, atol=1e-5)


def test_a_thick_slice_shows_the_mean_of_its_layers() -> None:
    body = small_body()
    layered = as_it_lies(body, layers=2)
    grey = paint_greys(np.random.default_rng(0), layered, plain(0.0, 0.2, 0.6, 0.2, 0.2, 0.2))
    share = (body.labels == 2).reshape(20, 2, 60, 80).mean(axis=1)
    inside = (body.labels > 0).reshape(20, 2, 60, 80).all(axis=1)
    assert {0.0, 0.5, 1.0} == set(np.unique(share).tolist())
    half = grey[inside & (share == 0.5)].mean()
    assert half == pytest.approx((grey[inside & (share == 0)].mean() + grey[share == 1].mean()) / 2, abs=1e-4)


def test_objects_are_the_labels_where_nothing_is_turned() -> None:
    body = small_body()
    anatomy = as_it_lies(body)
    grey = plain(0.0, 0.2, 0.5, 0.7, 0.8, 1.0).grey[body.labels]
    objects, listed = list_objects(
        np.random.default_rng(0), grey, anatomy.shown, anatomy.groups, anatomy.alike, 0.03
    )
    # The body fills most of its slices, so it is no object.
    assert {group.labels[0] for group in listed} == {2, 3, 4, 5}
    for number, group in enumerate(listed, start=1):
        assert np.array_equal(objects == number, body.labels == group.labels[0])


def test_the_same_state_gives_the_same_bytes() -> None:
    body = small_body()
    first, second, other = (paint_stack(body, np.random.default_rng(seed), SHAPE) for seed in (3, 3, 4))
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.image.tobytes() == second.image.tobytes()
    assert first.labels.tobytes() == second.labels.tobytes()
    assert (first.objects, first.spacing_mm) == (second.objects, second.spacing_mm)
    assert first.image.tobytes() != other.image.tobytes()


def test_objects_are_large_enough_and_named(stacks: list[PaintedStack]) -> None:
    assert len(stacks) > 35
    for stack in stacks:
        assert stack.image.shape == stack.labels.shape == SHAPE
        assert stack.image.dtype == stack.labels.dtype == np.uint8
        assert np.unique(stack.labels).tolist() == list(range(len(stack.objects) + 1))
        for number in range(1, len(stack.objects) + 1):
            areas = (stack.labels == number).sum(axis=(1, 2))
            assert areas.max() >= 25
            assert np.count_nonzero(areas) >= 3


def test_an_object_is_one_piece_or_a_pair(stacks: list[PaintedStack]) -> None:
    pieces = [
        ndimage.label(stack.labels == number, structure=np.ones((3, 3, 3)))[1]
        for stack in stacks
        for number in range(1, len(stack.objects) + 1)
    ]
    assert set(pieces) == {1, 2}


def test_joined_neighbours_pairs_and_lesions_occur(stacks: list[PaintedStack]) -> None:
    names = [name for stack in stacks for name in stack.objects]
    assert any("kidney, left + kidney, right" in name for name in names)
    assert any("liver" in name and "vessel" in name for name in names)
    assert any(name.startswith("lesion in") for name in names)
    assert "kidney, left" in names


def test_most_objects_can_be_seen(stacks: list[PaintedStack]) -> None:
    seen = []
    for stack in stacks:
        for number in range(1, len(stack.objects) + 1):
            mask = stack.labels == number
            z = int(mask.sum(axis=(1, 2)).argmax())
            grey = stack.image[z].astype(np.float32) / 255
            seen.append(outline_contrast(grey, mask[z], np.zeros_like(mask[z])) > 0.02)
    assert np.mean(seen) > 0.85


def test_invisible_objects_are_mostly_left_out() -> None:
    body = small_body()
    groups = as_it_lies(body).groups
    grey = np.full(body.labels.shape, 0.5, np.float32)
    listed = [
        len(list_objects(np.random.default_rng(seed), grey, body.labels, groups, (), 0.03)[1])
        for seed in range(40)
    ]
    assert 0.05 < np.mean(listed) / len(groups) < 0.3


def test_labels_that_look_alike_do_not_hide_each_other() -> None:
    labels = np.zeros((4, 40, 40), np.uint16)
    labels[:, 10:30, 10:14], labels[:, 10:30, 14:34] = 1, 2
    grey = (labels > 0).astype(np.float32)
    groups = (Group(labels=(1,)), Group(labels=(2,)))
    _, listed = list_objects(np.random.default_rng(0), grey, labels, groups, ((1, 2),), 0.03)
    assert len(listed) == 2


def test_contacts_are_shared_faces() -> None:
    labels = np.zeros((2, 3, 4), np.uint16)
    labels[:, :, 1], labels[:, :, 2] = 1, 2
    contacts = count_contacts(labels, 3)
    assert contacts[1, 2] == contacts[2, 1] == 6
    assert contacts[0].sum() == contacts[3].sum() == 0


def draw(seed: int, pairs: list[tuple[int, int]], lesions: list[Lesion]) -> list[Group]:
    """Groups of five labels in a row, each touching the next."""
    sizes = np.array([100, 10, 10, 10, 10, 10])
    contacts = np.zeros((6, 6), int)
    for label in range(1, 5):
        contacts[label, label + 1] = contacts[label + 1, label] = 5
    return draw_groups(np.random.default_rng(seed), sizes, contacts, pairs, lesions)


def test_groups_join_what_touches_and_share_out_every_label() -> None:
    joined = 0
    for seed in range(60):
        groups = draw(seed, [], [])
        assert sorted(label for group in groups for label in group.labels) == [1, 2, 3, 4, 5]
        for group in groups:
            members = sorted(group.labels)
            assert members == list(range(members[0], members[-1] + 1))
        joined += any(len(group.labels) > 1 for group in groups)
    assert 15 < joined < 45


def test_pairs_and_tumours_with_their_cores_become_one_object() -> None:
    groups = [group for seed in range(60) for group in draw(seed, [(1, 5)], [Lesion(label=4, host=1, rim=3)])]
    pairs = [group for group in groups if group.is_pair]
    assert {group.labels for group in pairs} == {(1, 5)}
    assert 8 < len(pairs) < 35
    assert sum(group.labels == (3, 4) for group in groups) > 25


def test_alike_labels_touch_and_are_two_objects() -> None:
    labels = np.zeros((2, 8, 8), np.uint16)
    labels[:, :, 1:4], labels[:, :, 4:7], labels[:, 4:, 1:4] = 1, 2, 3
    contacts = count_contacts(labels, 3)
    groups = [Group(labels=(1, 3)), Group(labels=(2,))]
    drawn = [draw_alike(np.random.default_rng(seed), groups, contacts) for seed in range(80)]
    found = {pair for pairs in drawn for pair in pairs}
    assert found == {(1, 2), (2, 3)}
    assert 8 < sum(bool(pairs) for pairs in drawn) < 35


def test_pairs_are_found_by_name() -> None:
    names = ["kidney, left", "liver", "kidney, right", "cortex L", "cortex R", "white matter of left lobe"]
    assert find_pairs(names) == [(1, 3), (4, 5)]


def test_lesions_lie_in_their_hosts() -> None:
    grid = Grid(shape=(20, 60, 60), spacing_mm=(1.0, 1.0, 2.0), thickness_mm=2.0)
    before = np.zeros(grid.shape, np.uint16)
    before[:, 10:50, 10:50] = 1
    kinds = set()
    for seed in range(30):
        labels = before.copy()
        for lesion in add_lesions(np.random.default_rng(seed), grid, labels, 1):
            assert (before[labels == lesion.label] == 1).all()
            kinds.add("core" if lesion.rim else "twin" if lesion.twin else "lesion")
    assert kinds == {"core", "twin", "lesion"}
