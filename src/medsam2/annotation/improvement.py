"""Run rounds of fine-tuning in the background, one at a time, and change the weights in use."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from medsam2.annotation.layout import HIDDEN
from medsam2.annotation.names import check_user
from medsam2.annotation.project import FIRST_ROUND, Project
from medsam2.annotation.rounds import (
    FAILED,
    FEWEST_CASES,
    READY,
    RUNNING,
    SERVER_ENDED,
    STOPPED,
    Ended,
    Improver,
    Plan,
    Round,
    current_round,
    finished_scans,
    keep_plan,
    list_rounds,
    previous_round,
    read_plan,
    record_going_on,
    record_life,
    record_start,
    record_use,
    split,
)
from medsam2.annotation.versions import digest
from medsam2.errors import Conflict, DatabaseAway, InputError, MedSAM2Error

_BEAT_S = 10.0
_REPORT_EVERY_S = 1.0
_LONGEST_MESSAGE = 500

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
        return current_round(self._project)

    def all(self) -> list[Round]:
        """List the rounds in the order in which they were started."""
        return list_rounds(self._project)

    def obstacle(self) -> str | None:
        """Return why no round can be started, None if one can."""
        if (reason := self._why_none_can_run()) is not None:
            return reason
        if (num_done := len(finished_scans(self._project))) < FEWEST_CASES:
            return (
                f"a round needs {FEWEST_CASES} finished cases with a mask, to learn from and to measure on; "
                f"there {'is' if num_done == 1 else 'are'} {num_done}"
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
        scans = finished_scans(self._project)
        training, held_out = split(scans)
        number = record_start(self._project, user, len(scans))
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
            plan = read_plan(
                self._project, number, self._folder_of(number), start=self._first_weights,
                weights=self._weights_of(self.current),
            )  # fmt: skip
        except InputError as error:
            raise Conflict(str(error)) from error
        record_going_on(self._project, number)
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
        previous = previous_round(self._project)
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
        record_use(self._project, number, previous)

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
            values = {"state": STOPPED, "message": SERVER_ENDED}
        except Exception as error:  # no failure of a training may end the server
            logger.exception("a round of training failed")
            is_ours = isinstance(error, MedSAM2Error)
            reason = str(error) if is_ours else f"failed unexpectedly, {type(error).__name__}"
            values = {"state": FAILED, "message": reason[:_LONGEST_MESSAGE]}
        finally:
            ended.set()
            beat.join()
        try:
            record_life(self._project, plan.number, {**values, "ended_ms": self._project.now_ms()})
        except DatabaseAway:
            logger.exception("the end of a round could not be recorded")

    def _train(self, plan: Plan) -> dict[str, object]:
        assert self._improver is not None
        keep_plan(self._project, plan)
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

    def _reporter(self, number: int) -> Callable[[float, str], None]:
        reported_s = 0.0

        def report(progress: float, message: str) -> None:
            nonlocal reported_s
            if self._ending.is_set():
                raise Ended
            if time.monotonic() - reported_s >= _REPORT_EVERY_S:
                reported_s = time.monotonic()
                part = min(1.0, max(0.0, float(progress)))
                values = {"progress": part, "message": message[:_LONGEST_MESSAGE]}
                record_life(self._project, number, values)

        return report

    def _beat(self, number: int, ended: threading.Event) -> None:
        """Record regularly that this process is alive; a round whose process died counts as stopped."""
        while not ended.wait(_BEAT_S):
            try:
                record_life(self._project, number, {})
            except DatabaseAway:
                logger.warning("could not record that round %d is alive", number)
