"""From a dropped file to a mask that is the command line's, to the voxel."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from medsam2.cli.main import run

BOX = (22, 18, 41, 37)
KEY_SLICE = 5


def test_box_propagate_correct_undo_export(screen, folder: Path, tmp_path: Path) -> None:
    screen.open()
    screen.drop(folder / "ball.nii.gz")
    assert screen.state("session.shape") == [12, 56, 64]
    screen.go_to(KEY_SLICE)
    screen.draw_box(BOX)
    assert screen.slices() == [KEY_SLICE]
    screen.propagate()
    found = screen.slices()
    assert len(found) > 3
    num_voxels = screen.num_voxels()

    screen.click(30, 20, is_inside=False)
    assert screen.state("log.length") == 3
    screen.propagate()
    screen.page.keyboard.press("Control+z")
    screen.page.wait_for_timeout(50)
    screen.rests()
    assert screen.state("log.length") == 2
    assert (screen.slices(), screen.num_voxels()) == (found, num_voxels)

    exported = screen.export("NIfTI", tmp_path)
    window = [str(limit) for limit in screen.state("session.window")]
    box = [str(end) for end in BOX]
    arguments = ["segment", str(folder / "ball.nii.gz"), "--slice", str(KEY_SLICE), "--box", *box]
    assert run([*arguments, "--window", *window, "-o", str(tmp_path / "cli.nii.gz")]) == 0
    ours, theirs = nibabel.load(exported), nibabel.load(tmp_path / "cli.nii.gz")
    assert np.array_equal(ours.affine, theirs.affine)
    assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    assert int(np.asarray(ours.dataobj).sum()) == num_voxels
    screen.page.wait_for_selector("#measurements table")
    assert "ml" in screen.page.locator("#measurements").inner_text()
    screen.page.wait_for_selector("body[data-solids='1']")
    screen.shoot("story")
