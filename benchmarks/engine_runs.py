"""Runs of the page's engine in Node and in Chromium, and the same runs in Python, to compare their masks."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from medsam2.hub import file_digest
from medsam2.imaging.labels import from_run_lengths
from medsam2.imaging.volume import Volume
from medsam2.inference import onnx
from medsam2.inference.onnx.chain import Origin
from medsam2.inference.onnx.export import chain_of, export_network
from medsam2.inference.options import InferenceOptions
from medsam2.inference.predictor import Predictor
from medsam2.model import compact
from medsam2.serving import pages
from medsam2.serving.npm_files import ONNX_RUNTIME
from medsam2.tracking import cues

RUNTIME = f"{ONNX_RUNTIME.name}@{ONNX_RUNTIME.version}"
ENGINE = Path(pages.__file__).parent / "web" / "engine"
DRIVERS = Path(__file__).parent / "engine"
PATIENCE_S = 600
PAGE = """<!doctype html><script type="module">
const worker = new Worker("/jobs/in_worker.js", { type: "module" });
window.ask = (name, argument) => new Promise((resolve, reject) => {
  worker.onmessage = ({ data }) => resolve(data);
  worker.onerror = ({ message }) => reject(new Error(message));
  worker.postMessage({ name, argument });
});
</script>"""


class Unavailable(Exception):
    """A tool is not here; the sentence says which."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A scan and what is done with it."""

    volume: Volume
    """Cut along its third axis."""
    steps: Sequence[Mapping[str, Any]]
    """`do` and what it needs; see `jobs.js`. A prompt has the names of `Session.add`."""
    window: tuple[float, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Names of `InferenceOptions`: `fill_hole_area`, `keep_component`, `stop_after`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step gave."""

    masks: Mapping[int, np.ndarray]
    """Object to its mask `(z, y, x)`, where the step gives masks."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    ms: float = 0.0


def run_in_python(predictor: Predictor, run: Run) -> list[Outcome]:
    """Do the steps of a run with a session."""
    options = InferenceOptions(**run.options)
    session = predictor.session(run.volume, window=run.window, options=options)
    found = [Outcome(masks={}, facts={"window": (session.window.lower, session.window.upper)})]
    for step in run.steps:
        number = step.get("object", 0)
        masks: dict[int, np.ndarray] = {}
        facts: dict[str, Any] = {}
        match step["do"]:
            case "add":
                masks[number] = np.zeros(session.shape, dtype=bool)
                z = step["prompt"]["slice"]
                masks[number][z] = session.add(number, **step["prompt"])
                facts["score"] = session.scores(number)[z]
            case "propagate":
                masks = {number: np.zeros(session.shape, dtype=bool) for number in session.objects}
                facts["order"] = []
                for count, (z, planes) in enumerate(session.propagate(), start=1):
                    facts["order"].append(z)
                    for number, plane in planes.items():
                        masks[number][z] = plane
                    if count == step.get("slices"):
                        break
            case "masks":
                masks[number] = session.result(number).array > 0
                facts["scores"] = session.scores(number)
            case "labels":
                labels = session.result().array
                masks = {int(one): labels == one for one in np.unique(labels) if one}
            case "remove":
                session.remove(number, slice=step.get("slice"))
            case "undo":
                facts["isDone"] = session.undo()
            case "redo":
                facts["isDone"] = session.redo()
        found.append(Outcome(masks=masks, facts=facts))
    return found


def _as_job(run: Run, file: str) -> dict[str, Any]:
    names = {"fill_hole_area": "fillHoleArea", "keep_component": "keepComponent", "stop_after": "stopAfter"}
    volume = {
        "file": file,
        "dtype": run.volume.array.dtype.name,
        "shape": list(run.volume.array.shape),
        "modality": run.volume.modality,
        "window": None if run.window is None else list(run.window),
        "fileWindow": None if run.volume.window is None else list(run.volume.window),
        "options": {names[name]: value for name, value in run.options.items()},
    }
    return {"volume": volume, "steps": [_as_step(step) for step in run.steps]}


def _as_step(step: Mapping[str, Any]) -> dict[str, Any]:
    mask = step.get("prompt", {}).get("mask")
    if mask is None:
        return dict(step)
    flat = np.asarray(mask, dtype=np.uint8).ravel().tolist()
    return {**step, "prompt": {**step["prompt"], "mask": flat}}


def _outcomes(answer: Mapping[str, Any], shape: tuple[int, ...]) -> list[Outcome]:
    if "error" in answer:
        raise RuntimeError(answer["error"])
    found = []
    for result in answer["results"]:
        masks: dict[int, np.ndarray] = {}
        for number, z, lengths in result["planes"]:
            stack = masks.setdefault(number, np.zeros(shape, dtype=bool))
            stack[z] = from_run_lengths(np.array(lengths), shape[1:])
        facts = {name: value for name, value in result.items() if name not in ("planes", "ms")}
        found.append(Outcome(masks=masks, facts=facts, ms=result["ms"]))
    return found


class NodeEngine:
    """The engine in a process of Node, which is kept: loading the network takes seconds.

    Args:
        runtime: The folder of the package onnxruntime-web.
        parts: Made by `export_network`.
        threads: Of the runtime.
    """

    def __init__(self, runtime: Path, parts: Path, threads: int = 1) -> None:
        command = ["node", str(DRIVERS / "in_node.mjs"), str(runtime), str(parts), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.open_ms: float = self._read()["ms"]
        self.num_bytes = 0
        self.cpu_ms = 0.0
        """Of the latest run, on all cores."""

    def run(self, run: Run) -> list[Outcome]:
        """Do the steps of a run; the first outcome is that of opening the scan."""
        assert self._process.stdin is not None
        with tempfile.NamedTemporaryFile() as file:
            file.write(np.ascontiguousarray(run.volume.array).tobytes())
            file.flush()
            self._process.stdin.write(json.dumps(_as_job(run, file.name)) + "\n")
            answer = self._read()
        self.num_bytes, self.cpu_ms = answer["bytes"], answer["cpuMs"]
        return _outcomes(answer, run.volume.array.shape)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "Node has ended; its own words are above"
        return json.loads(line)


class BrowserEngine:
    """The engine in a worker of a page.

    Args:
        page: A page of Playwright.
        address: Where `serving` serves.
        scans: The folder from which it serves scans.
        threads: Of the runtime.
    """

    def __init__(self, page: Any, address: str, scans: Path, threads: int = 1) -> None:
        self.page = page
        self._scans = scans
        page.goto(address)
        page.wait_for_function("window.ask !== undefined")
        opened = self._ask("open", {"threads": threads})
        self.open_ms: float = opened["ms"]
        self.is_isolated: bool = opened["isIsolated"]
        self.cpu_ms = 0.0
        """Of the latest run and all processes of the browser, on all cores."""
        self.num_bytes = 0
        """Most memory of the tab's process; the browser's own count leaves out what threads share."""

    def run(self, run: Run) -> list[Outcome]:
        """Do the steps of a run; the first outcome is that of opening the scan."""
        (self._scans / "voxels").write_bytes(np.ascontiguousarray(run.volume.array).tobytes())
        before = _children_cpu_ms()
        answer = self._ask("run", _as_job(run, "/scans/voxels"))
        self.cpu_ms = _children_cpu_ms() - before
        self.num_bytes = _largest_child_bytes()
        return _outcomes(answer, run.volume.array.shape)

    def _ask(self, name: str, argument: Mapping[str, Any]) -> Any:
        answer = self.page.evaluate("([name, argument]) => window.ask(name, argument)", [name, argument])
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def _children() -> list[Path]:
    """Folders of all processes below this one, where the system shows them as Linux does."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    family = {os.getpid()}
    while found := {one for one, parent in parents.items() if parent in family and one not in family}:
        family |= found
    return [Path("/proc", str(one)) for one in family - {os.getpid()}]


def _children_cpu_ms() -> float:
    ticks = 0
    for path in _children():
        with suppress(OSError):
            facts = (path / "stat").read_text().rpartition(")")[2].split()
            ticks += int(facts[11]) + int(facts[12])
    return 1000 * ticks / os.sysconf("SC_CLK_TCK")


def _largest_child_bytes() -> int:
    largest = 0
    for path in _children():
        with suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", (path / "status").read_text())
            largest = max(largest, 1024 * int(found[1]) if found else 0)
    return largest


class _Files(SimpleHTTPRequestHandler):
    """Serves some folders under names, isolated from other origins: threads need that."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def __init__(self, *arguments: Any, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        super().__init__(*arguments, directory="/nowhere")

    def translate_path(self, path: str) -> str:
        _, name, *rest = path.partition("?")[0].split("/")
        return str(self._folders.get(name, Path("/nowhere")).joinpath(*rest))

    def do_GET(self) -> None:
        if self.path != "/":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(runtime: Path, parts: Path, scans: Path) -> Iterator[str]:
    """Serve the engine, the network and scans to a browser; give the address."""
    folders = {"ort": runtime / "dist", "engine": ENGINE, "jobs": DRIVERS, "parts": parts, "scans": scans}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, folders=folders))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fetch_runtime(folder: Path) -> Path:
    """Install onnxruntime-web into a folder, unless it is there; return its own folder.

    Raises:
        Unavailable: There is no Node or npm, or npm cannot fetch it.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise Unavailable("Node and npm are not installed")
    package = folder / "node_modules" / "onnxruntime-web"
    if not (package / "package.json").is_file():
        command = [npm, "install", "--silent", "--no-save", "--prefix", str(folder), RUNTIME]
        got = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S)
        if got.returncode != 0:
            raise Unavailable(f"npm cannot fetch {RUNTIME}")
    return package


def export_parts(predictor: Predictor, weights: Path, folder: Path) -> Path:
    """Export the parts with half the bytes, unless a folder holds those of these weights and sources.

    Raises:
        Unavailable: The packages that export are not installed.
    """
    rooms = [Path(str(one.__file__)).parent for one in (onnx, compact)]
    sources = sorted(path for room in rooms for path in room.glob("*.py"))
    digests = [file_digest(path) for path in (*sources, Path(cues.__file__), weights)]
    digests.append(hashlib.sha256(repr(chain_of(predictor.runtime.network)).encode()).hexdigest())
    made_of = "-".join(digest[:4] for digest in digests)
    folder.mkdir(parents=True, exist_ok=True)
    parts = folder / "parts"
    note = folder / "made_of"
    if parts.is_dir() and note.is_file() and note.read_text() == made_of:
        return parts
    try:
        import onnx as _onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise Unavailable("the extra onnx is not installed") from error
    shutil.rmtree(parts, ignore_errors=True)
    origin = Origin(name="compact", sha256=file_digest(weights))
    for _ in export_network(predictor.runtime.network, parts, origin=origin, stored_as="float16"):
        pass
    note.write_text(made_of)
    return parts
