"""A bright ball in a small scan, and a bright disc in a picture, as cases on disk."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from medsam2.evaluation.protocol import Case
from medsam2.imaging import io
from medsam2.imaging.volume import Volume

SPACING = (1.0, 1.5, 2.0)


@pytest.fixture
def ball_case(tmp_path):
    """A ball of 9 mm radius in a scan of 24 x 20 x 16 voxels, sliced along z; in slices 4 to 12."""
    z, y, x = np.ogrid[:16, :20, :24]
    inside = ((x - 12) * SPACING[0]) ** 2 + ((y - 9) * SPACING[1]) ** 2 + ((z - 8) * SPACING[2]) ** 2 <= 81
    grey = np.where(inside, 200, 40) + np.random.default_rng(0).integers(-9, 10, inside.shape)
    io.write(Volume.from_array(grey.astype(np.int16), SPACING), tmp_path / "ball.nii.gz")
    labels = np.where(inside, 3, 0).astype(np.uint8)
    labels[0, 0, 0] = 1
    io.write(Volume.from_array(labels, SPACING), tmp_path / "labels.nii.gz")
    return Case(
        name="ball",
        image=tmp_path / "ball.nii.gz",
        mask=tmp_path / "labels.nii.gz",
        labels=(3,),
        modality="MR",
        target="ball",
        window=(0.0, 255.0),
        axis=2,
        key_slice=8,
        box_xyxy=(3.0, 3.0, 21.0, 15.0),
    )


@pytest.fixture
def disc_case(tmp_path, ball_case):
    """A disc of 8 pixels radius in a picture of 40 x 30 pixels, without a spacing."""
    y, x = np.ogrid[:30, :40]
    inside = (x - 22) ** 2 + (y - 14) ** 2 <= 64
    Image.fromarray(np.where(inside, 220, 60).astype(np.uint8)).save(tmp_path / "disc.png")
    Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).save(tmp_path / "disc_mask.png")
    return replace(
        ball_case,
        name="disc",
        image=tmp_path / "disc.png",
        mask=tmp_path / "disc_mask.png",
        labels=(255,),
        modality="US",
        target="disc",
        window=None,
        axis=None,
        key_slice=0,
        box_xyxy=(14.0, 6.0, 30.0, 22.0),
    )
