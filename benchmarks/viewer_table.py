"""Compare the masks that viewers' clients get from a running server with those of the Python API.

    OMP_NUM_THREADS=1 medsam2 serve --port 8765 &
    OMP_NUM_THREADS=1 python benchmarks/viewer_table.py CASES.json http://127.0.0.1:8765 [--cases 6]

A program draws on the key slice of each case, from its reference mask. For each tool the same prompt goes to
a session of `medsam2`, and the voxels that differ are counted. A row of the table has their sum over the
cases, and the mean Dice of the client's masks with the reference. The mask of the box is compared with that
of `medsam2 segment` as well. Both sides compute in one thread: with two, sums run in another order, and some
voxels at the edge may differ.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from viewer_clients import Client, ItkSnap, NnInteractive, Slicer0x
from viewer_prompts import deepest, small_cases, stroke_in

import medsam2
from medsam2.evaluation.cases import Case
from medsam2.inference.predictor import Predictor, load
from medsam2.inference.session import Session
from medsam2.measure.overlap import dice
from medsam2.serving.viewers.translate import centre_line

HALF = 2
"""Slices on each side of the key slice that a box in three dimensions has."""
BOX = "box"
CLIENTS = (NnInteractive, Slicer0x, ItkSnap)


@dataclass(kw_only=True)
class Row:
    """One client and one tool."""

    differ: int | None = None
    voxels: int = 0
    scores: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A mask that a client got, and the one that it should have."""

    tool: str
    found: np.ndarray | None
    """None where the client does not have the tool, or gets no mask for it."""
    expected: np.ndarray | None
    """None where no prompt of ours says the same."""
    seconds: float


