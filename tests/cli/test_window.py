"""The forms in which limits are written after --window, and what is said of a level and a width."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from medsam2.cli.options import WINDOW_OPTION, WindowCommand, parse_window


@click.command(cls=WindowCommand)
@click.argument("image")
@click.option(WINDOW_OPTION, callback=parse_window)
@click.option("--slice", type=int)
def command(image: str, window: object, slice: int | None) -> None:  # noqa: A002
    click.echo(f"{image} {window} {slice}")


@pytest.mark.parametrize(
    "words",
    [
        (WINDOW_OPTION, "-160", "240"),
        (WINDOW_OPTION, "-160 240"),
        (WINDOW_OPTION, "-160,240"),
        (WINDOW_OPTION, "-160,", "240"),
        (WINDOW_OPTION, "[-160, 240]"),
        (f"{WINDOW_OPTION}=-160", "240"),
        (f"{WINDOW_OPTION}=-160,240",),
        (f"{WINDOW_OPTION}=-160 240",),
        (f"{WINDOW_OPTION}=-160,", "240"),
    ],
)
def test_limits_in_every_form(words: tuple[str, ...]) -> None:
    for arguments in (("x.nii", *words, "--slice", "3"), (*words, "--slice", "3", "x.nii")):
        result = CliRunner().invoke(command, arguments)
        assert (result.exit_code, result.stdout) == (0, "x.nii (-160.0, 240.0) 3\n")
        assert result.stderr == ""


def test_a_name_and_what_follows_it() -> None:
    for words in ((WINDOW_OPTION, "lung"), (f"{WINDOW_OPTION}=lung",)):
        assert CliRunner().invoke(command, [*words, "5"]).stdout == "5 lung None\n"
    assert (
        CliRunner().invoke(command, [f"{WINDOW_OPTION}=lung", "--", WINDOW_OPTION]).stdout
        == f"{WINDOW_OPTION} lung None\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("400", "40"), ("lower < upper", "as width 400 and level 40 it is --window -160 240")),
        (("1500", "-600"), ("as width 1500 and level -600 it is --window -1350 150",)),
        (("240", "-160"), ("turned round it is --window -160 240",)),
        (("-160", "-600"), ("not -160 -600; turned round it is --window -600 -160",)),
        (("5", "5"), ("lower < upper",)),
        (("400,40",), ("as width 400 and level 40",)),
        (("400",), ("two numbers LO HI or a name",)),
        (("1,2,3",), ("two numbers LO HI or a name",)),
    ],
)
def test_what_is_no_window_is_refused_with_what_may_be_meant(
    words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    result = CliRunner().invoke(command, ["x.nii", "--slice", "1", WINDOW_OPTION, *words], terminal_width=500)
    assert result.exit_code == 2
    for one in said:
        assert one in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("words", "meant"),
    [(("-600", "1500"), "-1350 150"), (("40", "400"), "-160 240"), (("35", "80"), "-5 75")],
)
def test_a_level_and_a_width_that_make_limits_are_mentioned(words: tuple[str, ...], meant: str) -> None:
    result = CliRunner().invoke(command, ["x.nii", WINDOW_OPTION, *words])
    assert result.exit_code == 0
    assert f"if it is level and width, give --window {meant}" in result.stderr
