"""The network: image encoder, prompts, masks and memory, as values in and values out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.config import MEMORY_DIM, NUM_MEMORY_CODES, ModelConfig
from medsam2.model.image_encoder import ImageEncoder
from medsam2.model.layers import MLP, distance_encoding, sine_map
from medsam2.model.mask_decoder import DecodedMasks, MaskDecoder, choose
from medsam2.model.memory import MemoryAttention, MemoryEncoder
from medsam2.model.prompt_encoder import LABEL_PADDING, PromptEncoder

MEMORY_SIGMOID_SCALE = 20.0  # SAM 2.1, released weights: a mask enters memory as -10..10
MEMORY_SIGMOID_BIAS = -10.0
ABSENT_LOGIT = -1024.0  # mask logit of an object that is not in the slice
EMBEDDING_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """A slice as the decoder and the memory see it."""

    level0: Tensor
    """`(B, C/8, S/4, S/4)`."""
    level1: Tensor
    """`(B, C/4, S/8, S/8)`."""
    level2: Tensor
    """`(B, C, S/16, S/16)`, not conditioned on any memory."""

    def expand(self, batch: int) -> ImageFeatures:
        """Share the features of one slice among `batch` objects."""
        level0, level1, level2 = (
            level.expand(batch, -1, -1, -1) for level in (self.level0, self.level1, self.level2)
        )
        return ImageFeatures(level0=level0, level1=level1, level2=level2)

    def to(self, dtype: torch.dtype) -> ImageFeatures:
        """The same in another precision; shared where it is the same."""
        level0, level1, level2 = (level.to(dtype) for level in (self.level0, self.level1, self.level2))
        return ImageFeatures(level0=level0, level1=level1, level2=level2)


@dataclass(frozen=True, kw_only=True)
class PromptEmbedding:
    """Prompts as the decoder sees them."""

    sparse: Tensor
    """`(B, T, C)` tokens."""
    dense: Tensor
    """`(B, C, S/16, S/16)` map."""


@dataclass(frozen=True, kw_only=True)
class MemoryTokens:
    """What a slice may look back at; the lists are the same for the whole batch."""

    spatial: Sequence[Tensor]
    """`(B, 64, S/16, S/16)` each."""
    codes: Sequence[int]
    """Temporal code of each spatial memory: 0 the slice before ... 5, and 6 for a prompted slice."""
    pointers: Sequence[Tensor]
    """Object pointers, `(B, C)` each."""
    distances: Sequence[float]
    """Distance of each pointer's slice, in units of the longest one remembered."""


