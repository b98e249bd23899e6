"""One object as the official network follows it, by the recurrence of SAM 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medsam2.errors import SessionError
from medsam2.imaging.labels import from_run_lengths, run_lengths
from medsam2.inference.banks import Banks
from medsam2.inference.features import SliceFeatures
from medsam2.inference.options import InferenceOptions
from medsam2.inference.postprocess import fill_logit_holes, to_slice, to_view
from medsam2.inference.state import SliceResult, TrackState
from medsam2.inference.tensors import prompt_tensors
from medsam2.inference.zoom import View, grow, grow_to, touches_border, whole_slice, zoom_on
from medsam2.model.network import ImageFeatures, MemoryTokens, Network
from medsam2.prompts.types import Prompt
from medsam2.tracking.memory import FrameMemory
from medsam2.tracking.select import Place, gather
from medsam2.tracking.step import PromptTensors, remember, track_frame
from medsam2.tracking.traits import describe

ARCHIVE_DISTANCE = 32  # slices behind the one at hand; nearer ones are looked at while a user works


class SamTrack:
    """An object as it is followed through the slices; call inside `Runtime.computing`."""

    def __init__(self, features: SliceFeatures, options: InferenceOptions, *, zooms: bool) -> None:
        self.features = features
        self.options = options
        self.zooms = zooms
        network = features.runtime.network
        assert isinstance(network, Network)
        self.network = network
        self.policy = options.policy
        self.view = whole_slice(features.shape_yx)
        self.prompts: dict[int, Prompt] = {}
        self.results: dict[int, SliceResult] = {}
        self.memory_views: dict[int, View] = {}  # a result keeps its view, a memory follows today's
        self.banks = Banks(by_prompt=False)

    @property
    def keeps_component(self) -> bool:
        """Whether only the part that holds the prompt belongs to the object."""
        if self.options.keep_component is not None:
            return self.options.keep_component
        prompts = list(self.prompts.values())
        return len(prompts) == 1 and prompts[0].box is not None and not prompts[0].points

    @property
    def stop_after(self) -> int:
        """How many slices without the object end a direction; 0 for none."""
        chosen = self.options.stop_after
        return int(self.keeps_component) if chosen is None else chosen

    def add(self, prompt: Prompt) -> None:
        """Take a prompt in and find the object in its slice."""
        z = prompt.slice_index
        step = self.banks.step_of(z)
        if self.zooms:
            shape_yx = self.features.shape_yx
            self.view = grow_to(self.view, prompt, shape_yx) if self.prompts else zoom_on(prompt, shape_yx)
        features = self.features.encode(self.view, z)
        memory = None if step is None else self._memory(z, step, features)
        tensors = prompt_tensors(
            prompt, self.view, self.network.config.image_size, self.features.runtime.device
        )
        result = self._filled(self._find(features, memory, self._previous_logits(z), tensors))
        self.prompts[z] = prompt
        self.features.held.keep(prompt)
        self._file(z, result)
        entry = self._remember_later(z, features, result)
        if step is None:
            self.banks.begin(z, entry)
            self._forget(lambda _z: True)
        else:
            # SAM 2: a slice that was tracked stays a tracked one when it is corrected.
            # Beyond it first, so that it is again the last one that was reached.
            self._forget(lambda other: (other - z) * step > 0)
            self.banks.of(z, step).forget(z)
            self._keep(z, step, entry)

    def advance(self, z: int, step: int) -> SliceResult:
        """Find the object in a slice from the slices before it in a direction, unless it is known."""
        known = self.results.get(z)
        if known is not None:
            return known
        features, result = self._track(z, step)
        while self._outgrows(result):
            self.view = grow(self.view, self.features.shape_yx)
            features, result = self._track(z, step)
        # The reference remembers a tracked mask with its holes and a prompted one without.
        self._keep(z, step, self._remember(z, features, result))
        self._file(z, _slim(self._filled(result)))
        self._archive(z - ARCHIVE_DISTANCE * step)
        return self.results[z]

    def release(self, z: int, step: int) -> None:
        """Forget tracked slices that lie so far behind one that nothing looks back at them.

        For videos, whose masks are handed out as they are found. Prompted slices stay, and those that a
        policy has picked.
        """
        for bank in self.banks.going(step):
            for other in list(bank.tracked):
                # One before it would be archived, which would be for nothing.
                is_far = (z - other) * step >= ARCHIVE_DISTANCE - 1
                if is_far and other not in self.prompts and other not in bank.pool:
                    bank.forget(other)
                    del self.results[other]
                    self.memory_views.pop(other, None)

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
        step = self.banks.step_of(z)
        if step is not None:
            del self.prompts[z]
            self._forget(lambda other: (other - z) * step >= 0)
        else:
            self.restore(SamTrack(self.features, self.options, zooms=self.zooms).state())
            for prompt in rest:
                self.add(prompt)

    def state(self) -> TrackState:
        """What there is now; costs next to nothing, since values are shared."""
        return TrackState(
            view=self.view,
            prompts=dict(self.prompts),
            results=dict(self.results),
            memory_views=dict(self.memory_views),
            banks=self.banks.state(),
        )

    def restore(self, state: TrackState) -> None:
        """Come back to a state of this object."""
        assert state.view is not None
        self.view = state.view
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

    def _track(self, z: int, step: int) -> tuple[ImageFeatures, SliceResult]:
        features = self.features.encode(self.view, z)
        return features, self._find(features, self._memory(z, step, features), None)

    def _find(
        self,
        features: ImageFeatures,
        memory: MemoryTokens | None,
        previous_logits: Tensor | None,
        prompt: PromptTensors | None = None,
    ) -> SliceResult:
        """Find the object in a slice as it was seen."""
        frame = track_frame(
            self.network,
            features,
            prompt=prompt,
            memory=memory,
            previous_logits=previous_logits,
            stability_fallback=self.options.stability_fallback,
        )
        return SliceResult(frame=frame, view=self.view)

    def _filled(self, result: SliceResult) -> SliceResult:
        """The result without small holes, if that is asked for."""
        if not self.options.fill_hole_area:
            return result
        filled = fill_logit_holes(result.frame.low_res_logits, self.options.fill_hole_area)
        return dataclasses.replace(result, frame=dataclasses.replace(result.frame, low_res_logits=filled))

    def _memory(self, z: int, step: int, features: ImageFeatures) -> MemoryTokens:
        """What a slice looks back at, made anew where it was let go or its view is not today's."""
        bank = self.banks.of(z, step)
        for index in list(bank.conditioning):
            self._refresh(bank.conditioning, index)
        if z - step in bank.tracked:  # the slice at hand is compared where the object was in this one
            self._refresh(bank.tracked, z - step)
        num_slices = self.features.num_slices
        place = Place(slice_index=z, step=step, num_slices=num_slices, features=features.level2)
        selection = self.policy.choose(bank, place)
        for index, _ in selection.spatial:
            self._refresh(bank.tracked if index in bank.tracked else bank.conditioning, index)
        return gather(bank, selection)

    def _refresh(self, slots: dict[int, FrameMemory], z: int) -> None:
        """Make a memory anew if it was let go or its view has grown since; its pointer holds in any view."""
        if slots[z].spatial is not None and self.memory_views[z] == self.view:
            return
        frame = dataclasses.replace(self.results[z].frame, low_res_logits=self._logits_in_view(z))
        features = self.features.encode(self.view, z)
        slots[z] = self._remember(z, features, SliceResult(frame=frame, view=self.view))

    def _archive(self, z: int) -> None:
        """Round a tracked result that lies far back to half the bytes; its mask stays what it was."""
        result = self.results.get(z)
        if result is None or result.runs is not None or z in self.prompts:
            return
        rounded = result.frame.low_res_logits.half()
        frame = dataclasses.replace(result.frame, low_res_logits=rounded, candidate_logits=rounded)
        self._file(z, dataclasses.replace(result, frame=frame, runs=run_lengths(self.mask(z))))

    def _file(self, z: int, result: SliceResult) -> None:
        self.results[z] = result
        self.features.held.keep(result)

    def _keep(self, z: int, step: int, entry: FrameMemory) -> None:
        """Add a tracked slice to its bank, which frees what no later slice looks back at."""
        bank = self.banks.of(z, step)
        bank.tracked[z] = entry
        bank.let_go(self.policy.admit(bank, z))

    def _remember(self, z: int, features: ImageFeatures, result: SliceResult) -> FrameMemory:
        is_prompted = z in self.prompts
        self.memory_views[z] = result.view
        memory = remember(self.network, features, result.frame, slice_index=z, binarise=is_prompted)
        if self.policy.compares:
            memory = dataclasses.replace(memory, traits=describe(memory, features.level2, result.frame))
        self.features.held.keep(memory)
        return memory

    def _remember_later(self, z: int, features: ImageFeatures, result: SliceResult) -> FrameMemory:
        """Leave the memory of a prompted slice to the first slice that looks back at it: users click on."""
        if self.policy.compares:  # traits are made of the memory
            return self._remember(z, features, result)
        self.memory_views[z] = result.view
        memory = FrameMemory(slice_index=z, spatial=None, pointer=result.frame.pointer)
        self.features.held.keep(memory)
        return memory

    def _previous_logits(self, z: int) -> Tensor | None:
        """The mask found in a slice, in the view of today."""
        return self._logits_in_view(z) if z in self.results else None

    def _logits_in_view(self, z: int) -> Tensor:
        result = self.results[z]
        if result.view == self.view:
            return result.frame.low_res_logits.float()
        logits = to_view(self.logits(z), self.view, self.network.config.mask_size)
        return logits.to(self.features.runtime.device)

    def _outgrows(self, result: SliceResult) -> bool:
        """Whether the object reaches the edge of a view that can still grow."""
        if not self.view.is_zoomed or grow(self.view, self.features.shape_yx) == self.view:
            return False
        mask = to_slice(result.frame.low_res_logits, result.view, self.features.shape_yx) > 0
        return touches_border(mask, self.view, self.features.shape_yx)

    def _forget(self, is_stale: Callable[[int], bool]) -> None:
        """Drop tracked slices that a new prompt has made stale; prompted ones stay."""
        for z in self.banks.forget(lambda z: z not in self.prompts and is_stale(z)):
            del self.results[z]


def _slim(result: SliceResult) -> SliceResult:
    """A tracked result without the candidates, which are for users of a prompted slice to choose from."""
    frame = result.frame
    return dataclasses.replace(
        result,
        frame=dataclasses.replace(frame, candidate_logits=frame.low_res_logits, candidate_iou=frame.iou),
    )
