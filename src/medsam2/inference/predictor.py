"""Weights on a device, ready to segment: the front door of the package."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medsam2.checkpoints import card_of, load_network, resolve, save_folder
from medsam2.errors import CheckpointError, InputError
from medsam2.hub import card_for_hub
from medsam2.imaging.arrays import as_volume
from medsam2.imaging.volume import Volume
from medsam2.inference.features import FrameSource
from medsam2.inference.grid import cut_volume
from medsam2.inference.options import RUNTIMES, InferenceOptions
from medsam2.inference.runtime import Runtime, start_runtime
from medsam2.inference.session import Session
from medsam2.inference.video import VideoSession
from medsam2.model.compact.config import CompactConfig
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.config import ModelConfig
from medsam2.model.network import Network
from medsam2.prompts.types import prompt_from


class Predictor:
    """A network ready for use; made by `load`. It does not change, so sessions may share it.

    Example:
        >>> predictor = medsam2.load("compact")
        >>> predictor
        Predictor('compact', 192 pixels, ...)
        >>> mask = predictor.segment("scan.nii.gz", slice=12, box=(30, 25, 50, 45))
        >>> mask
        Volume(uint8 (24, 64, 80), spacing 0.8 x 0.8 x 2.5 mm, ...)
        >>> medsam2.write(mask, "mask.nii.gz")

        A numpy array, a nibabel or SimpleITK image or a MONAI MetaTensor is taken as well, and the mask comes
        back as the same kind:

        >>> image = nibabel.load("scan.nii.gz")
        >>> mask = predictor.segment(image, slice=12, box=(30, 25, 50, 45)).like(image)
        >>> mask.shape  # as nibabel has it, (x, y, z)
        (80, 64, 24)
    """

    def __init__(self, runtime: Runtime, *, name: str | None = None, source: Path | None = None) -> None:
        """Use a runtime.

        Args:
            runtime: Network, device and precision.
            name: What the caller calls the weights.
            source: The file of weights that the network was made of, for `save_pretrained`.
        """
        self._runtime = runtime
        self._name = name
        self._source = source

    def __repr__(self) -> str:
        """Describe the weights and what computes them."""
        name = "weights without a name" if self._name is None else repr(self._name)
        precision = str(self._runtime.precision).removeprefix("torch.")
        by = "" if self._runtime.name == "torch" else f", by {self._runtime.name}"
        return f"Predictor({name}, {self.config.image_size} pixels, {self._runtime.device}, {precision}{by})"

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
        volume: object,
        *,
        spacing: Sequence[float] | None = None,
        window: str | tuple[float, float] | None = None,
        plane: str | None = None,
        axis: int | None = None,
        options: InferenceOptions | None = None,
    ) -> Session:
        """Open a volume for prompts, corrections and propagation.

        Args:
            volume: The scan: a `Volume`, a path, a numpy array `(z, y, x)`, a nibabel image, a SimpleITK
                image or a MONAI MetaTensor; see `as_volume`.
            spacing: `(x, y, z)` in mm, of a numpy array alone; 1 mm without it.
            window: Name of a CT window, `(lower, upper)` in the scan's units, or None to find one.
            plane: Cut slices in this plane, `axial`, `coronal` or `sagittal`, and show them to the network as
                radiologists see them. Slices, boxes and masks stay those of the file.
            axis: Or along this axis of the file, 0 to 2, as they lie there; the third, 2, without either.
            options: Behaviour; the defaults are right for one box.

        Raises:
            InputError: The volume has nothing to see, or a choice is not there.
        """
        grid = cut_volume(as_volume(volume, spacing=spacing), plane=plane, axis=axis)
        session = Session(self._runtime, grid, window=window, options=options or InferenceOptions())
        if isinstance(volume, np.ndarray) and window is None and session.window.source == "soft-tissue":
            # A file may say what its numbers are; an array says nothing, and its caller should look.
            warnings.warn(
                f"{session.window.note}; if this is a CT, name the window of your organ, window='lung' for "
                "example; if not, give two limits",
                stacklevel=2,
            )
        return session

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
        volume: object,
        *,
        slice: int,  # noqa: A002
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        labels: Sequence[int] | None = None,
        mask: npt.ArrayLike | None = None,
        spacing: Sequence[float] | None = None,
        window: str | tuple[float, float] | None = None,
        plane: str | None = None,
        axis: int | None = None,
        memory: str = "recent",
    ) -> Volume:
        """Segment one object from a prompt on one slice.

        Args:
            volume: The scan, of any kind that `session` takes.
            slice: Index of the slice that the prompt lies in.
            box: `(x_min, y_min, x_max, y_max)` in pixels of the slice, both ends included.
            points: `(x, y)` each.
            labels: 1 for a point inside, 0 for one outside; all inside if not given.
            mask: `(y, x)`, not 0 inside.
            spacing: See `session`, as `window`, `plane` and `axis`.
            window: See `session`.
            plane: See `session`.
            axis: See `session`.
            memory: Name of the memory policy.

        Returns:
            A uint8 mask of 0 and 1 on the volume's grid. `mask.like(volume)` is the mask as the kind of
            object that the scan is.

        Raises:
            InputError: The volume, the prompt or a choice is not usable.
        """
        options = InferenceOptions(memory=memory)
        session = self.session(
            volume, spacing=spacing, window=window, plane=plane, axis=axis, options=options
        )
        session.add(1, prompt_from(slice, box=box, points=points, labels=labels, mask=mask))
        session.finish()
        return session.result()

    def save_pretrained(self, folder: str | os.PathLike[str], *, card: str | None = None) -> None:
        """Write the weights as a folder that the Hugging Face hub takes, and that `load` reads.

        The folder gets `model.safetensors`, `config.json` and the card, `README.md`. Entries keep their
        values to the bit, whatever the precision of this predictor.

        Args:
            folder: Made if it is not there.
            card: The model card as Markdown. Without it, that of the weights themselves, or else a short one.

        Raises:
            CheckpointError: A file cannot be written, or the network was not made of a file of weights.
        """
        network = self._runtime.network if self._source is None else load_network(self._source)
        if type(network) not in (Network, CompactNetwork):
            raise CheckpointError(
                "this network was rearranged or exported and its weights are not at hand; load it by name or "
                "file to save it"
            )
        if card is None and self._source is not None:
            card = card_of(self._source)
        save_folder(network, Path(folder), card_for_hub(card, self._name))


def load(
    weights: str | Path = "compact",
    *,
    device: str = "auto",
    precision: str = "auto",
    runtime: str = "torch",
) -> Predictor:
    """Load weights by name, from the Hugging Face hub, or from a file.

    Args:
        weights: `compact` (shipped), an official name (see `medsam2 weights`), a file, a folder with
            `model.safetensors`, or `hf://OWNER/NAME` on the hub: with `@REVISION` one commit, branch or tag,
            with `/FILE` a file other than `model.safetensors`. With the runtime onnx also a folder that
            `medsam2 export onnx` made.
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

        return Predictor(start_onnx(weights, device=device, precision=precision), name=str(weights))
    source = resolve(weights)
    started = start_runtime(load_network(source), device=device, precision=precision)
    return Predictor(started, name=str(weights), source=source)