class Network(nn.Module):
    """SAM 2.1 with the parameter names of its checkpoints; it stores nothing between calls."""

    memory_position: Tensor
    feature_position: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.memory_attention = MemoryAttention(config)
        self.memory_encoder = MemoryEncoder(config)
        self.sam_prompt_encoder = PromptEncoder(config)
        self.sam_mask_decoder = MaskDecoder(config)
        self.obj_ptr_proj = MLP(dim, dim, dim, dim, activation=F.relu)
        self.obj_ptr_tpos_proj = nn.Linear(dim, MEMORY_DIM)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(NUM_MEMORY_CODES, 1, 1, MEMORY_DIM))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, dim))
        # Saved in every checkpoint and used by none of the published configurations.
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, dim))
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, dim))
        self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, MEMORY_DIM))
        for name, parameter in self.named_parameters(recurse=False):
            if name != "no_mem_pos_enc":
                nn.init.trunc_normal_(parameter, std=EMBEDDING_STD)
        nn.init.trunc_normal_(self.image_encoder.trunk.pos_embed, std=EMBEDDING_STD)
        nn.init.trunc_normal_(self.image_encoder.trunk.pos_embed_window, std=EMBEDDING_STD)
        size = config.grid_size
        self.register_buffer("memory_position", sine_map(MEMORY_DIM, size), persistent=False)
        self.register_buffer("feature_position", sine_map(dim, size), persistent=False)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Encode normalised images `(B, 3, S, S)`."""
        level0, level1, level2 = self.image_encoder(images)
        decoder = self.sam_mask_decoder
        return ImageFeatures(level0=decoder.conv_s0(level0), level1=decoder.conv_s1(level1), level2=level2)

    def encode_prompts(
        self,
        points: Tensor | None,
        labels: Tensor | None,
        *,
        mask_logits: Tensor | None = None,
        batch: int,
    ) -> PromptEmbedding:
        """Encode prompts in pixels of the network's input.

        Args:
            points: `(batch, N, 2)` coordinates (x, y), or None for no points.
            labels: `(batch, N)`: 0 negative, 1 positive, 2 and 3 the corners of a box.
            mask_logits: `(batch, 1, S/4, S/4)` of an earlier mask, or None.
            batch: Number of objects.
        """
        encoder = self.sam_prompt_encoder
        if points is None or labels is None:
            points = self.no_mem_embed.new_zeros(batch, 1, 2)
            labels = torch.full((batch, 1), LABEL_PADDING, device=points.device)
        sparse = encoder.encode_points(points, labels)
        return PromptEmbedding(sparse=sparse, dense=encoder.encode_mask(mask_logits, batch))

    def decode_masks(
        self,
        features: ImageFeatures,
        conditioned: Tensor,
        prompts: PromptEmbedding,
        *,
        multimask: bool,
        stability_fallback: bool = False,
    ) -> DecodedMasks:
        """Decode masks of `conditioned` `(B, C, S/16, S/16)`, and choose among them; see `choose`."""
        candidates = self.decode_candidates(features, conditioned, prompts)
        return choose(candidates, multimask=multimask, stability_fallback=stability_fallback)

    def decode_candidates(
        self, features: ImageFeatures, conditioned: Tensor, prompts: PromptEmbedding
    ) -> DecodedMasks:
        """Decode all four masks of `conditioned` `(B, C, S/16, S/16)`; see `MaskDecoder`."""
        candidates: DecodedMasks = self.sam_mask_decoder(
            (features.level0, features.level1, conditioned),
            self.sam_prompt_encoder.grid_encoding(),
            prompts.sparse,
            prompts.dense,
        )
        return candidates

    def point_at(self, tokens: Tensor, is_present: Tensor) -> Tensor:
        """Turn output tokens `(B, C)` into object pointers; absent objects share a learned one.

        `is_present` is `(B, 1)`; the result is `(B, C)`.
        """
        pointer = self.obj_ptr_proj(tokens)
        return torch.where(is_present, pointer, self.no_obj_ptr.to(pointer.dtype))

    def mask_as_prompt(self, masks: Tensor) -> Tensor:
        """Bring binary masks `(B, 1, S, S)` to the size of the decoder's mask prompt."""
        reduced: Tensor = self.mask_downsample(masks)
        return reduced

    def encode_memory(
        self, features: ImageFeatures, mask_logits: Tensor, object_logits: Tensor, *, binarise: bool
    ) -> Tensor:
        """Encode a slice and its mask as a spatial memory.

        Args:
            features: Of the slice, before memory attention.
            mask_logits: `(B, 1, S, S)`.
            object_logits: `(B, 1)`.
            binarise: The mask stems from a prompt and counts in full, not by its probability.

        Returns:
            `(B, 64, S/16, S/16)`.
        """
        inside = (mask_logits > 0).to(mask_logits.dtype) if binarise else mask_logits.sigmoid()
        mask = MEMORY_SIGMOID_SCALE * inside + MEMORY_SIGMOID_BIAS
        memory: Tensor = self.memory_encoder(features.level2, mask)
        absent = (object_logits <= 0).to(memory.dtype)[:, :, None, None]
        return memory + absent * self.no_obj_embed_spatial[:, :, None, None]

    def attend_memory(self, features: ImageFeatures, memory: MemoryTokens | None) -> Tensor:
        """Condition a slice on memory, or mark that it has none; `(B, C, S/16, S/16)`."""
        level2 = features.level2
        if memory is None:
            return self.without_memory(level2)
        spatial = torch.stack([one.to(level2.dtype) for one in memory.spatial], dim=1)
        if memory.pointers:
            pointers = torch.stack(tuple(memory.pointers), dim=1)
        else:
            pointers = spatial.new_zeros(len(spatial), 0, self.config.hidden_dim)
        codes = torch.tensor(memory.codes, device=level2.device)
        distances = torch.tensor(memory.distances, dtype=torch.float32, device=level2.device)
        return self.with_memory(level2, spatial, codes, pointers, distances)

    def without_memory(self, level2: Tensor) -> Tensor:
        """Mark `(B, C, S/16, S/16)` as a slice that looks back at nothing."""
        return level2 + self.no_mem_embed[0, 0, :, None, None]

    def with_memory(
        self, level2: Tensor, spatial: Tensor, codes: Tensor, pointers: Tensor, distances: Tensor
    ) -> Tensor:
        """Condition `(B, C, S/16, S/16)` on stacked memories.

        Args:
            level2: Of the slice, one batch entry for each object, or a single one that they share.
            spatial: `(B, M, 64, S/16, S/16)`.
            codes: `(M,)`, see `MemoryTokens`.
            pointers: `(B, P, C)`; P may be 0.
            distances: `(P,)`, see `MemoryTokens`.
        """
        parts = self.config.hidden_dim // MEMORY_DIM
        grid = self.memory_position.flatten(1).T
        # Exported as ONNX, codes are int32, and ONNX Runtime looks up by int64 alone.
        places = (grid + self.maskmem_tpos_enc[codes.long(), 0]).flatten(0, 1)
        times = self.pointer_position(distances)[:, None].expand(-1, parts, -1).flatten(0, 1)
        cells = spatial.flatten(3).transpose(2, 3).flatten(1, 2)  # (B, N, 64)
        conditioned = self.memory_attention(
            level2.flatten(2).transpose(1, 2),
            self.feature_position.flatten(1).T[None],
            torch.cat((cells, pointers.unflatten(2, (parts, MEMORY_DIM)).flatten(1, 2)), dim=1),
            torch.cat((places, times))[None],
            pointers.shape[1] * parts,
        )
        return conditioned.transpose(1, 2).unflatten(2, level2.shape[-2:])

    def pointer_position(self, distances: Tensor) -> Tensor:
        """Encode distances `(P,)` of object pointers as `(P, 64)`."""
        position: Tensor = self.obj_ptr_tpos_proj(distance_encoding(distances, self.config.hidden_dim))
        return position
