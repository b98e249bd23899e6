"""A run as one HTML page that needs nothing else: no script, no other file, no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from itertools import islice
from pathlib import Path

from medsam2.batch.results import Result, Summary, sentences
from medsam2.imaging.replacing import replacing

PAGE = "report.html"
TITLE = "MedSAM2 batch"
MAX_ROWS = 500
"""Cases that the page shows of each kind; the tables have all of them."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em;
  color: #1b1b1b; background: #fff; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; font-size: 0.85em; }
th, td { padding: 0.25em 0.6em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th { background: #f3f3f3; } th:first-child, td:first-child, td:last-child { text-align: left; }
.wide { overflow-x: auto; } .failed td { background: #fdeeee; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2em 1em; }
dt { color: #555; } dd { margin: 0; }
"""


def write_page(summary: Summary, results: Iterable[Result], facts: Mapping[str, str], folder: Path) -> None:
    """Write `report.html`.

    Args:
        summary: The run in numbers.
        results: Every case, gone through once.
        facts: How it was run, in words.
        folder: The batch's.

    Raises:
        InputError: It cannot be written.
    """
    with replacing(folder / PAGE, ".part") as path, path.open("x", encoding="utf-8") as file:
        file.writelines(f"{part}\n" for part in _parts(summary, results, facts))


def _parts(summary: Summary, results: Iterable[Result], facts: Mapping[str, str]) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{TITLE}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{TITLE}</h1>"
    yield from (f"<p>{escape(line)}.</p>" for line in islice(sentences(summary), 2))
    yield "<p>Research software, not a medical device.</p>"
    yield "<h2>How it was run</h2>\n<dl>"
    yield from (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    yield "</dl>"
    if summary.errors:
        yield "<h2>What went wrong</h2>\n<ul>"
        yield from (f"<li>{count} x {escape(error)}</li>" for error, count in summary.errors.items())
        yield "</ul>"
    yield from _cases(results)
    yield "</body>\n</html>"


def _cases(results: Iterable[Result]) -> Iterator[str]:
    """Rows of those that failed and of the others, as many as a browser likes."""
    failed: list[str] = []
    fine: list[str] = []
    num_left = 0
    for result in results:
        rows = failed if result.record is None else fine
        if len(rows) < MAX_ROWS:
            rows.append(_row(result))
        else:
            num_left += 1
    header = ("case", "status", "objects", "slices", "volume, ml", "seconds", "peak, MiB", "remark")
    head = "".join(f"<th>{text}</th>" for text in header)
    yield f'<h2>Cases</h2>\n<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>'
    yield from (*failed, *fine)
    yield "</tbody></table></div>"
    if num_left:
        yield f"<p>{num_left} more are in results.csv.</p>"


def _row(result: Result) -> str:
    one = result.record
    if one is None:
        cells = [result.case, result.status, "", "", "", "", "", result.error or ""]
        return f'<tr class="failed">{_joined(cells)}</tr>'
    peak = "" if one.peak_mib is None else f"{one.peak_mib:.0f}"
    sizes = [str(len(one.objects)), str(one.num_slices), f"{one.volume_ml:.2f}", f"{one.seconds:.2f}", peak]
    return f"<tr>{_joined([result.case, result.status, *sizes, '; '.join(one.notes)])}</tr>"


def _joined(cells: Iterable[str]) -> str:
    return "".join(f"<td>{escape(cell)}</td>" for cell in cells)
