"""`medsam2 weights`: list, download and describe weights."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import say
from medsam2.cli.options import json_option
from medsam2.errors import CheckpointError
from medsam2.weights import ADDRESS, SPECS, WeightsSpec

if TYPE_CHECKING:
    from rich.table import Table

    from medsam2.checkpoints import WeightsSummary

FILE_WIDTH = 400  # columns of a table in a file or a pipe, where no cell should be cut


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def weights(ctx: click.Context, as_json: bool) -> None:
    """List, download and describe weights.

    Without a subcommand: list all weights by name, with their licences, and whether they are on this machine.
    """
    if ctx.invoked_subcommand is not None:
        return
    rows = [_row(spec) for spec in SPECS.values()]
    if as_json:
        click.echo(json.dumps({"weights": rows}, indent=2))
        return
    from rich.table import Table

    table = Table("name", "licence", "here", "where", box=None, pad_edge=False)
    for row in rows:
        here = "no" if row["path"] is None else "yes"
        cells = (row["name"], row["licence"], here, row["path"] or row["origin"])
        table.add_row(*(str(cell) for cell in cells))
    _print(table)


@weights.command()
@click.argument("name")
@json_option
def fetch(name: str, as_json: bool) -> None:
    """Download the weights NAME unless they are on this machine, verify them and print their path.

    NAME is one that `medsam2 weights` lists, or hf://OWNER/NAME on the Hugging Face hub.
    """
    from medsam2 import checkpoints, hub

    if name.startswith(ADDRESS):
        found = str(checkpoints.resolve(name))
        click.echo(json.dumps({"name": name, "path": found}, indent=2) if as_json else found)
        return
    if name not in SPECS:
        raise CheckpointError(f"no weights are called {name!r}; there are {', '.join(SPECS)}")
    spec = SPECS[name]
    path = hub.fetch(spec)
    say(f"{name} from {spec.origin}, licence: {spec.licence}")
    click.echo(json.dumps(_row(spec), indent=2) if as_json else str(path))


@weights.command()
@click.argument("name_or_file")
@json_option
def describe(name_or_file: str, as_json: bool) -> None:
    """Describe the weights NAME_OR_FILE: network, size, SHA-256, licence, card."""
    from medsam2 import checkpoints

    summary = checkpoints.describe(checkpoints.resolve(name_or_file))
    facts = _facts(summary, SPECS.get(name_or_file))
    if as_json:
        click.echo(json.dumps({**facts, "card": summary.card}, indent=2))
        return
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
        table.add_row(name, _plain(value))
    _print(table)
    if summary.card is not None:
        click.echo(f"\n{summary.card}", nl=False)


def _row(spec: WeightsSpec) -> dict[str, object]:
    from medsam2 import hub

    path = hub.locate(spec)
    return {
        "name": spec.name,
        "description": spec.description,
        "licence": spec.licence,
        "origin": spec.origin,
        "path": None if path is None else str(path),
    }


def _facts(summary: WeightsSummary, spec: WeightsSpec | None) -> dict[str, object]:
    named: dict[str, object] = {}
    if spec is not None:
        named = {"name": spec.name, "for": spec.description, "origin": spec.origin, "licence": spec.licence}
    return {
        **named,
        "path": str(summary.path),
        "network": summary.preset or "a configuration of its own",
        "configuration": dataclasses.asdict(summary.config),
        "parameters": summary.num_parameters,
        "entries": summary.num_entries,
        "bytes": summary.num_bytes,
        "sha256": summary.sha256,
    }


def _plain(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH)
    console.print(table, markup=False, highlight=False)
