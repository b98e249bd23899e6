"""Pages and sections that the site takes from other files, so that nothing is written twice."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 76  # characters in a line of the site's column
# File of the repository -> page of the site.
_PAGES = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "deploy/README.md": "project/deployment.md",
    "examples/README.md": "examples.md",
    "recipes/README.md": "project/recipes.md",
    "src/medsam2/shipped/compact.md": "project/compact.md",
}
TAKEN = {source: page for source, page in _PAGES.items() if (ROOT / source).exists()}
COMMANDS_PAGE = "reference/command-line.md"

_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")
_NAMES, _ERRORS = "<!-- public names -->", "<!-- errors -->"
_OWN_PAGES = ("medsam2.prompts.types", "medsam2.errors")  # their names are on pages of their own
_SECTION = re.compile(r"^<!-- section (.+) of (\S+) -->$", re.MULTILINE)
_EXAMPLE = re.compile(r"^\| `(\w+\.py)", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the navigation does not name under the heading More."""
    named = set(_pages_of(config.nav))
    docs = Path(config.docs_dir)
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    others = sorted({*there, *TAKEN.values()} - named)
    if others:
        config.nav = [*(config.nav or []), {"More": others}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from other files and from the command line."""
    for source, page in TAKEN.items():
        text = relinked((ROOT / source).read_text(encoding="utf-8"), source, page)
        if source.startswith("examples/"):
            text += "".join(_listing(name) for name in _EXAMPLE.findall(text))
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, COMMANDS_PAGE, content="\n".join(command_lines())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace markers by sections of other files, and correct links that lead out of the site."""

    def replacement(match: re.Match[str]) -> str:
        return relinked(section(match[1], match[2]), match[2], page.file.src_uri)

    if page.file.generated_by is None:
        markdown = relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)
    for marker, places in ((_NAMES, public_names), (_ERRORS, error_kinds)):
        if marker in markdown:
            markdown = markdown.replace(marker, "\n\n".join(places()))
    return _SECTION.sub(replacement, markdown)


def public_names() -> Iterator[str]:
    """Yield an entry of the reference for each public name of the package."""
    import medsam2

    for name in medsam2.__all__:
        home = getattr(getattr(medsam2, name), "__module__", None)
        if home is not None and home not in _OWN_PAGES:
            yield f"::: {home}.{name}"


def error_kinds() -> Iterator[str]:
    """Yield an entry of the reference for each kind of error."""
    from medsam2 import errors

    for name, value in vars(errors).items():
        if isinstance(value, type) and value.__module__ == errors.__name__:
            yield f"::: {errors.__name__}.{name}"


def section(title: str, source: str) -> str:
    """Return the text of a section with a heading of the second level.

    Raises:
        PluginError: The file has no such heading.
    """
    parts = re.split(r"^## (.+)$", (ROOT / source).read_text(encoding="utf-8"), flags=re.MULTILINE)
    try:
        return parts[parts.index(title) + 1].strip()
    except ValueError:
        raise PluginError(f"{source} has no section {title!r}, but a page of docs/ shows it") from None


def relinked(markdown: str, source: str, page: str) -> str:
    """Point the links of a file to pages of the site; a link to a file without a page becomes plain text."""

    def replacement(match: re.Match[str]) -> str:
        words, target, part = match[1], match[2], match[3] or ""
        path = ((ROOT / source).parent / target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            return match[0]  # part of an example, or wrong: the build then reports it
        name = path.relative_to(ROOT).as_posix()
        name = TAKEN.get(name, name.removeprefix("docs/") if name.startswith("docs/") else "")
        return f"[{words}]({posixpath.relpath(name, posixpath.dirname(page))}{part})" if name else words

    return _LINK.sub(replacement, markdown)


def _pages_of(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for inner in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _pages_of(inner)


def command_lines() -> Iterator[str]:
    """Yield the help texts of all commands, line by line."""
    from medsam2.cli.main import PROGRAM, command_line

    yield "# Command line"
    yield ""
    yield "These are the texts of `--help`, taken from the program when this page was built."
    yield "Exit codes: 0 done; 1 the work failed; 2 the command line or an input is wrong."
    yield "Results go to standard output, sentences for people to standard error."
    yield from _help(
        click.Context(command_line, info_name=PROGRAM, help_option_names=["-h", "--help"]), level=2
    )


def _help(context: click.Context, level: int) -> Iterator[str]:
    context.terminal_width = context.max_content_width = WIDTH
    command = context.command
    yield f"\n{'#' * level} {context.command_path}\n\n```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _help(click.Context(inner, parent=context, info_name=name), min(level + 1, 4))


def _listing(name: str) -> str:
    code = (ROOT / "examples" / name).read_text(encoding="utf-8")
    return f"\n## {name}\n\n```python\n{code}```\n"
