"""A project's report as one HTML page that needs nothing else: no script, no other file, no network."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape

from medsam2.annotation.attempts import Agreement, mean_dice
from medsam2.annotation.cases import moment
from medsam2.annotation.charts import draw_acts, draw_pairs, draw_times
from medsam2.annotation.clock import IDLE_COUNTS_S, IDLE_S
from medsam2.annotation.findings import Findings, Mean, Saving, find
from medsam2.annotation.project import STATES, Project


def in_words(seconds: float) -> str:
    """Write seconds as minutes and seconds."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def day(text: str) -> str:
    """Write an ISO 8601 moment in UTC as date and minute."""
    return escape(f"{text[:10]} {text[11:16]} UTC")


def counted(count: int, noun: str) -> str:
    """Write a number of things."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write rows of text under their heads."""
    head = "".join(f"<th>{escape(text)}</th>" for text in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def figure(svg: str, caption: str) -> str:
    """Put a drawing into a page as an image: a browser runs nothing inside, whatever a case is called."""
    return image(f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", caption)


def image(source: str, caption: str) -> str:
    """Put a picture with its caption into a page.

    Args:
        source: A URL that needs no network, `data:`.
        caption: Shown below it, and read out in its place.
    """
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


FEW_CASES = 10
"""Of fewer, a bootstrap's interval misses the truth more often than it says."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_MARK = ' <span class="mark">simulated</span>'
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em;
  color: #1b1b1b; background: #fff; }
h1 { font-size: 1.6em; margin-bottom: 0.2em; }
h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; font-size: 0.85em; margin: 0.7em 0; }
th, td { padding: 0.25em 0.7em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th { background: #f3f3f3; } th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 13em; }
.wide { overflow-x: auto; } .quiet { color: #555; }
.note { background: #fff3d6; border-left: 4px solid #d99a00; padding: 0.5em 1em; font-weight: 600; }
.mark { background: #d99a00; color: #1b1b1b; border-radius: 3px; padding: 0 0.4em; font-size: 0.8em; }
.main { font-size: 1.15em; background: #eef4fb; border-left: 4px solid #1f5fa8; padding: 0.6em 1em; }
img { max-width: 100%; height: auto; } figure { margin: 1em 0; }
figcaption { color: #444; font-size: 0.85em; overflow-wrap: anywhere; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(13em, 1fr)); gap: 1em; }
.gallery figure { margin: 0; } .gallery img { width: 100%; background: #000; }
"""


def render_report(project: Project, simulation: str = "") -> str:
    """Write a project's report as it stands now.

    Args:
        project: The project.
        simulation: What was simulated, if anything was: said first, and again beside headings and saving.
    """
    return render(find(project), made=moment(project.now_ms()), simulation=simulation)


def render(findings: Findings, *, made: str, simulation: str = "") -> str:
    """Write findings as HTML.

    Args:
        findings: From `find`.
        made: When, for the reader.
        simulation: What was simulated, if anything was.
    """
    mark = _MARK if simulation else ""
    body = "\n".join(
        [
            *_summary(findings, made, simulation),
            *_saving(findings, mark),
            *_times(findings, mark),
            *_interactions(findings),
            *_proposals(findings),
            *_agreement(findings),
            *_rounds(findings),
            *_pictures(findings),
            *_every_attempt(findings),
            *_method(),
        ]
    )
    title = escape(f"{findings.record.name}: annotation report")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _summary(findings: Findings, made: str, simulation: str) -> Iterator[str]:
    record = findings.record
    yield f"<h1>{escape(record.name)}{_MARK if simulation else ''}</h1>"
    yield f'<p class="quiet">Annotation report of {day(made)}. Research software, not a medical device.</p>'
    if simulation:
        yield f'<p class="note">{escape(simulation)}</p>'
    counts = Counter(case.state for case in record.cases)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "none"
    users = sorted({event.user for event in record.events})
    yield f"<p>{counted(len(record.cases), 'case')}: {states}. "
    if record.events:
        first, last = (moment(pick(event.at_ms for event in record.events)) for pick in (min, max))
        yield (
            f"{len(record.events)} events of {counted(len(users), 'user')} were logged from {day(first)} "
            f"to {day(last)}; {len(findings.finished)} of {counted(len(record.attempts), 'attempt')} are "
            "finished.</p>"
        )
    else:
        yield "Nothing was logged yet, so there is no time to report.</p>"


def _saving(findings: Findings, mark: str) -> Iterator[str]:
    yield f"<h2>Time saved{mark}</h2>"
    saving = findings.saving
    if saving is None:
        has_baseline = any(one.baseline for one in findings.finished)
        missing = "with the model" if has_baseline else "without the model (baseline mode)"
        yield (
            f'<p class="main">No saving is stated: no finished case was logged {missing}, so there is '
            "nothing to compare with.</p>"
        )
        return
    yield f'<p class="main">{_sentence(saving)}{mark}</p>'
    yield f"<p>{_basis(saving)}</p>"
    if saving.pairs:
        yield figure(
            draw_pairs(saving.pairs),
            f"Active minutes of the {len(saving.pairs)} cases that were done both ways.",
        )
    if len(findings.savings_by_round) > 1:
        rows = [
            (f"round {number}", _percent(one), _kind(one), str(one.num_with), str(one.num_without))
            for number, one in findings.savings_by_round
        ]
        yield table(("with the model in", "saving", "comparison", "cases with", "cases without"), rows)


def _sentence(saving: Saving) -> str:
    word = "less" if saving.value >= 0 else "more"
    between = ""
    if saving.interval is not None:
        low, high = saving.interval
        between = f" (95 % interval of the saving: {100 * low:.0f} % to {100 * high:.0f} %)"
    return (
        f"With the model a case took {in_words(saving.with_s)} of active time, without it "
        f"{in_words(saving.without_s)}: <strong>{100 * abs(saving.value):.0f} % {word}</strong>{between}."
    )


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
            f"{counted(saving.num_with, 'case')} with the model against {saving.num_without} without it, "
            "which are not the same: the cases may differ in how hard they are."
        )
    text = f"{text} Time is compared here, not the quality of the masks."
    if saving.interval is None:
        return f"{text} So few cases give no interval."
    is_narrow = min(saving.num_with, saving.num_without) < FEW_CASES
    caution = f"; of fewer than {FEW_CASES} cases it is too narrow" if is_narrow else ""
    return f"{text} The interval is a bootstrap over cases{caution}."


def _times(findings: Findings, mark: str) -> Iterator[str]:
    yield f"<h2>Time per case{mark}</h2>"
    if not findings.groups:
        yield "<p>No finished case was logged.</p>"
        return
    yield figure(
        draw_times([(one.title, one.baseline, list(one.seconds.values())) for one in findings.groups]),
        "Each dot is a case, each line the mean of its group. Intervals of fewer than "
        f"{FEW_CASES} cases are too narrow.",
    )
    rows = [
        (
            one.title, str(one.mean_s.num_cases), _interval(one.mean_s), in_words(one.median_s),
            f"{sum(one.acts.values()):.1f}", f"{one.hand_voxels:,.0f}",
        )
        for one in findings.groups
    ]  # fmt: skip
    header = ("", "cases", "mean time (95 %)", "median", "interactions a case", "voxels by hand a case")
    yield table(header, rows)


def _interactions(findings: Findings) -> Iterator[str]:
    if not any(one.acts for one in findings.groups):
        return
    yield "<h2>Interactions</h2>"
    yield figure(
        draw_acts([(one.title, one.acts) for one in findings.groups]),
        "Mean number of interactions a case by kind; looking, scrolling and saving are left out.",
    )


def _proposals(findings: Findings) -> Iterator[str]:
    if not findings.proposals:
        return
    yield "<h2>Proposals and what became of them</h2>"
    yield (
        "<p>Dice of the model's proposal with the mask that a person made of it. It says how little had to "
        "be changed, not how right the mask is: who is shown a mask tends to keep it.</p>"
    )
    rounds = sorted({one.round for one in findings.proposals})
    rows = []
    for number in rounds:
        chosen = [one for one in findings.proposals if one.round == number]
        cases = len({one.case for one in chosen})
        lowest = min(one.dice for one in chosen)
        rows.append(
            (f"round {number}", str(cases), str(len(chosen)), f"{mean_dice(chosen):.3f}", f"{lowest:.3f}")
        )
    yield table(("", "cases", "objects", "mean Dice", "lowest"), rows)


def _agreement(findings: Findings) -> Iterator[str]:
    yield "<h2>Agreement between annotators</h2>"
    if not findings.authors:
        yield "<p>No case has finished masks of two authors, so no agreement is stated.</p>"
        return
    yield (
        "<p>Dice of the newest finished masks of different authors of one case. Who opens a case after "
        "somebody else may see that mask; agreement is then higher than between two who do not.</p>"
    )
    pairs = sorted({(one.first, one.second) for one in findings.authors})
    rows = []
    for first, second in pairs:
        chosen = [one for one in findings.authors if (one.first, one.second) == (first, second)]
        rows.append((f"{first} and {second}", *_agreement_cells(chosen)))
    yield table(("", "cases", "objects", "mean Dice", "lowest"), rows)


def _agreement_cells(chosen: Sequence[Agreement]) -> tuple[str, str, str, str]:
    cases = len({one.case for one in chosen})
    return str(cases), str(len(chosen)), f"{mean_dice(chosen):.3f}", f"{min(one.dice for one in chosen):.3f}"


def _rounds(findings: Findings) -> Iterator[str]:
    if not findings.record.rounds:
        return
    yield "<h2>Rounds of training</h2>"
    yield "<p>Measured on held-out cases, with the weights that were in use and with the new ones.</p>"
    rows = []
    for one in findings.record.rounds:
        measures = sorted({*(one.before or {}), *(one.after or {})})
        shown = [f"{name} {_value(one.before, name)} → {_value(one.after, name)}" for name in measures]
        state = "in use" if one.is_in_use else one.state
        rows.append((f"round {one.number}", state, str(one.num_cases), "; ".join(shown) or one.message))
    yield table(("", "state", "finished cases", "before → after"), rows)


def _pictures(findings: Findings) -> Iterator[str]:
    if not findings.pictures:
        return
    yield "<h2>Finished masks</h2>\n"
    yield '<p>The slice with most of the objects, outlined in their colours.</p><div class="gallery">'
    for one in findings.pictures:
        caption = f"{one.case}: {', '.join(one.objects) or 'empty'}, by {one.author}"
        yield image(f"data:image/png;base64,{base64.b64encode(one.png).decode()}", caption)
    yield "</div>"


def _every_attempt(findings: Findings) -> Iterator[str]:
    if not findings.record.attempts:
        return
    yield "<h2>Every attempt</h2>"
    rows = [
        (
            one.case, one.user, "without" if one.baseline else "with", str(one.round), in_words(one.active_s),
            str(one.num_interactions), f"{one.hand_voxels:,}", "yes" if one.is_finished else "no",
        )
        for one in findings.record.attempts
    ]  # fmt: skip
    header = ("case", "user", "model", "round", "active time", "interactions", "voxels by hand", "finished")
    yield table(header, rows)


def _method() -> Iterator[str]:
    yield "<h2>How time is counted</h2>"
    yield (
        "<p>From the events that the page logs: clicks, boxes, strokes, scrolling, saving. A gap of at most "
        f"{IDLE_S:g} s between two events of one user on one case counts in full; a longer one counts "
        f"{IDLE_COUNTS_S:g} s, as nobody can tell whether somebody looked or left. Waiting for the model is "
        "a gap like others. Opening the next case, and all that is done away from the page, does not count. "
        "An attempt is finished when it was saved and its user called a mask of the case done; means are of "
        "finished attempts only. A case that several users did counts once, with the mean of their times.</p>"
    )


def _interval(mean: Mean) -> str:
    if mean.interval is None:
        return in_words(mean.value)
    low, high = mean.interval
    return f"{in_words(mean.value)} ({in_words(low)} to {in_words(high)})"


def _percent(saving: Saving) -> str:
    text = f"{100 * saving.value:.0f} %"
    if saving.interval is None:
        return text
    low, high = saving.interval
    return f"{text} ({100 * low:.0f} to {100 * high:.0f} %)"


def _kind(saving: Saving) -> str:
    return "same cases" if saving.is_paired else "different cases"


def _value(measures: object, name: str) -> str:
    value = measures.get(name) if isinstance(measures, dict) else None
    return f"{value:.3f}" if isinstance(value, (int, float)) else "-"
