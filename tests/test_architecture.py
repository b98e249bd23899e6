"""The import rules of the house and what else can be read off the sources without running them."""

from __future__ import annotations

import ast
import posixpath
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path, PurePosixPath

import pytest

SRC = Path(__file__).resolve().parents[1] / "src" / "medsam2"
ROOT = "__init__"

# The chain cli -> training -> evaluation -> inference -> tracking -> model, its leaves and its neighbours.
LEAVES = {"errors", "imaging", "measure", "prompts"}
INFERENCE = {*LEAVES, "model", "checkpoints", "tracking", "weights", "hub"}
EVALUATION = {*INFERENCE, "inference", "synthesis", "reports"}
TRAINING = {*EVALUATION, "evaluation"}
MAY_IMPORT = {
    "errors": set(),
    "imaging": {"errors"},
    "measure": {"errors", "imaging"},
    "prompts": {"errors"},
    "reports": {"errors", "imaging", "measure"},
    "synthesis": {"errors"},
    "client": {*LEAVES, "proxies"},
    "proxies": set(),
    "weights": set(),
    "model": {"errors"},
    "hub": {"errors", "weights"},
    "checkpoints": {"errors", "hub", "model", "weights"},
    "tracking": {"errors", "model"},
    "inference": INFERENCE,
    "annotation": {*LEAVES, "checkpoints", "inference", "reports"},
    "followup": {*LEAVES, "inference", "reports"},
    "evaluation": EVALUATION,
    "training": TRAINING,
    "serving": {*LEAVES, "annotation", "checkpoints", "hub", "inference", "proxies", "weights"},
    "batch": {*LEAVES, "inference", "evaluation", "reports"},
    "cli": {*TRAINING, "annotation", "training", "serving", "batch", "followup", "proxies", ROOT},
    ROOT: {"client", "errors", "imaging", "inference", "prompts"},
    "__main__": {"cli"},
}
CHAIN = ("cli", "training", "evaluation", "inference", "tracking", "model")

TORCH_FREE = {*LEAVES, "client", "hub", "proxies", "reports", "weights"}
TORCH = {"torch", "lightning_fabric", "safetensors"}
TERMINAL = {"click", "rich", "tqdm"}  # output, questions and progress bars are the command line's
ONLY_HERE = {"synthesis": {"numpy", "scipy"}}  # beside the standard library

READS_ENVIRONMENT = {"__init__.py", "hub.py", "serving/settings.py"}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "base", "core", "manager"}
MAX_LINES = 400

WEB = SRC / "serving" / "web"
WEB_ENTRIES = {"main.js", "browser/worker.js", "browser/service_worker.js"}
WEB_MIN_LINES = 40

Rule = Callable[[str, ast.Module], Iterator[str]]


