"""Labels of a mask file as prompts: which of them, and under which numbers and names."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsam2.errors import InputError, PromptError
from medsam2.imaging.volume import Volume
from medsam2.inference.grid import SliceGrid, cut_volume
from medsam2.inference.prompting import objects_in_mask, slice_of_mask


@pytest.fixture
def grid(scan: Volume) -> SliceGrid:
    return cut_volume(scan)


def save(labels: np.ndarray, scan: Volume, path: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(labels.T), scan.affine), path)
    return path


def test_some_of_hundreds_of_labels(grid: SliceGrid, scan: Volume, tmp_path: Path) -> None:
    labels = np.zeros(scan.shape, np.int16)
    labels[0].reshape(-1)[:400] = np.arange(1, 401)
    labels[3, 10:20, 10:20] = 1002
    path = save(labels, scan, tmp_path / "m.nii.gz")
    with pytest.raises(PromptError, match=r"m\.nii\.gz: .* 1 to 255, so choose .* --mask-label"):
        objects_in_mask(path, grid)
    found = objects_in_mask(path, grid, wanted=["1002", "7"])
    assert found.names == {1: "label 1002", 7: None}
    assert {n: [prompt.slice_index for prompt in part] for n, part in found.prompts.items()} == {
        1: [3],
        7: [0],
    }
    with pytest.raises(InputError, match=r"there is no label '500'; its labels are 1, 2, .* and 381 more"):
        objects_in_mask(path, grid, wanted=["500"])


def test_one_label_of_a_slice(grid: SliceGrid, scan: Volume, tmp_path: Path) -> None:
    labels = np.zeros(scan.shape, np.uint8)
    labels[3, 10:20, 10:20] = 1
    labels[3:5, 25:30, 10:20] = 2
    path = save(labels, scan, tmp_path / "m.nii.gz")
    with pytest.raises(PromptError, match=r"slice 3 holds the labels 1, 2, .*choose one with --mask-label"):
        slice_of_mask(path, grid, 3)
    np.testing.assert_array_equal(slice_of_mask(path, grid, 3, ["2"]).array, labels[3] == 2)
    np.testing.assert_array_equal(slice_of_mask(path, grid, 4).array, labels[4] == 2)
    with pytest.raises(PromptError, match="nothing is drawn on slice 4"):
        slice_of_mask(path, grid, 4, ["1"])
