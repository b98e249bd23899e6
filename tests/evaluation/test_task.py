"""Cases opened: grids, axes, the box and its noise."""

from dataclasses import replace

import numpy as np
import pytest

from medsam2.errors import GeometryError, InputError, PromptError
from medsam2.evaluation.cases import choose_box, read_task
from medsam2.imaging import io
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.volume import Volume
from medsam2.prompts.simulate import tight_box


def test_a_scan(ball_case):
    task = read_task(ball_case)
    assert task.volume.shape == task.truth.shape == (16, 20, 24)
    assert task.axis == 2
    assert task.has_mm
    assert task.spacing == (1.0, 1.5, 2.0)
    assert task.truth.dtype == bool
    assert not task.truth[0, 0, 0]  # another label
    assert tight_box(slices_along(task.truth, 2)[8]).xyxy == ball_case.box_xyxy


def test_several_labels_are_one_object(ball_case):
    assert read_task(replace(ball_case, labels=(1, 3))).truth[0, 0, 0]


def test_a_picture_is_measured_in_pixels_unless_the_list_has_a_spacing(disc_case):
    task = read_task(disc_case)
    assert task.volume.shape == (1, 30, 40)
    assert (task.axis, task.has_mm, task.spacing) == (2, False, (1.0, 1.0, 1.0))
    task = read_task(replace(disc_case, spacing=(0.2, 0.1)))
    assert (task.has_mm, task.spacing) == (True, (0.2, 0.1, 1.0))


def test_a_mask_in_another_voxel_order_is_put_in_order(ball_case):
    expected = read_task(ball_case).truth
    mask = io.read(ball_case.mask)
    affine = np.array(mask.affine)
    affine[:3, 3] += affine[:3, 0] * 23
    affine[:3, 0] *= -1
    affine = affine[:, [2, 1, 0, 3]]
    io.write(Volume(np.ascontiguousarray(mask.array[:, :, ::-1].T), affine), ball_case.mask)
    np.testing.assert_array_equal(read_task(ball_case).truth, expected)


def test_a_mask_of_another_scan(ball_case):
    mask = io.read(ball_case.mask)
    io.write(Volume.from_array(mask.array, mask.spacing, (0, 0, 30)), ball_case.mask)
    with pytest.raises(GeometryError, match=r"^ball: the mask's voxels lie up to 15 voxels away"):
        read_task(ball_case)
    io.write(Volume.from_array(mask.array[:8], mask.spacing), ball_case.mask)
    with pytest.raises(GeometryError, match=r"^ball: the mask has 24 x 20 x 8 voxels"):
        read_task(ball_case)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": (7, 8)}, InputError, "no voxel of the label 7, 8"),
        ({"axis": None}, InputError, "axis null means a picture, the image has 16 slices"),
        ({"shape": (24, 20, 17)}, InputError, r"the image has the shape \(24, 20, 16\), the list says"),
        ({"mask_voxels": 5}, InputError, r"the mask has \d+ voxels of the label 3, the list says 5"),
        ({"key_slice": 16}, PromptError, "slice 16 is outside the stack: it has slices 0 to 15"),
        ({"key_slice": 2}, InputError, "not in the key slice, 2"),
        ({"box_xyxy": (3, 3, 24, 15)}, PromptError, "outside the slice"),
        ({"axis": 0, "box_xyxy": (3, 3, 10, 15)}, None, ""),
        ({"axis": 0, "box_xyxy": (3, 3, 10, 16)}, PromptError, "outside the slice"),
        ({"image": None}, InputError, "no such file"),
    ],
)
def test_what_the_list_says_must_hold(ball_case, tmp_path, changes, error, message):
    case = replace(
        ball_case, **{**changes, **({"image": tmp_path / "none.nii"} if "image" in changes else {})}
    )
    if error is None:
        assert read_task(case).axis == 0
        return
    with pytest.raises(error, match=message):
        read_task(case)


def test_without_noise_the_box_is_the_lists(ball_case):
    assert choose_box(read_task(ball_case), noise=0, seed=1, repeat=2) == ball_case.box_xyxy


def test_noise_depends_on_seed_name_and_repeat_alone(ball_case, disc_case):
    task = read_task(ball_case)
    box = choose_box(task, noise=0.1, seed=0, repeat=0)
    read = read_task(disc_case)
    choose_box(read, noise=0.1, seed=0, repeat=0)
    assert choose_box(read_task(ball_case), noise=0.1, seed=0, repeat=0) == box
    others = [
        choose_box(task, noise=0.1, seed=1, repeat=0),
        choose_box(task, noise=0.1, seed=0, repeat=1),
        choose_box(read_task(replace(ball_case, name="b\ud800ll")), noise=0.1, seed=0, repeat=0),
        choose_box(read_task(replace(ball_case, name="ball2")), noise=0.1, seed=0, repeat=0),
    ]
    assert len({box, ball_case.box_xyxy, *others}) == 6


def test_noise_is_a_part_of_the_side_and_stays_in_the_slice(ball_case):
    task = read_task(ball_case)
    for repeat in range(50):
        box = np.array(choose_box(task, noise=0.5, seed=3, repeat=repeat))
        shift = np.abs(box - ball_case.box_xyxy)
        assert (shift <= np.array([9.5, 6.5, 9.5, 6.5])).all()
        assert (box >= 0).all()
        assert (box <= (23, 19, 23, 19)).all()


def test_noise_on_a_large_box_is_not_limited_in_pixels(disc_case, tmp_path):
    large = np.zeros((1, 700, 900), np.uint8)
    large[0, 100:600, 100:800] = 1
    for name in ("large.nii.gz", "large_mask.nii.gz"):
        io.write(Volume.from_array(large), tmp_path / name)
    case = replace(
        disc_case, image=tmp_path / "large.nii.gz", mask=tmp_path / "large_mask.nii.gz", labels=(1,),
        box_xyxy=(100, 100, 799, 599),
    )  # fmt: skip
    task = read_task(case)
    shifts = [
        np.abs(np.subtract(choose_box(task, noise=0.1, seed=0, repeat=repeat), case.box_xyxy)).max()
        for repeat in range(20)
    ]
    assert 50 < max(shifts) <= 70
