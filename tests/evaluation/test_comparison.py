"""Two ways in pairs, strata and cost, on results whose numbers are set."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from medsam2.errors import InputError
from medsam2.evaluation.comparison import TESTED, compare_runs, unit_of
from medsam2.evaluation.cost import SIMULATED, TimeModel, annotation_cost
from medsam2.evaluation.runner import CaseResult, Scores, Step
from medsam2.evaluation.summary import stratify


def run(
    name, dice, *, scan=None, repeat=0, modality="CT", size=10.0, step=1.0, length=20, hd95=3.0, steps=()
):
    scores = Scores(
        dice=dice, surface_dice=dice / 2, strict_surface_dice=dice / 4, hd95_mm=hd95, hd95_px=None,
        assd_mm=hd95 / 3, key_slice_dice=dice, over_slices=0, under_slices=0, seconds=1.0, num_slices=30,
        volume_ml=size, true_volume_ml=size, volume_error_ml=0.0, volume_error_percent=0.0, slice_mm=step,
        over_above_slices=0, over_below_slices=0, over_above_mm=0.0, over_below_mm=0.0, object_slices=length,
    )  # fmt: skip
    return CaseResult(
        name=name, modality=modality, target="t", dimensions=3, repeat=repeat, scan=scan, scores=scores,
        steps=steps,
    )  # fmt: skip


def failed(name):
    return CaseResult(name=name, modality="CT", target="t", dimensions=3, error="no")


def rows_of(first, second, stratum="scans"):
    return {row.metric: row for row in compare_runs(first, second) if row.stratum == stratum}


def test_differences_are_the_second_minus_the_first_in_pairs():
    rng = np.random.default_rng(0)
    dices, gains = rng.uniform(0.3, 0.9, 25), rng.uniform(0.01, 0.05, 25)
    first = [run(f"c{i}", d) for i, d in enumerate(dices)]
    second = [run(f"c{i}", d + g) for i, (d, g) in enumerate(zip(dices, gains, strict=True))][::-1]
    rows = rows_of(first, second)
    assert set(rows) == set(TESTED) - {"dice_auc", "surface_dice_auc"}
    dice = rows["dice"]
    assert dice.difference.mean == pytest.approx(gains.mean())
    assert dice.difference.interval[0] > 0
    assert (dice.first, dice.second) == pytest.approx((dices.mean(), (dices + gains).mean()))
    assert dice.p_value == pytest.approx(stats.wilcoxon(gains).pvalue)
    # Two primary tests; NSD differs as Dice does. The other six are corrected among themselves.
    assert [name for name, row in rows.items() if row.is_primary] == ["dice", "surface_dice"]
    assert dice.p_holm == pytest.approx(2 * dice.p_value)
    strict = rows["strict_surface_dice"]
    assert strict.p_holm == pytest.approx(6 * strict.p_value)
    assert dice.note == ""
    assert rows["surface_dice"].difference.mean == pytest.approx(gains.mean() / 2)
    assert (rows["hd95"].difference.mean, rows["hd95"].p_value, rows["hd95"].p_holm) == (0.0, 1.0, 1.0)
    assert rows["hd95"].note == "no pair differs"


def test_cases_of_one_patient_are_one_pair():
    first = [run(f"c{i}", 0.5, scan=i // 5) for i in range(20)]
    second = [run(f"c{i}", 0.5 + 0.01 * (1 + i // 5), scan=i // 5) for i in range(20)]
    dice = rows_of(first, second)["dice"]
    assert (dice.difference.num_cases, dice.difference.num_clusters) == (20, 4)
    assert dice.p_value == pytest.approx(2 / 2**4)
    assert dice.note.startswith("too few: with 4 patients no difference can be significant here, at least 7")


def test_how_many_would_be_needed():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 20)
    noise += 0.02 - noise.mean()
    first = [run(f"c{i}", 0.5) for i in range(20)]
    second = [run(f"c{i}", 0.5 + n) for i, n in enumerate(noise)]
    dice = rows_of(first, second)["dice"]
    effect = 0.02 / noise.std(ddof=1)
    assert dice.pairs_needed == pytest.approx((2.8016 / effect) ** 2 * math.pi / 3, abs=1)
    assert dice.note == f"a difference of this size takes about {dice.pairs_needed} patients to show"


def test_more_patients_than_anyone_has_are_not_counted_out():
    first = [run(f"c{i}", 0.5) for i in range(20)]
    second = [run(f"c{i}", 0.5 + (0.1001 if i % 2 else -0.1)) for i in range(20)]
    dice = rows_of(first, second)["dice"]
    assert dice.pairs_needed > 1000
    assert dice.note == "a difference of this size takes more than 1000 patients to show"


def test_pictures_without_a_spacing_are_in_pixels():
    scan = run("a", 0.5)
    scores = replace(scan.scores, hd95_mm=None, hd95_px=3.0, slice_mm=None)
    picture = replace(scan, name="b", dimensions=2, scores=scores)
    assert [unit_of(runs) for runs in ([scan], [picture], [scan, picture])] == ["mm", "px", "mm or px"]
    units = {row.stratum: row.unit for row in compare_runs([scan, picture], [scan, picture])}
    assert units == {"scans": "mm", "pictures": "px"}


def test_repeats_are_averaged_before_anything_else():
    first = [run("a", d, repeat=i) for i, d in enumerate((0.4, 0.6))] + [run("b", 0.5)]
    second = [run("a", d, repeat=i) for i, d in enumerate((0.5, 0.9))] + [run("b", 0.5)]
    dice = rows_of(first, second)["dice"]
    assert dice.difference.num_cases == 2
    assert dice.difference.mean == pytest.approx((0.2 + 0.0) / 2)


def test_pairs_without_a_finite_value_are_counted():
    first = [run("a", 0.5), run("b", 0.0, hd95=math.inf), run("c", 0.5), run("d", 0.7)]
    second = [run("a", 0.5), run("b", 0.5), failed("c"), run("d", 0.7)]
    rows = rows_of(first, second)
    assert (rows["hd95"].difference.num_cases, rows["hd95"].num_left_out) == (2, 2)
    assert (rows["dice"].difference.num_cases, rows["dice"].num_left_out) == (3, 1)


def test_strata():
    results = [
        run("a", 0.5, size=1.0, step=1.0, length=5),
        run("b", 0.5, size=2.0, step=3.0, length=7, modality="MR"),
        run("c", 0.5, size=3.0, step=5.0, length=8),
        failed("d"),
        CaseResult(name="e", modality="US", target="t", dimensions=2, scores=run("e", 0.5).scores),
    ]
    names = {name: [one.name for one in part] for name, part in stratify(results).items()}
    assert names == {
        "scans": ["a", "b", "c"],
        "pictures": ["e"],
        "CT scans": ["a", "c"],
        "MR scans": ["b"],
        "small, below 1.67 ml": ["a"],
        "large, from 2.33 ml": ["c"],
        "objects of up to 7 slices": ["a", "b"],
    }  # others hold the same cases as one of these


def test_references_by_hand_are_looked_at_apart():
    made = {"a": "manual", "b": "manual consensus", "c": "manual?", "d": "machine", "e": None}
    results = [replace(run(name, 0.5), reference=reference) for name, reference in made.items()]
    parts = stratify(results)
    assert [one.name for one in parts["references by hand"]] == ["a", "b"]
    assert [one.name for one in parts["other references"]] == ["c", "d", "e"]


def step(interactions, dice, seconds=1.0, poor=0):
    return Step(interactions=interactions, dice=dice, surface_dice=dice, seconds=seconds, poor_slices=poor)


MODEL = TimeModel(box_s=7, click_s=4, line_s=8, drawn_slice_s=50, look_s=1)


def test_what_a_mask_costs_until_it_is_good():
    reached = run("a", 0.95, length=10, steps=(step(1, 0.8), step(2, 0.92, 2.0), step(3, 0.95)))
    never = run("b", 0.7, length=20, steps=(step(1, 0.5), step(2, 0.6), step(3, 0.7, poor=6)))
    found = annotation_cost([reached, never, failed("c")], "interactive", MODEL)
    a, b = found.cases
    assert (a.is_reached, a.interactions, a.drawn_slices) == (True, 2, 0)
    assert a.seconds == 7 + 4 + (1 + 2) + 2 * 10
    assert a.by_hand_seconds == 500
    assert (b.is_reached, b.interactions, b.drawn_slices) == (False, 3, 6)
    assert b.seconds == 7 + 2 * 4 + 3 + 3 * 20 + 6 * 50
    assert found.num_reached == 1
    assert found.saving.mean == pytest.approx(1 - (34 + 378) / 1500)
    assert found.saving.interval is None  # two patients
    assert found.note == SIMULATED


@pytest.mark.parametrize(("protocol", "seconds"), [("box", 7), ("clicks", 4), ("recist", 8), ("mask", 50)])
def test_first_words_cost_what_they_are(protocol, seconds):
    found = annotation_cost([run("a", 0.95, length=3, steps=(step(1, 0.95),))], protocol, MODEL)
    assert found.cases[0].seconds == seconds + 1 + 3


def test_a_list_of_failures_has_no_cost():
    assert annotation_cost([failed("a")], "box") is None


@pytest.mark.parametrize("times", [{"box_s": -1.0}, {"drawn_slice_s": 0.0}, {"look_s": math.nan}])
def test_times_that_cannot_be(times):
    with pytest.raises(InputError, match="0 or more"):
        TimeModel(**times)
