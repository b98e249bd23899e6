"""The command `medsam2`: find the subcommand, run it and turn failures into exit codes."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

import click

from medsam2.cli.messages import messages_on_stderr, report, set_verbosity

PROGRAM = "medsam2"
NOTICE = "research software, not a medical device"


SUBCOMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "segment": "Segment a structure from a prompt on a slice.",
        "follow": "Follow the objects of a scan into a later scan.",
        "batch": "Segment a table of cases; a stopped run can be resumed.",
        "video": "Follow a structure through a video.",
        "demo": "Segment a real scan and a generated one.",
        "evaluate": "Measure masks against reference masks.",
        "bench": "Measure speed and memory on this machine.",
        "train": "Train a network from a recipe.",
        "rounds": "Fine-tune on corrected masks and propose masks for the next scans.",
        "data": "Check labelled scans and prepare them for training.",
        "project": "Manage a folder of scans that people label.",
        "serve": "Serve segmentation over HTTP.",
        "annotate": "Segment the scans of a folder on a page in the browser.",
        "export": "Export a model for another platform, or as a page.",
        "weights": "List, download and describe weights.",
        "doctor": "Say what is installed, what is missing and what is chosen here.",
    }
)
"""Name of a subcommand -> first sentence of its help, so that `medsam2 --help` imports none. The command
`NAME` is in `cli/NAME.py`."""


class LazyGroup(click.Group):
    """A group that imports a subcommand only when it is used: help must not wait for torch.

    A subclass, against our habit, because click has no other means to find commands late.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name not in SUBCOMMANDS:
            return None
        command = getattr(import_module(f"medsam2.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUBCOMMANDS.items()))


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from medsam2 import __version__

        click.echo(f"{PROGRAM} {__version__}, {NOTICE}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
    help="Show the version.",
)  # fmt: skip
@click.option("-v", "--verbose", count=True, help="Show progress messages; -vv also shows details.")
@click.pass_context
def command_line(ctx: click.Context, verbose: int) -> None:
    """Draw a box on one slice of a medical scan and get the whole 3D structure.

    Research software, not a medical device.
    """
    set_verbosity(verbose)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run the command line.

    Args:
        arguments: The arguments after `medsam2`.

    Returns:
        0 done, 1 the work failed, 2 the command line or an input is wrong, 130 interrupted.
    """
    with messages_on_stderr():
        try:
            result = command_line.main(list(arguments), prog_name=PROGRAM, standalone_mode=False)
        except Exception as error:
            return report(error)
    return result if isinstance(result, int) else 0  # click returns the code of --help and --version


def main() -> None:
    """Run the command line and end the process with its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names are not always UTF-8
    sys.exit(run(sys.argv[1:]))
