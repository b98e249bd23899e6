"""What a mask of Dice 0.9 costs a user in interactions and predicted seconds, against drawing every slice.

The cost is simulated: no user was timed. The clicks are those of `prompt_case`, the seconds those of
`TimeModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medsam2.errors import InputError
from medsam2.evaluation.comparison import Estimate, cluster_of, estimate_saving
from medsam2.evaluation.runner import CaseResult
from medsam2.measure.overlap import TARGET_DICE

SIMULATED = (
    "This saving is simulated: prompts were placed by a rule that knows the reference mask, and seconds were "
    "added up from published figures; no annotator was timed."
)


@dataclass(frozen=True, kw_only=True)
class TimeModel:
    """Seconds that a user spends on each thing.

    The defaults were measured on photographs, since no comparable figures for slices were found:

    - box, 7 s: extreme clicking (Papadopoulos et al., ICCV 2017, abstract; the usual method took 35 s).
    - click, 3.9 s: a click in the middle of an object took 9 to 18 times less than the 35 s of a box
      (Papadopoulos et al., CVPR 2017, abstract), so 1.9 to 3.9 s; the slower one is taken.
    - line, 7.8 s: two such clicks.
    - drawn slice, 54 s: the outline of one object takes 54 to 79 s (Bearman et al., ECCV 2016, section 1);
      the faster one is taken, which makes the saving smaller.
    - look, 1 s a slice: to look through the object's slices after each answer. An assumption of ours without
      a source; drawing includes its own looking.

    As a check of its size: Gering et al. (Front. Comput. Neurosci. 2020) predicted 46 s for a whole brain
    tumour with semi-automatic tools, study loaded and contours confirmed.

    Raises:
        InputError: A time is negative, or drawing takes none.
    """

    box_s: float = 7.0
    click_s: float = 3.9
    line_s: float = 7.8
    drawn_slice_s: float = 54.0
    look_s: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        times = (self.box_s, self.click_s, self.line_s, self.look_s)
        if not (all(time >= 0 for time in times) and self.drawn_slice_s > 0):  # NaN fails as well
            raise InputError(
                "seconds for a box, a click, a line and a look are 0 or more, for a drawn slice above 0, "
                f"not {self.box_s:g}, {self.click_s:g}, {self.line_s:g}, {self.look_s:g} "
                f"and {self.drawn_slice_s:g}"
            )

    def first_s(self, protocol: str) -> float:
        """Seconds for the first prompt of a protocol."""
        return {
            "clicks": self.click_s, "mask": self.drawn_slice_s, "recist": self.line_s,
        }.get(protocol, self.box_s)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CaseCost:
    """The cost of one run of one case."""

    name: str
    repeat: int
    interactions: int
    """Up to the one that reached the Dice, or all that the protocol has."""
    is_reached: bool
    """Whether the Dice was reached. If not, slices that were still poor count as drawn by hand."""
    drawn_slices: int
    seconds: float
    """Of the user's work, and of waiting for the machine."""
    by_hand_seconds: float
    """For drawing each of the object's slices."""


@dataclass(frozen=True, kw_only=True)
class CostSummary:
    """The cost of all cases."""

    cases: tuple[CaseCost, ...]
    num_reached: int
    saving: Estimate
    """The part of the time for drawing by hand that is saved; negative if the model takes longer."""
    model: TimeModel
    note: str = SIMULATED


def annotation_cost(
    results: Sequence[CaseResult], protocol: str, model: TimeModel | None = None, *, seed: int = 0
) -> CostSummary | None:
    """Add up the cost of the simulated user's work up to a Dice of 0.9.

    A case that does not reach it costs all its interactions and the drawing of every slice that is still
    below 0.9. Waiting for the machine counts as it was measured on this machine.

    Args:
        results: Runs of one protocol; failed ones and pictures are left out, a picture has no slices to save.
        protocol: One of `simulated_user.PROTOCOLS`.
        model: How long things take.
        seed: Of the interval.

    Returns:
        None if no scan is left.
    """
    model = model or TimeModel()
    ran = [result for result in results if result.steps and result.dimensions == 3]
    if not ran:
        return None
    costs = [_cost(result, protocol, model) for result in ran]
    return CostSummary(
        cases=tuple(costs),
        num_reached=sum(cost.is_reached for cost in costs),
        saving=estimate_saving(
            [cost.seconds for cost in costs],
            [cost.by_hand_seconds for cost in costs],
            [cluster_of(result) for result in ran],
            seed=seed,
        ),
        model=model,
    )


def _cost(result: CaseResult, protocol: str, model: TimeModel) -> CaseCost:
    assert result.scores is not None
    object_slices = result.scores.object_slices or 0
    reached = next((i for i, step in enumerate(result.steps) if step.dice >= TARGET_DICE), None)
    taken = result.steps if reached is None else result.steps[: reached + 1]
    drawn = taken[-1].poor_slices if reached is None else 0
    prompting = model.first_s(protocol) + model.click_s * (len(taken) - 1)
    waited = sum(step.seconds for step in taken)
    looked = model.look_s * object_slices * len(taken)
    return CaseCost(
        name=result.name,
        repeat=result.repeat,
        interactions=len(taken),
        is_reached=reached is not None,
        drawn_slices=drawn,
        seconds=prompting + waited + looked + model.drawn_slice_s * drawn,
        by_hand_seconds=model.drawn_slice_s * object_slices,
    )
