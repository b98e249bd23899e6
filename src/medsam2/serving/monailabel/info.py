"""What a viewer reads first: models, strategies, and how the datastore stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version

from medsam2.serving.monailabel.asked import LABEL
from medsam2.serving.monailabel.dialect import Dialect
from medsam2.serving.monailabel.formats import FINAL
from medsam2.serving.monailabel.models import MODELS
from medsam2.serving.monailabel.strategies import DESCRIPTIONS
from medsam2.serving.monailabel.studies import ImageEntry
from medsam2.serving.monailabel.training import TRAINER

_NAME = "medsam2"
_STATS = ("epoch", "total_epochs", "best_metric", "total_time")


def describe_server(dialect: Dialect) -> dict[str, object]:
    """Everything that the plug-ins look for, and in the form that each of their versions expects."""
    trainer = dialect.trainer
    trainers = (
        {TRAINER: {"description": trainer.description, "config": dict(trainer.config)}} if trainer else {}
    )
    return {
        "name": _NAME,
        "description": "Draw a box or click on one slice and get the whole 3D structure. Research software, "
        "not a medical device.",
        "version": version(_NAME),
        "labels": [LABEL],
        "models": {name: model.info for name, model in MODELS.items()},
        "trainers": trainers,
        "strategies": {name: {"description": text} for name, text in DESCRIPTIONS.items()},
        "scoring": {},
        "train_stats": _train_stats(dialect) if trainer else {},
        "datastore": statistics(dialect.studies.entries()),
        # Old plug-ins look into it, newer ones take anything in it for a server that is too old.
        "config": {},
    }


def statistics(entries: Mapping[str, ImageEntry]) -> dict[str, object]:
    """How many images there are, and how many have labels of each tag."""
    tags = Counter(tag for entry in entries.values() for tag in entry.labels)
    return {"total": len(entries), "completed": tags[FINAL], "label_tags": dict(sorted(tags.items()))}


def _train_stats(dialect: Dialect) -> dict[str, object]:
    """The four figures of the latest training that viewers show; zeros while there are none."""
    result = dialect.training.latest_result
    return {TRAINER: {name: result.get(name, 0) for name in _STATS}}
