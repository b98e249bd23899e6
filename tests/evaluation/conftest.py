"""A bright ball in a scan and a bright disc in a picture, as cases on disk, and who gets them wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from medsam2.evaluation.cases import Case
from medsam2.imaging import io
from medsam2.imaging.geometry import restore_axes, slices_along
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.prompts.types import Prompt

SPACING = (1.0, 1.5, 2.0)


def _ball(tmp_path):
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


def _disc(tmp_path, ball_case):
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


@dataclass
class Dialogue:
    """Finds what is bright, spoilt by one mistake; each click takes one mistake away."""

    volume: Volume
    axis: int
    mistakes: list[Callable[[np.ndarray], np.ndarray]]
    prompts: list[Prompt] = field(default_factory=list)

    def add_all(self, objects: Mapping[int, Sequence[Prompt]]) -> None:
        ((number, (prompt,)),) = objects.items()
        self.add(number, prompt)

    def add(self, number: int, prompt: Prompt) -> None:
        assert number == 1
        self.prompts.append(prompt)

    def propagate(self) -> Iterator[tuple[int, np.ndarray]]:
        """Nothing is left to do."""
        return iter(())

    def finish(self) -> None:
        """Nothing is left to do."""

    def result(self) -> Volume:
        mask = slices_along(self.volume.array, self.axis) > 120
        for mistake in self.mistakes[len(self.prompts) - 1 :]:
            mask = mistake(mask.copy())
        return self.volume.with_array(np.ascontiguousarray(restore_axes(mask.astype(np.uint8), self.axis)))


@dataclass
class Scripted(Predictor):
    """A predictor whose every mistake is known: it is told the truth and the mistakes."""

    mistakes: list[Callable[[np.ndarray], np.ndarray]] = field(default_factory=list)
    dialogues: list[Dialogue] = field(default_factory=list)

    def session(self, volume, *, window=None, plane=None, axis=None, options=None) -> Dialogue:
        self.dialogues.append(Dialogue(volume, 2 if axis is None else axis, self.mistakes))
        return self.dialogues[-1]


def _without_slices(first: int, last: int) -> Callable[[np.ndarray], np.ndarray]:
    """Loses the object in some slices, both ends counted."""

    def spoil(mask: np.ndarray) -> np.ndarray:
        mask[first : last + 1] = False
        return mask

    return spoil


def _repeated_slice(source: int, first: int, last: int) -> Callable[[np.ndarray], np.ndarray]:
    """Goes on with the mask of one slice in others."""

    def spoil(mask: np.ndarray) -> np.ndarray:
        mask[first : last + 1] |= mask[source]
        return mask

    return spoil


@pytest.fixture
def ball_case(tmp_path):
    """A ball of one's own to change; see `_ball`."""
    return _ball(tmp_path)


@pytest.fixture
def disc_case(tmp_path, ball_case):
    """A disc of one's own to change; see `_disc`."""
    return _disc(tmp_path, ball_case)


@pytest.fixture(scope="session")
def lasting_cases(tmp_path_factory):
    """A ball and a disc for all tests, not to be changed."""
    folder = tmp_path_factory.mktemp("cases")
    ball = _ball(folder)
    return ball, _disc(folder, ball)


@pytest.fixture(scope="session")
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture(scope="session")
def without_slices() -> Callable[[int, int], Callable[[np.ndarray], np.ndarray]]:
    return _without_slices


@pytest.fixture(scope="session")
def repeated_slice() -> Callable[[int, int, int], Callable[[np.ndarray], np.ndarray]]:
    return _repeated_slice


def _by_simpleitk(predicted, truth, spacing, tolerance):
    """Dice, NSD, strict NSD, HD95 and ASSD from ITK's overlap filter, contours and distance maps.

    A scan of one slice is compared in 2D.
    """
    if len(truth) == 1:
        predicted, truth, spacing = predicted[0], truth[0], spacing[:2]
    images = []
    for mask in (predicted, truth):
        image = SimpleITK.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
        image.SetSpacing(spacing)
        images.append(image)
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    contours = [SimpleITK.LabelContour(image, fullyConnected=False) for image in images]
    # Squares are sums of few products and nearly exact in ITK's float32; its roots are not.
    maps = [
        SimpleITK.SignedMaurerDistanceMap(contour, squaredDistance=True, useImageSpacing=True)
        for contour in contours
    ]
    squares = [np.abs(SimpleITK.GetArrayFromImage(one)).astype(np.float64) for one in maps]
    distances = [np.sqrt(squares[1 - i][SimpleITK.GetArrayFromImage(contours[i]) > 0]) for i in (0, 1)]
    both = np.concatenate(distances)
    return (
        overlap.GetDiceCoefficient(),
        np.mean(both <= tolerance),
        np.mean(both <= tolerance / 2),
        max(np.percentile(one, 95) for one in distances),
        both.mean(),
    )


@pytest.fixture(scope="session")
def by_simpleitk() -> Callable[..., tuple[float, float, float, float, float]]:
    return _by_simpleitk
