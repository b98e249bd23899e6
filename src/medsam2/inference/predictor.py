"""Weights on a device, ready to segment: the front door of the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy.typing as npt

from medsam2.checkpoints import load_network, resolve
from medsam2.errors import InputError
from medsam2.imaging.volume import Volume
from medsam2.inference.features import FrameSource
from medsam2.inference.grid import cut_volume
from medsam2.inference.options import RUNTIMES, InferenceOptions
from medsam2.inference.runtime import Runtime, start_runtime
from medsam2.inference.session import Session
from medsam2.inference.video import VideoSession
from medsam2.model.compact.config import CompactConfig
from medsam2.model.config import ModelConfig
from medsam2.prompts.types import prompt_from


class Predictor:
    """A network ready for use; immutable, so sessions may share it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def config(self) -> ModelConfig | CompactConfig:
        """The network's shapes."""
        return self._runtime.network.config

    @property
    def runtime(self) -> Runtime:
        """Network, device and precision."""
        return self._runtime

    def session(
        self,
        volume: Volume,
        *,
        window: str | tuple[float, float] | None = None,
        plane: str | None = None,
        axis: int | None = None,
        options: InferenceOptions | None = None,
    ) -> Session:
        """Open a volume for prompts, corrections and propagation.

        Args:
            volume: The scan.
            window: Name of a CT window, `(lower, upper)` in the scan's units, or None to find one.
            plane: Cut slices in this plane, `axial`, `coronal` or `sagittal`, and show them to the network as
                radiologists see them. Slices, boxes and masks stay those of the file.
            axis: Or along this axis of the file, 0 to 2, as they lie there; the third, 2, without either.
            options: Behaviour; the defaults are right for one box.

        Raises:
            InputError: The volume has nothing to see, or a choice is not there.
        """
        grid = cut_volume(volume, plane=plane, axis=axis)
        return Session(self._runtime, grid, window=window, options=options or InferenceOptions())

    def video(self, frames: FrameSource, *, options: InferenceOptions | None = None) -> VideoSession:
        """Open a video for prompts and propagation, without loading it.

        Args:
            frames: `imaging.video.open_video(path)`, or a uint8 array `(frame, y, x)` or `(frame, y, x, 3)`.
            options: Behaviour; the defaults follow an object that disappears and comes back.

        Raises:
            InputError: A choice is not there for videos.
        """
        return VideoSession(self._runtime, frames, options=options or InferenceOptions())

    def segment(
        self,
        volume: Volume,
        *,
        slice: int,  # noqa: A002
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        labels: Sequence[int] | None = None,
        mask: npt.ArrayLike | None = None,
        window: str | tuple[float, float] | None = None,
        plane: str | None = None,
        axis: int | None = None,
        memory: str = "recent",
    ) -> Volume:
        """Segment one object from a prompt on one slice.

        Args:
            volume: The scan.
            slice: Index of the slice that the prompt lies in.
            box: `(x_min, y_min, x_max, y_max)` in pixels of the slice, both ends included.
            points: `(x, y)` each.
            labels: 1 for a point inside, 0 for one outside; all inside if not given.
            mask: `(y, x)`, not 0 inside.
            window: See `session`, as `plane` and `axis`.
            plane: See `session`.
            axis: See `session`.
            memory: Name of the memory policy.

        Returns:
            A uint8 mask of 0 and 1 on the volume's grid.

        Raises:
            InputError: The volume, the prompt or a choice is not usable.
        """
        options = InferenceOptions(memory=memory)
        session = self.session(volume, window=window, plane=plane, axis=axis, options=options)
        session.add(1, prompt_from(slice, box=box, points=points, labels=labels, mask=mask))
        session.finish()
        return session.result()


def load(
    weights: str | Path = "compact",
    *,
    device: str = "auto",
    precision: str = "auto",
    runtime: str = "torch",
) -> Predictor:
    """Load weights by name or file.

    Args:
        weights: `compact` (shipped), an official name (see `medsam2 weights`) or a file; with the runtime
            onnx also a folder that `medsam2 export onnx` made.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `float32`, `float32-fast` or `bfloat16`; see `start_runtime`.
        runtime: `torch`, or `onnx` for ONNX Runtime, which computes on the CPU in float32.

    Raises:
        CheckpointError: The weights are missing, damaged or of another network.
        InputError: There is no such device, precision or runtime here.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"runtime is {' or '.join(RUNTIMES)}, not {runtime!r}")
    if runtime == "onnx":
        from medsam2.inference.onnx.start import start_onnx

        return Predictor(start_onnx(weights, device=device, precision=precision))
    network = load_network(resolve(weights))
    return Predictor(start_runtime(network, device=device, precision=precision))
