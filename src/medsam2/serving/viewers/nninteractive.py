"""The protocol of nnInteractive 2.x, which 3D Slicer's extension, napari, MITK and scripts speak.

Only the paths and the forms are nnInteractive's; the model is ours, and `/capabilities` says so.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import suppress
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
from medsam2.serving.schemas import Expected
from medsam2.serving.score import while_wanted
from medsam2.serving.viewers.error_answers import answer_route, read_window
from medsam2.serving.viewers.interactions import Drawing, click_at, drawing_of, region_between
from medsam2.serving.viewers.leases import LIVENESS_S, Lease, Leases, grid_volume
from medsam2.serving.viewers.packed_arrays import pack
from medsam2.serving.viewers.uploads import META, Words, read_meta, read_packed, read_words
from medsam2.serving.viewers.viewed_object import ViewedObject
from medsam2.weights import SPECS

DIALECT = "nninteractive"
VERSION = "2.6.0"
"""Of the protocol that is answered."""
_LEASE = b"x-lease-token"
_OCTETS = "application/octet-stream"
_BUFFER_KINDS = "biu"

_Three = Annotated[list[float], Field(min_length=3, max_length=3)]
_Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
_Box = Annotated[
    list[_Pair], Field(min_length=3, max_length=3), Expected("[first, end] for three axes is expected")
]


class ImageFacts(Words):
    """What is known of an image."""

    spacing: Annotated[_Three, Expected("three numbers are expected")] | None = None


class ImageMeta(Words):
    """Beside an image."""

    image_properties: ImageFacts = ImageFacts()


class Buffer(Words):
    """The array that a viewer keeps the mask in."""

    shape: list[int]
    dtype: str


class Said(Words):
    """What all interactions say."""

    include_interaction: bool = True
    run_prediction: bool = True


class PointSaid(Said):
    """A click."""

    coordinates: Annotated[_Three, Expected("three numbers [a, b, c] are expected")]


class BoxSaid(Said):
    """A box; its ends do not belong to it."""

    bbox_coords: _Box


class DrawingSaid(Said):
    """Beside a stroke or an outline."""

    interaction_bbox: _Box | None = None


class Nothing(Words):
    """A body without a meaning."""


def routes(leases: Leases) -> APIRouter:
    """All routes but those whose paths another protocol has as well; see `routes`."""
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
        lease = leases.get(DIALECT, header(request.scope, _LEASE))
        lease.see(is_active=False)
        return JSONResponse({"remaining_seconds": max(0.0, idle_s - lease.idle_s)})

    @router.get("/lease_status")
    async def lease_status(request: Request) -> Response:
        """Say how long the image stays open."""
        lease = leases.get(DIALECT, header(request.scope, _LEASE))
        left = max(0.0, idle_s - lease.idle_s)
        return JSONResponse({"remaining_seconds": left, "idle_timeout_seconds": idle_s})

    @router.post("/release")
    async def release(request: Request) -> Response:
        """Close the image."""
        with suppress(NotFound):  # a viewer may say goodbye twice
            await leases.end(leases.get(DIALECT, header(request.scope, _LEASE)))
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
        find(leases, request)
        await read_words(request, service, Nothing)
        return JSONResponse({})

    @router.post("/set_image")
    async def set_image(request: Request) -> Response:
        """Open an image."""
        lease = find(leases, request)
        facts = read_meta(request, ImageMeta).image_properties
        array = await read_packed(request, service)
        shape = list(array.shape)
        if array.ndim == 4:
            if shape[0] != 1:
                raise InputError(f"the image has {shape[0]} channels; images of one channel are segmented")
            array = array[0]
        a, b, c = facts.spacing or (1.0, 1.0, 1.0)
        async with lease.used():
            await leases.open_image(lease, grid_volume(array, (a, b, c)), (a, b, c))
        return JSONResponse({"original_image_shape": shape if len(shape) == 4 else [1, *shape]})

    @router.post("/set_target_buffer")
    async def set_target_buffer(request: Request) -> Response:
        """Learn that the viewer has an empty mask."""
        lease = find(leases, request)
        buffer = await read_words(request, service, Buffer)
        async with lease.used():
            shape = lease.image().shape
            _check_buffer(buffer, shape)
            # Both sides begin with an empty mask.
            lease.image().reset()
            lease.has_buffer = True
        return JSONResponse({})

    @router.post("/reset_interactions")
    async def reset_interactions(request: Request) -> Response:
        """Begin the next object."""
        lease = find(leases, request)
        await read_words(request, service, Nothing)
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
        lease = find(leases, request)
        array = await read_packed(request, service)
        async with lease.used():
            viewed = lease.image()
            await service.workers.run(lambda: viewed.give(np.asarray(array) != 0))
        return prediction(None)

    @router.post("/predict")
    async def predict(request: Request) -> Response:
        """Follow the object after interactions that were only taken in."""
        lease = find(leases, request)
        await read_words(request, service, Nothing)
        async with lease.used():
            viewed = lease.image()
            if not viewed.is_queued:
                return prediction(None, has_run=False)
            await while_wanted(request.receive, leases.follow(viewed.predict()))
            return await change_answer(leases, lease)

    @router.post("/undo")
    async def undo(request: Request) -> Response:
        """Take the last interaction back."""
        lease = find(leases, request)
        await read_words(request, service, Nothing)
        async with lease.used():
            if not await service.model.run(lease.image().undo):
                return prediction(None, has_run=False)
            return await change_answer(leases, lease)


def find(leases: Leases, request: Request) -> Lease:
    """The image of a request.

    Raises:
        NotFound: It is not open.
    """
    lease = leases.get(DIALECT, header(request.scope, _LEASE))
    lease.see()
    return lease


async def add_point(leases: Leases, request: Request, said: PointSaid) -> Response:
    """Answer a click."""
    lease = find(leases, request)
    async with lease.used():
        viewed = lease.image()
        click = click_at(said.coordinates, viewed.shape, is_positive=said.include_interaction)
        return await _answered(leases, lease, request, viewed.add(click, predicts=said.run_prediction))


async def add_box(leases: Leases, request: Request, said: BoxSaid) -> Response:
    """Answer a box."""
    lease = find(leases, request)
    async with lease.used():
        viewed = lease.image()
        first, end = zip(*said.bbox_coords, strict=True)
        region = region_between(first, end, viewed.shape, is_positive=said.include_interaction)
        return await _answered(leases, lease, request, viewed.add(region, predicts=said.run_prediction))


async def add_drawing(leases: Leases, request: Request, *, is_outline: bool) -> Response:
    """Answer a stroke or an outline."""
    lease = find(leases, request)
    said = read_meta(request, DrawingSaid)
    array = await read_packed(request, leases.service)
    async with lease.used():
        viewed = lease.image()
        drawing = await leases.service.workers.run(lambda: _drawing(array, said, viewed, is_outline))
        return await _answered(leases, lease, request, viewed.add(drawing, predicts=said.run_prediction))


def _drawing(array: np.ndarray, said: DrawingSaid, viewed: ViewedObject, is_outline: bool) -> Drawing | None:
    return drawing_of(
        array, said.interaction_bbox, viewed.shape,
        is_outline=is_outline, is_positive=said.include_interaction,
    )  # fmt: skip


async def _answered(leases: Leases, lease: Lease, request: Request, steps: Generator[int]) -> Response:
    await while_wanted(request.receive, leases.follow(steps))
    return await change_answer(leases, lease)


async def change_answer(leases: Leases, lease: Lease) -> Response:
    """Answer with the part of the mask that the last change touched; the lease is locked."""
    viewed = lease.image()
    box = viewed.changed
    if box is None or not lease.has_buffer:
        return prediction(None)
    part = viewed.mask[box].astype(np.uint8)
    packed = await leases.service.workers.run(lambda: pack(part))
    return prediction([[one.start, one.stop] for one in box], packed, part.shape)


def prediction(
    box: list[list[int]] | None, packed: bytes = b"", shape: tuple[int, ...] = (), *, has_run: bool = True
) -> Response:
    """Answer an interaction; without a box nothing has changed."""
    meta: dict[str, object] = {"ran_prediction": has_run, "bbox": box}
    if box is not None:
        meta |= {"dtype": "uint8", "shape": shape}
    return Response(packed, media_type=_OCTETS, headers={META: json.dumps(meta, separators=(",", ":"))})
