"""A round in a process of its own: `python -m medsam2.training.rounds.learning`.

It reads a request, one line of JSON, and answers in lines of JSON: first the progress, then the result or the
reason why there is none. It ends when its standard input ends, so that it never outlives its parent.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from medsam2.errors import MedSAM2Error
from medsam2.imaging.drawings import read_drawing
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.replacing import replacing
from medsam2.reports.tables import counted
from medsam2.training.config import read_recipe
from medsam2.training.datasets.scan import LabelledScan
from medsam2.training.stack_files import FORMER_NAME

_PACKAGED = Path(__file__).with_name("compact-finetune.toml")
RECIPE = _PACKAGED if _PACKAGED.exists() else Path(__file__).parents[4] / "recipes" / _PACKAGED.name
"""The default recipe of a round. A wheel contains it; a checkout has it in `recipes/`."""
_LOG_EVERY, _CHECKPOINT_EVERY = 2, 10  # steps: a person watches, and a stopped round should lose little
_NICENESS = 10  # people who annotate come first
_MEASURED, _TRAINED = 0.1, 0.9  # share of a round that is done after each of these

Report = Callable[[Mapping[str, object]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a round is to do."""

    training: Sequence[LabelledScan]
    held_out: Sequence[LabelledScan]
    start: str
    """Name or file of the weights to begin with."""
    before: str
    """Name or file of the weights to compare with."""
    recipe: Path
    device: str
    folder: Path
    """For intermediate files; an interrupted round continues from what is there."""
    weights: Path
    """The file for the new weights."""


def read_request(line: str) -> Request:
    """Read a request in JSON: the fields of `Request`, a scan as its name, its image and its mask."""
    content = json.loads(line)
    training, held_out = (
        [
            LabelledScan(
                name=one["name"], image=Path(one["image"]), mask=Path(one["mask"]), labels={},
                patient=one["name"],
            )
            for one in content[part]
        ]
        for part in ("training", "held_out")
    )  # fmt: skip
    paths = {name: Path(content[name]) for name in ("folder", "weights")}
    return Request(
        training=training, held_out=held_out, start=content["start"], before=content["before"],
        recipe=Path(content.get("recipe") or RECIPE), device=content["device"], **paths,
    )  # fmt: skip


def learn(request: Request, report: Report) -> None:
    """Measure, train, and measure again; report the progress, and the result at the end.

    Raises:
        InputError: A scan cannot be used, or the weights are not those of the recipe's network.
    """
    report({"progress": 0.0, "message": "measuring the weights in use on held-out cases"})
    before = measure(request, request.before)
    learnt = _train(request, report)
    report({"progress": _TRAINED, "message": "measuring the new weights on held-out cases"})
    after = measure(request, str(request.weights))
    better = sum(a > b for b, a in zip(before, after, strict=True))
    num_cases = len(request.held_out)
    worse = sum(a < b for b, a in zip(before, after, strict=True))
    for left in (FORMER_NAME, "run"):
        shutil.rmtree(request.folder / left, ignore_errors=True)
    report(
        {
            "before": {"Dice": float(np.mean(before))},
            "after": {"Dice": float(np.mean(after))},
            "message": f"{learnt}; of {counted(len(after), 'object')} in {counted(num_cases, 'case')} "
            f"held out, {better} better and {worse} worse",
        }
    )


def measure(request: Request, weights: str) -> list[float]:
    """Return the Dice of each object in the held-out scans, found from a box around its largest slice."""
    from medsam2.inference.predictor import load
    from medsam2.inference.prompting import objects_in_mask
    from medsam2.measure.overlap import dice
    from medsam2.training.datasets.contents import read_image

    predictor = load(weights, device=request.device)
    found: list[float] = []
    for scan in request.held_out:
        session = predictor.session(read_image(scan))
        prompts = objects_in_mask(scan.mask, session.grid, drawn_as="box").prompts
        session.add_all(prompts)
        session.finish()
        truth = slices_along(read_drawing(scan.mask, session.grid.volume).stack(), session.grid.axis)
        found += [dice(session.object(label).mask(), truth == label) for label in prompts]
    return found


def _train(request: Request, report: Report) -> str:
    """Train, or continue; return a sentence on what was learnt."""
    from medsam2.training.datasets.prepare import PrepareOptions
    from medsam2.training.rounds.work import begin_from, begin_training

    report({"progress": _MEASURED, "message": f"preparing {counted(len(request.training), 'case')}"})
    config = dataclasses.replace(
        begin_from(read_recipe(request.recipe), request.start),
        log_every=_LOG_EVERY, checkpoint_every=_CHECKPOINT_EVERY,
    )  # fmt: skip
    trainer = begin_training(
        request.training, config, request.folder / FORMER_NAME, request.folder / "run", PrepareOptions(),
        device=request.device,
    )  # fmt: skip
    for progress in trainer.run():
        part = _MEASURED + (_TRAINED - _MEASURED) * progress.step / progress.num_steps
        report({"progress": part, "message": f"learning, step {progress.step} of {progress.num_steps}"})
    with replacing(request.weights, ".part") as temporary:
        shutil.copyfile(trainer.folder.weights_path, temporary)
    learnt = f"learnt from {counted(len(request.training), 'case')}"
    return learnt if trainer.best.step else f"{learnt}, without getting better than at the beginning"


def _end_with_input() -> None:
    """Wait until the parent process closes the standard input, then end at once."""
    while os.read(0, 1):  # not through `sys.stdin`, which must be free when the interpreter ends
        pass
    os._exit(1)


def main() -> None:
    """Do the request on standard input."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not stand among the answers

    def report(answer: Mapping[str, object]) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    with suppress(AttributeError, OSError):  # Windows has none
        os.nice(_NICENESS)
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    line = sys.stdin.readline()
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        learn(read_request(line), report)
    except MedSAM2Error as error:
        report({"error": str(error)})
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("medsam2"):
            raise
        report({"error": f"training needs the package {error.name}: pip install 'medsam2[train]'"})
    except MemoryError:
        report({"error": "the training took too much memory"})


if __name__ == "__main__":
    main()
