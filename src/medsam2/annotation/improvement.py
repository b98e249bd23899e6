"""Run rounds of fine-tuning, one at a time, in a process of their own, and change the weights in use."""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from medsam2.annotation import rounds
from medsam2.annotation.layout import HIDDEN
from medsam2.annotation.names import check_user
from medsam2.annotation.project import FIRST_ROUND, Project
from medsam2.annotation.rounds import FAILED, READY, RUNNING, STOPPED, Ended, Improver, Outcome, Plan, Round
from medsam2.annotation.versions import digest
from medsam2.errors import Conflict, DatabaseAway, InputError, MedSAM2Error

LOG = "training.log"
"""File in the round's folder with the output of the training process."""
_BEAT_S = 10.0
_REPORT_EVERY_S = 1.0
_LONGEST_MESSAGE = 500
_WAIT_FOR_LINE_S = 0.5
_WAIT_FOR_END_S = 5.0

_Report: TypeAlias = Callable[[float, str], None]
_Lines: TypeAlias = "queue.Queue[str | None]"

logger = logging.getLogger(__name__)


class Rounds:
    """The rounds of an open project, for many threads.

    Args:
        project: The project.
        improver: Trains and changes weights; None if the application cannot do that.
        first_weights: Name or file of the project's first weights.
    """

    def __init__(self, project: Project, improver: Improver | None, first_weights: str) -> None:
        self._project = project
        self._improver = improver
        self._first_weights = first_weights
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    @property
    def current(self) -> int:
        """The round whose weights are in use; 1 stands for the project's first weights."""
        return rounds.current_round(self._project)

    def all(self) -> list[Round]:
        """List the rounds in the order in which they were started."""
        return rounds.list_rounds(self._project)

    def obstacle(self) -> str | None:
        """Return why no round can be started, None if one can."""
        if (reason := self._why_none_can_run()) is not None:
            return reason
        if (num_done := len(rounds.finished_scans(self._project))) < rounds.FEWEST_CASES:
            return (
                f"a round needs {rounds.FEWEST_CASES} finished cases with a mask, to learn from and to "
                f"measure on; there {'is' if num_done == 1 else 'are'} {num_done}"
            )
        return None

    def start(self, user: str) -> Round:
        """Start to train on the finished cases, in the background.

        Raises:
            Conflict: A round is running, or there are too few finished cases.
            InputError: The user's name is invalid, or the plan cannot be written.
        """
        user = check_user(user)
        if (reason := self.obstacle()) is not None:
            raise Conflict(reason)
        scans = rounds.finished_scans(self._project)
        training, held_out = rounds.split(scans)
        number = rounds.record_start(self._project, user, len(scans))
        plan = Plan(
            number=number, training=training, held_out=held_out, start=self._first_weights,
            weights=self._weights_of(self.current), folder=self._folder_of(number),
        )  # fmt: skip
        return self._begin(plan)

    def go_on(self, number: int) -> Round:
        """Resume a stopped round, with the cases that it started with.

        Raises:
            Conflict: It is not stopped, another round is running, or its files are gone.
        """
        if (reason := self._why_none_can_run()) is not None:
            raise Conflict(reason)
        one = self._find(number)
        if one.state != STOPPED:
            raise Conflict(f"round {number} is {one.state}; only a stopped round can be resumed")
        try:
            plan = rounds.read_plan(
                self._project, number, self._folder_of(number), start=self._first_weights,
                weights=self._weights_of(self.current),
            )  # fmt: skip
        except InputError as error:
            raise Conflict(str(error)) from error
        rounds.record_resume(self._project, number)
        return self._begin(plan)

    def use(self, number: int) -> Round:
        """Use the weights of a round from now on.

        Raises:
            Conflict: There is no such round, or it has no weights.
        """
        one = self._find(number)
        if one.state != READY:
            raise Conflict(f"round {number} is {one.state}; only a ready round has weights to use")
        before = self.current
        if number != before:
            self._switch(number, before)
        return self._find(number)

    def back(self) -> int:
        """Use the weights again that were in use before.

        Returns:
            The round whose weights are in use now.

        Raises:
            Conflict: No other weights were in use before.
        """
        previous = rounds.previous_round(self._project)
        if previous is None:
            raise Conflict("the project's first weights are in use; there are none before them")
        self._switch(previous, None)
        return previous

    def close(self) -> None:
        """Stop a running round and wait a moment for its end; it can be resumed later."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_BEAT_S)

    def _why_none_can_run(self) -> str | None:
        if self._improver is None:
            return "this server was started without training"
        if any(one.state == RUNNING for one in self.all()):
            return "a round is running; wait until it has ended"
        return None

    def _begin(self, plan: Plan) -> Round:
        self._thread = threading.Thread(target=self._work, args=(plan,), name="medsam2-round", daemon=True)
        self._thread.start()
        return self._find(plan.number)

    def _folder_of(self, number: int) -> Path:
        return self._project.folder.absolute() / HIDDEN / "rounds" / f"{number:03d}"

    def _switch(self, number: int, previous: int | None) -> None:
        if self._improver is None:
            raise Conflict("this server cannot change its weights")
        # Loading can fail, so do it first: the database must name the weights that are in use.
        self._improver.use(self._weights_of(number))
        rounds.record_use(self._project, number, previous)

    def _weights_of(self, number: int) -> str:
        return self._first_weights if number == FIRST_ROUND else str(self._find(number).weights)

    def _find(self, number: int) -> Round:
        for one in self.all():
            if one.number == number:
                return one
        raise Conflict(f"there is no round {number}")

    def _work(self, plan: Plan) -> None:
        """Train, and record the result; runs in a thread of its own."""
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(plan.number, ended), daemon=True)
        beat.start()
        try:
            values = self._train(plan)
        except Ended:
            values = {"state": STOPPED, "message": rounds.SERVER_ENDED}
        except Exception as error:  # no failure of a training may end the server
            logger.exception("a round of training failed")
            is_ours = isinstance(error, MedSAM2Error)
            reason = str(error) if is_ours else f"failed unexpectedly, {type(error).__name__}"
            values = {"state": FAILED, "message": reason[:_LONGEST_MESSAGE]}
        finally:
            ended.set()
            beat.join()
        try:
            rounds.record_progress(self._project, plan.number, {**values, "ended_ms": self._project.now_ms()})
        except DatabaseAway:
            logger.exception("the end of a round could not be recorded")

    def _train(self, plan: Plan) -> dict[str, object]:
        assert self._improver is not None
        rounds.keep_plan(self._project, plan)
        outcome = self._improver.train(plan, self._reporter(plan.number))
        if (sha256 := digest(outcome.weights)) is None:
            raise InputError("the training left no weights")
        return {
            "state": READY,
            "progress": 1.0,
            "message": outcome.message[:_LONGEST_MESSAGE],
            "weights": outcome.weights.relative_to(self._project.folder.absolute()).as_posix(),
            "weights_sha256": sha256,
            "before": dict(outcome.before),
            "after": dict(outcome.after),
        }

    def _reporter(self, number: int) -> _Report:
        reported_s = 0.0

        def report(progress: float, message: str) -> None:
            nonlocal reported_s
            if self._ending.is_set():
                raise Ended
            if time.monotonic() - reported_s >= _REPORT_EVERY_S:
                reported_s = time.monotonic()
                part = min(1.0, max(0.0, float(progress)))
                values = {"progress": part, "message": message[:_LONGEST_MESSAGE]}
                rounds.record_progress(self._project, number, values)

        return report

    def _beat(self, number: int, ended: threading.Event) -> None:
        """Record regularly that this process is alive; a round whose process died counts as stopped."""
        while not ended.wait(_BEAT_S):
            try:
                rounds.record_progress(self._project, number, {})
            except DatabaseAway:
                logger.warning("could not record that round %d is alive", number)


class ProcessImprover:
    """Trains in another process; the weights change in this one.

    Args:
        module: The program that trains: JSON on its standard input says what to do, lines of JSON on its
            standard output report progress and result.
        use: Makes the server use weights, by name or file, from now on.
        device: auto, cpu, cuda or cuda:N.
        recipe: Recipe of the training; the package's own one if not given.
    """

    def __init__(
        self, module: str, use: Callable[[str], None], *, device: str, recipe: Path | None = None
    ) -> None:
        self.use = use
        self._module = module
        self._device = device
        self._recipe = recipe

    def train(self, plan: Plan, report: _Report) -> Outcome:
        """Train, or resume the training in the plan's folder; see `annotation.rounds.Improver`.

        Raises:
            InputError: The training failed; the message has its reason.
        """
        weights = plan.folder / f"round-{plan.number:03d}.safetensors"
        order = {
            "training": [dataclasses.asdict(scan) for scan in plan.training],
            "held_out": [dataclasses.asdict(scan) for scan in plan.held_out],
            "start": plan.start, "before": plan.weights, "recipe": self._recipe and self._recipe.absolute(),
            "device": self._device, "folder": plan.folder, "weights": weights,
        }  # fmt: skip
        with _process(self._module, plan.folder / LOG) as process:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it has ended already; the reason follows below
                process.stdin.write(json.dumps(order, default=str) + "\n")  # paths become texts
                process.stdin.flush()
            message: dict[str, Any] = {"progress": 0.0, "message": "starting"}
            lines = _lines_of(process)
            while "after" not in message and "error" not in message:
                with suppress(queue.Empty):
                    line = lines.get(timeout=_WAIT_FOR_LINE_S)
                    if line is None:
                        raise InputError(_how_it_ended(process.wait(_WAIT_FOR_END_S)))
                    message = json.loads(line)
                if "progress" in message:  # also without news, because `report` raises when the server ends
                    report(message["progress"], message["message"])
        if "error" in message:
            raise InputError(message["error"])
        return Outcome(
            weights=weights, before=message["before"], after=message["after"], message=message["message"]
        )


@contextmanager
def _process(module: str, log_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the training process, and end it in any case."""
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            text=True, start_new_session=True,  # Ctrl-C is for the server, which then ends this
        )  # fmt: skip
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()  # the process ends when its input does
        try:
            process.wait(_WAIT_FOR_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _lines_of(process: subprocess.Popen[str]) -> _Lines:
    """Read a process's lines in a thread, so that a wait can time out; None stands for the end."""
    lines: _Lines = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with suppress(ValueError):  # closed meanwhile
            for line in process.stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="medsam2-round-lines", daemon=True).start()
    return lines


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"the training was killed by signal {-status}, perhaps because memory ran out"
    return f"the training ended unexpectedly; see {LOG} in the round's folder"