def room_of(path: str) -> str:
    """The first part of a file's path below the package, which is what the rules speak of."""
    return path.split("/")[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names of everything that is imported anywhere in a module, within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def imported_rooms(tree: ast.Module) -> Iterator[str]:
    rooms = {path.name.removesuffix(".py") for path in SRC.iterdir()} | MAY_IMPORT.keys()
    for name in imports(tree):
        parts = name.split(".")
        if parts[0] == "medsam2":
            yield parts[1] if len(parts) > 1 and parts[1] in rooms else ROOT


def rooms_import_to_the_right(path: str, tree: ast.Module) -> Iterator[str]:
    room = room_of(path)
    if room not in MAY_IMPORT:
        yield f"{room} has no rule yet: add it to MAY_IMPORT"
        return
    for other in sorted(set(imported_rooms(tree)) - MAY_IMPORT[room] - {room}):
        yield f"{room} imports {other}"


def imports_are_absolute(path: str, tree: ast.Module) -> Iterator[str]:
    yield from (f"relative import {name}" for name in imports(tree) if name.startswith("."))


def heavy_packages_stay_where_they_belong(path: str, tree: ast.Module) -> Iterator[str]:
    room = room_of(path)
    packages = {name.split(".")[0] for name in imports(tree)} - {"medsam2", ""}
    banned = (TORCH if room in TORCH_FREE else set()) | (TERMINAL if room != "cli" else set())
    for package in sorted(packages & banned):
        yield f"{room} imports {package}"
    if room in ONLY_HERE:
        for package in sorted(packages - ONLY_HERE[room] - sys.stdlib_module_names):
            yield f"{room} imports {package}"


def private_names_stay_private(path: str, tree: ast.Module) -> Iterator[str]:
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "medsam2":
            ours |= {alias.asname or alias.name for alias in node.names}
    for name in imports(tree):
        if name.startswith("medsam2.") and any(is_private(part) for part in name.split(".")):
            yield f"imports the private {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id in ours:
                yield f"line {node.lineno} uses the private {owner.id}.{node.attr}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def names_say_what_is_inside(path: str, tree: ast.Module) -> Iterator[str]:
    parts = PurePosixPath(path.removesuffix(".py")).parts
    yield from (f"{part} says nothing" for part in parts if part.strip("_") in BANNED_NAMES)


def rooms_have_docstrings_only(path: str, tree: ast.Module) -> Iterator[str]:
    if path.endswith("/__init__.py") and (len(tree.body) != 1 or ast.get_docstring(tree) is None):
        yield "an __init__.py holds a docstring and nothing else"


def files_open_with_a_docstring(path: str, tree: ast.Module) -> Iterator[str]:
    if ast.get_docstring(tree) is None:
        yield "no docstring"


def only_the_command_line_prints(path: str, tree: ast.Module) -> Iterator[str]:
    if room_of(path) == "cli":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "print":
            yield f"line {node.lineno} prints"


def environment_is_read_in_two_places(path: str, tree: ast.Module) -> Iterator[str]:
    if path in READS_ENVIRONMENT:
        return
    taken = {"os.environ", "os.environb", "os.getenv", "os.getenvb"}
    yield from (f"imports {name}" for name in imports(tree) if name in taken)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in taken:
            yield f"line {node.lineno} reads the environment"


RULES: tuple[Rule, ...] = (
    rooms_import_to_the_right,
    imports_are_absolute,
    heavy_packages_stay_where_they_belong,
    private_names_stay_private,
    names_say_what_is_inside,
    rooms_have_docstrings_only,
    files_open_with_a_docstring,
    only_the_command_line_prints,
    environment_is_read_in_two_places,
)
SOURCES = sorted(path.relative_to(SRC).as_posix() for path in SRC.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES)
def test_the_sources_keep_the_rules(path: str) -> None:
    text = (SRC / path).read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert [fault for rule in RULES for fault in rule(path, tree)] == []
    assert len(text.splitlines()) <= MAX_LINES


BREAKS: list[tuple[Rule, str, str]] = [
    (rooms_import_to_the_right, "model/x.py", "from medsam2.tracking.step import track_frame"),
    (rooms_import_to_the_right, "model/x.py", "from medsam2 import tracking"),
    (rooms_import_to_the_right, "model/x.py", "import medsam2.checkpoints"),
    (rooms_import_to_the_right, "tracking/x.py", "import medsam2.inference.session as s"),
    (rooms_import_to_the_right, "inference/x.py", "def f():\n    from medsam2.training import loop"),
    (rooms_import_to_the_right, "inference/x.py", "from medsam2.evaluation.metrics import dice"),
    (rooms_import_to_the_right, "inference/x.py", "from medsam2.synthesis.scan import generate_scan"),
    (rooms_import_to_the_right, "inference/x.py", "from medsam2.serving.app import create_app"),
    (rooms_import_to_the_right, "inference/x.py", "from medsam2.annotation.project import Project"),
    (rooms_import_to_the_right, "annotation/x.py", "from medsam2.evaluation.metrics import dice"),
    (rooms_import_to_the_right, "serving/x.py", "from medsam2.training import loop"),
    (rooms_import_to_the_right, "training/x.py", "from medsam2.cli.messages import say"),
    (rooms_import_to_the_right, "training/x.py", "from medsam2 import Volume"),
    (rooms_import_to_the_right, "imaging/x.py", "from medsam2.prompts.types import Box"),
    (rooms_import_to_the_right, "reports/x.py", "from medsam2.evaluation.runner import CaseResult"),
    (rooms_import_to_the_right, "synthesis/x.py", "from medsam2.imaging.volume import Volume"),
    (rooms_import_to_the_right, "errors.py", "import medsam2.imaging"),
    (rooms_import_to_the_right, "attic/x.py", ""),
    (imports_are_absolute, "model/x.py", "from . import layers"),
    (imports_are_absolute, "model/x.py", "from ..errors import InputError"),
    (heavy_packages_stay_where_they_belong, "imaging/x.py", "import torch.nn"),
    (heavy_packages_stay_where_they_belong, "prompts/x.py", "def f():\n    from torch import Tensor"),
    (heavy_packages_stay_where_they_belong, "training/x.py", "from rich.progress import track"),
    (heavy_packages_stay_where_they_belong, "synthesis/x.py", "import skimage"),
    (private_names_stay_private, "model/x.py", "from medsam2.model.layers import _norm"),
    (private_names_stay_private, "model/x.py", "from medsam2.model import layers\nlayers._norm()"),
    (private_names_stay_private, "model/x.py", "import medsam2.model._layers"),
    (names_say_what_is_inside, "model/utils.py", ""),
    (names_say_what_is_inside, "model/_helpers.py", ""),
    (names_say_what_is_inside, "common/layers.py", ""),
    (rooms_have_docstrings_only, "model/__init__.py", '"""Doc."""\nimport os'),
    (rooms_have_docstrings_only, "model/__init__.py", ""),
    (files_open_with_a_docstring, "model/x.py", "import os"),
    (only_the_command_line_prints, "training/x.py", "print(1)"),
    (only_the_command_line_prints, "training/x.py", "log = print"),
    (environment_is_read_in_two_places, "model/x.py", "import os\nos.environ['A']"),
    (environment_is_read_in_two_places, "serving/run.py", "import os\nos.environ['A']"),
    (environment_is_read_in_two_places, "model/x.py", "import os\nos.getenv('A')"),
    (environment_is_read_in_two_places, "model/x.py", "from os import environ"),
]


@pytest.mark.parametrize(("rule", "path", "source"), BREAKS)
def test_every_rule_can_fail(rule: Rule, path: str, source: str) -> None:
    assert list(rule(path, ast.parse(source)))


def test_every_rule_is_seen_to_fail() -> None:
    assert {rule for rule, _, _ in BREAKS} == set(RULES)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cli/x.py", "import click\nfrom medsam2 import __version__\nprint(__version__)"),
        ("cli/weights.py", "from medsam2.weights import SPECS\nfrom rich.table import Table"),
        ("training/x.py", "from medsam2.synthesis.stack import generate_stack\nimport torch"),
        ("inference/x.py", "from medsam2.checkpoints import load_network\nfrom medsam2.prompts import types"),
        ("imaging/x.py", "from medsam2.imaging import nifti\nnifti.__name__\nself._x = 1"),
        ("synthesis/x.py", "import math\nfrom scipy import ndimage\nimport numpy as np"),
        ("serving/x.py", "from medsam2.inference.predictor import Predictor\nimport fastapi"),
        ("serving/settings.py", "import os\nos.environ['MEDSAM2_PORT']"),
        ("hub.py", "import os\nos.environ['MEDSAM2_HOME']"),
        ("model/__init__.py", ""),
    ],
)
def test_what_is_allowed_is_allowed(path: str, source: str) -> None:
    tree = ast.parse(f'"""Doc."""\n{source}')
    assert [fault for rule in RULES for fault in rule(path, tree)] == []


