"""A slice seen in several mirror images at once: what they agree on is steadier than what one of them shows.

Errors of a small network depend on which way an object lies. Averaged in every slice, before the mask is
carried on, they do not add up from slice to slice.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from medsam2.model.network import ABSENT_LOGIT
from medsam2.model.prompt_encoder import LABEL_BOX_MAX, LABEL_BOX_MIN
from medsam2.tracking.prior import PromptTensors, has_box
from medsam2.tracking.step import FrameResult

_ROWS, _COLUMNS = -2, -1
_FLIPS = MappingProxyType({1: ((),), 2: ((), (_COLUMNS,)), 4: ((), (_COLUMNS,), (_ROWS,), (_ROWS, _COLUMNS))})
COUNTS = tuple(_FLIPS)


@dataclass(frozen=True)
class Mirrors:
    """So many images of every slice of one object, a batch whose first entry is the slice as it is."""

    count: int
    """One of `COUNTS`."""

    def spread(self, maps: Tensor) -> Tensor:
        """Mirror `(1, C, H, W)` into `(count, C, H, W)`."""
        return torch.cat([maps.flip(flip) if flip else maps for flip in _FLIPS[self.count]])

    def spread_prompt(self, prompt: PromptTensors, size: int) -> PromptTensors:
        """Mirror the prompt of one object on an input of `size` x `size`."""
        if prompt.mask is not None:
            return PromptTensors(mask=self.spread(prompt.mask))
        if self.count == 1 or prompt.points is None or prompt.labels is None:
            return prompt
        points = torch.cat([_flip_points(prompt.points, flip, size) for flip in _FLIPS[self.count]])
        spread = PromptTensors(points=points, labels=prompt.labels.expand(self.count, -1))
        return _with_ordered_corners(spread) if has_box(spread) else spread

    def spread_result(self, result: FrameResult, pointer: Tensor) -> FrameResult:
        """Mirror a result of batch 1; object pointers `(count, C)` are each image's own."""
        repeated = {
            name: getattr(result, name).expand(self.count, -1)
            for name in ("iou", "object_logits", "candidate_iou")
        }
        return FrameResult(
            low_res_logits=self.spread(result.low_res_logits),
            candidate_logits=self.spread(result.candidate_logits),
            pointer=pointer,
            **repeated,
        )

    def agree(self, results: FrameResult) -> FrameResult:
        """Average the images' results `(count, ...)` to one of batch 1, whose pointer is the first one's.

        The object is there if the mean of its logits says so; its mask is the mean over the images that
        found it.
        """
        if self.count == 1:
            return results
        object_logits = results.object_logits.mean(dim=0, keepdim=True)
        found = results.object_logits[:, 0] > 0
        is_present = bool(object_logits > 0)  # then at least one image has found it
        logits = self._turned_back(results.low_res_logits)
        absent = torch.full_like(logits[:1], ABSENT_LOGIT)
        return FrameResult(
            low_res_logits=logits[found].mean(dim=0, keepdim=True) if is_present else absent,
            iou=results.iou[found].mean(dim=0, keepdim=True) if is_present else results.iou[:1],
            object_logits=object_logits,
            pointer=results.pointer[:1],
            candidate_logits=self._turned_back(results.candidate_logits).mean(dim=0, keepdim=True),
            candidate_iou=results.candidate_iou.mean(dim=0, keepdim=True),
        )

    def _turned_back(self, maps: Tensor) -> Tensor:
        flips = zip(maps.split(1), _FLIPS[self.count], strict=True)
        return torch.cat([image.flip(flip) if flip else image for image, flip in flips])


def _flip_points(points: Tensor, flip: tuple[int, ...], size: int) -> Tensor:
    x, y = points.unbind(dim=-1)
    x = size - 1 - x if _COLUMNS in flip else x
    y = size - 1 - y if _ROWS in flip else y
    return torch.stack((x, y), dim=-1)


def _with_ordered_corners(prompt: PromptTensors) -> PromptTensors:
    """Make the first corner of every box the upper left one again."""
    assert prompt.points is not None
    assert prompt.labels is not None
    is_min, is_max = ((prompt.labels == label)[..., None] for label in (LABEL_BOX_MIN, LABEL_BOX_MAX))
    first = (prompt.points * is_min).sum(dim=1, keepdim=True)
    last = (prompt.points * is_max).sum(dim=1, keepdim=True)
    points = torch.where(is_min, torch.minimum(first, last), prompt.points)
    points = torch.where(is_max, torch.maximum(first, last), points)
    return dataclasses.replace(prompt, points=points)
