"""Rounds of training: recorded whatever becomes of them, one at a time, with weights that can be put back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medsam2.annotation.cases import open_case
from medsam2.annotation.improvement import Rounds
from medsam2.annotation.journal import list_events, log_events
from medsam2.annotation.project import Project, open_project
from medsam2.annotation.rounds import (
    Ended,
    LabelledScan,
    Outcome,
    Plan,
    finished_scans,
    list_rounds,
    record_progress,
    record_start,
    round_in_use,
    split,
)
from medsam2.annotation.versions import save_version
from medsam2.errors import Conflict, InputError
from medsam2.imaging.volume import Volume

Train = Callable[[Plan, Callable[[float, str], None]], Outcome]


class Improving:
    """Trains as a test says, and remembers whose weights are in use."""

    def __init__(self, train: Train) -> None:
        self.plans: list[Plan] = []
        self.used: list[str] = []
        self._train = train

    def train(self, plan: Plan, report: Callable[[float, str], None]) -> Outcome:
        self.plans.append(plan)
        return self._train(plan, report)

    def use(self, weights: str) -> None:
        if not weights.endswith("compact") and not Path(weights).is_file():
            raise InputError("these weights are gone")
        self.used.append(weights)


def at_once(plan: Plan, report: Callable[[float, str], None]) -> Outcome:
    report(0.5, "half way")
    weights = plan.folder / "tuned.safetensors"
    weights.write_bytes(b"weights %d" % plan.number)
    return Outcome(weights=weights, before={"Dice": 0.5}, after={"Dice": 0.6})


def settled(rounds: Rounds) -> None:
    end = time.monotonic() + 30
    while any(one.state == "running" for one in rounds.all()):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def done(any_project: Project, box_mask: Callable[..., Volume]) -> Project:
    for case, name in ((1, "belly"), (2, "chest"), (3, "head")):
        open_case(any_project, case, "anna")
        save_version(any_project, case, "anna", box_mask(any_project.folder / f"{name}.nii.gz"))
    return any_project


def test_rounds_are_used_and_put_back(done: Project) -> None:
    improving = Improving(at_once)
    rounds = Rounds(done, improving, "compact")
    for _ in range(2):
        rounds.start("anna")
        settled(rounds)
    first, second = rounds.all()
    assert [(one.number, one.state, one.num_cases) for one in (first, second)] == [
        (2, "ready", 3),
        (3, "ready", 3),
    ]
    assert first.after == {"Dice": 0.6}
    assert first.weights_sha256 != second.weights_sha256
    assert round_in_use(done) is None

    rounds.use(2)
    rounds.use(3)
    rounds.use(3)
    assert round_in_use(done) == list_rounds(done)[1]
    at = done.now_ms()
    log_events(done, 1, "anna", [{"kind": "box", "at_ms": at}])
    assert [event.round for event in list_events(done)] == [3]
    assert [rounds.back(), rounds.back()] == [2, 1]
    with pytest.raises(Conflict, match="first weights are in use"):
        rounds.back()
    assert improving.used == [first.weights, second.weights, first.weights, "compact"]

    rounds.use(2)
    assert rounds.start("bob").number == 4
    settled(rounds)
    assert improving.plans[-1].weights == first.weights
    assert improving.plans[-1].start == "compact"


def test_missing_weights_cannot_be_used(done: Project) -> None:
    rounds = Rounds(done, Improving(at_once), "compact")
    rounds.start("anna")
    settled(rounds)
    Path(str(rounds.all()[0].weights)).unlink()
    with pytest.raises(InputError, match="gone"):
        rounds.use(2)
    assert rounds.current == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("the scans have two channels"), "the scans have two channels"),
        (RuntimeError("secret path"), "failed unexpectedly, RuntimeError"),
    ],
    ids=["ours", "any"],
)
def test_a_training_that_fails_is_a_round_that_failed(done: Project, error: Exception, said: str) -> None:
    def fail(plan: Plan, report: Callable[[float, str], None]) -> Outcome:
        raise error

    rounds = Rounds(done, Improving(fail), "compact")
    rounds.start("anna")
    settled(rounds)
    (one,) = rounds.all()
    assert (one.state, one.message, one.weights) == ("failed", said, None)
    with pytest.raises(Conflict, match="round 2 is failed"):
        rounds.use(2)
    assert rounds.obstacle() is None


def test_a_training_without_weights_has_failed(done: Project) -> None:
    nothing = lambda plan, _: Outcome(weights=plan.folder / "none", before={}, after={})  # noqa: E731
    rounds = Rounds(done, Improving(nothing), "compact")
    rounds.start("anna")
    settled(rounds)
    assert rounds.all()[0].message.startswith("the training left no weights")


def test_the_end_of_the_program_ends_the_training(done: Project) -> None:
    began = threading.Event()

    def forever(plan: Plan, report: Callable[[float, str], None]) -> Outcome:
        while True:
            report(0.1, "on and on")
            began.set()
            time.sleep(0.01)

    rounds = Rounds(done, Improving(forever), "compact")
    rounds.start("anna")
    assert began.wait(30)
    rounds.close()
    (one,) = list_rounds(done)
    assert (one.state, one.message) == ("stopped", "the server ended while it was training")


def test_a_stopped_round_is_resumed_with_its_cases(done: Project, box_mask) -> None:
    def stop(plan: Plan, report: Callable[[float, str], None]) -> Outcome:
        raise Ended

    rounds = Rounds(done, stopped := Improving(stop), "compact")
    rounds.start("anna")
    settled(rounds)
    save_version(done, 1, "anna", box_mask(done.folder / "belly.nii.gz", shift=2))
    rounds = Rounds(done, going := Improving(at_once), "compact")
    rounds.go_on(2)
    settled(rounds)
    (one,) = rounds.all()
    assert (one.state, one.after) == ("ready", {"Dice": 0.6})
    assert going.plans == stopped.plans
    with pytest.raises(Conflict, match="round 2 is ready; only a stopped round can be resumed"):
        rounds.go_on(2)
    with pytest.raises(Conflict, match="no round 9"):
        rounds.go_on(9)


def test_a_round_without_its_plan_cannot_be_resumed(done: Project) -> None:
    number = record_start(done, "anna", 3)
    record_progress(done, number, {"state": "stopped"})
    with pytest.raises(Conflict, match="its plan is missing or damaged"):
        Rounds(done, Improving(at_once), "compact").go_on(number)
    assert list_rounds(done)[0].state == "stopped"


def test_at_the_start_missing_weights_are_taken_out_of_use(done: Project, caplog) -> None:
    rounds = Rounds(done, Improving(at_once), "compact")
    rounds.start("anna")
    settled(rounds)
    rounds.use(2)
    assert round_in_use(done) is not None
    Path(str(rounds.all()[0].weights)).write_bytes(b"others")
    assert round_in_use(done) is None
    assert "round 2 are missing or were changed" in caplog.text
    assert rounds.current == 1


def test_a_project_that_is_moved_keeps_its_weights(project: Project, box_mask, tmp_path: Path) -> None:
    for case, name in ((1, "belly"), (2, "chest"), (3, "head")):
        open_case(project, case, "anna")
        save_version(project, case, "anna", box_mask(project.folder / f"{name}.nii.gz"))
    rounds = Rounds(project, Improving(at_once), "compact")
    rounds.start("anna")
    settled(rounds)
    rounds.use(2)
    project.close()
    moved = open_project(project.folder.rename(tmp_path / "elsewhere"), now_ms=project.now_ms)
    try:
        one = round_in_use(moved)
        assert one is not None
        assert str(one.weights).startswith(str(tmp_path / "elsewhere"))
    finally:
        moved.close()


def test_a_round_that_no_longer_reports_counts_as_stopped(done: Project, clock) -> None:
    number = record_start(done, "anna", 3)
    rounds = Rounds(done, Improving(at_once), "compact")
    clock.turn(100)
    record_progress(done, number, {"progress": 0.3})
    clock.turn(119)
    assert rounds.all()[0].state == "running"
    assert "is running" in str(rounds.obstacle())
    with pytest.raises(Conflict, match="is running"):
        record_start(done, "bob", 3)
    clock.turn(2)
    assert rounds.all()[0].state == "stopped"
    rounds.start("bob")
    settled(rounds)
    assert [one.state for one in rounds.all()] == ["stopped", "ready"]


def test_a_round_needs_finished_cases(any_project: Project) -> None:
    assert Rounds(any_project, None, "compact").obstacle() == "this server was started without training"
    rounds = Rounds(any_project, Improving(at_once), "compact")
    with pytest.raises(Conflict, match=r"a round needs 3 finished cases with a mask, .*; there are 0"):
        rounds.start("anna")
    with pytest.raises(InputError, match="name"):
        rounds.start("<b>")


def test_held_out_cases_stay_held_out() -> None:
    scans = [LabelledScan(name=f"case {i}", image=Path("i"), mask=Path("m")) for i in range(60)]
    training, held_out = split(scans)
    assert len(training) + len(held_out) == 60
    assert 4 <= len(held_out) <= 20
    for count in range(10, 60, 7):
        some_training, some_held = split(scans[:count])
        assert {one.name for one in some_held} <= {one.name for one in held_out} or len(some_held) == 1
        assert some_training
        assert some_held
    for three in zip(scans, scans[1:], scans[2:], strict=False):
        assert [len(part) for part in split(three)] == [2, 1]
    with pytest.raises(InputError, match="needs 3 finished cases"):
        split(scans[:2])


def test_empty_masks_are_left_out_of_training(done: Project, box_mask) -> None:
    empty = box_mask(done.folder / "head.nii.gz", label=0)
    save_version(done, 3, "anna", empty, objects={"1": {"name": "lesion"}})
    assert [scan.name for scan in finished_scans(done)] == ["belly", "chest"]
    assert "there are 2" in str(Rounds(done, Improving(at_once), "compact").obstacle())