def test_the_table_of_rooms_is_the_chain_of_the_design() -> None:
    for place, room in enumerate(CHAIN):
        assert MAY_IMPORT[room].isdisjoint(CHAIN[: place + 1]), room
    assert bound_in_circles(MAY_IMPORT) == set()


def bound_in_circles(imports: Mapping[str, Set[str]]) -> set[str]:
    """Names on circles of imports, and the names that need them: taking away what is free leaves these."""
    left = dict(imports)
    while free := {name for name, others in left.items() if others.isdisjoint(left)}:
        left = {name: others for name, others in left.items() if name not in free}
    return set(left)


def imported_scripts(text: str, name: str = "") -> set[str]:
    """Files that a script imports, by their names in the page; what its comments import are types."""
    code = re.sub(r"/\*.*?\*/|^\s*//.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    statement = r"""(?:^(?:import|export)\b[^"';]*\bfrom|^import|\bimport\()\s*["'](\.\.?/[^"']+)["']"""
    folder = posixpath.dirname(name)
    found = re.findall(statement, code, re.MULTILINE)
    return {posixpath.normpath(posixpath.join(folder, other)) for other in found}


SCRIPTS = {path.relative_to(WEB).as_posix(): path.read_text("utf-8") for path in sorted(WEB.rglob("*.js"))}


def test_the_page_has_no_circle_of_imports() -> None:
    imports = {name: imported_scripts(text, name) for name, text in SCRIPTS.items()}
    assert bound_in_circles(imports) == set()
    missing = {other for others in imports.values() for other in others if not (WEB / other).exists()}
    # NiiVue is there packed, and `medsam2 export web` fetches what a page without a server runs on.
    assert missing == {"niivue.js", "../runtime/ort.wasm.min.mjs", "../runtime/dcmjs.min.js"}
    assert SCRIPTS.keys() - {other for others in imports.values() for other in others} == WEB_ENTRIES


def test_the_server_s_page_needs_no_folder_below_it() -> None:
    """The server gives away the files of the page's own folder; others are for a page without a server."""
    own = {name for name in SCRIPTS if "/" not in name}
    others = {other for name in own for other in imported_scripts(SCRIPTS[name], name) if "/" in other}
    assert others == {"browser/sessions.js"}  # by sessions.js, if the page says so


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_neither_long_nor_short(name: str) -> None:
    num_lines = len(SCRIPTS[name].splitlines())
    assert num_lines <= MAX_LINES
    assert num_lines >= WEB_MIN_LINES or name in WEB_ENTRIES


def test_imports_of_scripts_are_read() -> None:
    text = """
/** @type {import("./types.js").Plane} */
import { a } from "./a.js";
import {
  b,
  c,
} from './b.js';
import "./c.js";
export { d } from "./d.js";
// import { e } from "./e.js";
const { f } = await import("./f.js");
import { g } from "../g.js";
export const path = "./no_import.js";
"""
    assert imported_scripts(text) == {"a.js", "b.js", "c.js", "d.js", "f.js", "../g.js"}
    assert imported_scripts(text, "x/y.js") == {"x/a.js", "x/b.js", "x/c.js", "x/d.js", "x/f.js", "g.js"}
    assert bound_in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}


def test_no_test_file_is_called_like_another() -> None:
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import medsam2", {"numpy", "torch", "nibabel", "click"}),
        ("import medsam2; medsam2.read", {"torch"}),
        ("import medsam2; medsam2.Box", {"torch", "nibabel"}),
        ("import medsam2; medsam2.Client('http://127.0.0.1:1')", {"torch", "fastapi"}),
        (
            "from medsam2.cli.main import run; run(['--help'])",
            {"numpy", "torch", "nibabel", "SimpleITK", "rich"},
        ),
        ("from medsam2.cli.main import run; run(['--version'])", {"numpy", "torch"}),
        ("from medsam2.cli.main import run; run(['weights', 'fetch', '--help'])", {"torch"}),
    ],
)
def test_heavy_packages_come_late(statement: str, absent: set[str]) -> None:
    script = f"{statement}\nimport sys\nprint('loaded:', *sys.modules)"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.rpartition("loaded:")[2].split())
    assert "medsam2" in loaded
    assert loaded.isdisjoint(absent)


def test_modules_stay_where_tests_found_them() -> None:
    """Of a module that is taken from `sys.modules` and imported anew there are two from then on."""
    here = Path(__file__)
    reloading = ("delitem(sys.modules", "del sys.modules[", "sys.modules.pop(", "importlib.reload(")
    found = [
        f"{path.relative_to(here.parent)}: {way}"
        for path in sorted(here.parent.rglob("*.py"))
        if path != here
        for way in reloading
        if way in path.read_text("utf-8")
    ]
    assert found == []
