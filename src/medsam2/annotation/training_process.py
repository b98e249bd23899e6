"""Train the rounds of a project in a process of its own, which ends with the server."""

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

from medsam2.annotation.rounds import LabelledScan, Outcome, Plan
from medsam2.errors import InputError

LOG = "training.log"
"""File in the round's folder with the output of the training process."""
_ASK_EVERY_S = 0.5
_END_S = 5.0

_Lines: TypeAlias = "queue.Queue[str | None]"
_Report: TypeAlias = Callable[[float, str], None]


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
            "training": _plain(plan.training), "held_out": _plain(plan.held_out), "start": plan.start,
            "before": plan.weights, "recipe": self._recipe and str(self._recipe.absolute()),
            "device": self._device, "folder": str(plan.folder), "weights": str(weights),
        }  # fmt: skip
        with _process(self._module, plan.folder / LOG) as process:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it has ended already; the reason follows below
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()
            message: dict[str, object] = {"progress": 0.0, "message": "starting"}
            lines = _lines_of(process)
            while "after" not in message and "error" not in message:
                with suppress(queue.Empty):
                    line = lines.get(timeout=_ASK_EVERY_S)
                    if line is None:
                        raise InputError(_how_it_ended(process.wait(_END_S)))
                    message = json.loads(line)
                if "progress" in message:  # also without news, because `report` raises when the server ends
                    report(float(str(message["progress"])), str(message["message"]))
        if "error" in message:
            raise InputError(str(message["error"]))
        return Outcome(
            weights=weights, before=_measures(message["before"]), after=_measures(message["after"]),
            message=str(message["message"]),
        )  # fmt: skip


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
            process.wait(_END_S)
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


def _plain(scans: Sequence[LabelledScan]) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in dataclasses.asdict(scan).items()} for scan in scans]


def _measures(values: object) -> dict[str, float]:
    assert isinstance(values, dict)
    return {str(name): float(value) for name, value in values.items()}
