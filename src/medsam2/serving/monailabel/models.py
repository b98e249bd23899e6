"""The model as viewers know it: one that follows an object through the volume, one that looks at a slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from medsam2.serving.faults import Fault, shown
from medsam2.serving.monailabel.asked import LABEL
from medsam2.serving.monailabel.params import WINDOWS
from medsam2.serving.monailabel.segmenting import Segment, segment_slice, segment_volume
from medsam2.serving.rows import MEMORIES

KIND = "deepgrow"
"""What makes viewers offer clicks and a region."""
VOLUME = "medsam2_3d"
SLICE = "medsam2_2d"


@dataclass(frozen=True, kw_only=True)
class ViewerModel:
    """One way to use the model."""

    segment: Segment
    dimension: int
    """2 makes Slicer send the slice, and put the result into it alone."""
    description: str

    @property
    def info(self) -> dict[str, object]:
        """What viewers read; of a list of options they send the first, unless someone chooses."""
        return {
            "type": KIND,
            "labels": [LABEL],
            "dimension": self.dimension,
            "description": self.description,
            "config": {"window": list(WINDOWS), "memory": list(MEMORIES), "largest_cc": False},
        }


MODELS: Mapping[str, ViewerModel] = MappingProxyType(
    {
        VOLUME: ViewerModel(
            segment=segment_volume,
            dimension=3,
            description="Clicks or a box on a slice; the object is followed through the volume, both ways",
        ),
        SLICE: ViewerModel(
            segment=segment_slice,
            dimension=2,
            description="Clicks or a box on a slice; the object in this slice",
        ),
    }
)


def model_called(name: str) -> ViewerModel:
    """A model by its name.

    Raises:
        Fault: 404, there is none.
    """
    if name not in MODELS:
        raise Fault(404, f"there is no model {shown(name)}; {', '.join(MODELS)} are")
    return MODELS[name]
