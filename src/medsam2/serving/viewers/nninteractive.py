"""The protocol of nnInteractive 2.x, which 3D Slicer's extension, napari, MITK and scripts speak.

Only the paths and the forms are nnInteractive's; the model is ours, and `/capabilities` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.responses import JSONResponse

from medsam2.errors import InputError
from medsam2.serving.http_errors import NotFound, NotOffered, shown
from medsam2.serving.limits import header
from medsam2.serving.schemas import Expected, validated
from medsam2.serving.viewers.error_answers import answer_route
from medsam2.serving.viewers.interactions import Interaction, Voxel, click_at, drawing_of, region_between
from medsam2.serving.viewers.leases import LIVENESS_S, Lease, Leases, grid_volume
from medsam2.serving.viewers.packed_arrays import pack
from medsam2.serving.viewers.uploads import META, ViewerMessage, read_json_body, read_meta, read_packed
from medsam2.serving.viewers.windows import read_window
from medsam2.weights import SPECS

DIALECT = "nninteractive"
VERSION = "2.6.0"
"""Of the protocol that is answered."""
_LEASE = b"x-lease-token"
_OCTETS = "application/octet-stream"
_BUFFER_KINDS = "biu"

_Three = Annotated[list[float], Field(min_length=3, max_length=3), Expected("three numbers are expected")]
_Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
_Box = Annotated[
    list[_Pair], Field(min_length=3, max_length=3), Expected("[first, end] for three axes is expected")
]


class ImageFacts(ViewerMessage):
    """What is known of an image."""

    spacing: _Three | None = None


class ImageMeta(ViewerMessage):
    """Beside an image."""

    image_properties: ImageFacts = ImageFacts()


class Buffer(ViewerMessage):
    """The array that a viewer keeps the mask in."""

    shape: list[int]
    dtype: str


class InteractionValues(ViewerMessage):
    """What all interactions have."""

    include_interaction: bool = True
    run_prediction: bool = True


class PointValues(InteractionValues):
    """A click."""

    coordinates: _Three


class BoxValues(InteractionValues):
    """A box; its ends do not belong to it."""

    bbox_coords: _Box


class DrawingValues(InteractionValues):
    """Beside a stroke or an outline."""

    interaction_bbox: _Box | None = None


def routes(leases: Leases) -> APIRouter:
    """The routes whose paths SlicerNNInteractive 0.x does not have; for the others see `viewers.routes`."""
    router = APIRouter(route_class=answer_route({NotFound: 410}))
    _add_leases(router, leases)
    _add_images(router, leases)
    _add_changes(router, leases)
    return router


def _add_leases(router: APIRouter, leases: Leases) -> None:
    idle_s = leases.service.settings.session_idle_s

    @router.post("/claim")
    async def claim(request: Request) -> Response:
        """Give a viewer a place."""
        if find_spec("blosc2") is None:
            raise NotOffered("this server cannot unpack the images: pip install 'medsam2[viewers]' there")
        lease = await leases.claim(DIALECT, beats=True, window=read_window(request, leases.service.settings))
        return JSONResponse(
            {
                "lease_token": lease.id,
                "idle_timeout_seconds": idle_s,
                "liveness_timeout_seconds": LIVENESS_S,
                "max_sessions": leases.service.settings.max_sessions,
            }
        )

    @router.get("/capabilities")
    async def capabilities() -> Response:
        """Say what can be drawn, and which model answers."""
        return JSONResponse(_capabilities(leases.service.model.loaded.weights))

    @router.post("/heartbeat")
    async def heartbeat(request: Request) -> Response:
        """Note that the viewer is there."""
        lease = _leased(leases, request)
        lease.note_beat()
        return JSONResponse({"remaining_seconds": max(0.0, idle_s - lease.idle_s)})

    @router.get("/lease_status")
    async def lease_status(request: Request) -> Response:
        """Say how long the image stays open."""
        left = max(0.0, idle_s - _leased(leases, request).idle_s)
        return JSONResponse({"remaining_seconds": left, "idle_timeout_seconds": idle_s})

    @router.post("/release")
    async def release(request: Request) -> Response:
        """Close the image."""
        with suppress(NotFound):  # a viewer may say goodbye twice
            await leases.end(_leased(leases, request))
        return JSONResponse({"released": True})


def _capabilities(weights: str) -> dict[str, object]:
    name = Path(weights).name
    licence = SPECS[weights].licence if weights in SPECS else "licence as of its publisher"
    return {
        "supported_interactions": dict.fromkeys(("points", "bbox2d", "bbox3d", "scribble", "lasso"), True),
        "channel_mapping": {"prev_seg": 0},
        "num_interaction_channels": 1,
        "supports_initial_label": True,
        "supports_zero_shot_label_refinement": False,
        "preferred_scribble_thickness": [1, 1, 1],
        "interaction_decay": None,
        "patch_size": None,
        "do_autozoom": True,
        "supports_undo": True,
        "inference_session_version": VERSION,
        # The only text that viewers show: nobody is to believe that nnInteractive answers.
        "license": f"medsam2 ({name}), {licence}; research software",
    }


def _add_images(router: APIRouter, leases: Leases) -> None:
    service = leases.service

    @router.post("/set_do_autozoom")
    async def set_do_autozoom(request: Request) -> Response:
        """Take a choice that has no meaning here: our networks look closer by themselves."""
        _find(leases, request)
        await read_json_body(request, service)  # it has no meaning
        return JSONResponse({})

    @router.post("/set_image")
    async def set_image(request: Request) -> Response:
        """Open an image."""
        lease = _find(leases, request)
        facts = read_meta(request, ImageMeta).image_properties
        array = await read_packed(request, service)
        shape = list(array.shape)
        if array.ndim == 4:
            if shape[0] != 1:
                raise InputError(f"the image has {shape[0]} channels; images of one channel are segmented")
            array = array[0]
        a, b, c = facts.spacing or (1.0, 1.0, 1.0)
        async with lease.used():
            await leases.open_image(lease, grid_volume(array, (a, b, c)))
        return JSONResponse({"original_image_shape": shape if len(shape) == 4 else [1, *shape]})

    @router.post("/set_target_buffer")
    async def set_target_buffer(request: Request) -> Response:
        """Learn that the viewer has an empty mask."""
        lease = _find(leases, request)
        buffer = validated(Buffer, await read_json_body(request, service))
        async with lease.used():
            viewed = lease.image()
            _check_buffer(buffer, viewed.shape)
            # Both sides begin with an empty mask.
            viewed.reset()
            lease.has_buffer = True
        return JSONResponse({})

    @router.post("/reset_interactions")
    async def reset_interactions(request: Request) -> Response:
        """Begin the next object."""
        lease = _find(leases, request)
        await read_json_body(request, service)
        async with lease.used():
            if lease.viewed is not None:
                lease.viewed.reset()
        return JSONResponse({})


def _check_buffer(buffer: Buffer, shape: tuple[int, int, int]) -> None:
    if tuple(buffer.shape) != shape:
        raise InputError(f"the buffer has the shape {shown(buffer.shape)}, the image {shape}")
    try:
        is_usable = np.dtype(buffer.dtype).kind in _BUFFER_KINDS
    except (TypeError, ValueError):
        is_usable = False
    if not is_usable:
        raise InputError(f"the buffer is of type {shown(buffer.dtype)}; bool or whole numbers are expected")


def _add_changes(router: APIRouter, leases: Leases) -> None:
    service = leases.service

    @router.post("/add_initial_seg_interaction")
    async def add_initial_seg(request: Request) -> Response:
        """Take a mask as the object; the viewer shows it already."""
        lease = _find(leases, request)
        array = await read_packed(request, service)
        async with lease.used():
            viewed = lease.image()
            await service.workers.run(lambda: viewed.give(np.asarray(array) != 0))
        return _prediction(None)

    @router.post("/predict")
    async def predict(request: Request) -> Response:
        """Follow the object after interactions that were only taken in."""
        lease = _find(leases, request)
        await read_json_body(request, service)
        async with lease.used():
            viewed = lease.image()
            if not viewed.is_queued:
                return _prediction(None, has_run=False)
            await leases.follow(request, viewed.predict())
            return await service.workers.run(partial(_change_answer, lease))

    @router.post("/undo")
    async def undo(request: Request) -> Response:
        """Take the last interaction back."""
        lease = _find(leases, request)
        await read_json_body(request, service)
        async with lease.used():
            if not await service.model.run(lease.image().undo):
                return _prediction(None, has_run=False)
            return await service.workers.run(partial(_change_answer, lease))


def _find(leases: Leases, request: Request) -> Lease:
    lease = _leased(leases, request)
    lease.note_use()
    return lease


def _leased(leases: Leases, request: Request) -> Lease:
    """The image of a request, whose idle time goes on."""
    return leases.get(DIALECT, header(request.scope, _LEASE))


async def add_point(leases: Leases, request: Request, values: PointValues) -> Response:
    """Answer a click."""
    click = partial(click_at, values.coordinates, is_positive=values.include_interaction)
    return await _answer(leases, _find(leases, request), request, click, values)


async def add_box(leases: Leases, request: Request, values: BoxValues) -> Response:
    """Answer a box."""
    first, end = zip(*values.bbox_coords, strict=True)
    region = partial(region_between, first, end, is_positive=values.include_interaction)
    return await _answer(leases, _find(leases, request), request, region, values)


async def add_drawing(leases: Leases, request: Request, *, is_outline: bool) -> Response:
    """Answer a stroke or an outline."""
    lease = _find(leases, request)
    values = read_meta(request, DrawingValues)
    array = await read_packed(request, leases.service)
    drawing = partial(
        drawing_of, array, values.interaction_bbox,
        is_outline=is_outline, is_positive=values.include_interaction,
    )  # fmt: skip
    return await _answer(leases, lease, request, drawing, values)


async def _answer(
    leases: Leases,
    lease: Lease,
    request: Request,
    interaction: Callable[[Voxel], Interaction | None],
    values: InteractionValues,
) -> Response:
    return await leases.answer(lease, request, interaction, _change_answer, predicts=values.run_prediction)


def _change_answer(lease: Lease) -> Response:
    """Answer with the part of the mask that the last change touched; the lease is locked."""
    viewed = lease.image()
    box = viewed.changed
    if box is None or not lease.has_buffer:
        return _prediction(None)
    part = viewed.mask[box].astype(np.uint8)
    return _prediction([[one.start, one.stop] for one in box], pack(part), part.shape)


def _prediction(
    box: list[list[int]] | None, packed: bytes = b"", shape: tuple[int, ...] = (), *, has_run: bool = True
) -> Response:
    """Answer an interaction; without a box nothing has changed."""
    meta: dict[str, object] = {"ran_prediction": has_run, "bbox": box}
    if box is not None:
        meta |= {"dtype": "uint8", "shape": shape}
    return Response(packed, media_type=_OCTETS, headers={META: json.dumps(meta, separators=(",", ":"))})
