"""`medsam2 annotate`: segment the scans of a folder on a page in the browser; active time is logged."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
import numpy as np

from medsam2.cli.messages import needs_extra, say
from medsam2.cli.options import server_model_options
from medsam2.errors import InputError
from medsam2.imaging.intensity import WINDOW_PRESETS
from medsam2.imaging.io import write
from medsam2.imaging.volume import Volume
from medsam2.prompts.simulate import tight_box
from medsam2.synthesis.scan import STRUCTURES, generate_scan

if TYPE_CHECKING:
    from medsam2.annotation.rounds import Improver
    from medsam2.serving.app import Extension
    from medsam2.serving.pages import Tour
    from medsam2.serving.service import Service

SEED = 7
STRUCTURE = "right kidney"
NAME = "tour.nii.gz"
HOST = "127.0.0.1"
_TRAINING = "medsam2.training.rounds.learning"


def make_tour() -> Tour:
    """Generate the scan of the tour, and find the slice and the box for its hints."""
    from medsam2.serving.pages import Tour

    scan = generate_scan(SEED)
    truth: np.ndarray = np.equal(scan.labels, STRUCTURES.index(STRUCTURE) + 1)
    key_slice = int(truth.sum(axis=(1, 2)).argmax())
    x_min, y_min, x_max, y_max = (int(end) for end in tight_box(truth[key_slice]).xyxy)
    volume = Volume.from_array(scan.image, scan.spacing_mm, modality="CT")
    return Tour(
        name=NAME,
        structure=STRUCTURE,
        slice=key_slice,
        box=(x_min, y_min, x_max, y_max),
        window=WINDOW_PRESETS["abdomen"],
        scan=_as_file(volume),
        answer=_as_file(volume.with_array(truth.astype(np.uint8))),
    )


def _as_file(volume: Volume) -> bytes:
    with TemporaryDirectory(prefix="medsam2-") as folder:
        path = Path(folder) / NAME
        write(volume, path)
        return path.read_bytes()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--port", type=int, help="Port; 8000 if not given, 0 for any free port.")
@server_model_options
@click.option(
    "--database", metavar="URL",
    help="Database of a new project, for example postgresql://HOST/NAME; a file in FOLDER if not given.",
)  # fmt: skip
@click.option(
    "--recipe", type=click.Path(path_type=Path),
    help="Recipe of the fine-tuning that 'Improve the model' starts; that for compact if not given.",
)  # fmt: skip
@click.option("--no-browser", is_flag=True, help="Print the address, but do not open a browser.")
def annotate(
    folder: Path,
    port: int | None,
    weights: str | None,
    device: str | None,
    precision: str | None,
    database: str | None,
    recipe: Path | None,
    no_browser: bool,
) -> None:
    """Segment the scans of a folder on a page in the browser.

    FOLDER becomes a project: a database beside the scans records every mask, its author and the time that it
    took. Only this machine can open the page; its address goes to standard output. If other weights were
    chosen on the page, they are used again the next time.
    """
    with needs_extra("serve,annotate", "the annotator"):
        from medsam2.annotation.project import add_scans, create_project
        from medsam2.annotation.rounds import round_in_use
        from medsam2.serving.pages import add_pages
        from medsam2.serving.projects.routes import add_projects
        from medsam2.serving.run import listen, run_server
        from medsam2.serving.service import load_predictor
        from medsam2.serving.settings import load_settings
    from medsam2.training.config import read_recipe

    if recipe is not None:
        read_recipe(recipe)  # an error in it is reported now and not when the training starts
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; a project is a folder of scans")
    given = {
        "host": HOST,
        "port": port,
        "weights": weights,
        "device": device,
        "precision": precision,
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
            say(f"the weights of {in_use.title} are in use; the page can go back to {settings.weights}")
        weights = settings.weights if in_use is None else str(in_use.weights)
        predictor = load_predictor(settings, weights)
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        click.echo(address)
        if not no_browser:
            webbrowser.open(address)  # the connection waits until the server answers
        extensions: Sequence[Extension] = (
            lambda _, service: service.model.take(predictor, weights),
            lambda app, service: add_projects(app, service, project, _improver(service, recipe)),
            lambda app, _: add_pages(app, make_tour),
        )
        run_server(predictor, settings, listener, extensions)


def _improver(service: Service, recipe: Path | None) -> Improver:
    """Make an improver that trains in another process and changes the weights of a server."""
    from medsam2.annotation.improvement import ProcessImprover
    from medsam2.serving.service import load_predictor

    settings = service.settings

    def use(weights: str) -> None:
        service.model.take(load_predictor(settings, weights), weights)

    return ProcessImprover(_TRAINING, use, device=settings.device, recipe=recipe)
