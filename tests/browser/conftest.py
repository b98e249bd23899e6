"""A real browser in front of a real server: `medsam2 annotate` on a folder of small scans."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import httpx
import nibabel
import numpy as np
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--disable-dev-shm-usage"]
SIZE = {"width": 1280, "height": 800}
PATIENCE_MS = 60_000
PATIENCE_S = 60
HOSTILE = "<img src=x onerror=document.title='caught'>"
SHOTS = os.environ.get("MEDSAM2_SHOTS")
"""A folder for screenshots, for whoever wants to look at them."""


class Annotator:
    """The command `medsam2 annotate` as a process, which can be ended and started again."""

    def __init__(self, folder: Path, log: IO[bytes]) -> None:
        self.folder = folder
        self.port = 0
        self._log = log
        self.start()

    def start(self) -> None:
        """Start it, on the port that it had before."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDSAM2_")}
        # One thread: the tests of another worker need the other cores.
        environment |= {"MEDSAM2_READERS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "medsam2", "annotate", str(self.folder)]
        command += ["--port", str(self.port), "--no-browser"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), "it did not start; its log says why"
        self.port = int(self.address.rstrip("/").rpartition(":")[2])
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                if httpx.get(f"{self.address}readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < end, "it does not answer"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it without a moment's notice."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def end(self) -> None:
        """End it as a person does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Screen:
    """A page and what a person does on it."""

    def __init__(self, page: playwright.Page, address: str) -> None:
        self.page = page
        self.address = address
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._hear)

    def _hear(self, message: playwright.ConsoleMessage) -> None:
        # What the browser itself says of an answer that is no success is what some tests are about.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.faults.append(message.text)

    def open(self, user: str | None = "anna", *, has_seen_tour: bool = True) -> Screen:
        """Open the page as somebody who was here before."""
        seen = f"localStorage.setItem('medsam2.user', '{user}');" if user else ""
        seen += "localStorage.setItem('medsam2.tour', 'yes');" if has_seen_tour else ""
        self.page.add_init_script(seen)
        self.page.goto(self.address)
        return self.is_ready()

    def is_ready(self) -> Screen:
        self.page.wait_for_selector("body[data-ready=yes]")
        return self

    def drop(self, path: Path) -> None:
        """Choose a file, as dropping it does."""
        self.page.set_input_files("#file", path)
        self.is_open()

    def open_case(self, name: str) -> None:
        self.page.locator(".card", has_text=name).click()
        self.is_open()

    def is_open(self) -> None:
        self.page.wait_for_selector("#work:not([hidden])")
        self.rests()

    def rests(self) -> None:
        """Wait until the server has done all that it was asked for."""
        self.page.wait_for_selector("body:not(.is-working)")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where the pixel (x, y) of the session's slice is on the screen."""
        where = self.page.evaluate(
            """async ([x, y]) => {
                const { drawingView } = await import("/page/plane_panes.js");
                const { shownPoint } = await import("/page/planes.js");
                const view = drawingView();
                const frame = view.canvas.getBoundingClientRect();
                const at = view.at(view.frame(), ...shownPoint(view.plane, x, y));
                return [frame.left + at[0], frame.top + at[1]];
            }""",
            [x, y],
        )
        return where[0], where[1]

    def go_to(self, slice_index: int) -> None:
        self.page.locator("#strip-slice").fill(str(slice_index))

    def draw_box(self, box: tuple[int, int, int, int]) -> None:
        """Draw from corner to corner, and wait for the outline."""
        self.page.keyboard.press("b")
        self.page.mouse.move(*self.place(box[0], box[1]))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(box[2], box[3]), steps=4)
        self.page.mouse.up()
        self.page.wait_for_timeout(50)
        self.rests()

    def click(self, x: float, y: float, *, is_inside: bool = True) -> None:
        self.page.keyboard.press("p")
        self.page.mouse.click(*self.place(x, y), button="left" if is_inside else "right")
        self.page.wait_for_timeout(50)
        self.rests()

    def propagate(self) -> None:
        self.page.keyboard.press("Enter")
        self.page.wait_for_timeout(50)
        self.rests()

    def state(self, path: str) -> object:
        """A part of the page's state, `session.id` say."""
        return self.page.evaluate(
            "async (path) => { const { state } = await import('/page/state.js');"
            " return path.split('.').reduce((part, name) => part?.[name], state); }",
            path,
        )

    def slices(self, number: int = 1) -> list[int]:
        """Slices that an object is shown in."""
        found = self.page.evaluate(
            "async (n) => (await import('/page/state.js')).state.masks.slices(n)", number
        )
        return [int(one) for one in found]

    def num_voxels(self, number: int = 1) -> int:
        return int(
            self.page.evaluate(
                "async (n) => (await import('/page/state.js')).state.masks.numVoxels(n)", number
            )
        )

    def notices(self) -> str:
        return " ".join(self.page.locator("#notices .notice").all_text_contents())

    def export(self, label: str, folder: Path) -> Path:
        """Save the masks through the menu."""
        self.page.locator("#export-menu summary").click()
        with self.page.expect_download() as saved:
            self.page.get_by_role("button", name=label).click()
        path = folder / saved.value.suggested_filename
        saved.value.save_as(path)
        self.rests()
        return path

    def shoot(self, name: str) -> None:
        if SHOTS:
            self.page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def save_ball(path: Path, shape: tuple[int, int, int] = (12, 56, 64), seed: int = 0, half: int = 4) -> Path:
    """Write a bright ball in noise, `half` slices to each side of the middle."""
    grid = np.mgrid[tuple(slice(side) for side in shape)]
    distance = sum(
        ((axis - (side - 1) / 2) / radius) ** 2
        for axis, side, radius in zip(grid, shape, (half, 10, 10), strict=True)
    )
    grey = np.random.default_rng(seed).normal(60, 8, shape) + 120 * (distance < 1)
    affine = np.diag([-0.8, 0.8, 2.5, 1])
    nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.int16), affine), path)
    return path


# Playwright runs an event loop until it is stopped: the next file in this process may need one of its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans: one has a name that is meant to break pages."""
    path = tmp_path_factory.mktemp("project")
    save_ball(path / "ball.nii.gz")
    save_ball(path / "other.nii.gz", seed=1)
    save_ball(path / f"{HOSTILE}.nii.gz", seed=2)
    return path


@pytest.fixture(scope="session")
def annotator(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Annotator]:
    with (tmp_path_factory.mktemp("log") / "server.log").open("wb") as log:
        started = Annotator(folder, log)
        yield started
        started.end()


def close_all(screens: Sequence[Screen]) -> None:
    """Close what a test has opened; nothing may have gone wrong in any of them."""
    faults = [fault for screen in screens for fault in screen.faults]
    for screen in screens:
        screen.page.context.close()
    assert faults == []


@pytest.fixture
def new_screen(browser: playwright.Browser, annotator: Annotator) -> Iterator[Callable[[], Screen]]:
    """Further people, each with a browser of their own; nothing may go wrong in any of them."""
    screens: list[Screen] = []

    def make() -> Screen:
        context = browser.new_context(viewport=SIZE, accept_downloads=True)
        screens.append(Screen(context.new_page(), annotator.address))
        return screens[-1]

    yield make
    close_all(screens)


@pytest.fixture
def screen(new_screen: Callable[[], Screen]) -> Screen:
    return new_screen()


@pytest.fixture(scope="session")
def save_scan() -> Callable[..., Path]:
    """Write a scan of a shape (z, y, x)."""
    return save_ball
