"""A study as one HTML page that needs nothing else: no script, no other file, no network."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape

from medsam2.evaluation.comparison import EQUAL, MIN_CLUSTERS, cluster_of
from medsam2.evaluation.cost import SIMULATED, TimeModel
from medsam2.evaluation.experiment import Study, list_limits
from medsam2.evaluation.figures import draw_boxes, draw_curves, draw_pairs, draw_volumes
from medsam2.evaluation.gallery import Exhibit
from medsam2.evaluation.summary import PICTURES, SCANS
from medsam2.evaluation.tables import (
    Table,
    alike_in_words,
    cases_tables,
    comparison_table,
    cost_table,
    strata_tables,
)

TITLE = "MedSAM2 evaluation"

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em;
  color: #1b1b1b; background: #fff; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; font-size: 0.82em; margin: 0.7em 0; }
th, td { padding: 0.25em 0.6em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th { background: #f3f3f3; } th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
code { background: #f3f3f3; padding: 0.1em 0.3em; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; } figure { margin: 1em 0; }
figcaption { color: #444; font-size: 0.88em; }
td.word, th.word { text-align: left; } td.number { white-space: nowrap; }
.pair { display: flex; flex-wrap: wrap; gap: 1em; } .pair figure { flex: 1 1 20em; margin: 0.4em 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2em 1em; }
dt { color: #555; } dd { margin: 0; }
"""

