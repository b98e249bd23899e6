"""What a reader must not conclude from a study, in words, from what the study is."""

from __future__ import annotations

import math
from collections.abc import Iterator

from medsam2.evaluation.comparison import cluster_of
from medsam2.evaluation.protocol import is_by_hand
from medsam2.evaluation.statistics import MIN_CLUSTERS
from medsam2.evaluation.study import Study

_FEW_PATIENTS = 30


def list_limits(study: Study) -> list[str]:
    """Return a study's limits, a sentence or two each, those that weigh most first."""
    return [*_of_the_list(study), *_of_the_prompts(study), *_of_the_numbers(study)]


def _of_the_list(study: Study) -> Iterator[str]:
    results = study.results[0]
    num_patients = len({cluster_of(result) for result in results})
    if num_patients < len({result.name for result in results}):
        yield (
            f"The {len(study.cases)} cases lie in {num_patients} patients or images. Cases of one image are "
            "not independent: intervals resample patients, tests use one mean difference per patient."
        )
    if num_patients < _FEW_PATIENTS:
        yield (
            f"{num_patients} patients are few. Bootstrap intervals of so few are too narrow; strata of fewer "
            f"than {MIN_CLUSTERS} patients have none and show no more than examples."
        )
    made = [case.reference for case in study.cases]
    num_other = sum(not is_by_hand(one) for one in made)
    if num_other:
        yield (
            f"{num_other} of {len(made)} references are not marked as drawn by a person: machine-made masks "
            "have errors of their own, and agreeing with them is not the same as being right."
        )
    yield (
        "Whether these cases took part in the training or in the choice of the weights cannot be seen from "
        "here; if they did, the numbers are too good."
    )


def _of_the_prompts(study: Study) -> Iterator[str]:
    noise = study.options.box_noise
    tight = study.options.protocol in ("box", "interactive") and noise == 0
    yield (
        "Prompts are cut out of the reference mask"
        + (" and boxes are exactly tight" if tight else "")
        + ". People draw less exactly, and their scores are lower (Magg et al., arXiv 2603.10541)."
        + (" --box-noise 0.1 --repeats 5 shows how much depends on it." if tight else "")
    )
    if study.options.has_clicks:
        yield (
            "Clicks are placed by the rule of the CVPR 2025 challenge, which knows the reference and always "
            "finds the largest error of the whole volume. A person finds it less well. The areas under the "
            "curves are not comparable to the challenge's to the digit: NSD is MONAI's, and is not set to 0 "
            "below a Dice of 0.2."
        )


def _of_the_numbers(study: Study) -> Iterator[str]:
    results = [result for part in study.results for result in part]
    scores = [result.scores for result in results if result.scores is not None]
    num_missed = sum(math.inf in (one.hd95_mm, one.hd95_px) for one in scores)
    if num_missed:
        yield (
            f"{num_missed} of {len(scores)} masks are empty. They count as 0 in Dice and NSD and are left "
            "out of HD95 and ASSD, which look better for it."
        )
    if any(one.hd95_px is not None for one in scores):
        yield (
            "Pictures without a spacing are measured in pixels, their NSD at 1 and 2 pixels; such columns "
            "must not be compared with those of scans."
        )
    num_failed = sum(result.error is not None for result in results)
    if num_failed:
        yield f"{num_failed} of {len(results)} runs failed and are in no mean; see the list of failures."
    yield (
        "Seconds and memory are those of this machine with whatever else it was doing; memory is that of the "
        "whole process, libraries and weights included, on the host alone."
    )
    if study.differences:
        yield (
            "A difference that is not significant here is not shown to be none: read its interval. What is "
            "found in a stratum or in another metric than the primary ones was found by searching, and is a "
            "reason to test it on other cases."
        )
