"""A simulated annotation campaign on generated scans, from the first box to the report.

    python benchmarks/campaign.py FOLDER [--cases 12]

Nobody is timed: an automatic annotator who knows the answer draws boxes, clicks and strokes, and pauses in
between as people are said to (the figures of `evaluation.cost`, spread by chance). The clock is turned and
not waited for. The masks are real: the network makes each of them. There are three rounds of a third of the
cases each, and each case is also drawn by hand, without the model. What stands for training is no training:
the first rounds use the shipped weights with noise on them, and those of later rounds have less of it, so
that there is something to get better. The report says all this first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from medsam2.annotation.cases import Case, change_state, list_cases, open_case, release
from medsam2.annotation.improvement import Rounds
from medsam2.annotation.journal import log_events
from medsam2.annotation.project import Project, add_scans, create_project
from medsam2.annotation.report import write_report
from medsam2.annotation.rounds import LabelledScan, Outcome, Plan
from medsam2.annotation.versions import Weights, add_proposal, save_version
from medsam2.checkpoints import load_network, resolve, save_weights
from medsam2.evaluation.cost import TimeModel
from medsam2.hub import file_digest
from medsam2.imaging.io import read, write
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor, load
from medsam2.inference.session import Session
from medsam2.measure.overlap import dice
from medsam2.prompts.simulate import jitter_box, largest_error_click, tight_box
from medsam2.synthesis.stack import generate_stack

NOTE = (
    "SIMULATED: no person was timed. An automatic annotator who knows the answer worked on generated scans, "
    "with pauses drawn by chance around published figures; and nothing was trained: weaker weights stand for "
    "those of the first rounds. The numbers show that the report works, not what the model saves."
)
SHAPE = (18, 128, 128)
AREA = (150, 1800)
"""Pixels of the largest slice of the object that is drawn."""
LEAST_SLICES = 7
OBJECT = {"1": {"name": "structure", "colour": "#f5be28"}}
NUM_ROUNDS = 3
NOISE = (0.06, 0.03, 0.0)
"""Of the weights of each round, as a part of each tensor's spread."""
MODEL_WAITS_S = 6.0
STROKE_S = 6.0
GOOD_DICE = 0.85
GOOD_SLICE = 0.8
MOST_CLICKS = 3
TIMES = TimeModel()


class Clock:
    """Turned by what is done."""

    def __init__(self) -> None:
        self.ms = int(time.time() - 7 * 86_400) * 1000

    def __call__(self) -> int:
        return self.ms

    def pass_s(self, seconds: float) -> None:
        self.ms += max(1, round(1000 * seconds))


