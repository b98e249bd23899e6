"""Policies in pairs: statistics with known answers, and a run of every arm on a small scan."""

from __future__ import annotations

import numpy as np
import pytest
from memory_policies import (
    ARMS,
    GAP,
    ArmScore,
    PromptOnly,
    RandomPast,
    Strided,
    Subject,
    compare,
    long_objects,
    main,
    run_arms,
)
from scipy import stats

from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime
from medsam2.tracking.memory import FrameMemory, MemoryBank
from medsam2.tracking.policies import Place


def _score(arm: str, subject: str, dice: float) -> ArmScore:
    return ArmScore(
        arm=arm, subject=subject, group="CT", num_slices=9, dice=dice, over_slices=1, under_slices=2
    )


def test_differences_are_taken_in_pairs() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0.2, 0.9, 20)
    better = first + rng.uniform(0.0, 0.05, 20)
    names = [f"case {i}" for i in range(20)]
    scores = [_score("a", n, d) for n, d in zip(names, first, strict=True)]
    scores += [_score("b", n, d) for n, d in zip(names, better, strict=True)][::-1]
    scores += [_score("c", n, d) for n, d in zip(names, first, strict=True)]
    a, b, c = compare(scores)
    assert (a.arm, a.difference, a.p_value) == ("a", 0.0, 1.0)
    assert b.difference == pytest.approx((better - first).mean())
    assert b.interval is not None
    assert b.interval[0] > 0
    assert b.interval[0] < b.difference < b.interval[1]
    # Holm: the smaller of two p-values counts double.
    assert b.p_value == pytest.approx(2 * stats.wilcoxon(better - first).pvalue)
    assert (c.difference, c.p_value) == (0.0, 1.0)
    few = {f"case {i}" for i in range(4)}
    assert [row.interval for row in compare([one for one in scores if one.subject in few])] == [None] * 3


def _bank(tracked: list[int]) -> MemoryBank:
    blank = {z: FrameMemory(slice_index=z, spatial=None, pointer=None) for z in (0, *tracked)}
    return MemoryBank(conditioning={0: blank.pop(0)}, tracked=blank)


def _spatial(policy, tracked: list[int], z: int, step: int = 1) -> list[tuple[int, int]]:
    return list(policy.choose(_bank(tracked), Place(slice_index=z, step=step, num_slices=40)).spatial)


def test_controls_choose_what_their_names_say() -> None:
    past = list(range(1, 20))
    assert _spatial(PromptOnly(), past, 20) == [(0, 6)]
    assert _spatial(Strided(stride=1), past, 20) == [(0, 6), *((z, 19 - z) for z in range(14, 20))]
    assert _spatial(Strided(stride=3), past, 20) == [
        (0, 6),
        (6, 5),
        (9, 4),
        (12, 3),
        (15, 2),
        (18, 1),
        (19, 0),
    ]
    drawn = _spatial(RandomPast(), past, 20)
    assert drawn == _spatial(RandomPast(), past, 20)
    assert drawn != _spatial(RandomPast(seed=1), past, 20)
    assert drawn[-1] == (19, 0)
    assert [z for z, _ in drawn] == sorted(z for z, _ in drawn)
    assert len(drawn) == 7


def test_every_arm_follows_every_object(runtime: Runtime, scan: Volume) -> None:
    truth = np.zeros(scan.shape, bool)
    truth[2:7, 12:26, 18:38] = True
    subject = Subject(
        name="block", group="MR block", volume=scan, truth=truth, key_slice=4,
        box_xyxy=(18.0, 12.0, 37.0, 25.0), window=(0.0, 255.0),
    )  # fmt: skip
    scores = list(run_arms([subject], Predictor(runtime), ARMS))
    assert [score.arm for score in scores] == list(ARMS)
    assert {score.num_slices for score in scores} == {5}
    assert len(compare(scores)) == len(ARMS)


def test_generated_objects_are_long_and_some_vanish_for_a_while() -> None:
    subjects = list(long_objects(range(900_001, 900_002)))
    assert subjects
    plain = [s for s in subjects if "gap" not in s.name]
    spoilt = [s for s in subjects if "gap" in s.name]
    assert len(plain) == len(spoilt)
    for subject, with_gap in zip(plain, spoilt, strict=True):
        there, still_there = (s.truth.any(axis=(1, 2)) for s in (subject, with_gap))
        assert there.sum() >= 16
        assert there.sum() - still_there.sum() == GAP
        assert subject.truth[subject.key_slice].any()
        assert not np.array_equal(subject.volume.array, with_gap.volume.array)


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--generated", "1", "--seed", "900002", "--policy", "prompt only"])
    shown = capsys.readouterr().out
    assert "all objects" in shown
    assert "prompt only" in shown
    assert "random past" not in shown
