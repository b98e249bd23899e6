"""The page's engine in Node and in Chromium, with the weights that ship."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_runs import BrowserEngine, NodeEngine, Unavailable, export_parts, fetch_runtime, serving

import medsam2
from medsam2.checkpoints import resolve
from medsam2.inference.onnx.compact_parts import compact_chain
from medsam2.inference.predictor import Predictor
from medsam2.model.compact.config import COMPACT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"]
PATIENCE_MS = 300_000


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a function of the engine, or of a method of an object that is made for it."""

    module: str
    name: str
    given: Sequence[Any] = ()
    construct: Sequence[Any] | None = None
    method: str | None = None
    about: Any = field(default=None, compare=False)
    """What the test knows of it."""


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.name, "base64": base64.b64encode(np.ascontiguousarray(value)).decode()}
    raise TypeError(f"{type(value)} cannot be sent to Node")


@pytest.fixture(scope="session")
def in_node() -> Callable[[Sequence[Call]], list[Any]]:
    """Call functions of the engine; a call that throws gives its sentence in `{"error": ...}`."""
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    driver = Path(__file__).parent / "call.mjs"

    def call(calls: Sequence[Call]) -> list[Any]:
        names = ("module", "name", "given", "construct", "method")
        sent = json.dumps([{name: getattr(one, name) for name in names} for one in calls], default=_packed)
        done = subprocess.run(
            ["node", str(driver)], input=sent, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return [one.get("value", one) for one in json.loads(done.stdout)]

    return call


@pytest.fixture(scope="session")
def chain() -> dict[str, Any]:
    """What chain.json says of the shipped network, as far as the engine's functions need it."""
    described = compact_chain(COMPACT)
    return {"config": dict(described.config), "constants": dict(described.constants), "parts": []}


@pytest.fixture(scope="session")
def shipped() -> Predictor:
    """The weights that ship, in Python."""
    return medsam2.load("compact", device="cpu", precision="float32")


@pytest.fixture(scope="session")
def files(shipped: Predictor, pytestconfig: pytest.Config) -> tuple[Path, Path]:
    """The package onnxruntime-web and the exported parts, kept from run to run."""
    folder = Path(pytestconfig.cache.mkdir("browser-engine"))  # type: ignore[union-attr]
    try:
        return fetch_runtime(folder), export_parts(shipped, resolve("compact"), folder)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def node_engine(files: tuple[Path, Path]) -> Iterator[NodeEngine]:
    """The engine in Node, with one thread."""
    engine = NodeEngine(*files)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def browser_engine(
    files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserEngine]:
    """The engine in a worker of Chromium, with two threads."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    scans = tmp_path_factory.mktemp("scans")
    with serving(*files, scans) as address, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        yield BrowserEngine(page, address, scans, threads=2)
        browser.close()
    assert faults == []


@pytest.fixture(scope="session")
def make_call() -> type[Call]:
    """Describe a call."""
    return Call
