"""Draw a box on one slice of a medical scan and get the whole 3D structure."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medsam2.client.client import Client
    from medsam2.errors import InputError, MedSAM2Error
    from medsam2.imaging.arrays import as_volume
    from medsam2.imaging.io import read, write
    from medsam2.imaging.video.read import open_video
    from medsam2.imaging.volume import Volume
    from medsam2.inference.options import InferenceOptions
    from medsam2.inference.predictor import Predictor, load
    from medsam2.inference.session import Session
    from medsam2.inference.video import VideoSession
    from medsam2.prompts.types import Box, MaskPrompt, Point

    __version__: str

# Before torch is imported, since its threads read this once. Threads that wait for each other try very many
# times by default before they sleep. Three processes of two threads on two cores then took 180 to 1200 ms
# for a slice of the compact network, with this 61 to 78 ms, with OMP_WAIT_POLICY=passive 36 to 76 ms. One
# process alone took 15.6, 17.0 and 24 to 30 ms. What the user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__all__ = [
    "Box",
    "Client",
    "InferenceOptions",
    "InputError",
    "MaskPrompt",
    "MedSAM2Error",
    "Point",
    "Predictor",
    "Session",
    "VideoSession",
    "Volume",
    "__version__",
    "as_volume",
    "load",
    "open_video",
    "read",
    "write",
]

# Names are imported when they are first used: neither the command line's help nor reading must pay for torch.
_HOMES = {
    "Box": "medsam2.prompts.types",
    "Client": "medsam2.client.client",
    "InferenceOptions": "medsam2.inference.options",
    "InputError": "medsam2.errors",
    "MaskPrompt": "medsam2.prompts.types",
    "MedSAM2Error": "medsam2.errors",
    "Point": "medsam2.prompts.types",
    "Predictor": "medsam2.inference.predictor",
    "Session": "medsam2.inference.session",
    "VideoSession": "medsam2.inference.video",
    "Volume": "medsam2.imaging.volume",
    "as_volume": "medsam2.imaging.arrays",
    "load": "medsam2.inference.predictor",
    "open_video": "medsam2.imaging.video.read",
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
