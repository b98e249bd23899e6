"""What a caller may choose about inference; free of torch, so that a command's help is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from medsam2.errors import InputError

if TYPE_CHECKING:
    from medsam2.tracking.policies import Policy

MEMORY_POLICIES: Mapping[str, str] = MappingProxyType({"recent": "Recent", "self-sorting": "SelfSorting"})
"""Name of each memory policy, and its class in `tracking.policies`."""
DEVICES = ("auto", "cpu", "cuda", "mps")
RUNTIMES = ("torch", "onnx")
"""What computes the network: PyTorch, or ONNX Runtime."""
PRECISIONS = ("auto", "float32", "float32-fast", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Behaviour of a session; the network's shapes and the device are chosen elsewhere."""

    zoom: bool | None = None
    """Look at a square around the prompt instead of whole slices; None as the network was trained."""
    memory: str | Policy = "recent"
    """The memory policy: a name in `MEMORY_POLICIES`, or one's own."""
    keep_component: bool | None = None
    """Keep only the connected part that holds the prompt; None does so with the compact network, and with an
    official one for an object of one box."""
    stop_after: int | None = None
    """End a direction after so many slices without the object, 0 never. None ends at the first one where
    `keep_component` applies, which loses nothing, and never elsewhere."""
    fill_hole_area: int = 0
    """Fill holes of up to so many pixels of the network's mask (SAM 2 on CUDA: 8), 0 fills none."""
    stability_fallback: bool = True
    """Replace an unstable mask by the best of three candidates, as SAM 2 does."""

    def __post_init__(self) -> None:
        if isinstance(self.memory, str) and self.memory not in MEMORY_POLICIES:
            raise InputError(f"memory is one of {', '.join(MEMORY_POLICIES)}, not {self.memory!r}")
        if self.stop_after is not None and self.stop_after < 0:
            raise InputError(f"stop_after is 0 or more slices, not {self.stop_after}")
        if self.fill_hole_area < 0:
            raise InputError(f"fill_hole_area is 0 or more pixels, not {self.fill_hole_area}")

    @property
    def policy(self) -> Policy:
        """The memory policy itself."""
        from medsam2.tracking import policies

        if not isinstance(self.memory, str):
            return self.memory
        made: Policy = getattr(policies, MEMORY_POLICIES[self.memory])()
        return made
