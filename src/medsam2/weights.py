"""The weights that have a name: who published them, under which licence, for which network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

SHIPPED_NAME = "compact"
ADDRESS = "hf://"
"""How addresses on the Hugging Face hub begin."""

# The licence allows more than the authors' note beside it says, so both are always shown together.
_MEDSAM2_LICENCE = 'CC-BY-SA-4.0; authors: "research and education use"'
_MEDSAM2_REPOSITORY = "wanglab/MedSAM2"


@dataclass(frozen=True, kw_only=True)
class WeightsSpec:
    """Facts about one file of weights."""

    name: str
    """What a user calls them."""
    description: str
    """What they were trained for, in a few words."""
    licence: str
    """What the publisher allows."""
    preset: str
    """Name of the network's configuration, a key of `model.config.PRESETS`."""
    filename: str
    """Name of the file in its repository and in the cache."""
    repository: str | None
    """Repository on the Hugging Face hub; None for weights that come with the package."""
    sha256: str | None = None
    """Digest of the file where one is known beforehand; the hub's own is checked in any case."""

    @property
    def origin(self) -> str:
        """Where the file comes from, as one reads it aloud."""
        return "this package" if self.repository is None else f"{self.repository}/{self.filename}"


def _medsam2(name: str, filename: str, description: str) -> WeightsSpec:
    return WeightsSpec(
        name=name,
        description=description,
        licence=_MEDSAM2_LICENCE,
        preset="tiny-512",
        filename=filename,
        repository=_MEDSAM2_REPOSITORY,
    )


_ALL = (
    WeightsSpec(
        name=SHIPPED_NAME,
        description="our small network, trained on freely licensed scans and painted anatomy",
        licence="Apache-2.0",
        preset="compact",
        filename=f"{SHIPPED_NAME}.safetensors",
        repository=None,
    ),
    _medsam2("medsam2", "MedSAM2_latest.pt", "MedSAM2 for CT, MR, PET, ultrasound and endoscopy"),
    _medsam2("medsam2-ct-lesion", "MedSAM2_CTLesion.pt", "MedSAM2 for lesions in CT"),
    _medsam2("medsam2-mri-liver-lesion", "MedSAM2_MRI_LiverLesion.pt", "MedSAM2 for liver lesions in MR"),
    _medsam2("medsam2-us-heart", "MedSAM2_US_Heart.pt", "MedSAM2 for the heart in ultrasound videos"),
    WeightsSpec(
        name="sam2.1-tiny",
        description="SAM 2.1 Tiny for photographs and videos, what MedSAM2 began from",
        licence="Apache-2.0",
        preset="tiny-512",
        filename="sam2.1_hiera_tiny.pt",
        repository="facebook/sam2.1-hiera-tiny",
    ),
)

SPECS: Mapping[str, WeightsSpec] = MappingProxyType({spec.name: spec for spec in _ALL})
"""All weights that have a name."""

TINY = "SAM 2.1 tiny"
_PATCHES = "image_encoder.trunk.patch_embed.proj.weight"
_BLOCKS = "image_encoder.trunk.blocks."
# Channels of the first stage and number of blocks, of the four published Hiera trunks.
_TRUNKS = MappingProxyType({(96, 12): "tiny", (96, 16): "small", (112, 24): "base plus", (144, 48): "large"})
_VIT_PATCH = 16  # EfficientTAM cuts 16 px patches as plain ViTs do, Hiera overlapping ones of 7 px


def guess_network(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Tell which published network a checkpoint belongs to, by the names and shapes of its entries.

    Args:
        shapes: Shape of every entry.

    Returns:
        A name for people such as "SAM 2.1 small", or None if it is none that we know.
    """
    if "image_encoder.patch_embed.proj.weight" in shapes:
        return "SAM or MedSAM, the first version"
    patches = shapes.get(_PATCHES, ())
    if len(patches) != 4:
        return None
    if patches[-1] == _VIT_PATCH:
        return "EfficientTAM"
    blocks = {name.removeprefix(_BLOCKS).split(".")[0] for name in shapes if name.startswith(_BLOCKS)}
    size = _TRUNKS.get((patches[0], len(blocks)))
    if size is None:
        return None
    return f"SAM {'2.1' if 'no_obj_embed_spatial' in shapes else '2.0'} {size}"
