"""One object in one volume, as a session sees it, whichever network follows it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from medsam2.inference.carried_track import CarriedTrack
from medsam2.inference.features import SliceFeatures
from medsam2.inference.runtime import InferenceOptions
from medsam2.inference.sam_track import SamTrack
from medsam2.inference.state import Banks, SliceResult, TrackState
from medsam2.model.compact.network import CompactNetwork
from medsam2.prompts.types import Prompt


class ObjectTrack(Protocol):
    """An object as it is followed through the slices; its methods are called inside `Runtime.computing`."""

    features: SliceFeatures
    prompts: dict[int, Prompt]
    results: dict[int, SliceResult]
    banks: Banks

    @property
    def keeps_component(self) -> bool:
        """Whether only the part that holds the prompt belongs to the object."""
        ...

    @property
    def stop_after(self) -> int:
        """How many slices without the object end a direction; 0 for none."""
        ...

    def add(self, prompt: Prompt) -> None:
        """Take a prompt in and find the object in its slice."""
        ...

    def advance(self, z: int, step: int) -> SliceResult:
        """Find the object in a slice from the slices before it in a direction, unless it is known."""
        ...

    def release(self, z: int, step: int) -> None:
        """Forget tracked slices that lie so far behind one that nothing looks back at them."""
        ...

    def remove(self, z: int) -> None:
        """Take the prompt of a slice back, and what followed from it."""
        ...

    def state(self) -> TrackState:
        """What there is now; costs next to nothing, since values are shared."""
        ...

    def restore(self, state: TrackState) -> None:
        """Come back to a state of this object."""
        ...

    def mask(self, z: int) -> npt.NDArray[np.bool_]:
        """The object `(y, x)` in a slice that was visited."""
        ...

    def logits(self, z: int) -> npt.NDArray[np.float32]:
        """Mask logits `(y, x)` of a slice that was visited."""
        ...


def start_track(features: SliceFeatures, options: InferenceOptions) -> ObjectTrack:
    """Begin to follow an object with the network at hand."""
    if isinstance(features.runtime.network, CompactNetwork):
        return CarriedTrack(features, options)
    return SamTrack(features, options)
