"""`medsam2 project`: manage a folder of scans that people label, and report the time that it took."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import EXIT_FAILED, needs_extra, say, with_progress
from medsam2.cli.options import device_option, json_option

if TYPE_CHECKING:
    from medsam2.annotation.layout import LeftOut
    from medsam2.annotation.project import Project
    from medsam2.annotation.proposals import Draw
    from medsam2.annotation.versions import Weights

_folder = click.argument("folder", type=click.Path(path_type=Path))


@click.group()
def project() -> None:
    """Manage a folder of scans that people label.

    A project records who works on which case, every version of each mask, and how long the work took. FOLDER
    contains the scans, each a file or a folder of DICOM. Finished masks are in FOLDER/labels/final.
    """


@project.command()
@_folder
@click.option("--name", help="Name of the project; the folder's name if not given.")
@click.option(
    "--database", metavar="URL",
    help="Database for many annotators, for example postgresql://HOST/NAME; a file in FOLDER if not given.",
)  # fmt: skip
@json_option
def create(folder: Path, name: str | None, database: str | None, as_json: bool) -> None:
    """Make FOLDER a project, or add its new scans to the project.

    Do not write the password of the database into the URL; PostgreSQL reads it from PGPASSWORD or ~/.pgpass.
    """
    with needs_extra("annotate", "a project"):
        from medsam2.annotation.project import add_scans, create_project

    made = create_project(folder, name=name, database=database)
    try:
        added, left = add_scans(made)
    finally:
        made.close()
    _say_left_out(left)
    if as_json:
        facts = {"name": made.name, "added": added, "left_out": {one.path: one.reason for one in left}}
        click.echo(json.dumps(facts))
    else:
        click.echo(f"{made.name}: added {len(added)}, left out {len(left)}")


@project.command("list")
@_folder
@json_option
def list_(folder: Path, as_json: bool) -> None:
    """List the cases of FOLDER."""
    with _opened(folder) as found:
        from medsam2.annotation.cases import moment
        from medsam2.annotation.journal import Overview

        rows = [
            {
                "id": entry.case.id, "name": entry.case.name, "state": entry.case.state,
                "owner": entry.case.owner, "open_by": entry.case.holder, "slices": entry.case.num_slices,
                "versions": entry.num_versions, "objects": list(entry.objects),
                "active_s": round(entry.active_s, 1), "updated": moment(entry.case.updated_ms),
            }
            for entry in Overview(found).entries()
        ]  # fmt: skip
    if as_json:
        click.echo(json.dumps({"name": found.name, "cases": rows}))
        return
    for row in rows:
        owner = f", {row['owner']}" if row["owner"] else ""
        opened = f", open by {row['open_by']}" if row["open_by"] else ""
        numbers = f"versions: {row['versions']}, active: {row['active_s']:.0f} s"
        click.echo(f"{row['name']}: {row['state']}{owner}{opened}, {numbers}")


@project.command()
@_folder
@json_option
@click.pass_context
def status(ctx: click.Context, folder: Path, as_json: bool) -> None:
    """Count the cases of FOLDER by state and check its files.

    Each mask is compared with the version that was saved, and missing finished masks are restored in
    labels/final. The exit code is 1 if there are findings that a person should look at.
    """
    with _opened(folder) as found:
        from medsam2.annotation.cases import list_cases, list_users
        from medsam2.annotation.project import STATES
        from medsam2.annotation.versions import check_files

        states = [case.state for case in list_cases(found)]
        counts = {state: states.count(state) for state in STATES}
        users, findings = list_users(found), check_files(found)
    if as_json:
        facts = {"name": found.name, "states": counts, "users": users, "findings": findings}
        click.echo(json.dumps(facts))
    else:
        shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        click.echo(f"{found.name}: {len(states)} cases{': ' if shown else ''}{shown}")
        for finding in findings:
            say(finding)
    if findings:
        ctx.exit(EXIT_FAILED)


@project.command("import")
@_folder
@click.option(
    "--masks", type=click.Path(path_type=Path), metavar="DIR", help="Folder of masks, each named as its case."
)
@click.option(
    "--prompts", type=click.Path(path_type=Path), metavar="DIR",
    help="Folder of prompt files, each named as its case, for the model to segment from.",
)  # fmt: skip
@click.option(
    "--model", default="model", show_default=True, help="Name of the model, the author of the masks."
)
@click.option(
    "--weights", help="Weights of the model, by name or as a file; with --prompts those in use if not given."
)
@device_option
@json_option
@click.pass_context
def import_(
    ctx: click.Context,
    folder: Path,
    masks: Path | None,
    prompts: Path | None,
    model: str,
    weights: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Add a model's masks to the cases of FOLDER that nobody has worked on, as a start for the work.

    If a case fails, the others are still processed; the exit code is then 1.
    """
    if (masks is None) == (prompts is None):
        raise click.UsageError("give either --masks or --prompts")
    with _opened(folder) as found:
        from medsam2.annotation.proposals import propose

        draw, made_with = _drawing(found, masks, prompts, weights, device)
        outcomes = list(with_progress(propose(found, draw, model=model, weights=made_with), "cases", None))
    failed = {one.case: one.error for one in outcomes if one.error}
    left = {one.case: one.left_out for one in outcomes if one.left_out}
    for case, reason in failed.items():
        say(f"{case} failed: {reason}")
    proposed = [one.case for one in outcomes if not one.error and not one.left_out]
    if as_json:
        click.echo(json.dumps({"proposed": proposed, "left_out": left, "failed": failed}))
    else:
        click.echo(f"proposed {len(proposed)}, left out {len(left)}, failed {len(failed)}")
    if failed:
        ctx.exit(EXIT_FAILED)


@project.command()
@_folder
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR",
    help="Folder for report.html and its numbers as CSV; files of an earlier report are replaced.",
)  # fmt: skip
@json_option
def report(folder: Path, output: Path, as_json: bool) -> None:
    """Report how long the work on FOLDER took, and how much time the model saved.

    The report uses only what was logged. It states the time saved only if some cases were done without the
    model.
    """
    with _opened(folder) as found:
        from medsam2.annotation.report import write_report

        page = write_report(found, output)
    click.echo(json.dumps({"report": str(page)}) if as_json else page)


def _drawing(
    found: Project, masks: Path | None, prompts: Path | None, weights: str | None, device: str
) -> tuple[Draw, Weights | None]:
    """Return the source of proposals, and the weights that they are made with."""
    from medsam2.annotation.proposals import masks_in, prompted
    from medsam2.annotation.rounds import round_in_use
    from medsam2.annotation.versions import Weights

    made_with = None
    in_use = None if weights or prompts is None else round_in_use(found)
    name = weights or (None if prompts is None else "compact")
    if in_use is not None:
        name = in_use.weights
        made_with = Weights(name=in_use.title, sha256=in_use.weights_sha256 or "")
    elif name is not None:
        from medsam2.checkpoints import resolve
        from medsam2.hub import file_digest

        made_with = Weights(name=name, sha256=file_digest(resolve(name)))
    if masks is not None:
        return masks_in(masks), made_with
    from medsam2.inference.predictor import load

    assert prompts is not None
    assert name is not None
    return prompted(found, load(name, device=device), prompts), made_with


@contextmanager
def _opened(folder: Path) -> Iterator[Project]:
    with needs_extra("annotate", "a project"):
        from medsam2.annotation.project import open_project

    found = open_project(folder)
    try:
        yield found
    finally:
        found.close()


def _say_left_out(left: list[LeftOut]) -> None:
    for one in left:
        say(f"{one.path} is left out: {one.reason}")
