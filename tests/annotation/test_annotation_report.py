"""The report's numbers against answers computed by hand, and what it does not say."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from medsam2.annotation.cases import list_cases, open_case, release
from medsam2.annotation.findings import Attempt, compare, find, group_attempts
from medsam2.annotation.journal import Tally, log_events
from medsam2.annotation.project import Project, add_scans, create_project
from medsam2.annotation.report import render_report, write_report
from medsam2.annotation.versions import add_proposal, save_version
from medsam2.evaluation.comparison import estimate_saving
from medsam2.imaging.volume import Volume
from medsam2.measure.overlap import dice
from medsam2.reports.charts import draw_acts, draw_both_ways, draw_times

Boxes = Callable[..., Volume]


def attempt(
    case: str, seconds: float, *, baseline: bool = False, started_ms: int = 0, **given: object
) -> Attempt:
    facts: dict[str, object] = {"user": "anna", "round": 1, "is_finished": True, **given}
    work = Tally(active_s=seconds, acts=Counter(box=1), started_ms=started_ms)
    return Attempt(case=case, baseline=baseline, work=work, **facts)  # type: ignore[arg-type]


def both_ways(pairs: Mapping[str, tuple[float, float]]) -> list[Attempt]:
    """Case -> seconds without the model, and with it."""
    found = [attempt(case, without, baseline=True) for case, (without, _) in pairs.items()]
    return found + [attempt(case, helped, started_ms=1) for case, (_, helped) in pairs.items()]


def test_a_saving_of_pairs() -> None:
    saving = compare(both_ways({"a": (100, 20), "b": (300, 30), "c": (200, 10)}))
    assert saving is not None
    assert saving.is_paired
    assert saving.value == pytest.approx(1 - 60 / 600)
    assert (saving.without_s, saving.with_s) == (200, 20)
    assert (saving.num_with, saving.num_without, saving.num_baseline_first) == (3, 3, 3)
    assert saving.pairs == (("a", 100, 20), ("b", 300, 30), ("c", 200, 10))


def test_the_interval_is_that_of_a_paired_bootstrap_over_cases() -> None:
    rng = np.random.default_rng(3)
    without, helped = rng.uniform(100, 400, 12), rng.uniform(10, 80, 12)
    pairs = {f"case {i:02d}": (without[i], helped[i]) for i in range(12)}
    saving = compare(both_ways(pairs))
    other = estimate_saving(helped, without, list(pairs))
    assert saving is not None
    assert saving.interval is not None
    assert other.interval is not None
    assert saving.value == pytest.approx(other.mean)
    assert saving.interval == pytest.approx(other.interval, abs=0.004)  # another stream of random numbers


def test_where_cases_differ_groups_are_compared() -> None:
    found = [
        attempt("a", 30),
        attempt("b", 10),
        attempt("c", 80, baseline=True),
        attempt("d", 120, baseline=True),
    ]
    saving = compare(found)
    assert saving is not None
    assert not saving.is_paired
    assert saving.value == pytest.approx(1 - 20 / 100)
    assert saving.interval is not None
    # Of two cases each, a mean is one of three values: the ends of the interval are the extremes.
    assert saving.interval == pytest.approx((1 - 30 / 80, 1 - 10 / 120))


def test_only_finished_attempts_count_and_several_users_are_one_case() -> None:
    found = [
        attempt("a", 100, baseline=True),
        attempt("a", 10, user="anna"),
        attempt("a", 30, user="bob"),
        attempt("a", 9000, user="carl", is_finished=False),
    ]
    saving = compare(found)
    assert saving is not None
    assert (saving.with_s, saving.value, saving.interval) == (20, pytest.approx(0.8), None)


def test_longer_with_the_model_is_a_negative_saving() -> None:
    saving = compare(both_ways({"a": (10, 20), "b": (10, 20)}))
    assert saving is not None
    assert saving.value == -1
    assert saving.interval == (-1, -1)


@pytest.mark.parametrize(
    "found",
    [[], [attempt("a", 5)], [attempt("a", 5, baseline=True)], both_ways({"a": (0, 5)})],
    ids=["nothing", "no baseline", "no model", "a baseline of no time"],
)
def test_no_saving_without_attempts_of_both_modes(found: Sequence[Attempt]) -> None:
    assert compare(found) is None


def test_groups_have_means_with_intervals() -> None:
    assert group_attempts([]) == []
    one, two = group_attempts([attempt("a", 5, baseline=True), attempt("a", 1), attempt("b", 3)])
    assert (one.baseline, one.mean_s, one.interval_s) == (True, 5, None)
    assert (two.baseline, two.mean_s, two.interval_s) == (False, 2, (1, 3))
    assert two.acts == {"box": 1}


def test_dice_by_hand() -> None:
    first, second = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    assert dice(first, second) == 1
    first[0] = True
    assert dice(first, second) == 0
    second[:, :2] = True
    assert dice(first, second) == 2 * 2 / (4 + 4)


@pytest.fixture
def logged(project: Project, box_mask: Boxes, clock) -> Project:
    """Anna does belly and chest by hand and with the model, Bob belly with the model, Carl opens head."""
    start = project.now_ms()

    def work(
        case: int, user: str, at_s: float, acts: Sequence[tuple[float, str, int]], **how: object
    ) -> None:
        events = [
            {
                "kind": kind,
                "object": 1,
                "at_ms": start + round(1000 * (at_s + second)),
                "voxels": voxels,
                **how,
            }
            for second, kind, voxels in acts
        ]
        clock.ms = max(clock.ms, start + round(1000 * at_s))
        log_events(project, case, user, events)

    scans = {1: "belly", 2: "chest", 3: "head"}
    masks = {number: box_mask(project.folder / f"{name}.nii.gz") for number, name in scans.items()}
    add_proposal(project, 2, box_mask(project.folder / "chest.nii.gz", shift=1), model="net")

    def save(case: int, user: str, mask: Volume) -> None:
        open_case(project, case, user)
        save_version(project, case, user, mask, objects={"1": {"name": "liver"}})
        release(project, case, user)

    by_hand = [
        (0, "brush", 100),
        (20, "brush", 50),
        (100, "erase", 7),
        (110, "save", 0),
    ]  # 20 + 5 + 10 = 35 s
    work(1, "anna", 0, by_hand, baseline=True)
    work(2, "anna", 1000, by_hand, baseline=True)  # 35 s
    helped = [(0, "box", 90), (2, "propagate", 900), (5, "brush", 3), (7, "save", 0)]  # 7 s
    work(1, "anna", 2000, helped)
    work(2, "anna", 3000, [*helped, (14, "click", 4), (14, "save", 0)])  # 14 s
    work(1, "bob", 4000, [(0, "box", 9), (21, "save", 0)])  # 21 s
    work(3, "carl", 5000, [(0, "box", 9), (29, "save", 0)])  # not finished: no mask of his is done
    save(1, "anna", masks[1])
    save(2, "anna", masks[2])
    save(1, "bob", box_mask(project.folder / "belly.nii.gz", shift=2))
    return project


def test_a_project_against_answers_by_hand(logged: Project) -> None:
    found = find(logged)
    times = {(one.case, one.user, one.baseline): one.work.active_s for one in found.attempts}
    assert times == {
        ("belly", "anna", True): 35,
        ("belly", "anna", False): 7,
        ("belly", "bob", False): 21,
        ("chest", "anna", True): 35,
        ("chest", "anna", False): 14,
        ("head", "carl", False): 29,
    }
    assert len(found.events) == 22
    assert len(found.finished) == 5
    assert [group.title for group in found.groups] == ["without the model", "round 1, with the model"]
    without, helped = found.groups
    assert (without.mean_s, helped.mean_s) == (35, 14)  # belly (7 + 21) / 2, chest 14
    assert without.acts == {"brush": 2, "erase": 1}
    assert helped.acts == pytest.approx({"box": 1, "brush": 2 / 3, "click": 1 / 3, "propagate": 2 / 3})
    assert (without.hand_voxels, helped.hand_voxels) == (157, 2)
    assert found.saving is not None
    assert found.saving.is_paired
    assert found.saving.value == pytest.approx(1 - 28 / 70)
    # Bob's box lies 2 of 10 columns beside Anna's, the proposal 1 beside hers.
    (between,) = found.authors
    assert (between.case, between.first, between.second, between.object) == ("belly", "anna", "bob", "liver")
    assert between.dice == pytest.approx(0.8)
    (proposal,) = found.proposals
    assert (proposal.case, proposal.dice) == ("chest", pytest.approx(0.9))
    assert [(one.case, one.author) for one in found.pictures] == [("belly", "bob"), ("chest", "anna")]


def test_the_files_say_what_was_found(logged: Project, tmp_path: Path) -> None:
    page = write_report(logged, tmp_path / "report", simulation="All of this was simulated.")
    write_report(logged, tmp_path / "report")  # what is there is replaced
    text = render_report(logged, simulation="All of this was simulated.")
    assert page == tmp_path / "report" / "report.html"
    assert "All of this was simulated." in text
    mark = ' <span class="mark">simulated</span>'
    assert f"{mark}</h1>" in text
    assert re.search(rf'<p class="main">[^\n]* less</strong>[^\n]*{mark}</p>', text)
    assert "imulated" not in page.read_text(encoding="utf-8")
    assert "<strong>60 % less</strong>" in text
    assert "22 events of 3 users" in text
    assert "anna and bob" in text
    assert "0.800" in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "<script" not in text
    assert "url(" not in text
    with (page.parent / "attempts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [
        (row["case"], row["user"], row["baseline"], row["active_s"], row["finished"]) for row in rows
    ] == [
        ("belly", "anna", "0", "7.000", "1"),
        ("belly", "anna", "1", "35.000", "1"),
        ("belly", "bob", "0", "21.000", "1"),
        ("chest", "anna", "0", "14.000", "1"),
        ("chest", "anna", "1", "35.000", "1"),
        ("head", "carl", "0", "29.000", "0"),
    ]
    assert rows[1]["acts"] == "brush:2 erase:1 save:1"
    with (page.parent / "agreement.csv").open(encoding="utf-8", newline="") as file:
        assert [row["dice"] for row in csv.DictReader(file)] == ["0.800000"]
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "agreement.csv", "attempts.csv", "objects.csv", "proposals.csv", "report.html",
    ]  # fmt: skip


def test_no_baseline_no_saving(project: Project, box_mask: Boxes) -> None:
    assert "Nothing was logged yet" in render_report(project)
    open_case(project, 1, "anna")
    at = project.now_ms()
    log_events(project, 1, "anna", [{"kind": "box", "at_ms": at}, {"kind": "save", "at_ms": at + 9000}])
    save_version(project, 1, "anna", box_mask(project.folder / "belly.nii.gz"))
    text = render_report(project)
    assert "No saving is stated: no finished case was logged without the model" in text
    assert "% less" not in text
    assert "so no agreement is stated" in text


def test_hostile_names_run_nothing_in_page_and_tables(tmp_path: Path, write_scan, box_mask: Boxes) -> None:
    names = ["<img src=x onerror=alert(1)>", "=HYPERLINK(1)", "a\"b'c&d"]
    for name in names:
        write_scan(tmp_path / f"{name}.nii.gz")
    project = create_project(tmp_path, name="<b>study</b>")
    try:
        add_scans(project)
        for case in list_cases(project):
            open_case(project, case.id, "-anna")
            at = project.now_ms()
            for baseline in (True, False):
                acts = [{"kind": kind, "at_ms": at + 2, "baseline": baseline} for kind in ("box", "save")]
                log_events(
                    project, case.id, "-anna", [{"kind": "open", "at_ms": at, "baseline": baseline}, *acts]
                )
                at += 1000
            mask = box_mask(tmp_path / case.path)
            save_version(
                project, case.id, "-anna", mask, objects={"1": {"name": "<script>alert(1)</script>"}}
            )
        page = write_report(project, tmp_path / "report")
    finally:
        project.close()
    text = page.read_text(encoding="utf-8")
    for hostile in ("<img src=x", "<script", "<b>study"):
        assert hostile not in text
    assert "&lt;img src=x" in text
    table = (tmp_path / "report" / "attempts.csv").read_text(encoding="utf-8")
    assert "'=HYPERLINK(1)" in table
    assert "'-anna" in table


def test_missing_masks_are_left_out(logged: Project) -> None:
    for path in (logged.folder / "versions" / "belly").iterdir():
        path.unlink()
    found = find(logged)
    assert found.authors == []
    assert [one.case for one in found.pictures] == ["chest"]


def test_charts_of_anything_are_pictures() -> None:
    from xml.etree import ElementTree

    for svg in (
        draw_times([]),
        draw_times([("a & b", True, []), ("c", False, [0.0, 0.4, 1e6])]),
        draw_both_ways([]),
        draw_both_ways([("<x>" * 30, 0.0, 0.0), ("y", 59.9, 3601.0)]),
        draw_acts([]),
        draw_acts([("a", {f"kind{i}": float(i) for i in range(12)}), ("b", {})]),
    ):
        root = ElementTree.fromstring(svg)
        assert "nan" not in svg
        assert root.tag.endswith("svg")
