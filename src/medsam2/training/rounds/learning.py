"""A round in a process of its own: `python -m medsam2.training.rounds.learning`.

It takes one line of JSON, an order, and answers in lines of JSON: how far it is, and at last what came of it
or why nothing did. It ends when its standard input does, so that it never outlives who has started it.
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
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.replacing import replacing
from medsam2.training.config import read_recipe
from medsam2.training.datasets.scan import LabelledScan

_PACKAGED = Path(__file__).with_name("compact-finetune.toml")
RECIPE = _PACKAGED if _PACKAGED.exists() else Path(__file__).parents[4] / "recipes" / _PACKAGED.name
"""What a round does if it is not told otherwise; a wheel carries it, a checkout has it in `recipes/`."""
_LOG_EVERY, _CHECKPOINT_EVERY = 2, 10  # steps: somebody watches, and a stopped round should lose little
_NICENESS = 10  # people who draw come first
_MEASURED, _TRAINED = 0.1, 0.9  # parts of a round that are over when these are

Say = Callable[[Mapping[str, object]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What a round is to do."""

    training: Sequence[LabelledScan]
    held_out: Sequence[LabelledScan]
    start: str
    """Name or file of the weights to learn from."""
    before: str
    """Of those to compare with."""
    recipe: Path
    device: str
    folder: Path
    """For what is made on the way; what an interrupted round has left there is gone on with."""
    weights: Path
    """Where the new weights are to lie."""


def order_of(line: str) -> Order:
    """Read an order: the fields of `Order`, a scan as its name, its image and its mask."""
    told = json.loads(line)
    training, held_out = (
        [
            LabelledScan(
                name=one["name"], image=Path(one["image"]), mask=Path(one["mask"]), labels={},
                patient=one["name"],
            )
            for one in told[part]
        ]
        for part in ("training", "held_out")
    )  # fmt: skip
    paths = {name: Path(told[name]) for name in ("folder", "weights")}
    return Order(
        training=training, held_out=held_out, start=told["start"], before=told["before"],
        recipe=Path(told.get("recipe") or RECIPE), device=told["device"], **paths,
    )  # fmt: skip


def learn(order: Order, say: Say) -> None:
    """Measure, train, and measure again; says how far it is, and at last what came of it.

    Raises:
        InputError: A scan cannot be used, or the weights are not those of the recipe's network.
    """
    say({"progress": 0.0, "message": "measuring the weights in use on held-out cases"})
    before = measure(order, order.before)
    learnt = _train(order, say)
    say({"progress": _TRAINED, "message": "measuring the new weights on held-out cases"})
    after = measure(order, str(order.weights))
    better = sum(a > b for b, a in zip(before, after, strict=True))
    num_cases = len(order.held_out)
    worse = sum(a < b for b, a in zip(before, after, strict=True))
    for left in ("bank", "run"):
        shutil.rmtree(order.folder / left, ignore_errors=True)
    say(
        {
            "before": {"Dice": float(np.mean(before))},
            "after": {"Dice": float(np.mean(after))},
            "message": f"{learnt}; of {_counted(len(after), 'object')} in {_counted(num_cases, 'case')} "
            f"held out, {better} better and {worse} worse",
        }
    )


def measure(order: Order, weights: str) -> list[float]:
    """Return the Dice of each object in the held-out scans, found from a box around its largest slice."""
    from medsam2.inference.predictor import load
    from medsam2.inference.prompting import add_prompts, prompts_in_mask, read_labels
    from medsam2.measure.overlap import dice
    from medsam2.training.datasets.contents import read_image

    predictor = load(weights, device=order.device)
    found: list[float] = []
    for scan in order.held_out:
        session = predictor.session(read_image(scan))
        prompts = prompts_in_mask(scan.mask, session, drawn_as="box")
        add_prompts(session, prompts)
        for _ in session.propagate():
            pass
        truth = slices_along(read_labels(scan.mask, session), session.axis)
        found += [dice(session.mask(label), truth == label) for label in prompts]
    return found


def _train(order: Order, say: Say) -> str:
    """Train, or go on; returns a sentence on which step's weights are kept."""
    from medsam2.training.datasets.prepare import PrepareOptions
    from medsam2.training.rounds.work import begin_from, begin_training

    say({"progress": _MEASURED, "message": f"preparing {_counted(len(order.training), 'case')}"})
    config = dataclasses.replace(
        begin_from(read_recipe(order.recipe), order.start),
        log_every=_LOG_EVERY, checkpoint_every=_CHECKPOINT_EVERY,
    )  # fmt: skip
    trainer = begin_training(
        order.training, config, order.folder / "bank", order.folder / "run", PrepareOptions(),
        device=order.device,
    )  # fmt: skip
    for progress in trainer.run():
        part = _MEASURED + (_TRAINED - _MEASURED) * progress.step / progress.num_steps
        say({"progress": part, "message": f"learning, step {progress.step} of {progress.num_steps}"})
    with replacing(order.weights, ".part") as temporary:
        shutil.copyfile(trainer.folder.weights_path, temporary)
    learnt = f"learnt from {_counted(len(order.training), 'case')}"
    return learnt if trainer.best.step else f"{learnt}, without getting better than at the beginning"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _end_with_input() -> None:
    """Wait until whoever has started this ends or lets go, then end at once."""
    while os.read(0, 1):  # not through `sys.stdin`, which must be free when the interpreter ends
        pass
    os._exit(1)


def main() -> None:
    """Obey the order on standard input."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not stand among the answers

    def say(answer: Mapping[str, object]) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    with suppress(AttributeError, OSError):  # Windows has none
        os.nice(_NICENESS)
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    line = sys.stdin.readline()
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        learn(order_of(line), say)
    except MedSAM2Error as error:
        say({"error": str(error)})
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("medsam2"):
            raise
        say({"error": f"training needs the package {error.name}: pip install 'medsam2[train]'"})
    except MemoryError:
        say({"error": "the training took too much memory"})


if __name__ == "__main__":
    main()
