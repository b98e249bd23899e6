"""Objects in the same slice share the network's work: what they need of it is done in batches.

The work on an object is a generator. Where it needs the network it yields a request and receives the answer;
`work_together` collects the requests of several objects and answers those that fit in one batch. Sums of a
batch may run in another order than those of a single object: logits then differ in their last digits.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from medsam2.inference.zoom import View
from medsam2.model.compact.memory import CompactMemories
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import ImageFeatures, MemoryTokens, Network
from medsam2.tracking.carried import Answer, Recall, answer_together
from medsam2.tracking.planes import Sight
from medsam2.tracking.step import FrameResult, PromptTensors, track_frame

MOST_TOGETHER = 8  # objects in a batch: memory for the activations of more would grow without a gain


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameRequest:
    """An object in a slice, for the official network."""

    network: Network
    features: ImageFeatures
    """Of the slice in the view, the same for all objects of that view."""
    slice_index: int
    view: View
    memory: MemoryTokens | None
    previous_logits: Tensor | None
    prompt: PromptTensors
    stability_fallback: bool

    @property
    def kind(self) -> Hashable:
        """Requests of one kind fit into one batch: the same picture, and prompts of one shape."""
        tensors = (self.prompt.points, self.prompt.mask, self.previous_logits)
        return self.slice_index, self.view, *(None if one is None else one.shape for one in tensors)

    @staticmethod
    def answer(requests: Sequence[FrameRequest]) -> list[FrameResult]:
        """Find the objects of requests of one kind."""
        first = requests[0]
        result = track_frame(
            first.network,
            first.features,
            prompt=PromptTensors(
                points=_joined([one.prompt.points for one in requests]),
                labels=_joined([one.prompt.labels for one in requests]),
                mask=_joined([one.prompt.mask for one in requests]),
            ),
            memory=[one.memory for one in requests],
            previous_logits=_joined([one.previous_logits for one in requests]),
            stability_fallback=first.stability_fallback,
        )
        return [result] if len(requests) == 1 else [result.part(index) for index in range(len(requests))]


@dataclass(frozen=True, kw_only=True, eq=False)
class SightRequest:
    """An object in a slice, for the compact network; requests of any slices fit into one batch."""

    network: CompactNetwork
    sight: Sight
    recall: Recall | CompactMemories | None = None
    kind: Hashable = None

    @staticmethod
    def answer(requests: Sequence[SightRequest]) -> list[Answer]:
        """Find the objects."""
        sights, recalls = [one.sight for one in requests], [one.recall for one in requests]
        return answer_together(requests[0].network, sights, recalls)


_Result = TypeVar("_Result")
FrameWork = Generator[FrameRequest, FrameResult, _Result]
"""Work on an object with the official network."""
SightWork = Generator[SightRequest, Answer, _Result]
"""Work on an object with the compact network."""
Work = Generator[Any, Any, None]
"""Either, of one network."""


def work_together(works: Sequence[Work]) -> None:
    """Do the work on several objects; call inside `Runtime.computing`."""
    waiting = _advance(dict.fromkeys(range(len(works))), works)
    while waiting:
        by_kind: dict[Hashable, list[int]] = {}
        for index, request in waiting.items():
            by_kind.setdefault(request.kind, []).append(index)
        answers: dict[int, Any] = {}
        for indices in by_kind.values():
            for start in range(0, len(indices), MOST_TOGETHER):
                part = indices[start : start + MOST_TOGETHER]
                requests = [waiting[index] for index in part]
                answers |= zip(part, type(requests[0]).answer(requests), strict=True)
        waiting = _advance(answers, works)


def _advance(answers: dict[int, Any], works: Sequence[Work]) -> dict[int, Any]:
    """Give each work its answer; return the requests of those that are not done."""
    requests = {}
    for index, answer in answers.items():
        try:
            requests[index] = works[index].send(answer)
        except StopIteration:
            continue
    return requests


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Join tensors along the batch; all are there, or none is."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    return there[0] if len(there) == 1 else torch.cat(there)
