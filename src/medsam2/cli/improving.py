"""Rounds of training for the annotator's page, each in a process of its own that ends with the server."""

from __future__ import annotations

import dataclasses
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from medsam2.annotation.plans import LabelledScan, Plan
from medsam2.annotation.rounds import Outcome
from medsam2.errors import InputError

_MODULE = "medsam2.training.rounds.learning"
LOG = "training.log"
"""What the process and its libraries print, in the round's folder."""
_ASK_EVERY_S = 0.5
_END_S = 5.0

_Lines: TypeAlias = "queue.Queue[str | None]"
_Report: TypeAlias = Callable[[float, str], None]


class ProcessImprover:
    """Trains in another process, and has weights changed in this one.

    Args:
        use: Lets everything from now on use weights, a name or a file.
        device: auto, cpu, cuda or cuda:N.
        recipe: Of the training; the package's own if not given.
    """

    def __init__(self, use: Callable[[str], None], *, device: str, recipe: Path | None = None) -> None:
        self.use = use
        self._device = device
        self._recipe = recipe

    def train(self, plan: Plan, report: _Report) -> Outcome:
        """Train, or go on with what the plan's folder holds; see `annotation.rounds.Improver`.

        Raises:
            InputError: The training failed, with what it says of that.
        """
        weights = plan.folder / f"round-{plan.number:03d}.safetensors"
        order = {
            "training": _plain(plan.training), "held_out": _plain(plan.held_out), "start": plan.start,
            "before": plan.weights, "recipe": self._recipe and str(self._recipe.absolute()),
            "device": self._device, "folder": str(plan.folder), "weights": str(weights),
        }  # fmt: skip
        with _process(plan.folder / LOG) as process:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it has ended already; how is told below
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()
            told: dict[str, object] = {"progress": 0.0, "message": "starting"}
            lines = _lines_of(process)
            while "after" not in told and "error" not in told:
                with suppress(queue.Empty):
                    line = lines.get(timeout=_ASK_EVERY_S)
                    if line is None:
                        raise InputError(_how_it_ended(process.wait(_END_S)))
                    told = json.loads(line)
                if "progress" in told:  # said again without news, as this is how the end is heard of
                    report(float(str(told["progress"])), str(told["message"]))
        if "error" in told:
            raise InputError(str(told["error"]))
        return Outcome(
            weights=weights, before=_measures(told["before"]), after=_measures(told["after"]),
            message=str(told["message"]),
        )  # fmt: skip


@contextmanager
def _process(log_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the training and see to it that it has ended in the end."""
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            text=True, start_new_session=True,  # Ctrl-C is for the server, which then ends this
        )  # fmt: skip
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()  # which it takes for the end
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _lines_of(process: subprocess.Popen[str]) -> _Lines:
    """Read what a process says in a thread, so that it can be waited for only so long; None is the end."""
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
        return f"the training was killed by signal {-status}; that may be for want of memory"
    return f"the training ended unexpectedly; {LOG} in the round's folder says how"


def _plain(scans: Sequence[LabelledScan]) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in dataclasses.asdict(scan).items()} for scan in scans]


def _measures(told: object) -> dict[str, float]:
    assert isinstance(told, dict)
    return {str(name): float(value) for name, value in told.items()}
