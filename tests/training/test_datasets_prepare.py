"""Stacks cut from labelled scans: voxels, objects, sizes, resumed work, and a training run on it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsam2.errors import InputError
from medsam2.training.config import DataConfig, PhaseConfig, TrainConfig
from medsam2.training.datasets.layouts import read_data_set
from medsam2.training.datasets.objects import MIN_SLICES, find_objects, plan_parts
from medsam2.training.datasets.prepare import PreparedCase, PrepareOptions, prepare
from medsam2.training.datasets.splits import split_by_patient
from medsam2.training.official_clips import draw_official_clips
from medsam2.training.stack_files import entry_of, generate_stacks, load_stack, stack_path, use_stacks

SHAPE = (12, 40, 48)  # (z, y, x)
AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])
LABELS = {"background": 0, "liver": 1, "lesion": 2, "ignore": 3}


def draw_scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units and a mask with an organ, two lesions of one value, one speck and an ignored part."""
    image = np.random.default_rng(seed).integers(-30, 30, SHAPE)
    image[:, :3] = -1000
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:10, 8:24, 6:26] = 1
    mask[4:6, 28:34, 30:36] = 2
    mask[7:9, 10:15, 32:38] = 2
    mask[10, 36, 40] = 2
    mask[0:2, 30:36, 4:10] = 3
    image[mask == 1] += 100
    image[mask == 2] += 200
    return image.astype(np.int16), mask


