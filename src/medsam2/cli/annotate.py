"""`medsam2 annotate`: a page where the scans of a folder are segmented, and a clock beside it."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import say
from medsam2.cli.precision import precision_option
from medsam2.errors import InputError

if TYPE_CHECKING:
    from medsam2.annotation.rounds import Improver
    from medsam2.serving.app import Extension
    from medsam2.serving.service import Service

HOST = "127.0.0.1"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--port", type=int, help="Port; 8000 if not given, 0 for a free one.")
@click.option("--weights", help="Name or file; compact if not given.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@precision_option
@click.option("--database", metavar="URL", help="postgresql://HOST/NAME; a file in the folder if not given.")
@click.option(
    "--recipe", type=click.Path(path_type=Path),
    help="Of the fine-tuning behind 'Improve the model'; one for compact if not given.",
)  # fmt: skip
@click.option("--no-browser", is_flag=True, help="Print the address, open nothing.")
@click.pass_context
def annotate(
    ctx: click.Context,
    folder: Path,
    port: int | None,
    weights: str | None,
    device: str | None,
    precision: str,
    database: str | None,
    recipe: Path | None,
    no_browser: bool,
) -> None:
    """Segment the scans of a folder on a page in the browser.

    The folder becomes a project: a database beside the scans knows every mask, who drew it and how long it
    took. The page is served to this machine alone; its address goes to standard output. Weights that were
    taken into use on the page are used again the next time.
    """
    try:
        from medsam2.annotation.project import add_scans, create_project
        from medsam2.annotation.rounds import round_in_use
        from medsam2.serving.pages import add_pages
        from medsam2.serving.projects.routes import add_projects
        from medsam2.serving.run import listen, run_server
        from medsam2.serving.settings import load_settings
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("medsam2"):
            raise
        raise InputError(
            f"the annotator needs the package {error.name}: pip install 'medsam2[serve,annotate]'"
        ) from error
    from medsam2.cli.tour import make_tour
    from medsam2.inference.predictor import load
    from medsam2.training.config import read_recipe

    if recipe is not None:
        read_recipe(recipe)  # a fault in it is told now, and not to whoever trains
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; a project is a folder of scans")
    is_default = ctx.get_parameter_source("precision") is click.core.ParameterSource.DEFAULT
    given = {
        "host": HOST,
        "port": port,
        "weights": weights,
        "device": device,
        "precision": None if is_default else precision,
        "folder": folder,
    }
    settings = load_settings(given)
    with listen(settings.host, settings.port) as listener, ExitStack() as closing:
        project = create_project(folder, database=database)
        closing.callback(project.close)
        added, left_out = add_scans(project)
        for one in left_out:
            say(f"left out: {one.path}: {one.reason}")
        num_new = f"{len(added)} new {'case' if len(added) == 1 else 'cases'}"
        say(f"{num_new} in {folder}; Ctrl-C ends the server")
        in_use = round_in_use(project)
        if in_use is not None:
            say(f"the weights of {in_use.title} are in use; the page has the way back to {settings.weights}")
        weights = settings.weights if in_use is None else str(in_use.weights)
        predictor = load(weights, device=settings.device, precision=settings.precision)
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        click.echo(address)
        if not no_browser:
            webbrowser.open(address)  # the listener takes it in until the server answers
        extensions: Sequence[Extension] = (
            lambda _, service: service.model.take(predictor, weights),
            lambda app, service: add_projects(app, service, project, _improver(service, recipe)),
            lambda app, _: add_pages(app, make_tour),
        )
        run_server(predictor, settings, listener, extensions)


def _improver(service: Service, recipe: Path | None) -> Improver:
    """Let rounds train beside a server, and change its weights."""
    from medsam2.cli.improving import ProcessImprover
    from medsam2.inference.predictor import load

    settings = service.settings

    def use(weights: str) -> None:
        predictor = load(weights, device=settings.device, precision=settings.precision)
        service.model.take(predictor, weights)

    return ProcessImprover(use, device=settings.device, recipe=recipe)
