"""Prompt encoder: points, boxes and masks become tokens and a dense map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medsam2.model.config import ModelConfig
from medsam2.model.layers import LayerNorm2d, RandomFourierEncoding

LABEL_PADDING = -1
LABEL_NEGATIVE = 0
LABEL_POSITIVE = 1
LABEL_BOX_MIN = 2
LABEL_BOX_MAX = 3
NUM_POINT_KINDS = 4


class PromptEncoder(nn.Module):
    """Encode what a user drew, in pixels of the network's input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.image_size = config.image_size
        self.grid_size = config.grid_size
        self.pe_layer = RandomFourierEncoding(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(NUM_POINT_KINDS))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.no_mask_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, kernel_size=2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, kernel_size=2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, dim, kernel_size=1),
        )

    def encode_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Encode points, box corners among them, and the padding token that always follows.

        Args:
            points: `(B, N, 2)` pixel coordinates (x, y) of the network's input.
            labels: `(B, N)`: -1 padding, 0 negative, 1 positive, 2 and 3 the corners of a box.

        Returns:
            `(B, N + 1, C)` tokens.
        """
        points = torch.cat((points, points.new_zeros(points.shape[0], 1, 2)), dim=1)
        labels = torch.cat((labels, labels.new_full((labels.shape[0], 1), LABEL_PADDING)), dim=1)
        # Half a pixel: a coordinate names a pixel, the encoding wants its centre.
        position = self.pe_layer((points + 0.5) / self.image_size)
        embeddings = (self.not_a_point_embed, *self.point_embeddings)
        kinds = torch.cat([embedding.get_parameter("weight") for embedding in embeddings])
        is_point = (labels != LABEL_PADDING)[..., None]
        return torch.where(is_point, position, 0.0) + kinds[labels + 1]

    def encode_mask(self, mask_logits: Tensor | None, batch: int) -> Tensor:
        """Encode mask logits `(B, 1, S/4, S/4)`, or their absence, as a `(B, C, S/16, S/16)` map."""
        if mask_logits is not None:
            dense: Tensor = self.mask_downscaling(mask_logits)
            return dense
        size = self.grid_size
        return self.no_mask_embed.weight[:, :, None, None].expand(batch, -1, size, size)

    def grid_encoding(self) -> Tensor:
        """Encode the places of the feature grid, `(1, C, S/16, S/16)`."""
        return self.pe_layer.grid(self.grid_size)[None]
