"""The shape of the compact network."""

from __future__ import annotations

from dataclasses import dataclass

from medsam2.errors import CheckpointError

NUM_LEVELS = 5  # strides 2, 4, 8, 16 and 32
NUM_GROUPS = 8  # of each group normalisation
STRIDE = 2**NUM_LEVELS


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """Everything that may differ between two compact networks."""

    image_size: int
    """Side of the square view in pixels, a multiple of 32. No parameter depends on it."""
    channels: tuple[int, int, int, int, int]
    """Channels at strides 2, 4, 8, 16 and 32."""
    blocks: tuple[int, int, int, int, int]
    """Residual blocks of the encoder at these strides."""
    fine_channels: int = 8
    """Channels at the view's own resolution."""
    memory_layers: int = 2
    """Layers in which a slice looks back at its memories."""
    zoom: bool = True
    """Whether the network was trained on squares around a prompt; if not, it sees whole slices."""

    def __post_init__(self) -> None:
        if self.image_size % STRIDE:
            raise CheckpointError(f"image_size must be a multiple of {STRIDE}, not {self.image_size}")
        if any(count % NUM_GROUPS for count in self.channels):
            raise CheckpointError(f"channels must be multiples of {NUM_GROUPS}, not {list(self.channels)}")
        if min(self.blocks) < 1:
            raise CheckpointError(f"each level needs a block at least, not {list(self.blocks)}")

    @property
    def grid_size(self) -> int:
        """Side of the grid that memories lie on."""
        return self.image_size // 16

    @property
    def mask_size(self) -> int:
        """Side of the mask logits: the view's own."""
        return self.image_size


COMPACT = CompactConfig(
    image_size=192,
    channels=(24, 48, 96, 160, 224),
    blocks=(1, 1, 2, 2, 1),
)
"""The network that ships."""
