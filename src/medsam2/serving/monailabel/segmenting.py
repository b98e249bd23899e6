"""The work of a viewer's request: the object in its volume, or in one slice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from medsam2.imaging.intensity import Window
from medsam2.imaging.volume import Volume
from medsam2.prompts.types import Prompt
from medsam2.serving.faults import Fault
from medsam2.serving.model import Model
from medsam2.serving.monailabel.asked import Asked, tells_where

if TYPE_CHECKING:
    from medsam2.inference.predictor import Predictor
    from medsam2.inference.session import Session

_OBJECT = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmented:
    """What was found."""

    labels: Volume
    """uint8, 0 and 1, on the image's grid."""
    scores: Mapping[int, float]
    """How sure the network is, 0..1, per slice that it looked at."""
    window: Window


Segment = Callable[[Model, Volume, Asked], Awaitable[Segmented]]


async def segment_volume(model: Model, volume: Volume, asked: Asked) -> Segmented:
    """Follow the object both ways from all slices where something is said to be it.

    Slices of which is only said what is not the object are corrected then, as a person would do it: where the
    object was found.

    Args:
        model: Does it slice by slice, so that others come in between.
        volume: The image.
        asked: What to segment.

    Raises:
        InputError: The image or a prompt is not usable.
    """
    session = await model.run(partial(_open, model.predictor, volume, asked))
    said = asked.prompts(session.shape)
    await model.run(partial(_add, session, [prompt for prompt in said if tells_where(prompt)]))
    await model.follow(session)
    found = session.scores(_OBJECT)
    corrections = [prompt for prompt in said if not tells_where(prompt) and prompt.slice_index in found]
    if corrections:
        await model.run(partial(_add, session, corrections))
        await model.follow(session)
    return await model.run(partial(_segmented, session))


async def segment_slice(model: Model, volume: Volume, asked: Asked) -> Segmented:
    """Find the object in one slice; the labels have the volume's size and are empty elsewhere.

    Args:
        model: Does it.
        volume: The image.
        asked: What to segment.

    Raises:
        InputError: The image or a prompt is not usable.
        Fault: 422, prompts are on several slices and none is named.
    """
    session = await model.run(partial(_open, model.predictor, volume, asked))
    said = asked.prompts(session.shape)
    named = asked.slice_index
    here = said if named is None else [prompt for prompt in said if prompt.slice_index == named]
    if len(here) != 1 or not tells_where(here[0]):
        slices = ", ".join(str(prompt.slice_index) for prompt in said)
        where = "one slice, named by slice," if named is None else f"slice {named}"
        raise Fault(422, f"foreground clicks or a roi on {where} are expected; something is said on {slices}")
    await model.run(partial(_add, session, here))
    return await model.run(partial(_segmented, session))


def _open(predictor: Predictor, volume: Volume, asked: Asked) -> Session:
    from medsam2.inference.options import InferenceOptions

    options = InferenceOptions(memory=asked.memory, keep_component=asked.keeps_component)
    return predictor.session(volume, window=asked.window, options=options)


def _add(session: Session, prompts: Sequence[Prompt]) -> None:
    from medsam2.inference.prompting import add_prompts

    add_prompts(session, {_OBJECT: prompts})


def _segmented(session: Session) -> Segmented:
    return Segmented(
        labels=session.result(_OBJECT),
        scores=MappingProxyType(session.scores(_OBJECT)),
        window=session.window,
    )
