"""The annotator as a folder of files that segments in the browser: it needs no server and sends nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from medsam2.errors import InputError
from medsam2.imaging.intensity import resolve_window
from medsam2.imaging.io import read
from medsam2.imaging.replacing import filling
from medsam2.inference.onnx.chain import read_facts
from medsam2.prompts.simulate import tight_box
from medsam2.serving.npm_files import ONNX_RUNTIME, PACKAGES

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        # The page starts its worker from a text of its own, so that the worker has this policy too.
        "worker-src 'self' blob:",
        "style-src 'self'",
        # Pictures of slices are blobs. NiiVue has its letters as data: URLs, and fetches them from there.
        "img-src 'self' blob: data:",
        "connect-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""The page connects to where it came from, and to nobody else."""
MOST_PARTS_BYTES = 30 * 10**6
"""Of a network: more is too much for a page."""

_PAGE, _PARTS, _RUNTIME, _TOUR = "page", "parts", "runtime", "tour"
_START, _WORKER, _WORKER_SOURCE = "index.html", "service-worker.js", "service_worker.js"
_SCRIPTS = (".js", ".css", ".svg", ".html")
_FACTS = 'const SITE = { version: "", files: [], policy: "" };'
_HEAD, _BODY = '<html lang="en">', "<body>"
_NOT_STARTED = (
    "The page has not started. If its address begins with file:, that is why: browsers load no modules, no "
    "workers and no WebAssembly from files that are opened without a server. Run `python -m http.server` in "
    "this folder and open http://localhost:8000, or put the folder on any web server. If the address begins "
    "with http, this browser is too old: Firefox from 115, Chrome and Edge from 110 and Safari from 16.4 can "
    "show the page."
)
_TOUR_STRUCTURE = "left ventricle"


@dataclass(frozen=True)
class SiteFile:
    """One file of a site."""

    path: str
    """From the site's folder, with slashes."""
    num_bytes: int


def write_site(
    folder: Path, write_parts: Callable[[Path], None], runtime: Mapping[str, bytes]
) -> list[SiteFile]:
    """Write the site into a new folder, whole or not at all.

    Args:
        folder: New, or empty.
        write_parts: Puts the ONNX parts and `chain.json` of a compact network into a new folder.
        runtime: The files of `npm_files.PACKAGES`, by name.

    Returns:
        All files, sorted by path.

    Raises:
        InputError: The folder cannot be written, or the network is another one or too large for a page.
    """
    missing = {name for package in PACKAGES for name in package.files.values()} - runtime.keys()
    if missing:
        raise InputError(f"the site needs the files {', '.join(sorted(missing))} of its runtime")
    with filling(folder) as temporary:
        parts = temporary / _PARTS
        write_parts(parts)
        _check_parts(parts)
        for path, content in _contents(runtime):
            file = temporary / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        files = _listed(temporary)
        worker = _worker_text(temporary, [file.path for file in files])
        (temporary / _WORKER).write_text(worker, encoding="utf-8")
        return _listed(temporary)


def _contents(runtime: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    web = resources.files("medsam2.serving").joinpath("web")
    for path, content in _scripts(web):
        if path == _START:
            yield _START, _start_page(content.decode()).encode()
        elif not path.endswith(_WORKER_SOURCE):
            yield f"{_PAGE}/{path}", content
    notice = web.joinpath("NOTICE").read_text(encoding="utf-8")
    yield f"{_PAGE}/NOTICE.txt", notice.encode()
    for name, content in runtime.items():
        yield f"{_RUNTIME}/{name}", content
    shipped = resources.files("medsam2").joinpath("shipped")
    yield f"{_TOUR}/scan.nii.gz", shipped.joinpath("demo.nii.gz").read_bytes()
    yield f"{_TOUR}/answer.nii.gz", shipped.joinpath("demo-mask.nii.gz").read_bytes()
    yield f"{_TOUR}/about.md", shipped.joinpath("demo.md").read_bytes()
    yield f"{_TOUR}/tour.json", json.dumps(_tour()).encode()


def _scripts(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """The page's files and those in folders below. Packed ones are unpacked: file servers differ there."""
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            yield from _scripts(entry, f"{path}/")
        elif path.endswith(".js.gz"):
            yield path.removesuffix(".gz"), gzip.decompress(entry.read_bytes())
        elif path.endswith(_SCRIPTS):
            yield path, entry.read_bytes()


def _start_page(text: str) -> str:
    """The page of the server, told that this browser is the engine."""
    assert text.count(_HEAD) == text.count(_BODY) == 1
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    text = text.replace(_HEAD, '<html lang="en" data-engine="browser">')
    text = text.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{policy}', 1)
    return text.replace(_BODY, f'{_BODY}\n<p id="not-started" role="alert">{_NOT_STARTED}</p>')


def _tour() -> dict[str, object]:
    """Where the tour asks for a box, as `serving.pages.Tour` has it."""
    shipped = Path(str(resources.files("medsam2") / "shipped"))
    reference = read(shipped / "demo-mask.nii.gz").array > 0
    window = resolve_window(read(shipped / "demo.nii.gz"))
    key_slice = int(reference.sum(axis=(1, 2)).argmax())
    return {
        "name": "heart.nii.gz",
        "structure": _TOUR_STRUCTURE,
        "slice": key_slice,
        "box": [round(end) for end in tight_box(reference[key_slice]).xyxy],
        "window": [window.lower, window.upper],
    }


def _check_parts(folder: Path) -> None:
    network = read_facts(folder)["network"]
    if network != "compact":
        raise InputError(f"the page runs the network `compact`, and these parts are of `{network}`")
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    if num_bytes > MOST_PARTS_BYTES:
        raise InputError(
            f"the parts have {num_bytes / 1e6:.1f} MB, more than the {MOST_PARTS_BYTES / 1e6:.0f} MB that a "
            "page may have; store them as float16"
        )


def _worker_text(folder: Path, paths: list[str]) -> str:
    """The service worker with what the site consists of; its version changes when any file does."""
    source = resources.files("medsam2.serving").joinpath("web", "browser", _WORKER_SOURCE)
    text = source.read_text(encoding="utf-8")
    assert text.count(_FACTS) == 1
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.encode() + b"\0" + hashlib.sha256((folder / path).read_bytes()).digest())
    facts = {"version": digest.hexdigest()[:16], "files": paths, "policy": POLICY}
    return text.replace(_FACTS, f"const SITE = {json.dumps(facts)};")


def _listed(folder: Path) -> list[SiteFile]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [SiteFile(file.relative_to(folder).as_posix(), file.stat().st_size) for file in files]


def sizes(files: list[SiteFile]) -> dict[str, int]:
    """Return the bytes of the network's parts, of what runs them, of the page, and of all."""
    groups = {"parts": _PARTS, ONNX_RUNTIME.name: _RUNTIME, "page": _PAGE}
    found = {
        name: sum(file.num_bytes for file in files if file.path.startswith(f"{folder}/"))
        for name, folder in groups.items()
    }
    return {**found, "total": sum(file.num_bytes for file in files)}
