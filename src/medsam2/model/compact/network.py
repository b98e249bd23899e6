"""The compact network: it sees a slice together with where the object was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.compact.body import CompactFeatures, Decoder, Encoder
from medsam2.model.compact.config import CompactConfig
from medsam2.model.compact.memory import CompactMemories, MemoryReader, MemoryWriter
from medsam2.model.config import MEMORY_DIM

PLANES = (
    "slice",
    "before",
    "beyond",
    "prior",
    "is_prompted",
    "box",
    "clicks_inside",
    "clicks_outside",
    "key_slice",
    "key_mask",
    "grey_like_key",
    "grey_like_before",
    "context_like_key",
    "context_like_before",
    "matched",
    "match_quality",
)
"""The input's channels, in order; `tracking.planes` makes them."""


@dataclass(frozen=True, kw_only=True)
class CompactAnswer:
    """What the network finds in a slice."""

    mask_logits: Tensor
    """`(B, 1, S, S)`."""
    overlap: Tensor
    """`(B, 1)` predicted overlap with the truth, 0 to 1."""
    object_logits: Tensor
    """`(B, 1)` above 0 when the object is in the slice."""
    pooled: Tensor
    """`(B, C)`, what the object pointer is made of."""
    seen: Tensor
    """`(B, C, S/16, S/16)`, what a memory is made of."""


class CompactNetwork(nn.Module):
    """Encode a slice, answer prompts, remember; it stores nothing between calls."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, len(PLANES))
        self.decoder = Decoder(config)
        self.memory_reader = MemoryReader(config)
        self.memory_writer = MemoryWriter(config)
        pooled = config.channels[4] + config.channels[2]
        self.head = nn.Sequential(nn.Linear(pooled, pooled), nn.SiLU(), nn.Linear(pooled, 2))
        self.pointer = nn.Sequential(nn.Linear(pooled, pooled), nn.SiLU(), nn.Linear(pooled, MEMORY_DIM))

    def encode_image(self, planes: Tensor) -> CompactFeatures:
        """Encode a slice with what it is shown beside, `(B, 16, S, S)` in the order of `PLANES`."""
        features: CompactFeatures = self.encoder(planes)
        return features

    def answer(
        self, features: CompactFeatures, memories: CompactMemories | Sequence[CompactMemories | None] | None
    ) -> CompactAnswer:
        """Find the objects in a slice, looking back at memories if there are any.

        Args:
            features: Of the slice, one batch entry for each object.
            memories: The same slices for the whole batch, or a list with those of each object.
        """
        if isinstance(memories, Sequence):
            parts = zip(features.level2.split(1), memories, strict=True)
            conditioned = torch.cat([self.attend_memory(level2, own) for level2, own in parts])
        else:
            conditioned = self.attend_memory(features.level2, memories)
        return self.decode(features, conditioned)

    def attend_memory(self, level2: Tensor, memories: CompactMemories | None) -> Tensor:
        """Condition `(B, C, S/16, S/16)` on memories, or mark that there are none."""
        if memories is None:
            return self.without_memory(level2)
        # Converted before they are joined: autocast to float16 refuses to join bfloat16.
        spatial = torch.stack([one.to(level2.dtype) for one in memories.spatial], dim=1)
        if memories.pointers:
            stored_as = memories.spatial[0].dtype
            pointers = torch.stack(tuple(memories.pointers), dim=1).to(stored_as).to(level2.dtype)
        else:
            pointers = spatial.new_zeros(len(spatial), 0, MEMORY_DIM)
        codes = torch.tensor(memories.codes, device=level2.device)
        squares, distances = (
            torch.tensor(numbers, dtype=torch.float32, device=level2.device)
            for numbers in (memories.squares, memories.distances)
        )
        return self.with_memory(level2, spatial, codes, squares, pointers, distances)

    def without_memory(self, level2: Tensor) -> Tensor:
        """Mark `(B, C, S/16, S/16)` as a slice that looks back at nothing."""
        return level2 + self.memory_reader.absent[:, None, None].to(level2.dtype)

    def with_memory(self, level2: Tensor, *memories: Tensor) -> Tensor:
        """Condition `(B, C, S/16, S/16)` on stacked memories; `MemoryReader` lists them."""
        conditioned: Tensor = self.memory_reader(level2, *memories)
        return conditioned

    def decode(self, features: CompactFeatures, conditioned: Tensor) -> CompactAnswer:
        """Find the objects in a slice.

        Args:
            features: Of the slice, one batch entry for each object.
            conditioned: Its level of stride 16 after memory.
        """
        mask_logits, at8, at16, at32 = self.decoder(features, conditioned)
        inside = F.adaptive_avg_pool2d(mask_logits.detach().sigmoid(), at8.shape[-2:]).to(at8.dtype)
        weight = inside / inside.sum(dim=(2, 3), keepdim=True).clamp(min=1.0)
        pooled = torch.cat((at32.mean(dim=(2, 3)), (at8 * weight).sum(dim=(2, 3))), dim=1)
        outputs = self.head(pooled).float()
        return CompactAnswer(
            mask_logits=mask_logits.float(),
            overlap=outputs[:, :1].sigmoid(),
            object_logits=outputs[:, 1:],
            pooled=pooled,
            seen=at16,
        )

    def encode_memory(self, seen: Tensor, shares: Tensor) -> Tensor:
        """Remember a slice, `(B, 64, S/16, S/16)`.

        Args:
            seen: `CompactAnswer.seen`.
            shares: `cell_shares` of the mask at the same stride.
        """
        memory: Tensor = self.memory_writer(seen, shares)
        return memory

    def point_at(self, pooled: Tensor) -> Tensor:
        """Make object pointers `(B, 64)` of `CompactAnswer.pooled`."""
        pointer: Tensor = self.pointer(pooled)
        return pointer
