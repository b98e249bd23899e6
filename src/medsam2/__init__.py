"""Draw a box on one slice of a medical scan and get the whole 3D structure."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medsam2.client.client import Client
    from medsam2.imaging.io import read, write
    from medsam2.imaging.volume import Volume
    from medsam2.inference.predictor import Predictor, load
    from medsam2.inference.session import Session
    from medsam2.prompts.types import Box, MaskPrompt, Point

    __version__: str

__all__ = [
    "Box",
    "Client",
    "MaskPrompt",
    "Point",
    "Predictor",
    "Session",
    "Volume",
    "__version__",
    "load",
    "read",
    "write",
]

# Names are imported when they are first used: neither the command line's help nor reading must pay for torch.
_HOMES = {
    "Box": "medsam2.prompts.types",
    "Client": "medsam2.client.client",
    "MaskPrompt": "medsam2.prompts.types",
    "Point": "medsam2.prompts.types",
    "Predictor": "medsam2.inference.predictor",
    "Session": "medsam2.inference.session",
    "Volume": "medsam2.imaging.volume",
    "load": "medsam2.inference.predictor",
    "read": "medsam2.imaging.io",
    "write": "medsam2.imaging.io",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = import_module("importlib.metadata").version(__name__)
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next time costs nothing
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