class Annotator:
    """Works on one case, and logs what a page would."""

    def __init__(self, project: Project, clock: Clock, name: str, seed: int) -> None:
        self.project, self.clock, self.name = project, clock, name
        self.rng = np.random.default_rng(seed)
        self._events: list[dict[str, object]] = []
        self._baseline = False

    def begin(self, case: Case, *, baseline: bool) -> None:
        self.clock.pass_s(120)
        self._events, self._baseline = [], baseline
        open_case(self.project, case.id, self.name)
        self.did("open", 0, number=0)

    def did(self, kind: str, after_s: float, *, voxels: int = 0, number: int = 1) -> None:
        """Do something after a pause of about so many seconds."""
        self.clock.pass_s(after_s * float(self.rng.lognormal(0, 0.25)))
        event = {"kind": kind, "object": number, "at_ms": self.clock.ms, "voxels": voxels}
        self._events.append({**event, "baseline": self._baseline})

    def looks(self, num_slices: int) -> None:
        for _ in range(num_slices):
            self.did("scroll", TIMES.look_s, number=0)

    def draws(self, mask: np.ndarray, truth: np.ndarray, indices: Sequence[int]) -> None:
        """Draw slices by hand, stroke by stroke; the outline is right up to a pixel here and there."""
        for index in indices:
            changed = int((mask[index] != truth[index]).sum())
            num_strokes = max(1, round(TIMES.drawn_slice_s / STROKE_S))
            for stroke in range(num_strokes):
                self.did("brush", STROKE_S, voxels=changed // num_strokes + (stroke < changed % num_strokes))
            mask[index] = truth[index]
            self.did("scroll", TIMES.look_s, number=0)

    def saves(self, case: Case, volume: Volume, mask: np.ndarray, weights: Weights | None) -> None:
        self.did("save", 2)
        labels = volume.with_array(mask.astype(np.uint8))
        prompts = [] if self._baseline else [{"object": 1, "simulated": True}]
        log_events(self.project, case.id, self.name, self._events)
        save_version(
            self.project, case.id, self.name, labels, objects=OBJECT, prompts=prompts, weights=weights
        )
        release(self.project, case.id, self.name)


def write_cases(folder: Path, count: int) -> dict[str, np.ndarray]:
    """Write generated scans and return the mask of one object of each."""
    truths: dict[str, np.ndarray] = {}
    seed = 0
    while len(truths) < count:
        seed += 1
        stack = generate_stack(seed, shape=SHAPE, look="ct")
        truth = choose_object(stack.labels)
        if truth is not None:
            name = f"generated {len(truths) + 1:02d}"
            write(Volume.from_array(stack.image, (1.0, 1.0, 3.0)), folder / f"{name}.nii.gz")
            truths[name] = truth
    return truths


def choose_object(labels: np.ndarray) -> np.ndarray | None:
    """Take the largest object of some slices that is not too large to draw; None if there is none."""
    fitting = []
    for label in np.unique(labels[labels > 0]):
        areas = (labels == label).sum(axis=(1, 2))
        if AREA[0] <= areas.max() <= AREA[1] and (areas > 0).sum() >= LEAST_SLICES:
            fitting.append((int(areas.sum()), int(label)))
    return labels == max(fitting)[1] if fitting else None


def weaker(path: Path, noise: float) -> Path:
    """Write the shipped weights with noise on them."""
    network = load_network(resolve("compact"))
    torch.manual_seed(0)
    state = network.state_dict()
    for value in state.values():
        if value.is_floating_point() and value.ndim > 1:
            value.add_(torch.randn_like(value) * noise * value.std())
    save_weights(state, network.config, path)
    return path


class StandIn:
    """Stands for training: hands out the next weights, and measures them and those before in earnest."""

    def __init__(self, truths: dict[str, np.ndarray]) -> None:
        self._truths = truths
        self.weights = ""
        self.predictor: Predictor | None = None

    def train(self, plan: Plan, report: Callable[[float, str], None]) -> Outcome:
        report(0.0, "no training, this is simulated")
        index = min(plan.number - 1, NUM_ROUNDS - 1)
        weights = weaker(plan.folder / "weights.safetensors", NOISE[index])
        report(0.5, "measuring")
        before, after = (self._measure(name, plan.held_out) for name in (plan.weights, str(weights)))
        return Outcome(weights=weights, before={"Dice": before}, after={"Dice": after})

    def use(self, weights: str) -> None:
        self.weights = weights
        self.predictor = load(weights)

    def _measure(self, weights: str, scans: Sequence[LabelledScan]) -> float:
        predictor, found = load(weights), []
        for scan in scans:
            truth = self._truths[scan.name]
            session = boxed(predictor, read(scan.image), truth, np.random.default_rng(0))
            found.append(dice(session.result().array > 0, truth))
        return float(np.mean(found))


def boxed(predictor: Predictor, volume: Volume, truth: np.ndarray, rng: np.random.Generator) -> Session:
    """Open a scan, draw a box on the object's largest slice and propagate."""
    key = int(truth.sum(axis=(1, 2)).argmax())
    height, width = truth.shape[1:]
    box = jitter_box(tight_box(truth[key]), rng, fraction=0.06, shape_yx=(height, width))
    session = predictor.session(volume, window=(0.0, 255.0))
    session.add(1, slice=key, box=box.xyxy)
    for _ in session.propagate():
        pass
    return session


def with_model(
    who: Annotator, case: Case, volume: Volume, truth: np.ndarray, tool: StandIn, proposed: np.ndarray | None
) -> None:
    """Do a case with the model: from its proposal, or with a box; then clicks, then what is left by hand."""
    assert tool.predictor is not None
    who.begin(case, baseline=False)
    slices = np.flatnonzero(truth.any(axis=(1, 2)))
    session = None
    if proposed is None:
        who.did("box", TIMES.box_s)
        session = boxed(tool.predictor, volume, truth, who.rng)
        who.did("propagate", MODEL_WAITS_S)
    mask = proposed.copy() if session is None else session.result().array > 0
    who.looks(len(slices))
    for _ in range(MOST_CLICKS):
        click = largest_error_click(mask, truth)
        if dice(mask, truth) >= GOOD_DICE or click is None:
            break
        if session is None:
            session = boxed(tool.predictor, volume, truth, who.rng)
        point = click.points[0]
        who.did("click", TIMES.click_s)
        session.add(1, slice=click.slice_index, points=[(point.x, point.y)], labels=[int(point.is_positive)])
        for _ in session.propagate():
            pass
        who.did("propagate", MODEL_WAITS_S)
        mask = session.result().array > 0
        who.looks(len(slices) // 2)
    if dice(mask, truth) < GOOD_DICE:
        bad = [z for z in range(len(mask)) if dice(mask[z], truth[z]) < GOOD_SLICE]
        who.draws(mask, truth, bad)
    weights = Weights(name=Path(tool.weights).name, sha256=file_digest(resolve(tool.weights)))
    who.saves(case, volume, mask, weights)


def by_hand(who: Annotator, case: Case, volume: Volume, truth: np.ndarray) -> None:
    """Do a case without the model: every slice of the object is drawn."""
    who.begin(case, baseline=True)
    mask = np.zeros_like(truth)
    drawn = truth & ~(~truth_inner(truth) & (who.rng.random(truth.shape) < 0.3))
    who.draws(mask, drawn, np.flatnonzero(truth.any(axis=(1, 2))).tolist())
    who.saves(case, volume, mask, None)


def truth_inner(truth: np.ndarray) -> np.ndarray:
    """What is left of a mask without the rim of each slice, where hands tremble."""
    inner = truth.copy()
    for axis in (1, 2):
        inner &= np.roll(truth, 1, axis) & np.roll(truth, -1, axis)
    return inner


def run(folder: Path, count: int) -> Iterator[str]:
    """Run the campaign and say what is done."""
    clock = Clock()
    scans = folder / "scans"
    scans.mkdir(parents=True)
    truths = write_cases(scans, count)
    project = create_project(scans, name="Simulated campaign", now_ms=clock)
    add_scans(project)
    tool = StandIn(truths)
    first = weaker(folder / "first.safetensors", NOISE[0])
    tool.use(str(first))
    rounds = Rounds(project, tool, str(first))
    people = {
        name: Annotator(project, clock, name, seed) for seed, name in enumerate(("anna", "bob", "carl"))
    }
    cases = list_cases(project)
    size = -(-count // NUM_ROUNDS)
    try:
        for number in range(NUM_ROUNDS):
            part = cases[number * size : (number + 1) * size]
            for place, case in enumerate(part):
                do_case(
                    project, people, case, read(scans / case.path), truths[case.name], tool, (number, place)
                )
                yield f"round {number + 1}: {case.name}"
            if number < NUM_ROUNDS - 1:
                one = rounds.start("dora")
                while rounds.all()[-1].state == "running":
                    time.sleep(0.1)
                yield f"round {one.number}: {rounds.all()[-1].message}"
                rounds.use(one.number)
        clock.ms = max(clock.ms, int(time.time() * 1000))
        yield str(write_report(project, folder / "report", NOTE))
    finally:
        rounds.close()
        project.close()


def do_case(
    project: Project,
    people: dict[str, Annotator],
    case: Case,
    volume: Volume,
    truth: np.ndarray,
    tool: StandIn,
    turn: tuple[int, int],
) -> None:
    """Let one person do a case both ways, in turn the one way and the other first, and another look at it."""
    number, place = turn
    who = people["anna" if place % 2 == 0 else "bob"]
    proposed = None
    if number > 0:
        assert tool.predictor is not None
        mask = boxed(tool.predictor, volume, truth, np.random.default_rng(place + 50)).result()
        add_proposal(project, case.id, mask, model="compact", objects=OBJECT)
        proposed = mask.array > 0
    steps = [
        lambda: by_hand(who, case, volume, truth),
        lambda: with_model(who, case, volume, truth, tool, proposed),
    ]
    for step in steps if (place // 2) % 2 == 0 else reversed(steps):
        step()
    if place % 2 == 0:
        with_model(people["carl"], case, volume, truth, tool, None)
    change_state(project, case.id, "dora", "reviewed", "simulated")


def main() -> None:
    """Run it in a folder that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=12)
    arguments = parser.parse_args()
    started = time.perf_counter()
    for line in run(arguments.folder, arguments.cases):
        print(f"{time.perf_counter() - started:6.1f} s  {line}", flush=True)


if __name__ == "__main__":
    main()
