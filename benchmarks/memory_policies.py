"""Compare memory policies in pairs: the same weights follow every object with every policy.

    python benchmarks/memory_policies.py [CASES.json] [--generated 12] [--seed 900000] [--weights compact]
        [--policy NAME ...] [--json]

Objects are the 3D cases of CASES.json and generated ones, some of which vanish for three slices. Each is
prompted with the tight box on one slice and followed through all slices of its volume. Every policy is
compared with `recent`: differences of Dice in pairs, their 95 % interval, and Wilcoxon's test with Holm's
correction.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from rich.console import Console
from rich.table import Table

from medsam2.errors import InputError
from medsam2.evaluation.cases import XYXY, Task, read_cases, read_task
from medsam2.evaluation.comparison import estimate_mean, holm, wilcoxon
from medsam2.evaluation.summary import SHORT_OBJECT
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor, load
from medsam2.inference.runtime import InferenceOptions
from medsam2.measure.overlap import dice
from medsam2.prompts.simulate import tight_box
from medsam2.synthesis.stack import generate_stack
from medsam2.tracking.memory import MemoryBank
from medsam2.tracking.policies import NUM_RECENT, Place, Policy, Recent, Selection, SelfSorting, with_prompts

PIPE_WIDTH = 140

SHAPE = (64, 192, 192)
SHORTEST = 16  # slices
LEAST_AREA = 40  # pixels in the slice that is prompted
PER_STACK = 2
GAP = 3  # slices that show noise alone


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """An object to follow."""

    name: str
    group: str
    """Kind of object, for tables."""
    volume: Volume
    truth: np.ndarray
    """Boolean `(z, y, x)` along the sliced axis."""
    key_slice: int
    box_xyxy: XYXY
    window: str | tuple[float, float] | None
    axis: int = 2


def subject_of(task: Task) -> Subject:
    """Turn a case of a list into an object to follow."""
    return Subject(
        name=task.case.name,
        group=f"{task.case.modality} {task.case.target}",
        volume=task.volume,
        truth=slices_along(task.truth, task.axis),
        key_slice=task.case.key_slice,
        box_xyxy=task.case.box_xyxy,
        window=task.case.window,
        axis=task.axis,
    )


def long_objects(seeds: range) -> Iterator[Subject]:
    """Generate stacks and yield up to two long objects of each.

    The prompt lies on the object's first slice of sufficient size, so that many slices follow. Every other
    stack is also given with noise in three slices in the middle of the object, as after a movement. Nothing
    can be found there, and the object must be found again behind them.
    """
    for seed in seeds:
        stack = generate_stack(seed, shape=SHAPE)
        labels = np.arange(1, int(stack.labels.max()) + 1)
        areas = np.stack([(stack.labels == label).sum(axis=(1, 2)) for label in labels])
        lengths = (areas > 0).sum(axis=1)
        chosen = [i for i in np.argsort(-lengths) if lengths[i] >= SHORTEST and areas[i].max() >= LEAST_AREA]
        for index in chosen[:PER_STACK]:
            truth = stack.labels == labels[index]
            yield _subject(f"generated {seed}.{labels[index]}", stack.look, stack.image, truth, areas[index])
            if seed % 2:
                image, seen, left = _spoil(stack.image, truth, areas[index], seed)
                yield _subject(f"generated {seed}.{labels[index]} gap", "gap", image, seen, left)


def _subject(name: str, group: str, image: np.ndarray, truth: np.ndarray, areas: np.ndarray) -> Subject:
    key_slice = int(np.flatnonzero(areas >= min(LEAST_AREA, areas.max()))[0])
    return Subject(
        name=name,
        group=f"generated, {group}",
        volume=Volume.from_array(image),
        truth=truth,
        key_slice=key_slice,
        box_xyxy=tight_box(truth[key_slice]).xyxy,
        window=(0.0, 255.0),
    )


def _spoil(
    image: np.ndarray, truth: np.ndarray, areas: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Replace three slices in the middle of an object by noise, and take them out of the truth."""
    image, truth, areas = image.copy(), truth.copy(), areas.copy()
    filled = np.flatnonzero(areas)
    start = int(filled[len(filled) // 2])
    gap = slice(start, start + GAP)
    image[gap] = np.random.default_rng(seed).integers(0, 256, image[gap].shape, dtype=np.uint8)
    truth[gap] = False
    areas[gap] = 0
    return image, truth, areas


@dataclass(frozen=True, kw_only=True)
class PromptOnly:
    """A control that looks back at the prompted slices alone; pointers stay."""

    compares = False

    def choose(self, bank: MemoryBank, place: Place) -> Selection:
        return with_prompts(bank, place, [])

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Strided:
    """The last slice and every n-th one before it, as SAM 2's own option takes them."""

    stride: int
    compares = False

    def choose(self, bank: MemoryBank, place: Place) -> Selection:
        last, step = place.slice_index - place.step, place.step
        newest = (last - step) * step // self.stride * self.stride * step
        chosen = [last, *(newest - step * self.stride * k for k in range(NUM_RECENT - 1))]
        return with_prompts(bank, place, [(z, code) for code, z in enumerate(chosen) if z in bank.tracked])

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        return list(bank.tracked)


@dataclass(frozen=True, kw_only=True)
class RandomPast:
    """A control: the last slice and five drawn from those before it, by a seed and the slice's number."""

    seed: int = 0
    compares = False

    def choose(self, bank: MemoryBank, place: Place) -> Selection:
        passed = place.passed(bank)
        last, older = passed[:1], passed[1:]
        rng = np.random.default_rng((self.seed, place.slice_index, place.step + 1))
        drawn = rng.permutation(len(older))[: NUM_RECENT - 1]
        chosen = last + [older[i] for i in sorted(drawn.tolist())]
        return with_prompts(bank, place, [(z, rank) for rank, z in enumerate(chosen)])

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        return list(bank.tracked)


ARMS: Mapping[str, Policy] = MappingProxyType(
    {
        "recent": Recent(),
        "self-sorting": SelfSorting(),
        "sorting, 2 recent": SelfSorting(num_recent=2),
        "sorting, 3 recent": SelfSorting(num_recent=3),
        "confidence alone": SelfSorting(likeness=0.0, dissimilarity=0.0),
        "dissimilarity alone": SelfSorting(likeness=0.0, confidence=0.0),
        "likeness alone": SelfSorting(dissimilarity=0.0, confidence=0.0),
        "every 2nd slice": Strided(stride=2),
        "every 3rd slice": Strided(stride=3),
        "random past": RandomPast(),
        "prompt only": PromptOnly(),
    }
)
"""The first is what the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class ArmScore:
    """One object followed with one policy, through all slices of its volume."""

    arm: str
    subject: str
    group: str
    num_slices: int
    """Slices that hold the object."""
    dice: float
    over_slices: int
    """Slices with a mask and no object."""
    under_slices: int
    """Slices with the object and no mask."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A policy against the first one over the same objects."""

    arm: str
    num_subjects: int
    mean_dice: float
    mean_over: float
    mean_under: float
    difference: float
    """Mean of the paired differences of Dice."""
    interval: tuple[float, float] | None
    """95 % of bootstrap means of that difference; None for fewer than `comparison.MIN_CLUSTERS` objects."""
    p_value: float
    """Wilcoxon's signed-rank test, by Holm's method for all policies together; 1 where nothing differs."""


def run_arms(
    subjects: Iterable[Subject], predictor: Predictor, arms: Mapping[str, Policy]
) -> Iterator[ArmScore]:
    """Follow every object with every policy.

    Each direction goes on to the end of the volume and no part is cut off afterwards, so that the masks show
    what a policy does beyond an object's end.
    """
    for subject in subjects:
        for name, policy in arms.items():
            options = InferenceOptions(memory=policy, keep_component=False, stop_after=0)
            session = predictor.session(
                subject.volume, window=subject.window, axis=subject.axis, options=options
            )
            session.add(1, slice=subject.key_slice, box=subject.box_xyxy)
            session.finish()
            yield _score(name, subject, session.object(1).mask())


def compare(scores: Sequence[ArmScore], *, seed: int = 0) -> list[Comparison]:
    """Compare every policy with the first one of the scores.

    Args:
        scores: Every policy once for every object.
        seed: Of the bootstrap.
    """
    arms = list(dict.fromkeys(score.arm for score in scores))
    by_arm = {arm: sorted((s for s in scores if s.arm == arm), key=lambda s: s.subject) for arm in arms}
    first = np.array([score.dice for score in by_arm[arms[0]]])
    differences = {arm: np.array([s.dice for s in by_arm[arm]]) - first for arm in arms}
    p_values = holm([wilcoxon(differences[arm]) for arm in arms[1:]])
    return [
        Comparison(
            arm=arm,
            num_subjects=len(by_arm[arm]),
            mean_dice=float(np.mean([s.dice for s in by_arm[arm]])),
            mean_over=float(np.mean([s.over_slices for s in by_arm[arm]])),
            mean_under=float(np.mean([s.under_slices for s in by_arm[arm]])),
            difference=float(differences[arm].mean()),
            interval=estimate_mean(
                differences[arm].tolist(), range(len(differences[arm])), seed=seed
            ).interval,
            p_value=p_value,
        )
        for arm, p_value in zip(arms, [1.0, *p_values], strict=True)
    ]


def _score(arm: str, subject: Subject, found: np.ndarray) -> ArmScore:
    is_found, is_there = found.any(axis=(1, 2)), subject.truth.any(axis=(1, 2))
    return ArmScore(
        arm=arm,
        subject=subject.name,
        group=subject.group,
        num_slices=int(is_there.sum()),
        dice=dice(found, subject.truth),
        over_slices=int((is_found & ~is_there).sum()),
        under_slices=int((is_there & ~is_found).sum()),
    )


def strata(scores: Sequence[ArmScore]) -> Iterator[tuple[str, list[ArmScore]]]:
    """Yield all objects, then groups of them: short ones, generated and real long ones, those with a gap."""
    is_short = {score.subject: score.num_slices <= SHORT_OBJECT for score in scores}
    groups = {
        "all objects": list(scores),
        f"real, longer than {SHORT_OBJECT} slices": [
            s for s in scores if not s.group.startswith("generated") and not is_short[s.subject]
        ],
        f"up to {SHORT_OBJECT} slices": [s for s in scores if is_short[s.subject]],
        "generated": [s for s in scores if s.group.startswith("generated") and not s.group.endswith("gap")],
        "generated, with a gap": [s for s in scores if s.group.endswith("gap")],
    }
    yield from ((name, part) for name, part in groups.items() if part)


def print_tables(scores: Sequence[ArmScore]) -> None:
    """Print a table for each group of objects."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    for name, part in strata(scores):
        rows = compare(part)
        table = Table(
            title=f"{name} ({rows[0].num_subjects})", title_justify="left", box=None, pad_edge=False
        )
        for number, title in enumerate(("policy", "Dice", "over", "under", "difference", "95 %", "p")):
            table.add_column(title, justify="right" if number else "left", no_wrap=True)
        for row in rows:
            table.add_row(row.arm, *_cells(row, is_first=row is rows[0]))
        console.print(table, markup=False)
        console.print()


def _cells(row: Comparison, *, is_first: bool) -> tuple[str, ...]:
    cells = (f"{row.mean_dice:.3f}", f"{row.mean_over:.2f}", f"{row.mean_under:.2f}")
    if is_first:
        return cells
    between = "-" if row.interval is None else "{:+.4f} to {:+.4f}".format(*row.interval)
    return (*cells, f"{row.difference:+.4f}", between, f"{row.p_value:.3f}")


def find_subjects(cases: Path | None, generated: int, seed: int) -> list[Subject]:
    """Read the scans of a list, and generate more objects.

    Raises:
        InputError: A case cannot be read, or there is no object.
    """
    listed = [] if cases is None else [case for case in read_cases(cases) if case.axis is not None]
    found = [subject_of(read_task(case)) for case in listed]
    found += long_objects(range(seed, seed + generated))
    if not found:
        raise InputError("there is nothing to follow: give CASES.json, or --generated above 0")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description="Compare memory policies in pairs.")
    parser.add_argument("cases", nargs="?", type=Path, metavar="CASES.json")
    parser.add_argument("--generated", type=int, default=12, help="stacks, with up to two objects each")
    parser.add_argument("--seed", type=int, default=900_000, help="of the first stack")
    parser.add_argument("--weights", default="compact", help="name or file")
    parser.add_argument("--policy", action="append", choices=list(ARMS), help="only these, and recent")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options = parser.parse_args(arguments)
    chosen = options.policy or list(ARMS)
    arms = {name: policy for name, policy in ARMS.items() if name in chosen or name == "recent"}
    subjects = find_subjects(options.cases, options.generated, options.seed)
    scores: list[ArmScore] = []
    for score in run_arms(subjects, load(options.weights), arms):
        scores.append(score)
        if len(scores) % len(arms) == 0:
            print(f"{len(scores) // len(arms)} of {len(subjects)} objects", file=sys.stderr)
    if options.json:
        tables = {name: [dataclasses.asdict(row) for row in compare(part)] for name, part in strata(scores)}
        print(json.dumps({"strata": tables, "scores": [dataclasses.asdict(score) for score in scores]}))
    else:
        print_tables(scores)


if __name__ == "__main__":
    main()
