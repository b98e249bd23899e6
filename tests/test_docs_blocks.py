"""The commands and the code that the documents show: options that exist, and Python that can be read."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import medsam2
from medsam2.cli.main import command_line

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^ {4,}(?:[A-Z_0-9]+=\S+ )*(?:srun |\.venv/bin/)?medsam2 (.*)$", re.MULTILINE)


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `medsam2` of each command in a page; comments and brackets are left out."""
    for line in _LINE.findall(re.sub(r" *\\\n *", " ", text)):
        yield shlex.split(re.sub(r"[\[\]]", " ", line.partition(" #")[0].rstrip(" &")))


def unknown_words(words: list[str]) -> list[str]:
    """The subcommand or the options that the program does not have."""
    command: click.Command = command_line
    context = click.Context(command)
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            return [] if command is not command_line else rest[:1]
        command, context = found, click.Context(found, parent=context)
        rest.pop(0)
    known = {name for one in command.get_params(context) for name in (*one.opts, *one.secondary_opts)}
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_options_of_a_page_exist(page: Path) -> None:
    wrong = {" ".join(words): unknown_words(words) for words in commands(page.read_text(encoding="utf-8"))}
    assert {words: unknown for words, unknown in wrong.items() if unknown} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_of_a_page_can_be_read_and_names_what_is_public(page: Path) -> None:
    for code in _CODE.findall(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "medsam2" or hasattr(medsam2, node.attr), node.attr


def test_what_does_not_exist_is_found() -> None:
    assert unknown_words(["segment", "a.nii", "--slice", "1", "--guess"]) == ["--guess"]
    assert unknown_words(["dream", "a.nii"]) == ["dream"]
    assert unknown_words(["weights", "fetch", "medsam2", "--jsn"]) == ["--jsn"]
    page = "    .venv/bin/medsam2 segment a.nii --slice 1 \\\n        --box 1 2 3 4   # a box\n"
    assert list(commands(page)) == [["segment", "a.nii", "--slice", "1", "--box", "1", "2", "3", "4"]]
