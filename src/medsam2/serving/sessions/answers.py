"""A session as callers see it: what it is, what was said in it, what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import orjson
from starlette.responses import Response

from medsam2.imaging.labels import coco_counts
from medsam2.imaging.measure import measure_objects
from medsam2.serving.sessions.store import Masks, OpenSession

if TYPE_CHECKING:
    from medsam2.inference.session import Session
    from medsam2.prompts.types import Prompt

Answer = dict[str, object]


def json_response(answer: Answer, status: int = 200) -> Response:
    """Answer with an object."""
    return Response(
        orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS), status, media_type="application/json"
    )


def described(opened: OpenSession, idle_timeout_s: float) -> Answer:
    """What a session is, from its first to its last moment."""
    session, volume = opened.session, opened.session.volume
    return {
        "id": opened.id,
        "name": opened.name,
        "shape": session.shape,
        "file_shape": volume.shape,
        "axis": session.axis,
        "spacing": volume.spacing,
        "origin": volume.origin,
        "direction": volume.direction,
        "window": (session.window.lower, session.window.upper),
        "idle_timeout_s": idle_timeout_s,
    }


def state(opened: OpenSession, idle_timeout_s: float) -> Answer:
    """What a session is at the moment; to be asked for while it is held."""
    session = opened.session
    return {
        **described(opened, idle_timeout_s),
        "objects": [_object(session, number) for number in session.objects],
        "can_undo": session.can_undo,
        "can_redo": session.can_redo,
        "is_propagated": session.is_propagated,
    }


def preview(session: Session, number: int, slice_index: int, mask: npt.NDArray[np.bool_]) -> Answer:
    """An object in the slice that something was just said about."""
    return {
        "object": number,
        "slice": slice_index,
        "size": mask.shape,
        "mask": coco_counts(mask),
        "confidence": session.scores(number)[slice_index],
    }


def step_of(session: Session, slice_index: int, masks: Mapping[int, npt.NDArray[np.bool_]]) -> Answer:
    """The objects that were followed into a slice."""
    return {
        "slice": slice_index,
        "masks": {number: coco_counts(mask) for number, mask in masks.items() if mask.any()},
        "confidence": {number: session.scores(number)[slice_index] for number in masks},
    }


def masks_of(session: Session) -> Masks:
    """The objects in all slices visited so far, as `Session.mask` has them."""
    found: Masks = {}
    for number in session.objects:
        stack = session.mask(number)
        for z in np.flatnonzero(stack.any(axis=(1, 2))).tolist():
            found.setdefault(z, {})[number] = coco_counts(stack[z])
    return dict(sorted(found.items()))


def masks_answer(session: Session, masks: Masks, slice_index: int | None) -> Answer:
    """Masks of one slice or of all."""
    confidence: dict[int, dict[int, float]] = {}
    for number in session.objects:
        for z, score in session.scores(number).items():
            confidence.setdefault(z, {})[number] = score
    wanted = masks.keys() | confidence.keys() if slice_index is None else {slice_index}
    return {
        "size": session.shape[1:],
        "slices": {z: masks[z] for z in sorted(wanted & masks.keys())},
        "confidence": {z: confidence[z] for z in sorted(wanted & confidence.keys())},
    }


def measured(session: Session) -> Answer:
    """Measurements of every object, on the labels where no voxel belongs to two."""
    found = measure_objects(session.result(), session.volume, axis=session.axis)
    return {"objects": [asdict(one) for one in found]}


def _object(session: Session, number: int) -> Answer:
    return {
        "number": number,
        "slices": sorted(session.scores(number)),
        "prompts": [_prompt(prompt) for _, prompt in sorted(session.prompts(number).items())],
    }


def _prompt(prompt: Prompt) -> Answer:
    return {
        "slice": prompt.slice_index,
        "box": None if prompt.box is None else prompt.box.xyxy,
        "points": [(point.x, point.y) for point in prompt.points],
        "labels": [int(point.is_positive) for point in prompt.points],
        "has_mask": prompt.mask is not None,
    }
