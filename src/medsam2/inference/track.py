"""One object in one volume: its prompts, its view, its memories, its results so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medsam2.inference.features import SliceFeatures
from medsam2.inference.options import InferenceOptions
from medsam2.inference.postprocess import fill_logit_holes, to_slice, to_view
from medsam2.inference.preprocess import resample_mask
from medsam2.inference.zoom import View, grow, touches_border, whole_slice, zoom_on
from medsam2.model.network import ImageFeatures, MemoryTokens
from medsam2.model.prompt_encoder import LABEL_BOX_MAX, LABEL_BOX_MIN
from medsam2.prompts.types import Prompt
from medsam2.tracking.memory import FrameMemory, MemoryBank
from medsam2.tracking.prior import PromptTensors, with_prior
from medsam2.tracking.select import NUM_RECENT, POLICIES
from medsam2.tracking.step import FrameResult, remember, track_frame


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """The object in one slice, with the view it was found in."""

    frame: FrameResult
    view: View

    @property
    def score(self) -> float:
        """Predicted overlap with the truth, 0..1; 0 where the object is absent."""
        return float(self.frame.iou) if float(self.frame.object_logits) > 0 else 0.0


class ObjectTrack:
    """An object as it is followed through the slices; call inside `Runtime.computing`."""

    def __init__(self, features: SliceFeatures, options: InferenceOptions, *, zooms: bool) -> None:
        self.features = features
        self.options = options
        self.zooms = zooms
        self.network = features.runtime.network
        self.view = whole_slice(features.shape_yx)
        self.prompts: dict[int, Prompt] = {}
        self.results: dict[int, SliceResult] = {}
        conditioning: dict[int, FrameMemory] = {}
        # Prompted slices serve both directions; tracked ones only their own, as in the reference,
        # which starts each direction afresh.
        self.banks = {step: MemoryBank(conditioning=conditioning) for step in (1, -1)}

    @property
    def conditioning(self) -> dict[int, FrameMemory]:
        """Slices that were prompted before they were tracked."""
        return self.banks[1].conditioning

    @property
    def start(self) -> int:
        """The slice that both directions start from."""
        return min(self.conditioning)

    @property
    def keeps_component(self) -> bool:
        """Whether only the part that holds the prompt belongs to the object."""
        if self.options.keep_component is not None:
            return self.options.keep_component
        prompts = list(self.prompts.values())
        return len(prompts) == 1 and prompts[0].box is not None and not prompts[0].points

    def add(self, prompt: Prompt) -> None:
        """Take a prompt in and find the object in its slice."""
        z = prompt.slice_index
        step = next((s for s, bank in self.banks.items() if z in bank.tracked), None)
        if step is None and not self.conditioning and self.zooms:
            self.view = zoom_on(prompt, self.features.shape_yx)
        tensors, previous = self._tensors(prompt), self._previous_logits(z)
        features = self._see(z, prompt=tensors, previous_logits=previous)
        frame = track_frame(
            self.network,
            features,
            prompt=tensors,
            memory=None if step is None else self._memory(z, step),
            previous_logits=previous,
            stability_fallback=self.options.stability_fallback,
        )
        result = self._filled(SliceResult(frame=frame, view=self.view))
        self.prompts[z] = prompt
        self.results[z] = result
        entry = self._remember(z, features, result)
        if step is None:
            self.conditioning[z] = entry
            self._forget(lambda _z: True)
        else:
            # SAM 2: a slice that was tracked stays a tracked one when it is corrected.
            self.banks[step].tracked[z] = entry
            self._forget(lambda other: (other - z) * step > 0)

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
        self.banks[step].tracked[z] = self._remember(z, features, result)
        self.results[z] = self._filled(result)
        return self.results[z]

    def logits(self, z: int) -> npt.NDArray[np.float32]:
        """Mask logits `(y, x)` of a slice that was visited."""
        result = self.results[z]
        return to_slice(result.frame.low_res_logits, result.view, self.features.shape_yx)

    def _track(self, z: int, step: int) -> tuple[ImageFeatures, SliceResult]:
        carried = self._previous_logits(z - step) if self.network.config.carries_mask else None
        features = self._see(z, before=z - step, previous_logits=carried)
        frame = track_frame(
            self.network,
            features,
            memory=self._memory(z, step),
            previous_logits=carried,
            stability_fallback=self.options.stability_fallback,
        )
        return features, SliceResult(frame=frame, view=self.view)

    def _see(
        self,
        z: int,
        *,
        before: int | None = None,
        prompt: PromptTensors | None = None,
        previous_logits: Tensor | None = None,
    ) -> ImageFeatures:
        """Encode a slice in today's view, with its prior where the network carries masks."""
        if not self.network.config.carries_mask:
            return self.features.encode(self.view, z)
        pixels = self.features.pixels(self.view, z)
        reference = None if before is None else self.features.pixels(self.view, before)
        return self.network.encode_image(
            with_prior(pixels, before=reference, prompt=prompt, previous_logits=previous_logits)
        )

    def _filled(self, result: SliceResult) -> SliceResult:
        """The result without small holes, if that is asked for."""
        if not self.options.fill_hole_area:
            return result
        filled = fill_logit_holes(result.frame.low_res_logits, self.options.fill_hole_area)
        return dataclasses.replace(result, frame=dataclasses.replace(result.frame, low_res_logits=filled))

    def _memory(self, z: int, step: int) -> MemoryTokens:
        bank = self.banks[step]
        near = [z - step * distance for distance in range(1, NUM_RECENT + 1)]
        for slots, indices in ((bank.conditioning, list(bank.conditioning)), (bank.tracked, near)):
            for index in indices:
                if index in slots and self.results[index].view != self.view:
                    slots[index] = self._reencoded(index, slots[index])
        policy = POLICIES[self.options.memory]
        return policy(bank, z, step=step, num_slices=self.features.num_slices)

    def _reencoded(self, z: int, memory: FrameMemory) -> FrameMemory:
        """A memory made anew in a view that has grown since; its pointer holds in any view."""
        logits = self._logits_in_view(z)
        frame = dataclasses.replace(self.results[z].frame, low_res_logits=logits)
        self.results[z] = SliceResult(frame=frame, view=self.view)
        features = self._see(z, previous_logits=logits)
        return dataclasses.replace(self._remember(z, features, self.results[z]), pointer=memory.pointer)

    def _remember(self, z: int, features: ImageFeatures, result: SliceResult) -> FrameMemory:
        return remember(
            self.network,
            features,
            result.frame,
            slice_index=z,
            binarise=z in self.prompts,
        )

    def _previous_logits(self, z: int) -> Tensor | None:
        """The mask found in a slice, in the view of today."""
        return self._logits_in_view(z) if z in self.results else None

    def _logits_in_view(self, z: int) -> Tensor:
        result = self.results[z]
        if result.view == self.view:
            return result.frame.low_res_logits
        logits = to_view(self.logits(z), self.view, self.network.config.mask_size)
        return logits.to(self.features.runtime.device)

    def _tensors(self, prompt: Prompt) -> PromptTensors:
        """A prompt in pixels of the network's input."""
        size, device = self.network.config.image_size, self.features.runtime.device
        if prompt.mask is not None:
            mask = resample_mask(prompt.mask.array, self.view, size)
            return PromptTensors(mask=mask[None, None].to(device))
        corners = np.empty((0, 2))
        labels = []
        if prompt.box is not None:
            corners = self.view.box_to_network(prompt.box, size)
            labels = [LABEL_BOX_MIN, LABEL_BOX_MAX]
        clicks = np.array([(point.x, point.y) for point in prompt.points], dtype=np.float64).reshape(-1, 2)
        points = np.concatenate((corners, self.view.points_to_network(clicks, size)))
        labels += [int(point.is_positive) for point in prompt.points]
        return PromptTensors(
            points=torch.tensor(points, dtype=torch.float32, device=device)[None],
            labels=torch.tensor([labels], device=device),
        )

    def _outgrows(self, result: SliceResult) -> bool:
        """Whether the object reaches the edge of a view that can still grow."""
        if not self.view.is_zoomed or grow(self.view, self.features.shape_yx) == self.view:
            return False
        mask = to_slice(result.frame.low_res_logits, result.view, self.features.shape_yx) > 0
        return touches_border(mask, self.view, self.features.shape_yx)

    def _forget(self, is_stale: Callable[[int], bool]) -> None:
        """Drop tracked slices that a new prompt has made stale; prompted ones stay."""
        for bank in self.banks.values():
            for z in [z for z in bank.tracked if z not in self.prompts and is_stale(z)]:
                del bank.tracked[z], self.results[z]
