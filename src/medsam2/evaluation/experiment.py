"""Run one or two methods on the same cases, compare them, and say how it was done and what its limits are."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from medsam2.checkpoints import resolve
from medsam2.evaluation.cases import Case, is_by_hand
from medsam2.evaluation.comparison import MIN_CLUSTERS, Difference, cluster_of, compare_runs
from medsam2.evaluation.cost import CostSummary, TimeModel, annotation_cost
from medsam2.evaluation.runner import CaseResult, run_cases
from medsam2.evaluation.simulated_user import RunOptions, Segmenter
from medsam2.hub import file_digest
from medsam2.imaging.labels import from_run_lengths, run_lengths
from medsam2.measure.overlap import dice

PACKAGES = ("medsam2", "torch", "numpy", "scipy", "monai", "SimpleITK", "matplotlib")
_CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """A method of segmenting, with its options."""

    name: str
    segmenter: Segmenter
    options: RunOptions


@dataclass(kw_only=True, eq=False)
class Masks:
    """The masks of a run, as run lengths: a thousand scans of them fit into memory."""

    kept: dict[tuple[str, int], tuple[np.ndarray, tuple[int, ...]]] = field(default_factory=dict)
    alike: dict[tuple[str, int], float] = field(default_factory=dict)
    """Dice of the two methods' masks with one another, where both found one."""

    def keep(self, result: CaseResult, mask: np.ndarray) -> None:
        """Keep the mask `(z, y, x)` of a result."""
        self.kept[result.name, result.repeat] = run_lengths(mask), mask.shape

    def compare(self, result: CaseResult, mask: np.ndarray) -> None:
        """Measure how far the second method's mask agrees with the first one's. It is not kept."""
        key = result.name, result.repeat
        if key in self.kept:
            self.alike[key] = dice(self.get(result), mask)

    def get(self, result: CaseResult) -> np.ndarray:
        """Return the mask of a result, bool `(z, y, x)`."""
        return from_run_lengths(*self.kept[result.name, result.repeat])


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Facts for whoever wants to have the numbers again."""

    command: str
    """As it would be typed."""
    started: str
    """Date and time in UTC, ISO 8601."""
    versions: Mapping[str, str]
    """Of Python and the packages that took part."""
    machine: Mapping[str, str]
    code: str
    """SHA-256 of the package's source files."""
    cases: str
    """SHA-256 of the list of cases."""
    weights: Mapping[str, str]
    """Weights as the user named them -> SHA-256 of their file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """The results of one or two methods on a list of cases."""

    cases: tuple[Case, ...]
    arms: tuple[str, ...]
    """One or two names."""
    options: RunOptions
    """Of the first arm."""
    results: tuple[tuple[CaseResult, ...], ...]
    """Of each arm, in the order of the cases."""
    masks: Masks
    """Of the first arm."""
    differences: tuple[Difference, ...]
    """The second arm minus the first; empty for one arm."""
    costs: tuple[CostSummary | None, ...]
    """Of each arm; None where the list has no scan."""
    provenance: Provenance | None
    """None where no report is made."""


def run_arms_of(cases: Sequence[Case], arms: Sequence[Arm], masks: Masks) -> Iterator[tuple[int, CaseResult]]:
    """Run every case with every arm in turn, so that a machine's other work slows all arms alike.

    Args:
        cases: What to run.
        arms: With the same protocol, noise and seed, so that they get the same first prompts.
        masks: Takes the masks of the first arm, and compares those of the second with them.

    Yields:
        The number of the arm, and a result of it.
    """
    for case in cases:
        for number, arm in enumerate(arms):
            keep = masks.keep if number == 0 else masks.compare
            for result in run_cases([case], arm.segmenter, arm.options, keep=keep):
                yield number, result


def conclude(
    cases: Sequence[Case],
    arms: Sequence[Arm],
    results: Sequence[tuple[int, CaseResult]],
    masks: Masks,
    provenance: Provenance | None = None,
    *,
    model: TimeModel | None = None,
) -> Experiment:
    """Compare and sum up the results of `run_arms_of`.

    Args:
        cases: What was run.
        arms: What it was run with.
        results: All of them.
        masks: Of the first arm.
        provenance: Of the run.
        model: How long users take.
    """
    options = arms[0].options
    by_arm = tuple(tuple(r for number, r in results if number == arm) for arm in range(len(arms)))
    return Experiment(
        cases=tuple(cases),
        arms=tuple(arm.name for arm in arms),
        options=options,
        results=by_arm,
        masks=masks,
        differences=tuple(compare_runs(*by_arm, seed=options.seed)) if len(arms) == 2 else (),
        costs=tuple(annotation_cost(part, options.protocol, model, seed=options.seed) for part in by_arm),
        provenance=provenance,
    )


def describe_run(command: str, cases: Path, weights: Sequence[str], device: str) -> Provenance:
    """Collect what there is to say about this run, before it starts.

    Args:
        command: The command line.
        cases: The list of cases.
        weights: Names or files as the user gave them; none for a classical method.
        device: What the network computes on, and in what.

    Raises:
        CheckpointError: Weights are not there.
    """
    return Provenance(
        command=command,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        machine={
            "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
            "processor": _processor(),
            "processors": str(os.cpu_count()),
            "threads of PyTorch": str(torch.get_num_threads()),
            "device": device,
        },
        code=_code_digest(),
        cases=file_digest(cases),
        weights={name: file_digest(resolve(name)) for name in weights},
    )


def _code_digest() -> str:
    """Digest names and contents of the package's own files, which change more often than its version."""
    package = Path(__file__).parents[1]
    digest = sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()} {file_digest(path)}\n".encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = _CPU_FACTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")


