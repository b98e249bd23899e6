"""Open a case: its scan, its truth and the box to prompt with."""

import math
from dataclasses import dataclass

import numpy as np

from medsam2.errors import GeometryError, InputError
from medsam2.evaluation.protocol import XYXY, Case
from medsam2.imaging import io
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.grids import match_order
from medsam2.imaging.volume import Volume
from medsam2.prompts.simulate import jitter_box
from medsam2.prompts.types import Box, prompt_from

STILL_AXIS = 2  # a picture is read as a volume of one slice along the third axis


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A case with its files read."""

    case: Case
    volume: Volume
    truth: np.ndarray
    """Boolean, (z, y, x), in the volume's voxel order."""

    @property
    def axis(self) -> int:
        """File axis to slice along."""
        return STILL_AXIS if self.case.axis is None else self.case.axis

    @property
    def has_mm(self) -> bool:
        """Whether distances are in mm; else they are in pixels."""
        return self.case.axis is not None or self.case.spacing is not None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres, (x, y, z), in mm, or 1 to measure in pixels."""
        if self.case.axis is not None:
            return self.volume.spacing
        x, y = (1.0, 1.0) if self.case.spacing is None else self.case.spacing[:2]
        return x, y, 1.0


def read_task(case: Case) -> Task:
    """Read a case's image and mask and make sure that they belong together.

    Raises:
        InputError: A file cannot be read, or is not what the list says. Its subclasses:
        GeometryError: The mask does not lie on the image's grid.
        PromptError: The key slice or the box does not lie in the image.
    """
    volume, labelled = io.read(case.image), io.read(case.mask)
    try:
        ordered = match_order(labelled, volume)
    except GeometryError as error:
        raise GeometryError(f"{case.name}: {error}") from error
    task = Task(case=case, volume=volume, truth=np.isin(ordered, case.labels))
    _check_task(task)
    return task


def choose_box(task: Task, *, noise: float, seed: int, repeat: int) -> XYXY:
    """Return the box to prompt with: the case's own, or one with some noise on it.

    The noise depends on the seed, the case's name and the number of the repeat, and so not on the other cases
    or their order. Unlike in training it is not limited in pixels: 0.1 is 10 % of any box.

    Args:
        task: Where the box must lie.
        noise: Largest shift of each end, as a part of the box's width or height.
        seed: Not negative.
        repeat: Not negative.
    """
    if noise == 0:
        return task.case.box_xyxy
    rng = np.random.default_rng([seed, repeat, *task.case.name.encode("utf-8", "surrogatepass")])
    height, width = slices_along(task.truth, task.axis).shape[1:]
    box = Box.from_xyxy(task.case.box_xyxy)
    return jitter_box(box, rng, fraction=noise, shape_yx=(height, width), limit_px=math.inf).xyxy


def _check_task(task: Task) -> None:
    """Make sure that the files are what the list says and that the prompt lies on the object's slice."""
    case, shape_xyz = task.case, task.volume.shape[::-1]
    if case.axis is None and shape_xyz[STILL_AXIS] != 1:
        raise InputError(f"{case.name}: axis null means a picture, the image has {shape_xyz[2]} slices")
    if case.shape is not None and case.shape != shape_xyz[: len(case.shape)]:
        raise InputError(f"{case.name}: the image has the shape {shape_xyz}, the list says {case.shape}")
    num_voxels = int(np.count_nonzero(task.truth))
    if num_voxels == 0:
        raise InputError(f"{case.name}: the mask has no voxel of the label {_joined(case.labels)}")
    if case.mask_voxels not in (None, num_voxels):
        raise InputError(
            f"{case.name}: the mask has {num_voxels} voxels of the label {_joined(case.labels)}, "
            f"the list says {case.mask_voxels}"
        )
    slices = slices_along(task.truth, task.axis)
    num_slices, height, width = slices.shape
    prompt_from(case.key_slice, box=case.box_xyxy).checked((num_slices, height, width))
    if not slices[case.key_slice].any():
        raise InputError(f"{case.name}: the object is not in the key slice, {case.key_slice}")


def _joined(labels: tuple[int, ...]) -> str:
    return ", ".join(str(label) for label in labels)
