"""The command itself: help, version, exit codes, and one line for whatever goes wrong."""

from __future__ import annotations

import errno
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from medsam2 import __version__
from medsam2.cli import main as command
from medsam2.cli.main import SUBCOMMANDS, LazyGroup, command_line, run
from medsam2.cli.messages import report
from medsam2.cli.options import HeadedCommand, heading
from medsam2.errors import (
    CheckpointError,
    GeometryError,
    InputError,
    PromptError,
    SessionError,
    UnsupportedFormat,
)

MOST_WITHOUT_HEADINGS = 8
PROGRAM = "from medsam2.cli.main import main; main()"


def medsam2(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert "not a medical device" in text
    for name, summary in SUBCOMMANDS.items():
        assert f"  {name} " in text
        assert summary in text
    assert run([]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("name", list(SUBCOMMANDS))
def test_the_table_says_of_a_subcommand_what_it_says_of_itself(name: str) -> None:
    found = command_line.get_command(click.Context(command_line), name)
    assert isinstance(found, click.Command)
    assert found.name == name
    assert (found.help or "").splitlines()[0] == SUBCOMMANDS[name]


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, f"{path}{name} ")
        else:
            yield f"{path}{name}", found


def test_many_options_stand_under_headings_and_each_says_what_it_does() -> None:
    for name, found in commands(command_line):
        options = [one for one in found.params if isinstance(one, click.Option) and not one.hidden]
        assert [option.name for option in options if not option.help] == [], name
        if len(options) > MOST_WITHOUT_HEADINGS:
            text = found.get_help(click.Context(found, info_name=name))
            # A command that ran before in this process has -h as well.
            assert re.search(r"\nOptions:\n  (-h, )?--help  Show this message and exit\.$", text), name


def test_headings_reach_down_to_the_next_one() -> None:
    @click.command(cls=HeadedCommand)
    @click.argument("image")
    @click.option("--first", help="One.")
    @heading("Prompt")
    @click.option("--box", help="Two.")
    @click.option("--point", help="Three.")
    @heading("Output")
    @click.option("--mask", help="Four.")
    def probe(**values: object) -> None:
        """Do nothing."""

    text = probe.get_help(click.Context(probe, info_name="probe"))
    words = [line.split()[0] for line in text.splitlines() if line.strip()][2:]
    assert words == ["Options:", "--first", "--help", "Prompt:", "--box", "--point", "Output:", "--mask"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"medsam2 {__version__}, research software, not a medical device\n"


def test_a_real_process_with_a_wrong_command_line() -> None:
    result = medsam2("segmant")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "medsam2: No such command 'segmant' (see medsam2 --help)\n"


def test_the_installed_script() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("medsam2"), "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("medsam2 ")
    assert result.stderr == ""


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> click.Group:
    """The command with one subcommand more, `probe`, that does what `probe.callback` says."""

    @click.command()
    @click.option("--count", type=int)
    def probe(count: int | None) -> None:
        """Do nothing."""

    known = LazyGroup.get_command

    def get_command(self: LazyGroup, ctx: click.Context, name: str) -> click.Command | None:
        return probe if name == "probe" else known(self, ctx, name)

    monkeypatch.setattr(LazyGroup, "get_command", get_command)
    return probe


def failing(error: BaseException) -> object:
    def callback(count: int | None) -> None:
        raise error

    return callback


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no such file"), 2, "no such file"),
        (UnsupportedFormat("no NIfTI"), 2, "no NIfTI"),
        (GeometryError("two\n  dimensions"), 2, "two dimensions"),
        (PromptError("box outside"), 2, "box outside"),
        (CheckpointError("another network"), 2, "another network"),
        (SessionError("closed"), 1, "closed"),
        (OSError(errno.ENOSPC, "No space left on device", "m.nii"), 1, "m.nii: No space left on device"),
        (OSError(errno.EIO, "Input/output error"), 1, "Input/output error"),
        (KeyError("x"), 1, "failed unexpectedly, KeyError: 'x' (medsam2 -v shows where)"),
        (
            ModuleNotFoundError("No module named 'monai'", name="monai"),
            1,
            "this needs the package monai: pip install 'medsam2[evaluate]'",
        ),
        (ModuleNotFoundError("gone", name="gone"), 1, "failed unexpectedly, ModuleNotFoundError: gone"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.ClickException("no"), 1, "no"),
    ],
)
def test_failures_are_one_line_and_a_code(
    probe: click.Command, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    probe.callback = failing(error)
    assert run(["probe"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip().startswith(f"medsam2: {line}")
    assert len(captured.err.strip().splitlines()) == 1


def test_a_wrong_option_names_the_help(probe: click.Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["probe", "--count", "many"]) == 2
    message = capsys.readouterr().err
    assert "--count" in message
    assert message.endswith("(see medsam2 probe --help)\n")


def test_a_command_may_leave_with_a_code_of_its_own(probe: click.Command) -> None:
    probe.callback = lambda count: click.get_current_context().exit(3)
    assert run(["probe"]) == 3


def test_the_traceback_is_shown_on_request(probe: click.Command, capsys: pytest.CaptureFixture[str]) -> None:
    probe.callback = failing(RuntimeError("odd"))
    assert run(["probe"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert run(["-v", "probe"]) == 1
    message = capsys.readouterr().err
    assert "Traceback" in message
    assert "RuntimeError: odd" in message


def test_warnings_and_log_lines_are_for_people(
    probe: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("medsam2.somewhere")

    def talk(count: int | None) -> None:
        warnings.simplefilter("always")
        warnings.warn("the window\nis a guess", stacklevel=1)
        warnings.warn("old style", DeprecationWarning, stacklevel=1)
        logger.debug("details")
        logger.info("a step")
        logger.warning("look here")

    probe.callback = talk
    expected = ["medsam2: warning: the window is a guess", "medsam2: look here"]
    assert run(["probe"]) == 0
    assert capsys.readouterr().err.splitlines() == expected
    assert run(["-v", "probe"]) == 0
    assert capsys.readouterr().err.splitlines() == [expected[0], "medsam2: a step", expected[1]]
    assert run(["-vvv", "probe"]) == 0
    assert "DeprecationWarning: old style" in capsys.readouterr().err


def test_nothing_is_left_behind(probe: click.Command) -> None:
    root, package = logging.getLogger(), logging.getLogger("medsam2")
    before = (list(root.handlers), package.level, warnings.showwarning)
    run(["-vv", "probe"])
    assert (root.handlers, package.level, warnings.showwarning) == before


def test_errors_outside_of_a_command_are_reported_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(InputError("no")) == 2
    assert capsys.readouterr().err == "medsam2: no\n"


def test_a_subcommand_whose_module_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SUBCOMMANDS", {"lost": "Be lost."})
    assert run(["lost"]) == 1
    assert "ModuleNotFoundError: No module named 'medsam2.cli.lost'" in capsys.readouterr().err
