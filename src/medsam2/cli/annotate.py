"""`medsam2 annotate`: a page where the scans of a folder are segmented, and a clock beside it."""

from __future__ import annotations

import dataclasses
import json
import queue
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

import click
import numpy as np

from medsam2.annotation.rounds import LabelledScan, Outcome, Plan
from medsam2.cli.messages import say
from medsam2.cli.options import precision_option
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


def make_tour() -> Tour:
    """Generate the scan, and find the slice and the box that the hints speak of."""
    from medsam2.serving.pages import Tour

    scan = generate_scan(SEED)
    truth: np.ndarray = np.equal(scan.labels, STRUCTURES.index(STRUCTURE) + 1)
    key_slice = int(truth.sum(axis=(1, 2)).argmax())
    x_min, y_min, x_max, y_max = (int(end) for end in tight_box(truth[key_slice]).xyxy)
    volume = Volume.from_array(scan.image, scan.spacing_mm, modality="CT")
    return Tour(
        name=NAME,
        structure=STRUCTURE,
        slice_index=key_slice,
        box_xyxy=(x_min, y_min, x_max, y_max),
        window=WINDOW_PRESETS["abdomen"],
        scan=_as_file(volume),
        answer=_as_file(volume.with_array(truth.astype(np.uint8))),
    )


def _as_file(volume: Volume) -> bytes:
    with TemporaryDirectory(prefix="medsam2-") as folder:
        path = Path(folder) / NAME
        write(volume, path)
        return path.read_bytes()


_MODULE = "medsam2.training.rounds.learning"
LOG = "training.log"
"""What the process and its libraries print, in the round's folder."""
_ASK_EVERY_S = 0.5
_END_S = 5.0

_Lines: TypeAlias = "queue.Queue[str | None]"
_Report: TypeAlias = Callable[[float, str], None]


class ProcessImprover:
    """Trains in another process, and has weights changed in this one.

    Args:
        use: Lets everything from now on use weights, a name or a file.
        device: auto, cpu, cuda or cuda:N.
        recipe: Of the training; the package's own if not given.
    """

    def __init__(self, use: Callable[[str], None], *, device: str, recipe: Path | None = None) -> None:
        self.use = use
        self._device = device
        self._recipe = recipe

    def train(self, plan: Plan, report: _Report) -> Outcome:
        """Train, or go on with what the plan's folder holds; see `annotation.rounds.Improver`.

        Raises:
            InputError: The training failed, with what it says of that.
        """
        weights = plan.folder / f"round-{plan.number:03d}.safetensors"
        order = {
            "training": _plain(plan.training), "held_out": _plain(plan.held_out), "start": plan.start,
            "before": plan.weights, "recipe": self._recipe and str(self._recipe.absolute()),
            "device": self._device, "folder": str(plan.folder), "weights": str(weights),
        }  # fmt: skip
        with _process(plan.folder / LOG) as process:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it has ended already; how is told below
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()
            told: dict[str, object] = {"progress": 0.0, "message": "starting"}
            lines = _lines_of(process)
            while "after" not in told and "error" not in told:
                with suppress(queue.Empty):
                    line = lines.get(timeout=_ASK_EVERY_S)
                    if line is None:
                        raise InputError(_how_it_ended(process.wait(_END_S)))
                    told = json.loads(line)
                if "progress" in told:  # said again without news, as this is how the end is heard of
                    report(float(str(told["progress"])), str(told["message"]))
        if "error" in told:
            raise InputError(str(told["error"]))
        return Outcome(
            weights=weights, before=_measures(told["before"]), after=_measures(told["after"]),
            message=str(told["message"]),
        )  # fmt: skip


@contextmanager
def _process(log_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the training and see to it that it has ended in the end."""
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            text=True, start_new_session=True,  # Ctrl-C is for the server, which then ends this
        )  # fmt: skip
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()  # which it takes for the end
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _lines_of(process: subprocess.Popen[str]) -> _Lines:
    """Read what a process says in a thread, so that it can be waited for only so long; None is the end."""
    lines: _Lines = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with suppress(ValueError):  # closed meanwhile
            for line in process.stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="medsam2-round-lines", daemon=True).start()
    return lines


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"the training was killed by signal {-status}; that may be for want of memory"
    return f"the training ended unexpectedly; {LOG} in the round's folder says how"


def _plain(scans: Sequence[LabelledScan]) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in dataclasses.asdict(scan).items()} for scan in scans]


def _measures(told: object) -> dict[str, float]:
    assert isinstance(told, dict)
    return {str(name): float(value) for name, value in told.items()}


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
    from medsam2.inference.predictor import load

    settings = service.settings

    def use(weights: str) -> None:
        predictor = load(weights, device=settings.device, precision=settings.precision)
        service.model.take(predictor, weights)

    return ProcessImprover(use, device=settings.device, recipe=recipe)
