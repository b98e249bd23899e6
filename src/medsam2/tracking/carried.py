"""One step of the compact network's recurrence: a slice answered, remembered, and looked back at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medsam2.model.compact.body import CompactFeatures
from medsam2.model.compact.memory import CompactMemories, Square, cell_shares
from medsam2.model.compact.network import CompactNetwork
from medsam2.tracking.memory import FrameMemory, MemoryBank
from medsam2.tracking.planes import Sight, as_planes
from medsam2.tracking.policies import Selection
from medsam2.tracking.step import MASK_PROMPT_LOGIT, FrameResult

LEAST_OVERLAP = 0.05  # predicted overlaps below it say that nothing was found
DISTANCE_UNIT = 15.0  # slices; distances of object pointers are told in it

Recall = Callable[[Tensor], CompactMemories | None]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found in a slice, with what a memory of it is made of."""

    frame: FrameResult
    seen: Tensor
    """`(B, C, S/16, S/16)`."""
    level2: Tensor
    """`(B, C, S/16, S/16)`, the slice before memory."""

    def with_logits(self, mask_logits: Tensor) -> Answer:
        """The same with other mask logits `(B, 1, S, S)`."""
        frame = dataclasses.replace(self.frame, low_res_logits=mask_logits, candidate_logits=mask_logits)
        return dataclasses.replace(self, frame=frame)

    def at_best_dice(self) -> Answer:
        """The same with mask logits that are above 0 in the mask with the highest expected Dice.

        A pixel belongs to that mask if its probability is above half of the Dice that can be reached (Lipton,
        Elkan and Naryanaswamy 2014), and so not only where it is likelier inside than outside. In terms of
        the predicted overlap J that is J / (1 + J), a logit of log(J).
        """
        overlap = self.frame.iou.clamp(LEAST_OVERLAP, 1)
        return self.with_logits(self.frame.low_res_logits - overlap.log()[..., None, None])

    def part(self, index: int) -> Answer:
        """The answer of one object of a batch."""
        own = slice(index, index + 1)
        return Answer(
            frame=self.frame.part(index), seen=self.seen[own].clone(), level2=self.level2[own].clone()
        )

    def remembered(self, network: CompactNetwork, slice_index: int) -> FrameMemory:
        """What later slices may look back at."""
        shares = cell_shares(self.frame.low_res_logits.sigmoid(), self.seen.shape[-1])
        spatial = network.encode_memory(self.seen, shares)
        return FrameMemory(slice_index=slice_index, spatial=spatial.bfloat16(), pointer=self.frame.pointer)


def answer_slice(network: CompactNetwork, sight: Sight, recall: Recall | CompactMemories | None) -> Answer:
    """Find the objects in one slice.

    Args:
        network: The network.
        sight: What it is shown.
        recall: What the slice looks back at, or how to choose it by the slice's features.
    """
    features = network.encode_image(as_planes(sight))
    return _answer(network, features, recall(features.level2) if callable(recall) else recall)


def answer_together(
    network: CompactNetwork, sights: Sequence[Sight], recalls: Sequence[Recall | CompactMemories | None]
) -> list[Answer]:
    """Find several objects, each in what it is shown, `(1, S, S)`, in one batch."""
    if len(sights) == 1:
        return [answer_slice(network, sights[0], recalls[0])]
    features = network.encode_image(torch.cat([as_planes(sight) for sight in sights]))
    levels = features.level2.split(1)
    memories = [own(level2) if callable(own) else own for own, level2 in zip(recalls, levels, strict=True)]
    joint = _answer(network, features, memories)
    return [joint.part(index) for index in range(len(sights))]


def _answer(
    network: CompactNetwork,
    features: CompactFeatures,
    memories: CompactMemories | Sequence[CompactMemories | None] | None,
) -> Answer:
    answer = network.answer(features, memories)
    frame = FrameResult(
        low_res_logits=answer.mask_logits,
        iou=answer.overlap,
        object_logits=answer.object_logits,
        pointer=network.point_at(answer.pooled).float(),
        candidate_logits=answer.mask_logits,
        candidate_iou=answer.overlap,
    )
    return Answer(frame=frame, seen=answer.seen, level2=features.level2)


def as_drawn(answer: Answer, mask: Tensor) -> Answer:
    """Take a drawn mask `(B, 1, S, S)` as the result; the network's answer only makes a memory of it."""
    is_drawn = (mask > 0.5).flatten(1).any(dim=1, keepdim=True)
    frame = dataclasses.replace(
        answer.frame,
        iou=torch.ones_like(answer.frame.iou),
        candidate_iou=torch.ones_like(answer.frame.iou),
        object_logits=torch.where(is_drawn, MASK_PROMPT_LOGIT, -MASK_PROMPT_LOGIT),
    )
    return dataclasses.replace(answer, frame=frame).with_logits((2 * mask - 1) * MASK_PROMPT_LOGIT)


def recall(
    bank: MemoryBank, selection: Selection, slice_index: int, square_of: Callable[[int], Square]
) -> CompactMemories:
    """Take what was selected out of a bank; each memory comes with its object pointer.

    Args:
        bank: The memories.
        selection: Slices and their temporal codes.
        slice_index: The slice at hand.
        square_of: Where the memory of a slice lies in today's view.
    """
    memories = [(memory, code) for z, code in selection.spatial if (memory := bank.find(z)) is not None]
    return CompactMemories(
        spatial=[memory.spatial for memory, _ in memories if memory.spatial is not None],
        codes=[code for _, code in memories],
        squares=[square_of(memory.slice_index) for memory, _ in memories],
        pointers=[memory.pointer for memory, _ in memories],
        distances=[abs(slice_index - memory.slice_index) / DISTANCE_UNIT for memory, _ in memories],
    )
