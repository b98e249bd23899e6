"""A project's report: one HTML page, and its numbers as CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

from medsam2.annotation.cases import moment
from medsam2.annotation.findings import Agreement, Findings, Saving, find, mean_dice
from medsam2.annotation.journal import IDLE_COUNTS_S, IDLE_S, NO_OBJECT
from medsam2.annotation.layout import make_folder
from medsam2.annotation.project import STATES, Project
from medsam2.reports.charts import draw_acts, draw_both_ways, draw_times
from medsam2.reports.page import PAGE, Picture, png_picture, render, svg_picture, write_text
from medsam2.reports.page import POLICY as POLICY
from medsam2.reports.tables import NOTHING, Table, counted, minutes, number, percent, write_rows

FEW_CASES = 10
"""With fewer cases, the interval of a bootstrap is too narrow."""

_ATTEMPTS = (
    *("case", "user", "baseline", "round", "started", "active_s", "interactions", "voxels_by_hand"),
    *("finished", "acts"),
)
_OBJECTS = ("case", "object", "user", "baseline", "round", "active_s", "interactions", "voxels_by_hand")
_AGREEMENT = ("case", "object", "first", "second", "round", "dice")
# A spreadsheet takes a text for a formula if it begins with one of these.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_report(project: Project, folder: Path, simulation: str = "") -> Path:
    """Write report.html, attempts.csv, objects.csv, agreement.csv and proposals.csv; older ones are replaced.

    Args:
        project: The project.
        folder: The folder for the files; it is made if it does not exist.
        simulation: A sentence that says what was simulated; the page shows it. Empty if nothing was.

    Returns:
        The page.

    Raises:
        InputError: A file cannot be written, or matplotlib is not installed.
    """
    make_folder(folder)
    findings = find(project)
    tables: dict[str, tuple[Sequence[str], Iterable[Sequence[object]]]] = {
        "attempts": (_ATTEMPTS, _attempt_values(findings)),
        "objects": (_OBJECTS, _object_values(findings)),
        "agreement": (_AGREEMENT, map(_agreement_values, findings.authors)),
        "proposals": (_AGREEMENT, map(_agreement_values, findings.proposals)),
    }
    for name, (header, rows) in tables.items():
        write_rows(folder / f"{name}.csv", header, ([_safe(value) for value in row] for row in rows))
    write_text(folder / PAGE, _render(findings, made=moment(project.now_ms()), simulation=simulation))
    return folder / PAGE


def render_report(project: Project, simulation: str = "") -> str:
    """Return a project's report as it stands now.

    Args:
        project: The project.
        simulation: A sentence that says what was simulated; the page shows it first, and marks its headings
            and the saving. Empty if nothing was.

    Raises:
        InputError: matplotlib is not installed.
    """
    return _render(find(project), made=moment(project.now_ms()), simulation=simulation)


def _render(findings: Findings, *, made: str, simulation: str) -> str:
    has_baseline = any(one.baseline for one in findings.finished)
    has_acts = any(one.acts for one in findings.groups)
    return render(
        "annotation",
        name=findings.name,
        made=_minute(made),
        simulation=simulation,
        counts=_counts(findings),
        saving=None if findings.saving is None else _saving(findings, findings.saving),
        missing="with the model" if has_baseline else "without the model (baseline mode)",
        times=_times(findings),
        times_chart=_times_chart(findings) if findings.groups else None,
        acts_chart=_acts_chart(findings) if has_acts else None,
        proposals=_agreements(findings.proposals, lambda one: f"round {one.round}"),
        agreement=_agreements(findings.authors, lambda one: f"{one.first} and {one.second}"),
        rounds=_rounds(findings),
        pictures=[
            png_picture(one.png, f"{one.case}: {', '.join(one.objects) or 'empty'}, by {one.author}")
            for one in findings.pictures
        ],
        attempts=_attempts(findings),
        idle_s=f"{IDLE_S:g}",
        idle_counts_s=f"{IDLE_COUNTS_S:g}",
    )


def _minute(text: str) -> str:
    """Write an ISO 8601 moment in UTC as date and minute."""
    return f"{text[:10]} {text[11:16]} UTC"


def _counts(findings: Findings) -> str:
    counts = Counter(case.state for case in findings.cases)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "none"
    text = f"{counted(len(findings.cases), 'case')}: {states}."
    if not findings.events:
        return f"{text} Nothing was logged yet, so there is no time to report."
    moments = [event.at_ms for event in findings.events]
    users = {event.user for event in findings.events}
    first, last = (_minute(moment(pick(moments))) for pick in (min, max))
    return (
        f"{text} {len(findings.events)} events of {counted(len(users), 'user')} were logged "
        f"from {first} to {last}; {len(findings.finished)} of "
        f"{counted(len(findings.attempts), 'attempt')} are finished."
    )


def _saving(findings: Findings, saving: Saving) -> dict[str, str | Picture | Table | None]:
    """Return the saving as the page states it."""
    between = ""
    if saving.interval is not None:
        low, high = saving.interval
        between = f" (95 % interval of the saving: {100 * low:.0f} % to {100 * high:.0f} %)"
    caption = f"Active minutes of the {len(saving.pairs)} cases that were done both ways."
    return {
        "with_model": minutes(saving.with_s),
        "without": minutes(saving.without_s),
        "share": f"{100 * abs(saving.value):.0f} % {'less' if saving.value >= 0 else 'more'}",
        "interval": between,
        "basis": _basis(saving),
        "chart": svg_picture(draw_both_ways(saving.pairs), caption) if saving.pairs else None,
        "by_round": _savings_by_round(findings) if len(findings.savings_by_round) > 1 else None,
    }


def _basis(saving: Saving) -> str:
    if saving.is_paired:
        order = saving.num_baseline_first
        text = (
            f"The same {counted(saving.num_with, 'case')} both ways, in pairs; {order} of them without the "
            f"model first, {saving.num_with - order} with it first. Whoever does a case a second time knows "
            "it already."
        )
    else:
        text = (
            f"{counted(saving.num_with, 'case')} with the model against {saving.num_without} without it. "
            "They are not the same cases and may differ in how hard they are."
        )
    text = f"{text} Time is compared here, not the quality of the masks."
    if saving.interval is None:
        return f"{text} So few cases give no interval."
    is_narrow = min(saving.num_with, saving.num_without) < FEW_CASES
    caution = f"; of fewer than {FEW_CASES} cases it is too narrow" if is_narrow else ""
    return f"{text} The interval is a bootstrap over cases{caution}."


def _savings_by_round(findings: Findings) -> Table:
    return Table(
        header=("with the model in", "saving", "comparison", "cases with", "cases without"),
        rows=tuple(
            (
                f"round {round_number}", percent(one.value, one.interval),
                "same cases" if one.is_paired else "different cases", str(one.num_with), str(one.num_without),
            )
            for round_number, one in findings.savings_by_round
        ),
        words=frozenset({"comparison"}),
    )  # fmt: skip


def _times_chart(findings: Findings) -> Picture:
    return svg_picture(
        draw_times([(one.title, one.baseline, list(one.seconds.values())) for one in findings.groups]),
        "Each dot is a case, each line the mean of its group. Intervals of fewer than "
        f"{FEW_CASES} cases are too narrow.",
    )


def _acts_chart(findings: Findings) -> Picture:
    return svg_picture(
        draw_acts([(one.title, one.acts) for one in findings.groups]),
        "Mean number of interactions a case by kind; looking, scrolling and saving are left out.",
    )


def _times(findings: Findings) -> Table | None:
    if not findings.groups:
        return None
    return Table(
        header=(
            "group", "cases", "mean time (95 %)", "median", "interactions a case", "voxels by hand a case",
        ),
        rows=tuple(
            (
                one.title, str(len(one.seconds)), minutes(one.mean_s, one.interval_s),
                minutes(median(one.seconds.values())), f"{sum(one.acts.values()):.1f}",
                f"{one.hand_voxels:,.0f}",
            )
            for one in findings.groups
        ),
    )  # fmt: skip


def _agreements(found: Sequence[Agreement], name: Callable[[Agreement], str]) -> Table | None:
    """Return the Dice of pairs of masks, a row a group."""
    if not found:
        return None
    groups: dict[str, list[Agreement]] = {}
    for one in sorted(found, key=lambda one: (one.round, one.first, one.second)):
        groups.setdefault(name(one), []).append(one)
    return Table(
        header=("group", "cases", "objects", "mean Dice", "lowest"),
        rows=tuple(
            (
                title, str(len({one.case for one in part})), str(len(part)), number(mean_dice(part), 3),
                number(min(one.dice for one in part), 3),
            )
            for title, part in groups.items()
        ),
    )  # fmt: skip


def _rounds(findings: Findings) -> Table | None:
    if not findings.rounds:
        return None
    rows = []
    for one in findings.rounds:
        measures = sorted({*(one.before or {}), *(one.after or {})})
        shown = [f"{name} {_value(one.before, name)} → {_value(one.after, name)}" for name in measures]
        state = "in use" if one.is_in_use else one.state
        rows.append((f"round {one.number}", state, str(one.num_cases), "; ".join(shown) or one.message))
    header = ("round", "state", "finished cases", "before → after")
    return Table(header=header, rows=tuple(rows), words=frozenset({"state", "before → after"}))


def _value(measures: object, name: str) -> str:
    value = measures.get(name) if isinstance(measures, dict) else None
    return f"{value:.3f}" if isinstance(value, (int, float)) else NOTHING


def _attempts(findings: Findings) -> Table | None:
    if not findings.attempts:
        return None
    return Table(
        header=(
            "case", "user", "model", "round", "active time", "interactions", "voxels by hand", "finished",
        ),
        rows=tuple(
            (
                one.case, one.user, "without" if one.baseline else "with", str(one.round),
                minutes(one.work.active_s), str(one.work.num_interactions), f"{one.work.hand_voxels:,}",
                "yes" if one.is_finished else "no",
            )
            for one in findings.attempts
        ),
        words=frozenset({"user", "model", "finished"}),
    )  # fmt: skip


def _attempt_values(findings: Findings) -> Iterable[Sequence[object]]:
    for one in findings.attempts:
        work = one.work
        acts = " ".join(f"{kind}:{count}" for kind, count in sorted(work.acts.items()))
        yield (
            one.case, one.user, int(one.baseline), one.round, moment(work.started_ms), f"{work.active_s:.3f}",
            work.num_interactions, work.hand_voxels, int(one.is_finished), acts,
        )  # fmt: skip


def _object_values(findings: Findings) -> Iterable[Sequence[object]]:
    names = {case.id: case.name for case in findings.cases}
    for part, one in sorted(findings.tallies.items()):
        label = "" if part.object == NO_OBJECT else part.object
        yield (
            names[part.case], label, part.user, int(part.baseline), part.round,
            f"{one.active_s:.3f}", one.num_interactions, one.hand_voxels,
        )  # fmt: skip


def _agreement_values(one: Agreement) -> Sequence[object]:
    return one.case, one.object, one.first, one.second, one.round, f"{one.dice:.6f}"


def _safe(value: object) -> object:
    """Mark a text so that a spreadsheet shows it and runs nothing: names come from strangers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