def write_scan(root: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for folder, suffix, array in (("imagesTr", "_0000", image), ("labelsTr", "", mask)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array.T, AFFINE), root / folder / f"{name}{suffix}.nii.gz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for number in range(3):
        write_scan(root, f"p{number}", *draw_scan(number))
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": LABELS}))
    return root


def fill(
    root: Path, stacks: Path, options: PrepareOptions | None = None, workers: int = 1
) -> list[PreparedCase]:
    splits = split_by_patient(read_data_set(root).scans, (0.6, 0.4, 0.0), seed=1)
    return list(prepare(splits, stacks, options or PrepareOptions(), workers))


def test_stacks_hold_the_scan_as_inference_would_see_it(folder: Path, tmp_path: Path) -> None:
    cases = fill(folder, tmp_path / "stacks")
    assert [case.error for case in cases] == [None] * 3
    assert [len(case.files) for case in cases] == [1] * 3
    assert cases[0].objects == (("liver", "lesion"),)
    assert cases[0].window == (-160.0, 240.0)
    number = int(cases[0].name[1:])
    image, mask = draw_scan(number)
    stack = load_stack(tmp_path / "stacks", 0)
    expected = np.uint8((np.clip(image, -160, 240).astype(float) + 160) / 400 * 255)
    assert np.array_equal(stack.image, expected)
    assert np.array_equal(stack.labels, np.where(mask == 3, 0, mask))
    assert stack.areas[1].tolist() == (mask == 1).sum(axis=(1, 2)).tolist()
    assert (stack.modality, stack.spacing_mm) == ("CT", (1.0, 1.0, 3.0))
    entry = entry_of(tmp_path / "stacks", 0)
    assert entry is not None
    assert (entry.case, entry.objects) == (cases[0].name, ("liver", "lesion"))
    listed = json.loads((tmp_path / "stacks" / "bank.json").read_text(encoding="utf-8"))
    assert [len(listed[split]) for split in ("train", "validation", "test")] == [2, 1, 0]


def test_pieces_planes_and_windows(folder: Path, tmp_path: Path) -> None:
    options = PrepareOptions(pieces=True, plane="coronal", window=(0.0, 255.0), smallest_area=4)
    cases = fill(folder, tmp_path / "stacks", options)
    assert cases[0].objects == (("liver", "lesion", "lesion"),)
    assert cases[0].num_left_out == 1, "the speck"
    stack = load_stack(tmp_path / "stacks", 0)
    image, mask = draw_scan(int(cases[0].name[1:]))
    assert np.array_equal(stack.image, np.clip(image, 0, 255).astype(np.uint8).transpose(1, 0, 2))
    assert stack.spacing_mm == (1.0, 3.0, 1.0), "x and y of a coronal slice, then the step between slices"
    sizes = [int((stack.labels == label).sum()) for label in (1, 2, 3)]
    assert sizes == [8 * 16 * 20, 2 * 6 * 6, 2 * 5 * 6]
    assert not stack.labels[36].any()
    assert (mask.transpose(1, 0, 2)[stack.labels > 1] == 2).all()


def test_work_that_is_done_is_not_done_again(folder: Path, tmp_path: Path) -> None:
    stacks = tmp_path / "stacks"
    first = fill(folder, stacks)
    written = {path.name: path.stat().st_mtime_ns for path in stacks.glob("*.npz")}
    (stacks / first[2].files[0]).unlink()
    assert fill(folder, stacks, workers=2) == first
    again = {path.name: path.stat().st_mtime_ns for path in stacks.glob("*.npz")}
    assert again.keys() == written.keys()
    changed = {name for name in again if again[name] != written[name]}
    assert changed == set(first[2].files)
    other = fill(folder, stacks, PrepareOptions(window="liver"))
    assert {path.name for path in stacks.glob("*.npz")} == {file for case in other for file in case.files}
    assert not {file for case in other for file in case.files} & written.keys()
    assert np.array_equal(load_stack(stacks, 0).labels, np.load(stack_path(stacks, 0))["labels"])
    assert not list(stacks.rglob(".*")), "no temporary file is left"


def test_a_scan_that_fails_does_not_stop_the_rest(folder: Path, tmp_path: Path) -> None:
    image, mask = draw_scan(7)
    write_scan(folder, "p8", image, mask[:5])
    write_scan(folder, "p9", image, mask * 0)
    errors = {case.name: case.error for case in fill(folder, tmp_path / "stacks") if case.error}
    assert errors == {
        "p8": "the mask has 48 x 40 x 5 voxels (x, y, z), the image 48 x 40 x 12",
        "p9": "the mask is empty",
    }
    listed = json.loads((tmp_path / "stacks" / "bank.json").read_text(encoding="utf-8"))
    assert listed["failed"] == errors
    for number in range(3):
        (folder / "labelsTr" / f"p{number}.nii.gz").unlink()
    with pytest.raises(InputError, match="no scan is left to train on, p"):
        fill(folder, tmp_path / "other")
    assert not (tmp_path / "other" / "bank.json").exists()


def test_other_stacks_are_left_alone(folder: Path, tmp_path: Path) -> None:
    stacks = tmp_path / "stacks"
    stacks.mkdir()
    np.savez(stacks / "000000.npz", image=np.zeros(3))
    with pytest.raises(InputError, match=r"holds 000000\.npz, which was not prepared from a scan"):
        fill(folder, stacks)
    with pytest.raises(InputError, match=r"000000\.npz: cannot be made a folder"):
        fill(folder, stacks / "000000.npz")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"file_bytes": 9}, "at least 1048576"),
        ({"smallest_area": 0}, "1 p"),
        ({"window": "x"}, "no window is called 'x'"),
    ],
)
def test_options_that_cannot_be(wrong: dict[str, int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        PrepareOptions(**wrong)


def _box(*limits: int) -> tuple[slice, slice, slice]:
    return slice(*limits[:2]), slice(*limits[2:4]), slice(*limits[4:])


def test_a_large_scan_is_cut_around_its_objects() -> None:
    shape, limit = (200, 512, 512), 4_000_000
    near = [_box(50, 60, 100, 120, 100, 120), _box(55, 66, 110, 130, 104, 130)]
    far, tall, wide = (
        _box(150, 152, 480, 512, 480, 512),
        _box(0, 200, 300, 340, 20, 60),
        _box(90, 99, 0, 400, 0, 500),
    )
    boxes = [*near, far, tall, wide]
    parts = plan_parts(shape, boxes, limit)
    assert {member for part in parts for member in part.members} == set(range(5))
    assert any(part.members == (0, 1) for part in parts), "neighbours share a part"
    assert sum(part.members == (3,) for part in parts) > 1, "the tall one is cut across"
    for part in parts:
        sizes = [place.stop - place.start for place in part.box]
        assert np.prod(sizes) <= limit
        assert sizes[0] >= MIN_SLICES
        assert all(0 <= place.start < place.stop <= size for place, size in zip(part.box, shape, strict=True))
        for member in part.members:
            for place, inner in zip(part.box[1:], boxes[member][1:], strict=True):
                assert place.start <= inner.start < inner.stop <= place.stop
    for member, box in enumerate(boxes):
        covered = set()
        for part in parts:
            if member in part.members:
                covered |= set(range(part.box[0].start, part.box[0].stop))
        assert set(range(box[0].start, box[0].stop)) <= covered
    with pytest.raises(InputError, match="an object of 500 x 400 pixels does not fit into a file: 16 slices"):
        plan_parts(shape, boxes, 3_000_000)
    whole = plan_parts((10, 20, 30), [_box(0, 2, 0, 3, 0, 4)], 6000)
    assert [part.box for part in whole] == [_box(0, 10, 0, 20, 0, 30)]


def test_crops_hold_the_voxels_of_the_scan(tmp_path: Path) -> None:
    shape = (40, 200, 210)
    rng = np.random.default_rng(3)
    image = rng.integers(0, 200, shape).astype(np.uint8)
    mask = np.zeros(shape, np.uint8)
    mask[3:9, 20:40, 20:40] = 1
    mask[30:37, 150:180, 160:200] = 2
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", imgs=image, gts=mask)
    stacks = tmp_path / "stacks"
    (tmp_path / "a.npz").rename(tmp_path / "CT_a.npz")
    found = read_data_set(tmp_path)
    cases = list(prepare(split_by_patient(found.scans), stacks, PrepareOptions(file_bytes=2**21)))
    assert [len(case.files) for case in cases] == [2, 2]
    assert cases[0].window == (0.0, 255.0), "the greys of an npz stay"
    for number, objects in enumerate(cases[0].objects):
        assert (stacks / cases[0].files[number]).stat().st_size <= 2**21 + 1024
        stack = load_stack(stacks, number)
        (name,) = objects
        z, y, x = (np.flatnonzero(stack.labels.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
        (box,) = [one.box for one in find_objects(mask, {}) if one.name == name]
        assert [len(z), len(y), len(x)] == [place.stop - place.start for place in box]
        assert np.array_equal(stack.image[stack.labels == 1], image[mask == int(name)])


def test_a_run_takes_the_numbers_of_its_stacks(folder: Path, tmp_path: Path) -> None:
    stacks = tmp_path / "stacks"
    fill(folder, stacks)
    config = use_stacks(_config(steps=1), stacks)
    assert (config.data.first_seed, config.data.stacks, config.data.validation_stacks) == (0, 2, 1)
    assert use_stacks(_config(steps=1), tmp_path) == _config(steps=1)
    assert list(generate_stacks(stacks, range(3), 1)) == [3]
    with pytest.raises(InputError, match="has 3 prepared stacks, numbered from 0; none is number 3"):
        list(generate_stacks(stacks, range(4), 1))
    drawn = draw_official_clips(
        stacks, range(2), DataConfig(), [np.random.default_rng(0)] * 2,
        clip_length=3, image_size=64, augment=True,
    )  # fmt: skip
    assert drawn.images.shape == (2, 3, 64, 64)
    assert drawn.targets[:, 0].any()
    with pytest.raises(InputError, match="a clip of 40 slices needs stacks of as many"):
        draw_official_clips(
            stacks, range(2), DataConfig(), [np.random.default_rng(0)],
            clip_length=40, image_size=64, augment=False,
        )  # fmt: skip
    stack_path(stacks, 1).unlink()
    with pytest.raises(InputError, match="is on the list of stacks and not there; prepare them again"):
        list(generate_stacks(stacks, range(3), 1))
    (stacks / "bank.json").write_text("{}")
    with pytest.raises(InputError, match="is no list of prepared stacks"):
        use_stacks(config, stacks)


def _config(steps: int) -> TrainConfig:
    phase = PhaseConfig(name="clips", steps=steps, image_size=64, batch=1, clip_length=2, learning_rate=1e-4)
    return TrainConfig(
        preset="compact", phases=(phase,), data=DataConfig(stacks=999, validation_stacks=9, first_seed=4)
    )
