"""One object in one volume, as a session sees it; what both kinds of tracks share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from medsam2.errors import SessionError
from medsam2.imaging.labels import from_run_lengths, run_lengths
from medsam2.inference.batching import Work, work_together
from medsam2.inference.features import SliceFeatures
from medsam2.inference.masks import fill_logit_holes, to_slice
from medsam2.inference.options import InferenceOptions
from medsam2.inference.state import Banks, SliceResult, TrackState
from medsam2.inference.zoom import View
from medsam2.prompts.types import Prompt
from medsam2.tracking.policies import Policy

ARCHIVE_DISTANCE = 32  # slices behind the one at hand; nearer ones are looked at while a user works


class ObjectTrack(Protocol):
    """An object as it is followed through the slices; its methods are called inside `Runtime.computing`.

    `SamTrack` and `CarriedTrack` find the object, each with its network; prompts, results and memories are
    kept here.
    """

    features: SliceFeatures
    options: InferenceOptions
    policy: Policy
    zooms: bool
    prompts: dict[int, Prompt]
    results: dict[int, SliceResult]
    memory_views: dict[int, View]
    """Of the memories; each result has its own."""
    banks: Banks

    def __init__(self, features: SliceFeatures, options: InferenceOptions, *, by_prompt: bool) -> None:
        zoom = features.runtime.network.config.zoom
        self.features = features
        self.options = options
        self.policy = options.policy
        self.zooms = zoom if options.zoom is None else options.zoom
        self.prompts, self.results, self.memory_views = {}, {}, {}
        self.banks = Banks(by_prompt=by_prompt)

    @property
    def keeps_component(self) -> bool:
        """Whether only the part that holds the prompt belongs to the object."""
        ...

    def add(self, prompt: Prompt) -> Work:
        """Take a prompt in and find the object in its slice; done by `work_together`."""
        ...

    def advance(self, z: int, step: int) -> Work:
        """Find the object in a slice from the slices before it in a direction, unless it is known."""
        ...

    def forget_prompt(self, z: int) -> bool:
        """Take the prompt of a slice back; False if all the others must be added anew."""
        ...

    @property
    def stop_after(self) -> int:
        """How many slices without the object end a direction; 0 for none."""
        chosen = self.options.stop_after
        return int(self.keeps_component) if chosen is None else chosen

    def remove(self, z: int) -> None:
        """Take the prompt of a slice back, and what followed from it.

        Raises:
            SessionError: There is none, or it is the only one.
        """
        if z not in self.prompts:
            raise SessionError(f"there is no prompt on slice {z}; prompts are on {sorted(self.prompts)}")
        rest = [prompt for slice_index, prompt in self.prompts.items() if slice_index != z]
        if not rest:
            raise SessionError(f"slice {z} has the object's only prompt; remove the object instead")
        if not self.forget_prompt(z):
            self.restore(type(self)(self.features, self.options).state())  # type: ignore[call-arg]
            for prompt in rest:
                work_together([self.add(prompt)])

    def state(self) -> TrackState:
        """What there is now; costs next to nothing, since values are shared."""
        return TrackState(
            prompts=dict(self.prompts),
            results=dict(self.results),
            memory_views=dict(self.memory_views),
            banks=self.banks.state(),
        )

    def restore(self, state: TrackState) -> None:
        """Come back to a state of this object."""
        self.prompts = dict(state.prompts)
        self.results = dict(state.results)
        self.memory_views = dict(state.memory_views)
        self.banks.restore(state.banks)

    def mask(self, z: int) -> npt.NDArray[np.bool_]:
        """The object `(y, x)` in a slice that was visited."""
        runs = self.results[z].runs
        return self.logits(z) > 0 if runs is None else from_run_lengths(runs, self.features.shape_yx)

    def logits(self, z: int) -> npt.NDArray[np.float32]:
        """Mask logits `(y, x)` of a slice that was visited."""
        result = self.results[z]
        return to_slice(result.frame.low_res_logits, result.view, self.features.shape_yx)

    def keep(self, z: int, result: SliceResult) -> None:
        """Keep what was found in a slice, and count its bytes."""
        self.results[z] = result
        self.features.retained.keep(result)

    def archive(self, z: int) -> None:
        """Round a tracked result that lies far back to half the bytes; its mask stays what it was."""
        result = self.results.get(z)
        if result is None or result.runs is not None or z in self.prompts:
            return
        rounded = result.frame.low_res_logits.half()
        frame = dataclasses.replace(result.frame, low_res_logits=rounded, candidate_logits=rounded)
        self.keep(z, dataclasses.replace(result, frame=frame, runs=run_lengths(self.mask(z))))

    def without_holes(self, result: SliceResult) -> SliceResult:
        """The result without small holes, if the options say so."""
        if not self.options.fill_hole_area:
            return result
        filled = fill_logit_holes(result.frame.low_res_logits, self.options.fill_hole_area)
        return dataclasses.replace(result, frame=dataclasses.replace(result.frame, low_res_logits=filled))

    def forget_stale(self, is_stale: Callable[[int], bool]) -> None:
        """Drop tracked slices that a new prompt has made stale; prompted ones stay."""
        for z in self.banks.forget(lambda z: z not in self.prompts and is_stale(z)):
            del self.results[z]

    def release(self, z: int, step: int) -> None:
        """Forget tracked slices so far behind one that nothing looks back at them: videos keep no masks.

        Prompted slices stay, and those that a policy has picked.
        """
        for bank in self.banks.going(step):
            for other in list(bank.tracked):
                # One before it would be archived, which would be for nothing.
                is_far = (z - other) * step >= ARCHIVE_DISTANCE - 1
                if is_far and other not in self.prompts and other not in bank.pool:
                    bank.forget(other)
                    del self.results[other]
                    self.memory_views.pop(other, None)
