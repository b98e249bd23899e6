"""The shapes of a network: one dataclass and its two published presets."""

from __future__ import annotations

from dataclasses import dataclass

from medsam2.errors import CheckpointError
from medsam2.model.compact.config import COMPACT, CompactConfig

PATCH_STRIDE = 4  # stride of the first feature level
MEMORY_STRIDE = 16  # stride of the level that memory attention works on
MEMORY_DIM = 64  # channels of a spatial memory and of a memory token
NUM_MEMORY_CODES = 7  # temporal codes: six recent slices and one for prompted slices
NUM_MASK_TOKENS = 4  # one mask for unambiguous prompts, three candidates otherwise
HIGH_RES_DIVISORS = (8, 4)  # hidden_dim over this: channels of levels 0 and 1 in the decoder


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that differs between networks; what never differs is a constant of its module."""

    image_size: int
    """Side of the square input in pixels, a multiple of 32."""
    embed_dim: int
    """Channels of the trunk's first stage; each later stage doubles them."""
    num_heads: int
    """Attention heads of the first stage; each later stage doubles them."""
    stages: tuple[int, int, int, int]
    """Blocks per stage."""
    global_attention_blocks: tuple[int, ...]
    """Indices of the blocks that attend over the whole grid instead of windows."""
    window_pos_embed_size: tuple[int, int]
    """Grid (rows, columns) of the learned position embedding that is stretched over the image."""
    window_spec: tuple[int, int, int, int]
    """Window side per stage, in tokens."""
    hidden_dim: int = 256
    """Channels of the feature pyramid, the decoder and the object pointers."""
    memory_attention_layers: int = 4
    """Layers of the memory attention."""
    zoom: bool = True
    """Whether the network was trained on squares around a prompt; if not, it sees whole slices."""

    def __post_init__(self) -> None:
        if self.image_size % 32:
            raise CheckpointError(f"image_size must be a multiple of 32, not {self.image_size}")
        if self.hidden_dim % MEMORY_DIM:
            raise CheckpointError(f"hidden_dim must be a multiple of {MEMORY_DIM}, not {self.hidden_dim}")

    @property
    def grid_size(self) -> int:
        """Side of the grid that memory attention and decoder work on (32 for 512 px)."""
        return self.image_size // MEMORY_STRIDE

    @property
    def mask_size(self) -> int:
        """Side of the decoder's mask logits (128 for 512 px)."""
        return self.image_size // PATCH_STRIDE


TINY_512 = ModelConfig(
    image_size=512,
    embed_dim=96,
    num_heads=1,
    stages=(1, 2, 7, 2),
    global_attention_blocks=(5, 7, 9),
    window_pos_embed_size=(7, 7),
    window_spec=(8, 4, 14, 7),
    zoom=False,
)
"""SAM 2.1-Tiny at MedSAM2's 512 px: the network of every official checkpoint."""

PRESETS: dict[str, ModelConfig | CompactConfig] = {
    "tiny-512": TINY_512,
    "compact": COMPACT,
}
