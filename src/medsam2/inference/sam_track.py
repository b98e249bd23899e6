"""One object as the official network follows it, by the recurrence of SAM 2."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from medsam2.inference.batching import FrameRequest, FrameWork
from medsam2.inference.features import SliceFeatures, prompt_tensors
from medsam2.inference.masks import to_slice, to_view
from medsam2.inference.options import InferenceOptions
from medsam2.inference.state import SliceResult, TrackState
from medsam2.inference.track import ARCHIVE_DISTANCE, ObjectTrack
from medsam2.inference.zoom import grow, grow_to, touches_border, whole_slice, zoom_on
from medsam2.model.network import ImageFeatures, MemoryTokens, Network
from medsam2.prompts.types import Prompt
from medsam2.tracking.memory import FrameMemory
from medsam2.tracking.policies import Place, describe, gather
from medsam2.tracking.step import PromptTensors, remember


class SamTrack(ObjectTrack):
    """An object whose memories all lie in one view, which grows with it."""

    def __init__(self, features: SliceFeatures, options: InferenceOptions) -> None:
        super().__init__(features, options, by_prompt=False)
        network = features.runtime.network
        assert isinstance(network, Network)
        self.network = network
        self.view = whole_slice(features.shape_yx)

    @property
    def keeps_component(self) -> bool:
        """Whether only the part that holds the prompt belongs to the object."""
        if self.options.keep_component is not None:
            return self.options.keep_component
        prompts = list(self.prompts.values())
        return len(prompts) == 1 and prompts[0].box is not None and not prompts[0].points

    def add(self, prompt: Prompt) -> FrameWork[None]:
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
        found = yield from self._find(z, features, memory, self._previous_logits(z), tensors)
        result = self.without_holes(found)
        self.prompts[z] = prompt
        self.features.retained.keep(prompt)
        self.keep(z, result)
        entry = self._remember_later(z, features, result)
        if step is None:
            self.banks.begin(z, entry)
            self.forget_stale(lambda _z: True)
        else:
            # SAM 2: a slice that was tracked stays a tracked one when it is corrected.
            # Beyond it first, so that it is again the last one that was reached.
            self.forget_stale(lambda other: (other - z) * step > 0)
            self.banks.of(z, step).forget(z)
            self._keep(z, step, entry)

    def advance(self, z: int, step: int) -> FrameWork[None]:
        """Find the object in a slice from the slices before it in a direction, unless it is known."""
        if z in self.results:
            return
        features, result = yield from self._track(z, step)
        while self._outgrows(result):
            self.view = grow(self.view, self.features.shape_yx)
            features, result = yield from self._track(z, step)
        # The reference remembers a tracked mask with its holes and a prompted one without.
        self._keep(z, step, self._remember(z, features, result))
        self.keep(z, _slim(self.without_holes(result)))
        self.archive(z - ARCHIVE_DISTANCE * step)

    def forget_prompt(self, z: int) -> bool:
        """Take the prompt of a tracked slice back, and what lies beyond it."""
        step = self.banks.step_of(z)
        if step is None:
            return False
        del self.prompts[z]
        self.forget_stale(lambda other: (other - z) * step >= 0)
        return True

    def state(self) -> TrackState:
        """What there is now."""
        return dataclasses.replace(super().state(), view=self.view)

    def restore(self, state: TrackState) -> None:
        """Come back to a state of this object."""
        assert state.view is not None
        self.view = state.view
        super().restore(state)

    def _track(self, z: int, step: int) -> FrameWork[tuple[ImageFeatures, SliceResult]]:
        features = self.features.encode(self.view, z)
        memory = self._memory(z, step, features)
        result = yield from self._find(z, features, memory, None, PromptTensors())
        return features, result

    def _find(
        self,
        z: int,
        features: ImageFeatures,
        memory: MemoryTokens | None,
        previous_logits: Tensor | None,
        prompt: PromptTensors,
    ) -> FrameWork[SliceResult]:
        """Find the object in a slice as it is seen in today's view."""
        view = self.view
        frame = yield FrameRequest(
            network=self.network,
            features=features,
            slice_index=z,
            view=view,
            memory=memory,
            previous_logits=previous_logits,
            prompt=prompt,
            stability_fallback=self.options.stability_fallback,
        )
        return SliceResult(frame=frame, view=view)

    def _memory(self, z: int, step: int, features: ImageFeatures) -> MemoryTokens:
        """What a slice looks back at, made anew where it was released or its view is not today's."""
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
        """Make a memory anew if it was released or its view has grown; its pointer holds in any view."""
        if slots[z].spatial is not None and self.memory_views[z] == self.view:
            return
        frame = dataclasses.replace(self.results[z].frame, low_res_logits=self._logits_in_view(z))
        features = self.features.encode(self.view, z)
        slots[z] = self._remember(z, features, SliceResult(frame=frame, view=self.view))

    def _keep(self, z: int, step: int, entry: FrameMemory) -> None:
        """Add a tracked slice to its bank, which frees what no later slice looks back at."""
        bank = self.banks.of(z, step)
        bank.tracked[z] = entry
        bank.release_others(self.policy.admit(bank, z))

    def _remember(self, z: int, features: ImageFeatures, result: SliceResult) -> FrameMemory:
        is_prompted = z in self.prompts
        self.memory_views[z] = result.view
        memory = remember(self.network, features, result.frame, slice_index=z, binarise=is_prompted)
        if self.policy.compares:
            memory = dataclasses.replace(memory, traits=describe(memory, features.level2, result.frame))
        self.features.retained.keep(memory)
        return memory

    def _remember_later(self, z: int, features: ImageFeatures, result: SliceResult) -> FrameMemory:
        """Leave the memory of a prompted slice to the first slice that looks back at it: users click on."""
        if self.policy.compares:  # traits are made of the memory
            return self._remember(z, features, result)
        self.memory_views[z] = result.view
        memory = FrameMemory(slice_index=z, spatial=None, pointer=result.frame.pointer)
        self.features.retained.keep(memory)
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


def _slim(result: SliceResult) -> SliceResult:
    """A tracked result without the candidates, which are for users of a prompted slice to choose from."""
    frame = result.frame
    return dataclasses.replace(
        result,
        frame=dataclasses.replace(frame, candidate_logits=frame.low_res_logits, candidate_iou=frame.iou),
    )
