"""The static site in a real browser: `medsam2 export web`, a plain file server and nothing else."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medsam2.cli.main import run
from medsam2.errors import InputError
from medsam2.serving.npm_files import PACKAGES, package_files

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

PARTS = os.environ.get("MEDSAM2_WEB_PARTS")
"""A folder of parts of the shipped weights as they are now, for whoever runs these tests again and again."""
FAR_HOST = "hospital.test"
"""A name of this machine that the browser takes for another one: its addresses are not secure."""
TESTS = Path(__file__).resolve().parents[1]


def _annotator():
    """What the tests of the server's page know of a screen: it is the same page."""
    spec = importlib.util.spec_from_file_location("annotator_screen", TESTS / "browser" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


annotator = _annotator()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain file server: no header says anything about isolation or policy."""

    def log_message(self, *_: object) -> None:
        pass


class FileServer:
    """Serves a folder on this machine, until it is ended."""

    def __init__(self, folder: Path) -> None:
        handler = functools.partial(_Quiet, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}/"

    def end(self) -> None:
        """End it; once it is ended, nothing is done."""
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class SiteScreen(annotator.Screen):
    """The annotator's page as a static site, and all requests that it makes."""

    def __init__(self, page: playwright.Page, address: str) -> None:
        super().__init__(page, address)
        self.requests: list[str] = []
        page.context.on("request", lambda request: self.requests.append(request.url))

    def is_ready(self) -> SiteScreen:
        super().is_ready()
        self.page.wait_for_selector("body[data-offline=yes]")
        return self

    def refuses(self, *paths: Path) -> str:
        """Drop files that cannot be opened, and return what the page says."""
        for notice in self.page.locator("#notices button").all():
            notice.click()
        self.page.set_input_files("#file", list(paths))
        return str(self.page.locator("#notices .error span").inner_text())


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives that `npm pack` writes."""
    import subprocess

    folder, npm = tmp_path_factory.mktemp("npm"), shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    for package in PACKAGES:
        command = [npm, "pack", f"{package.name}@{package.version}", "--silent"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=300)
        if done.returncode:
            pytest.skip(f"{package.name} cannot be had from npm")
    try:
        for package in PACKAGES:
            package_files(package, folder)
    except InputError as error:
        pytest.fail(str(error))
    return folder


@pytest.fixture(scope="session")
def site(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site with the shipped weights."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="needs the extra onnx")
    folder = tmp_path_factory.mktemp("site") / "site"
    made = ["--parts", PARTS] if PARTS else []
    assert run(["export", "web", str(folder), "--runtime-files", str(archives), *made]) == 0
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    if annotator.CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as started:
        flags = [*annotator.FLAGS, f"--host-resolver-rules=MAP {FAR_HOST} 127.0.0.1"]
        launched = started.chromium.launch(executable_path=annotator.CHROMIUM, args=flags)
        yield launched
        launched.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], FileServer]]:
    """Serve folders until the test ends."""
    started: list[FileServer] = []

    def start(folder: Path) -> FileServer:
        started.append(FileServer(folder))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture
def file_server(serve: Callable[[Path], FileServer], site: Path) -> FileServer:
    return serve(site)


@pytest.fixture
def new_screen(browser: playwright.Browser, file_server: FileServer) -> Iterator[Callable[..., SiteScreen]]:
    """Open browsers of their own; nothing may go wrong in any of them."""
    screens: list[SiteScreen] = []

    def make(size: dict[str, int] = annotator.SIZE, **options: object) -> SiteScreen:
        context = browser.new_context(viewport=size, accept_downloads=True, **options)
        screens.append(SiteScreen(context.new_page(), file_server.address))
        return screens[-1]

    yield make
    annotator.close_all(screens)


@pytest.fixture
def screen(new_screen: Callable[..., SiteScreen]) -> SiteScreen:
    return new_screen()


@pytest.fixture(scope="session")
def save_scan() -> Callable[..., Path]:
    """Write a scan of a shape (z, y, x)."""
    return annotator.save_ball
