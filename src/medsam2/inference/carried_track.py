"""One object as the compact network follows it: each slice is found from the mask of the slice before it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from medsam2.imaging.labels import run_lengths
from medsam2.inference.batching import SightRequest, SightWork
from medsam2.inference.features import SliceFeatures, prompt_tensors
from medsam2.inference.masks import to_slice, to_view
from medsam2.inference.options import InferenceOptions
from medsam2.inference.state import SliceResult
from medsam2.inference.track import ARCHIVE_DISTANCE, ObjectTrack
from medsam2.inference.zoom import (
    View,
    follow,
    grow,
    grow_to,
    touches_border,
    view_of_mask,
    view_of_prompt,
    views_of_clicks,
)
from medsam2.model.compact.memory import CompactMemories
from medsam2.model.compact.network import CompactNetwork
from medsam2.prompts.types import Point, Prompt
from medsam2.tracking.carried import Answer, Recall, as_drawn, recall
from medsam2.tracking.memory import FrameMemory
from medsam2.tracking.planes import Known, PromptPlanes, Sight, draw_prompt
from medsam2.tracking.policies import Place, describe

MOST_GROWTHS = 3  # of the view, for one slice


class CarriedTrack(ObjectTrack):
    """An object each of whose slices has a view of its own."""

    def __init__(self, features: SliceFeatures, options: InferenceOptions) -> None:
        super().__init__(features, options, by_prompt=True)
        network = features.runtime.network
        assert isinstance(network, CompactNetwork)
        self.network = network

    @property
    def keeps_component(self) -> bool:
        """Whether only the part that holds the prompt belongs to the object."""
        return self.options.keep_component is not False

    def add(self, prompt: Prompt) -> SightWork[None]:
        """Take a prompt in and find the object in its slice."""
        z = prompt.slice_index
        answer, view = yield from self._answer(prompt)
        self.prompts[z] = prompt
        self.features.retained.keep(prompt)
        result = self.without_holes(SliceResult(frame=answer.frame, view=view))
        if prompt.mask is not None:  # as it was drawn, not as the view resolves it
            result = dataclasses.replace(result, runs=run_lengths(prompt.mask.array))
        self.keep(z, result)
        self.banks.forget(lambda other: other == z)
        self.banks.begin(z, self._remember(z, answer, view))
        self.forget_stale(lambda other: self.banks.origin(other) == z)

    def advance(self, z: int, step: int) -> SightWork[None]:
        """Find the object in a slice from the slice before it in a direction, unless it is known."""
        if z in self.results:
            return
        view = self._view_after(z - step)
        answer = yield from self._carry(z, step, view)
        for _ in range(MOST_GROWTHS):
            wider = grow(view, self.features.shape_yx)
            if wider == view or not view.is_zoomed or not self._reaches_edge(answer, view):
                break
            view = wider
            answer = yield from self._carry(z, step, view)
        memory = self._remember(z, answer, view)
        bank = self.banks.of(z, step)
        bank.tracked[z] = memory
        self.policy.admit(bank, z)  # memories are small: none is freed
        self.keep(z, self.without_holes(SliceResult(frame=answer.frame, view=view)))
        self.archive(z - ARCHIVE_DISTANCE * step)

    def forget_prompt(self, z: int) -> bool:
        """Take a prompt back, and what was found from it; the first one is what the others rest on."""
        if z == next(iter(self.prompts)):
            return False
        self.forget_stale(lambda other: self.banks.origin(other) == z)
        self.banks.end(z)
        del self.prompts[z], self.results[z], self.memory_views[z]
        return True

    def _answer(self, prompt: Prompt) -> SightWork[tuple[Answer, View]]:
        """Find the object in a slice that was prompted."""
        z = prompt.slice_index
        clicks = self._latest_clicks(prompt)
        if clicks and z not in self.results and self.prompts:
            yield from self._guess(z)
        if clicks and z in self.results:
            return (yield from self._correct(prompt, clicks))
        if prompt.box is None and prompt.mask is None and self.zooms:
            return (yield from self._answer_clicks(prompt))
        view = view_of_prompt(prompt, self.features.shape_yx, zooms=self.zooms)
        if prompt.mask is not None:
            return (yield from self._take_drawn(prompt, view))
        # Only here: a shift of every slice would add up on the way and let the mask grow.
        return (yield self._request(self._sight(prompt, view))).at_best_dice(), view

    def _answer_clicks(self, prompt: Prompt) -> SightWork[tuple[Answer, View]]:
        """Find an object at clicks, which do not tell how large it is: look from near to far, then closer."""
        looks: list[tuple[Answer, View]] = []
        for view in views_of_clicks(prompt, self.features.shape_yx):
            looks.append(((yield self._request(self._sight(prompt, view))), view))
        best, view = max(looks, key=lambda look: _sureness(look[0]))
        found = to_slice(best.frame.low_res_logits, view, self.features.shape_yx)
        closer = view_of_mask(found > 0, view, self.features.shape_yx)
        if closer == view:
            return best.at_best_dice(), view
        closely = to_view(found, closer, self.network.config.image_size)
        prior = closely.to(self.features.runtime.device).sigmoid()[0]
        answer = yield self._request(self._sight(prompt, closer, prior=prior))
        return answer.at_best_dice(), closer

    def _request(self, sight: Sight, recall: Recall | CompactMemories | None = None) -> SightRequest:
        return SightRequest(network=self.network, sight=sight, recall=recall)

    def _sight(self, prompt: Prompt, view: View, *, prior: Tensor | None = None) -> Sight:
        """What is shown of a prompted slice by itself."""
        z = prompt.slice_index
        return Sight(
            grey=self.features.greys(view, z),
            before=self.features.greys(view, z - 1),
            beyond=self.features.greys(view, z + 1),
            prompt=self._drawn(prompt, view),
            prior=prior,
        )

    def _drawn(self, prompt: Prompt, view: View) -> PromptPlanes:
        size, device = self.network.config.image_size, self.features.runtime.device
        return draw_prompt(prompt_tensors(prompt, view, size, device), 1, size)

    def _take_drawn(self, prompt: Prompt, view: View) -> SightWork[tuple[Answer, View]]:
        """A drawn mask is taken as it is; the network only makes a memory of it."""
        tensors = prompt_tensors(prompt, view, self.network.config.image_size, self.features.runtime.device)
        assert tensors.mask is not None
        sight = self._sight(prompt, view, prior=tensors.mask[:, 0])
        answer = yield self._request(sight)
        return as_drawn(answer, tensors.mask), view

    def _correct(self, prompt: Prompt, clicks: tuple[Point, ...]) -> SightWork[tuple[Answer, View]]:
        """Change the part of a mask that clicks point at."""
        z = prompt.slice_index
        view = grow_to(self.results[z].view, prompt, self.features.shape_yx)
        previous = self._logits_in_view(z, view)
        sight = self._sight(prompt, view, prior=previous.sigmoid()[:, 0])
        memories = None
        if z not in self.prompts:
            origin = self.banks.origin(z)
            step = 1 if z > origin else -1
            sight = dataclasses.replace(
                sight, key=self._known(origin, view), carried=self._known_before(z, step, view),
                before=self.features.greys(view, z - step), beyond=self.features.greys(view, z + step),
            )  # fmt: skip
            memories = self._recall(z, step, view, None)
        answer = yield self._request(sight, memories)
        places = view.points_to_mask(np.array([(p.x, p.y) for p in clicks]), self.network.config.mask_size)
        cells = [(x, y, p.is_positive) for (x, y), p in zip(places.tolist(), clicks, strict=True)]
        merged = merge_clicks(previous, answer.frame.low_res_logits, cells, stride=1)
        return answer.with_logits(merged), view

    def _guess(self, z: int) -> SightWork[None]:
        """Find the object in a slice that it was not followed to, from the nearest one that shows it."""
        known = [other for other in self.results if self.mask(other).any()]
        if not known:
            return
        nearest = min(known, key=lambda other: abs(other - z))
        view = self._view_after(nearest)
        step = 1 if z > nearest else -1
        sight = Sight(
            grey=self.features.greys(view, z),
            before=self.features.greys(view, nearest),
            beyond=self.features.greys(view, z + step),
            prior=self._known(nearest, view).inside,
            carried=self._known(nearest, view),
            key=self._known(self.banks.origin(nearest), view),
        )
        answer = yield self._request(sight)
        self.keep(z, SliceResult(frame=answer.frame, view=view))

    def _carry(self, z: int, step: int, view: View) -> SightWork[Answer]:
        """Find the object in a slice from the one before it."""
        before = self._known(z - step, view)
        sight = Sight(
            grey=self.features.greys(view, z),
            before=before.grey,
            beyond=self.features.greys(view, z + step),
            prior=before.inside,
            carried=before,
            key=self._known(self.banks.origin(z), view),
        )
        answer = yield self._request(sight, lambda level2: self._recall(z, step, view, level2))
        if self.keeps_component:
            return answer.with_logits(keep_reaching(answer.frame.low_res_logits, before.inside > 0.5))
        return answer

    def _known(self, z: int, view: View) -> Known:
        logits = self._logits_in_view(z, view)
        return Known(grey=self.features.greys(view, z), inside=logits.sigmoid()[:, 0])

    def _known_before(self, z: int, step: int, view: View) -> Known | None:
        return self._known(z - step, view) if z - step in self.results else None

    def _recall(self, z: int, step: int, view: View, level2: Tensor | None) -> CompactMemories:
        bank = self.banks.of(z, step)
        place = Place(slice_index=z, step=step, num_slices=self.features.num_slices, features=level2)
        return recall(bank, self.policy.choose(bank, place), z, lambda other: self._square(other, view))

    def _square(self, z: int, view: View) -> tuple[float, float, float]:
        """Where the memory of a slice lies in a view, in the view's sides."""
        other = self.memory_views[z]
        return ((other.x - view.x) / view.width, (other.y - view.y) / view.height, other.width / view.width)

    def _remember(self, z: int, answer: Answer, view: View) -> FrameMemory:
        self.memory_views[z] = view
        memory = answer.remembered(self.network, z)
        if self.policy.compares:
            memory = dataclasses.replace(memory, traits=describe(memory, answer.level2, answer.frame))
        self.features.retained.keep(memory)
        return memory

    def _view_after(self, z: int) -> View:
        """The view of the slice that comes after one: it follows the object."""
        result = self.results[z]
        if not self.zooms:
            return result.view
        return follow(result.view, self.mask(z), self.features.shape_yx)

    def _reaches_edge(self, answer: Answer, view: View) -> bool:
        mask = to_slice(answer.frame.low_res_logits, view, self.features.shape_yx) > 0
        return touches_border(mask, view, self.features.shape_yx)

    def _latest_clicks(self, prompt: Prompt) -> tuple[Point, ...]:
        """Clicks that were added to the prompt of a slice; none if the prompt begins anew."""
        earlier = self.prompts.get(prompt.slice_index)
        if prompt.mask is not None or prompt.box != (None if earlier is None else earlier.box):
            return ()
        return prompt.points[0 if earlier is None else len(earlier.points) :]

    def _logits_in_view(self, z: int, view: View) -> Tensor:
        result = self.results[z]
        if result.view == view:
            return result.frame.low_res_logits.float()
        return to_view(self.logits(z), view, self.network.config.image_size).to(self.features.runtime.device)


