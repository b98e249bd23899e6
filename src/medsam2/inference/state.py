"""What is known of an object in a slice, and of all its slices at a moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsam2.inference.banks import BankState
from medsam2.inference.zoom import View
from medsam2.prompts.types import Prompt
from medsam2.tracking.step import FrameResult


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """The object in one slice, with the view it was found in."""

    frame: FrameResult
    view: View
    runs: npt.NDArray[np.int32] | None = None
    """Run lengths of the mask on the slice, where the logits do not tell it exactly: once they have been
    rounded to save memory, and where the user drew it."""

    @property
    def score(self) -> float:
        """Predicted overlap with the truth, 0..1; 0 where the object is absent."""
        return float(self.frame.iou) if float(self.frame.object_logits) > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class TrackState:
    """An object's state at a moment, to come back to; nothing in it is ever changed."""

    view: View | None
    """Today's view; None where each result has its own."""
    prompts: Mapping[int, Prompt]
    results: Mapping[int, SliceResult]
    memory_views: Mapping[int, View]
    banks: Mapping[tuple[int, int], BankState]