class Walk:
    """One client that uses each tool on one case."""

    def __init__(self, client: Client, case: Case, predictor: Predictor, window: tuple[float, float]) -> None:
        volume = medsam2.read(case.image)
        self.client, self.case = client, case
        self.truth = np.isin(medsam2.read(case.mask).array, case.labels)
        self.z, self.here = case.key_slice, self.truth[case.key_slice]
        self.left, self.top, self.right, self.bottom = map(int, case.box_xyxy)
        self.y, self.x = deepest(self.here)
        self.nothing = np.zeros(self.truth.shape, bool)
        self._predictor, self._window = predictor, window
        self._shown = client.open(volume)

    def steps(self) -> Iterator[Step]:
        """Use all tools that the client has."""
        self._session = self._opened()
        yield self._step(
            "point inside",
            lambda: self.client.click((self.z, self.y, self.x)),
            self._mask(points=[(self.x, self.y)]),
        )
        self.client.reset()
        if not isinstance(self.client, ItkSnap):
            yield from self._boxes()
        yield from self._drawings()
        if not isinstance(self.client, ItkSnap):
            yield from self._given()

    def _opened(self) -> Session:
        return self._predictor.session(self._shown, window=self._window, axis=2)

    def _mask(self, z: int | None = None, **prompt: object) -> np.ndarray:
        """Add a prompt to our own session, and follow the object."""
        self._session.add(1, slice=self.z if z is None else z, **prompt)  # type: ignore[arg-type]
        self._session.finish()
        return np.asarray(self._session.result().array != 0)

    def _step(self, tool: str, act: Callable[[], np.ndarray | None], expected: np.ndarray | None) -> Step:
        started = time.monotonic()
        found = act()
        return Step(tool=tool, found=found, expected=expected, seconds=time.monotonic() - started)

    def _box(self, low: int, high: int, *, left: int | None = None, is_positive: bool = True) -> np.ndarray:
        first = (low, self.top, self.left if left is None else left)
        found = self.client.box(first, (high, self.bottom, self.right), is_positive=is_positive)
        assert found is not None
        return found

    def _boxes(self) -> Iterator[Step]:
        z, xyxy = self.z, self.case.box_xyxy
        self._session = self._opened()
        boxed = self._mask(box=xyxy)
        yield self._step(BOX, lambda: self._box(z, z), boxed)
        extra = np.argwhere(boxed & ~self.truth)
        if len(extra):
            a, b, c = map(int, extra[len(extra) // 2])
            outside = self._mask(a, points=[(c, b)], labels=[0])
            yield self._step(
                "box, then point outside", lambda: self.client.click((a, b, c), is_positive=False), outside
            )
            yield self._step("undo", self.client.undo, boxed)
        yield self._step("next object (reset)", self.client.reset, self.nothing)
        yield self._step("the same box for the next object", lambda: self._box(z, z), boxed)
        middle = (self.left + self.right) // 2 + 1
        rest = boxed[z].copy()
        rest[self.top : self.bottom + 1, middle : self.right + 1] = False
        self._session = self._opened()
        self._mask(box=xyxy)
        yield self._step(
            "box, then negative box",
            lambda: self._box(z, z, left=middle, is_positive=False),
            self._mask(mask=rest),
        )
        self.client.reset()
        low, high = max(0, z - HALF), min(len(self.truth) - 1, z + HALF)
        self._session = self._opened()
        self._session.add(1, slice=(low + high) // 2, box=xyxy)
        for _ in self._session.propagate(within=(low, high)):
            pass
        expected = np.asarray(self._session.result().array != 0)
        yield self._step("box in three dimensions", lambda: self._box(low, high), expected)
        self.client.reset()

    def _drawings(self) -> Iterator[Step]:
        drawn, less = self.nothing.copy(), self.nothing.copy()
        drawn[self.z] = stroke_in(self.here)
        self._session = self._opened()
        expected = self._mask(points=[(x, y) for y, x in centre_line(drawn[self.z])])
        yield self._step("scribble", lambda: self.client.draw(drawn, is_outline=False), expected)
        self.client.reset()
        outline = self.nothing.copy()
        outline[self.z] = ndimage.binary_fill_holes(self.here)
        self._session = self._opened()
        expected = self._mask(mask=outline[self.z])
        yield self._step("lasso", lambda: self.client.draw(outline, is_outline=True), expected)
        less[self.z, :, self.x + 1 :] = outline[self.z, :, self.x + 1 :]
        if less.any():
            rest = expected[self.z] & ~less[self.z]
            yield self._step(
                "lasso, then negative lasso",
                lambda: self.client.draw(less, is_outline=True, is_positive=False),
                self._mask(mask=rest),
            )
        self.client.reset()

    def _given(self) -> Iterator[Step]:
        given = self.truth.copy()
        given[max(0, self.z - HALF) : self.z + HALF + 1, :, self.x + 1 :] = False
        yield self._step("initial mask", lambda: self.client.give(given), given)
        missing = self.here & ~given[self.z]
        if missing.any():
            y, x = deepest(missing)
            yield self._step(
                "initial mask, then point inside", lambda: self.client.click((self.z, y, x)), None
            )


def box_of_the_command(case: Case, window: tuple[float, float], weights: str) -> np.ndarray:
    """What `medsam2 segment` finds for the box of a case."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "mask.nii.gz"
        command = [
            sys.executable, "-m", "medsam2", "segment", str(case.image), "--slice", str(case.key_slice),
            "--box", *map(str, case.box_xyxy), "--window", *map(str, window), "--weights", weights,
            "--device", "cpu", "-o", str(target),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        return medsam2.read(target).array != 0


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path)
    parser.add_argument("address")
    parser.add_argument("--cases", dest="count", type=int, default=6, help="how many, from the first")
    parser.add_argument("--largest", type=int, default=4_000_000, help="voxels of a volume at most")
    parser.add_argument("--weights", default="compact", help="those of the server")
    given = parser.parse_args()
    torch.set_num_threads(1)
    predictor = load(given.weights, device="cpu")
    small = small_cases(given.cases, given.largest)
    rows: dict[tuple[str, str], Row] = {}

    def note(name: str, step: Step, truth: np.ndarray) -> None:
        row = rows.setdefault((name, step.tool), Row())
        if step.found is None:
            return
        row.scores.append(dice(step.found, truth))
        row.seconds.append(step.seconds)
        if step.expected is not None:
            row.differ = (row.differ or 0) + int((step.found != step.expected).sum())
            row.voxels += int(step.expected.sum())

    for case in small[: given.count]:
        image = medsam2.read(case.image)
        truth = np.isin(medsam2.read(case.mask).array, case.labels)
        window = case.window or tuple(map(float, np.percentile(image.array, (0.5, 99.5))))
        lower, upper = float(window[0]), float(window[1])
        of_command = box_of_the_command(case, (lower, upper), given.weights)
        for kind in CLIENTS:
            client = kind(given.address, f"{lower:g},{upper:g}")
            for step in Walk(client, case, predictor, (lower, upper)).steps():
                note(kind.name, step, truth)
                if step.tool == BOX:
                    same = Step(
                        tool="box, against the command",
                        found=step.found,
                        expected=of_command,
                        seconds=step.seconds,
                    )
                    note(kind.name, same, truth)
        print(f"{case.name}: done", file=sys.stderr, flush=True)
    print("| Client | Tool | Voxels that differ | Dice | Seconds |\n| --- | --- | --- | --- | --- |")
    for (name, tool), row in rows.items():
        if row.scores:
            differ = "" if row.differ is None else f"{row.differ} of {row.voxels}"
            print(f"| {name} | {tool} | {differ} | {np.mean(row.scores):.3f} | {np.mean(row.seconds):.2f} |")


if __name__ == "__main__":
    main()