# Columns that hold words.
_WORDS = ("cases", "case", "metric", "modality", "target", "reference", "way", "remark")

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_page(study: Study, exhibits: list[Exhibit]) -> str:
    """Write a study as HTML.

    Args:
        study: What was found.
        exhibits: The cases to show, from `gallery.show_cases`.
    """
    body = "\n".join(
        [
            *_summary(study),
            *_comparison(study),
            *_figures(study),
            *_gallery(study, exhibits),
            *_cost(study),
            *_limits(study),
            *_run(study),
            *_cases(study),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _summary(study: Study) -> Iterator[str]:
    options = study.options
    arms = " against ".join(f"<strong>{escape(arm)}</strong>" for arm in study.arms)
    kinds = (
        [result for result in study.results[0] if result.dimensions == dimensions] for dimensions in (3, 2)
    )
    counts = " and ".join(
        f"{len({result.name for result in kind})} {name} ({len({cluster_of(result) for result in kind})} "
        "patients or images)"
        for kind, name in zip(kinds, (SCANS, PICTURES), strict=True)
        if kind
    )
    clicks = f", {options.clicks} clicks" if options.has_clicks else ""
    noise = f", boxes moved by up to {options.box_noise:g} of their side" if options.box_noise else ""
    repeats = f", {options.repeats} repeats" if options.repeats > 1 else ""
    yield f"<h1>{TITLE}</h1>"
    yield (
        f"<p>{arms} on {counts}. Protocol: {options.protocol}{clicks}{noise}{repeats}. "
        "Research software, not a medical device.</p>"
    )
    yield "<h2>Means</h2>"
    yield (
        "<p>Mean over cases, below it the 95 % interval of a bootstrap of patients, of images where no "
        f"patient is named; none for fewer than {MIN_CLUSTERS}. NSD is the surface Dice at a tolerance, HD95 "
        "the larger of the two directed 95th percentiles, ASSD the average symmetric surface distance. "
        "Over-propagation is how far the mask goes on beyond the object's ends, both ends together; slices "
        "missed hold the object and no mask.</p>"
    )
    for arm, results in zip(study.arms, study.results, strict=True):
        yield f"<h3>{escape(arm)}</h3>" if len(study.arms) > 1 else ""
        yield from map(_table, strata_tables(results, study.options.seed))


def _comparison(study: Study) -> Iterator[str]:
    if not study.differences:
        return
    first, second = (escape(arm) for arm in study.arms)
    yield f"<h2>Differences, {second} minus {first}</h2>"
    yield f"<p>{escape(alike_in_words(study))}</p>"
    if all(row.note == EQUAL for row in study.differences):
        yield "<p>No measure of any pair differs, so that there is nothing to test.</p>"
        return
    primary, rest = (comparison_table(study, primary=primary) for primary in (True, False))
    yield (
        "<p>The same cases and the same first prompts, in pairs. Two-sided signed-rank test (Wilcoxon) of "
        "patients' mean differences; the difference itself is the mean over cases, its interval a bootstrap "
        f"of patients. Primary are Dice and NSD of all scans and of all pictures, {len(primary.rows)} tests "
        f"with Holm's correction among them; the other {len(rest.rows)} are a search, corrected among "
        "themselves. * marks what is below 0.05 after correction.</p>"
    )
    yield _table(primary)
    if rest.rows:
        yield f"<details><summary>The other tests ({len(rest.rows)} rows)</summary>{_table(rest)}</details>"
    yield _svg(
        draw_pairs(study.arms, study.results),
        f"Each case with both ways; above the line {study.arms[1]} is better.",
    )


def _figures(study: Study) -> Iterator[str]:
    yield "<h2>Distributions</h2>"
    if study.options.has_clicks:
        yield _svg(
            draw_curves(study.arms, study.results, study.options.seed),
            "Mean Dice and NSD after each interaction, with 95 % intervals over patients. "
            + (
                "The first is the box, the others are clicks."
                if study.options.protocol == "interactive"
                else "All interactions are clicks."
            ),
        )
    yield _svg(
        draw_boxes(study.arms, study.results),
        "Quartiles, whiskers to the last run within 1.5 of the box's length, and every run as a dot. HD95 of "
        "scans, empty masks left out.",
    )
    volumes = draw_volumes(study.arms, study.results)
    if volumes is not None:
        yield _svg(
            volumes,
            "Bland-Altman plot of the volumes of scans, a dot a run: bias (solid) and limits of agreement "
            "(dashed, bias \u00b1 1.96 standard deviations, as if no two runs were of one patient). An empty "
            "mask lies at -200 %.",
        )


def _gallery(study: Study, exhibits: list[Exhibit]) -> Iterator[str]:
    if not exhibits:
        return
    kind = SCANS if exhibits[0].result.dimensions == 3 else PICTURES
    yield f"<h2>Best, median and worst of the {kind} by Dice, {escape(study.arms[0])}</h2>"
    yield (
        "<p>Left the mask (orange) with the box, if there was one (green), right the reference. Above the "
        "slice that was prompted, below, closer, slices from the first to the last of what is outlined, with "
        "their numbers: where mask and reference end elsewhere, these differ.</p>"
    )
    for exhibit in exhibits:
        result = exhibit.result
        dice = "" if result.scores is None else f", Dice {result.scores.dice:.3f}"
        caption = f"{exhibit.rank}: {result.name} ({result.target}){dice}"
        yield f'<h3>{escape(caption)}</h3>\n<div class="pair">'
        yield _jpeg(exhibit.found_jpeg, "mask")
        yield _jpeg(exhibit.truth_jpeg, "reference")
        yield "</div>"


def _cost(study: Study) -> Iterator[str]:
    models = [cost.model for cost in study.costs if cost is not None]
    if not models:
        return
    yield "<h2>Simulated cost of annotation</h2>"
    yield f"<p><strong>{SIMULATED}</strong></p>"
    yield _table(cost_table(study.arms, study.costs))
    yield f"<p>{_explain(models[0])}</p>"


def _explain(model: TimeModel) -> str:
    return (
        f"Seconds of the model: box {model.box_s:g}, click {model.click_s:g}, diameter {model.line_s:g}, "
        f"slice drawn by hand {model.drawn_slice_s:g}, look at a slice {model.look_s:g}; waiting for the "
        "machine as measured here. A case that does not reach a Dice of 0.9 is finished by drawing each "
        "slice that is still below 0.9. The defaults are those of Papadopoulos et al., ICCV 2017 (box) and "
        "CVPR 2017 (click), and of Bearman et al., ECCV 2016 (outline of an object, the faster of 54 and "
        "79 s), all measured on photographs. The look is an assumption without a source. By hand means that "
        "every slice of the object is drawn; who draws some and interpolates between them needs less, and "
        "saves less here."
    )


def _limits(study: Study) -> Iterator[str]:
    yield "<h2>Limits</h2>\n<ul>"
    yield from (f"<li>{escape(limit)}</li>" for limit in list_limits(study))
    yield "</ul>"


def _run(study: Study) -> Iterator[str]:
    facts = study.provenance
    if facts is None:
        return
    yield "<h2>What was run</h2>"
    yield f"<p><code>{escape(facts.command)}</code></p>"
    yield _facts(
        {
            "started (UTC)": facts.started,
            "source of the program": f"SHA-256 {facts.code}",
            "list of cases": f"SHA-256 {facts.cases}",
            "seed": str(study.options.seed),
            **{f"weights {name}": f"SHA-256 {digest}" for name, digest in facts.weights.items()},
            **facts.machine,
            **facts.versions,
        }
    )


def _cases(study: Study) -> Iterator[str]:
    for arm, results in zip(study.arms, study.results, strict=True):
        yield f"<h2>Every case, {escape(arm)}</h2>"
        yield from map(_table, cases_tables(results))
        failures = [result for result in results if result.error is not None]
        if failures:
            yield "<h3>Failures</h3>\n<ul>"
            yield from (f"<li>{escape(one.name)}: {escape(one.error or '')}</li>" for one in failures)
            yield "</ul>"


def _table(table: Table) -> str:
    kinds = ["word" if text in _WORDS else "number" for text in table.header]
    head = "".join(
        f'<th class="{kind}">{escape(text)}</th>' for kind, text in zip(kinds, table.header, strict=True)
    )
    rows = "\n".join("<tr>" + "".join(map(_cell, kinds, row)) + "</tr>" for row in table.rows)
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    )


def _cell(kind: str, text: str) -> str:
    return f'<td class="{kind}">{escape(text).replace(chr(10), "<br>")}</td>'


def _facts(facts: Mapping[str, str]) -> str:
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{entries}</dl>"


def _svg(text: str, caption: str) -> str:
    # As an image: a browser runs nothing inside, and two figures' names cannot meet.
    data = base64.b64encode(text.encode()).decode()
    return _figure(f"data:image/svg+xml;base64,{data}", caption)


def _jpeg(content: bytes, caption: str) -> str:
    return _figure(f"data:image/jpeg;base64,{base64.b64encode(content).decode()}", caption)


def _figure(source: str, caption: str) -> str:
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
