"""Run rounds of improvement in the background, one at a time, and change weights."""

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
_SAID_EVERY_S = 1.0
_LONGEST_MESSAGE = 500

logger = logging.getLogger(__name__)


class Rounds:
    """The rounds of an open project; used by many threads.

    Args:
        project: The project.
        improver: Trains and changes weights; None where the application cannot.
        first_weights: Name or file of the weights that the project began with.
    """

    def __init__(self, project: Project, improver: Improver | None, first_weights: str) -> None:
        self._project = project
        self._improver = improver
        self._first_weights = first_weights
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    @property
    def current(self) -> int:
        """The round whose weights are in use; 1 is what the project began with."""
        return current_round(self._project)

    def all(self) -> list[Round]:
        """List them, the first one that was started first."""
        return list_rounds(self._project)

    def obstacle(self) -> str | None:
        """Say why no round can be started, None if one can."""
        if (reason := self._why_none_can_run()) is not None:
            return reason
        if (num_done := len(finished_scans(self._project))) < FEWEST_CASES:
            return (
                f"{FEWEST_CASES} cases with a mask have to be done, to learn from and to measure on; "
                f"{num_done} {'is' if num_done == 1 else 'are'}"
            )
        return None

    def start(self, user: str) -> Round:
        """Begin to train on what is done, in the background.

        Raises:
            Conflict: One is running, or there is nothing to learn from.
            InputError: The user's name cannot be, or the plan cannot be written.
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
        """Take up a round that was stopped, with the cases that it began with.

        Raises:
            Conflict: It is not stopped, another one is running, or nothing is left of it.
        """
        if (reason := self._why_none_can_run()) is not None:
            raise Conflict(reason)
        one = self._find(number)
        if one.state != STOPPED:
            raise Conflict(f"round {number} is {one.state}; only one that was stopped can go on")
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
        """Take a round's weights into use.

        Raises:
            Conflict: There is no such round, or it has no weights.
        """
        one = self._find(number)
        if one.state != READY:
            raise Conflict(f"round {number} is {one.state}; only one that is ready has weights to use")
        before = self.current
        if number != before:
            self._switch(number, before)
        return self._find(number)

    def back(self) -> int:
        """Put the weights back that were in use before.

        Returns:
            Whose weights are in use now.

        Raises:
            Conflict: There were none before.
        """
        previous = previous_round(self._project)
        if previous is None:
            raise Conflict("the weights in use are those that the project began with")
        self._switch(previous, None)
        return previous

    def close(self) -> None:
        """Ask a running round to end, and wait for it a moment; it can go on another time."""
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
        # First what can fail: the database says what is so.
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
        """Train, and remember how it ended; runs in a thread of its own."""
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(plan.number, ended), daemon=True)
        beat.start()
        try:
            values = self._train(plan)
        except Ended:
            values = {"state": STOPPED, "message": SERVER_ENDED}
        except Exception as error:  # whatever a training fails of, the server goes on
            logger.exception("a round of training failed")
            is_ours = isinstance(error, MedSAM2Error)
            said = str(error) if is_ours else f"failed unexpectedly, {type(error).__name__}"
            values = {"state": FAILED, "message": said[:_LONGEST_MESSAGE]}
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
        said_s = 0.0

        def report(progress: float, message: str) -> None:
            nonlocal said_s
            if self._ending.is_set():
                raise Ended
            if time.monotonic() - said_s >= _SAID_EVERY_S:
                said_s = time.monotonic()
                part = min(1.0, max(0.0, float(progress)))
                values = {"progress": part, "message": message[:_LONGEST_MESSAGE]}
                record_life(self._project, number, values)

        return report

    def _beat(self, number: int, ended: threading.Event) -> None:
        """Show that this process lives, so that a round that runs is told from one that died."""
        while not ended.wait(_BEAT_S):
            try:
                record_life(self._project, number, {})
            except DatabaseAway:
                logger.warning("the sign of life of round %d could not be written", number)
