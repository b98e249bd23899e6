"""Inputs and outputs that parts of both networks have."""

from __future__ import annotations

from medsam2.inference.onnx.chain import Value
from medsam2.model.config import MEMORY_DIM


def level2_before(channels: int, side: int) -> Value:
    """Features of a slice before it looks back."""
    return Value(
        name="level2", shape=("batch", channels, side, side), says="features, stride 16, before memory"
    )


def level2_after(channels: int, side: int) -> Value:
    """The same after it has looked back."""
    return Value(
        name="conditioned", shape=("batch", channels, side, side), says="features of stride 16 after memory"
    )


def memory(side: int) -> Value:
    """What is kept of a slice."""
    return Value(name="memory", shape=("batch", MEMORY_DIM, side, side), says="spatial memory of a slice")


def spatial(side: int) -> Value:
    """Memories that a slice looks back at."""
    shape = ("batch", "memories", MEMORY_DIM, side, side)
    return Value(name="spatial", shape=shape, says="their memories")


CODES = Value(
    name="codes",
    shape=("memories",),
    dtype="int32",
    says="0 for the slice just passed to 5, and 6 for a prompted slice",
)
OBJECT_LOGITS = Value(
    name="object_logits", shape=("batch", 1), says="above 0 where the object is in the slice"
)


def pointer(channels: int) -> Value:
    """What an object pointer is."""
    return Value(name="pointer", shape=("batch", channels), says="the object in one slice as a vector")


def pointers(channels: int) -> Value:
    """Object pointers that a slice looks back at."""
    return Value(name="pointers", shape=("batch", "pointers", channels), says="object pointers")


def distances(unit: str) -> Value:
    """How far away the slices of object pointers lie; `unit` is a name in `constants`."""
    says = f"slices between a pointer's slice and this one, over `{unit}`"
    return Value(name="distances", shape=("pointers",), says=says)