def _sureness(answer: Answer) -> float:
    """Predicted overlap with the truth, 0 for an empty mask."""
    return float(answer.frame.iou) if bool((answer.frame.low_res_logits > 0).any()) else 0.0


OUT_OF_REACH_LOGIT = -10.0
CLICKED_LOGIT = 1.0  # of a clicked cell that the network would not give its user
_EIGHT = np.ones((3, 3), dtype=bool)


def merge_clicks(
    before: Tensor, after: Tensor, clicks: Sequence[tuple[float, float, bool]], *, stride: int
) -> Tensor:
    """Take over what changed around each click, and keep the mask as it was elsewhere.

    The progressive merge of FocalClick (Chen et al. 2022): a network that looks at the whole slice again may
    spoil what the user was content with. Of a click inside, the part of what was added that reaches it is
    taken; of one outside, the part of what was removed. The cells that the clicked pixel of the slice is
    interpolated from are the user's in any case.

    Args:
        before: Mask logits `(1, 1, H, W)` that were corrected.
        after: Those that the network answered.
        clicks: `(x, y, is_positive)` in pixels of the network's input, centres on centres, in the order of
            clicking.
        stride: Pixels of the network's input to one of the mask's.
    """
    old = (before[0, 0] > 0).cpu().numpy()
    new = (after[0, 0] > 0).cpu().numpy()
    merged = before.clone()
    for x, y, is_positive in clicks:
        rows, columns = (_around((v + 0.5) / stride - 0.5, len(old)) for v in (y, x))
        change = _reaching(new & ~old if is_positive else old & ~new, rows, columns)
        inside = torch.from_numpy(change).to(before.device)
        merged[0, 0] = torch.where(inside, after[0, 0], merged[0, 0])
        clicked = merged[0, 0, rows, columns]
        least = CLICKED_LOGIT if is_positive else -CLICKED_LOGIT
        merged[0, 0, rows, columns] = torch.where((clicked > 0) == is_positive, clicked, least)
    return merged


