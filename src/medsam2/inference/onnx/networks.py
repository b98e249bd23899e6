"""The networks whose parts ONNX Runtime computes: the same methods, no parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medsam2.inference.onnx.sessions import Parts
from medsam2.model.compact.body import CompactFeatures
from medsam2.model.compact.config import CompactConfig
from medsam2.model.compact.network import CompactAnswer, CompactNetwork
from medsam2.model.config import ModelConfig
from medsam2.model.mask_decoder import DecodedMasks
from medsam2.model.network import ImageFeatures, Network, PromptEmbedding
from medsam2.model.prompt_encoder import LABEL_PADDING


class OnnxNetwork(Network):
    """The official network through its exported parts."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        nn.Module.__init__(self)  # the parts have the weights
        self.config = config
        self.parts = parts

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Encode normalised images `(B, 3, S, S)`."""
        level0, level1, level2 = self.parts.run("image_encoder", images)
        return ImageFeatures(level0=level0, level1=level1, level2=level2)

    def encode_prompts(
        self,
        points: Tensor | None,
        labels: Tensor | None,
        *,
        mask_logits: Tensor | None = None,
        batch: int,
    ) -> PromptEmbedding:
        """Encode prompts in pixels of the network's input; see `Network`."""
        if points is None or labels is None:
            points = torch.zeros(batch, 1, 2)
            labels = torch.full((batch, 1), LABEL_PADDING)
        has_mask = torch.tensor([mask_logits is not None])
        if mask_logits is None:
            mask_logits = torch.zeros(batch, 1, self.config.mask_size, self.config.mask_size)
        sparse, dense = self.parts.run("prompt_encoder", points, labels, mask_logits, has_mask)
        return PromptEmbedding(sparse=sparse, dense=dense)

    def decode_candidates(
        self, features: ImageFeatures, conditioned: Tensor, prompts: PromptEmbedding
    ) -> DecodedMasks:
        """Decode all four masks of `conditioned` `(B, C, S/16, S/16)`; see `MaskDecoder`."""
        batch = len(prompts.sparse)
        features = features.expand(batch)
        mask_logits, iou, tokens, object_logits, _ = self.parts.run(
            "mask_decoder",
            features.level0,
            features.level1,
            conditioned.expand(batch, -1, -1, -1),
            prompts.sparse,
            prompts.dense,
        )
        return DecodedMasks(mask_logits=mask_logits, iou=iou, tokens=tokens, object_logits=object_logits)

    def point_at(self, tokens: Tensor, is_present: Tensor) -> Tensor:
        """Turn output tokens `(B, C)` into object pointers `(B, C)`."""
        (pointer,) = self.parts.run("object_pointer", tokens, is_present)
        return pointer

    def mask_as_prompt(self, masks: Tensor) -> Tensor:
        """Bring binary masks `(B, 1, S, S)` to the size of the decoder's mask prompt."""
        (reduced,) = self.parts.run("drawn_mask", masks)
        return reduced

    def encode_memory(
        self, features: ImageFeatures, mask_logits: Tensor, object_logits: Tensor, *, binarise: bool
    ) -> Tensor:
        """Encode a slice and its mask as a spatial memory; see `Network`."""
        batch = len(mask_logits)
        (memory,) = self.parts.run(
            "memory_encoder",
            features.level2.expand(batch, -1, -1, -1),
            mask_logits,
            object_logits,
            torch.tensor([binarise]),
        )
        return memory

    def without_memory(self, level2: Tensor) -> Tensor:
        """Mark `(B, C, S/16, S/16)` as a slice that looks back at nothing."""
        (conditioned,) = self.parts.run("without_memory", level2)
        return conditioned

    def with_memory(
        self, level2: Tensor, spatial: Tensor, codes: Tensor, pointers: Tensor, distances: Tensor
    ) -> Tensor:
        """Condition `(B, C, S/16, S/16)` on stacked memories; see `Network`."""
        level2 = level2.expand(len(spatial), -1, -1, -1)
        (conditioned,) = self.parts.run("memory_attention", level2, spatial, codes, pointers, distances)
        return conditioned


class OnnxCompactNetwork(CompactNetwork):
    """The compact network through its exported parts."""

    def __init__(self, config: CompactConfig, parts: Parts) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.parts = parts

    def encode_image(self, planes: Tensor) -> CompactFeatures:
        """Encode a slice with what it is shown beside, `(B, 16, S, S)` in the order of `PLANES`."""
        fine, *levels, level2 = self.parts.run("encoder", planes)
        return CompactFeatures(fine=fine, levels=levels, level2=level2)

    def without_memory(self, level2: Tensor) -> Tensor:
        """Mark `(B, C, S/16, S/16)` as a slice that looks back at nothing."""
        (conditioned,) = self.parts.run("without_memory", level2)
        return conditioned

    def with_memory(self, level2: Tensor, *memories: Tensor) -> Tensor:
        """Condition `(B, C, S/16, S/16)` on stacked memories; `MemoryReader` lists them."""
        (conditioned,) = self.parts.run("memory_reader", level2, *memories)
        return conditioned

    def decode(self, features: CompactFeatures, conditioned: Tensor) -> CompactAnswer:
        """Find the objects in a slice; see `CompactNetwork`."""
        mask_logits, overlap, object_logits, pooled, seen = self.parts.run(
            "decoder", features.fine, *features.levels, conditioned
        )
        return CompactAnswer(
            mask_logits=mask_logits, overlap=overlap, object_logits=object_logits, pooled=pooled, seen=seen
        )

    def encode_memory(self, seen: Tensor, shares: Tensor) -> Tensor:
        """Remember a slice, `(B, 64, S/16, S/16)`."""
        (memory,) = self.parts.run("memory_writer", seen, shares)
        return memory

    def point_at(self, pooled: Tensor) -> Tensor:
        """Make object pointers `(B, 64)` of `CompactAnswer.pooled`."""
        (pointer,) = self.parts.run("object_pointer", pooled)
        return pointer
