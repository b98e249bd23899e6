"""The site builds without a complaint, asks no other host for anything, and shows what the program says."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

import medsam2
from medsam2 import errors
from medsam2.cli.main import SUBCOMMANDS, command_line

pytest.importorskip("mkdocs", reason="needs the extra docs")

ROOT = Path(__file__).resolve().parents[1]
REQUESTS = re.compile(
    r"<(?:link|script|img|iframe|source|video)\b[^>]*?\b(?:href|src)=\"(?:https?:)?//[^\"]+\""
)
FETCHES = re.compile(r"url\((?:\"|')?(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    return folder


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_no_page_asks_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert REQUESTS.findall(page.read_text(encoding="utf-8")) == [], page
    for style in site.rglob("*.css"):
        assert FETCHES.findall(style.read_text(encoding="utf-8")) == [], style


@pytest.mark.slow
def test_the_reference_has_every_public_name(site: Path) -> None:
    pages = [site / "reference" / name / "index.html" for name in ("python", "prompts", "errors")]
    found = set(re.findall(r'id="(medsam2\.[\w.]+)"', "".join(page.read_text() for page in pages)))
    names = {name.rpartition(".")[2] for name in found}
    assert set(medsam2.__all__) - {"__version__"} <= names
    assert "medsam2.inference.session.Session.undo" in found
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    kinds = {name for name, value in classes.items() if value.__module__ == errors.__name__}
    assert kinds == set(
        re.findall(r'id="medsam2\.errors\.(\w+)"', (site / "reference/errors/index.html").read_text())
    )


@pytest.mark.slow
def test_the_reference_has_every_command_and_option(site: Path) -> None:
    text = text_of(site / "reference" / "command-line" / "index.html")
    context = click.Context(command_line)
    for name in SUBCOMMANDS:
        command = command_line.get_command(context, name)
        assert command is not None
        assert f"Usage: medsam2 {name}" in text
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.opts[-1] in text


@pytest.mark.slow
def test_what_is_taken_from_elsewhere_is_there(site: Path) -> None:
    for example in (ROOT / "examples").glob("*.py"):
        assert example.read_text(encoding="utf-8") in text_of(site / "examples" / "index.html")
    assert "<table>" in (site / "measured" / "index.html").read_text(encoding="utf-8")
    assert "../project/compact/" in (site / "measured" / "index.html").read_text(encoding="utf-8")


def test_links_of_other_files_lead_to_pages(hooks: ModuleType) -> None:
    def relinked(link: str, source: str, page: str) -> str:
        found: str = hooks.relinked(f"see [this]({link}).", source, page)
        return found

    card = "[this](project/compact.md)"
    assert relinked("src/medsam2/shipped/compact.md", "README.md", "measured.md") == f"see {card}."
    assert relinked("CHANGELOG.md#added", "README.md", "how-to/x.md") == (
        "see [this](../project/changelog.md#added)."
    )
    assert relinked("docs/demo.png", "README.md", "project/x.md") == "see [this](../demo.png)."
    assert relinked("recipes/compact.toml", "README.md", "measured.md") == "see this."
    for kept in ("https://arxiv.org/abs/2504.03600", "#here", "not-there.md"):
        assert relinked(kept, "README.md", "measured.md") == f"see [this]({kept})."


def test_every_public_name_has_a_place(hooks: ModuleType) -> None:
    named = [line.rpartition(".")[2] for line in hooks.public_names()]
    elsewhere = {"Box", "Point", "MaskPrompt", "InputError", "MedSAM2Error"}
    assert set(named) == set(medsam2.__all__) - {"__version__", *elsewhere}


def test_a_section_that_is_gone_is_named(hooks: ModuleType) -> None:
    assert "| Command |" in hooks.section("Measured", "README.md")
    with pytest.raises(hooks.PluginError, match=r"README\.md has no section 'Guessed'"):
        hooks.section("Guessed", "README.md")


def test_commands_are_described_as_they_describe_themselves(hooks: ModuleType) -> None:
    text = "\n".join(hooks.command_lines())
    for name in SUBCOMMANDS:
        assert f"## medsam2 {name}\n\n```text\nUsage: medsam2 {name} " in text
    assert "#### medsam2 weights fetch" in text