def _around(place: float, length: int) -> slice:
    """The cells, one or two, that a place is interpolated from."""
    place = min(max(place, 0), length - 1)
    return slice(math.floor(place), math.ceil(place) + 1)


def _reaching(change: npt.NDArray[np.bool_], rows: slice, columns: slice) -> npt.NDArray[np.bool_]:
    """The 8-connected parts of a change that lie at some cells or beside them."""
    labels, _ = ndimage.label(change, structure=_EIGHT)
    top, left = max(rows.start - 1, 0), max(columns.start - 1, 0)
    near = np.unique(labels[top : rows.stop + 1, left : columns.stop + 1])
    return np.isin(labels, near[near > 0])


def keep_reaching(logits: Tensor, before: Tensor) -> Tensor:
    """Drop the 8-connected parts of a mask that do not touch the mask of the slice before.

    Args:
        logits: Mask logits `(1, 1, H, W)`.
        before: That mask, bool `(1, H, W)`; where it is empty, everything is kept.
    """
    labels, count = ndimage.label((logits[0, 0] > 0).cpu().numpy(), structure=_EIGHT)
    inside = before[0].cpu().numpy()
    if count == 0 or not inside.any():
        return logits
    met = np.unique(labels[inside])
    dropped = torch.from_numpy((labels > 0) & ~np.isin(labels, met)).to(logits.device)
    return torch.where(dropped, OUT_OF_REACH_LOGIT, logits)