_FEW_PATIENTS = 30


def list_limits(found: Experiment) -> list[str]:
    """Return an experiment's limits, a sentence or two each, those that weigh most first."""
    return [*_of_the_list(found), *_of_the_prompts(found), *_of_the_numbers(found)]


def _of_the_list(found: Experiment) -> Iterator[str]:
    results = found.results[0]
    num_patients = len({cluster_of(result) for result in results})
    if num_patients < len({result.name for result in results}):
        yield (
            f"The {len(found.cases)} cases lie in {num_patients} patients or images. Cases of one image are "
            "not independent: intervals resample patients, tests use one mean difference per patient."
        )
    if num_patients < _FEW_PATIENTS:
        yield (
            f"{num_patients} patients are few. Bootstrap intervals of so few are too narrow; strata of fewer "
            f"than {MIN_CLUSTERS} patients have none and show no more than examples."
        )
    made = [case.reference for case in found.cases]
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


def _of_the_prompts(found: Experiment) -> Iterator[str]:
    noise = found.options.box_noise
    tight = found.options.protocol in ("box", "interactive") and noise == 0
    yield (
        "Prompts are cut out of the reference mask"
        + (" and boxes are exactly tight" if tight else "")
        + ". People draw less exactly, and their scores are lower (Magg et al., arXiv 2603.10541)."
        + (" --box-noise 0.1 --repeats 5 shows how much depends on it." if tight else "")
    )
    if found.options.has_clicks:
        yield (
            "Clicks are placed by the rule of the CVPR 2025 challenge, which knows the reference and always "
            "finds the largest error of the whole volume. A person finds it less well. The areas under the "
            "curves are not comparable to the challenge's to the digit: NSD is MONAI's, and is not set to 0 "
            "below a Dice of 0.2."
        )


def _of_the_numbers(found: Experiment) -> Iterator[str]:
    results = [result for part in found.results for result in part]
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
    if found.differences:
        yield (
            "A difference that is not significant here is not shown to be none: read its interval. What is "
            "found in a stratum or in another metric than the primary ones was found by searching, and is a "
            "reason to test it on other cases."
        )
