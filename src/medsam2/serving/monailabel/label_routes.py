"""The routes for the labels of the datastore."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse, JSONResponse

from medsam2.serving.faults import Fault, shown
from medsam2.serving.monailabel.dialect import Dialect, read_sent_form, told
from medsam2.serving.monailabel.formats import FINAL
from medsam2.serving.monailabel.labels import take_label
from medsam2.serving.monailabel.studies import ImageEntry


def add_labels(router: APIRouter, dialect: Dialect) -> None:
    """Take in, give out and remove labels, and what is known of them."""
    studies = dialect.studies

    @router.put("/datastore/label", response_model=None)
    @told
    async def put_label(request: Request, image: str = "", tag: str = "") -> Response:
        """Store a label."""
        return JSONResponse(await take_label(dialect, request, image=image, tag=tag))

    @router.get("/datastore/label", response_model=None, operation_id="get_label")
    @router.head("/datastore/label", response_model=None, operation_id="head_label")
    @told
    async def get_label(label: str = "", image: str = "", tag: str = "") -> Response:
        """Give a label out, or say whether it is there."""
        entry = await asyncio.to_thread(studies.find, label or image)
        path = await asyncio.to_thread(studies.label_path, entry, tag or FINAL)
        return FileResponse(path, filename=f"{entry.image_id}{entry.labels[tag or FINAL].suffix}")

    @router.delete("/datastore/label", response_model=None)
    @told
    async def delete_label(id: str = "", tag: str = "") -> Response:  # noqa: A002
        """Remove a label."""
        entry = await asyncio.to_thread(studies.find, id)
        await asyncio.to_thread(studies.remove_label, entry, tag or FINAL)
        return JSONResponse({})

    @router.get("/datastore/label/info", response_model=None)
    @told
    async def get_label_info(label: str = "", tag: str = "") -> Response:
        """Say what is known of a label."""
        entry = await asyncio.to_thread(studies.find, label)
        return JSONResponse(_info(entry, tag or FINAL))

    @router.put("/datastore/label/info", response_model=None, operation_id="put_label_info")
    @router.put("/datastore/updatelabelinfo", response_model=None, operation_id="put_updatelabelinfo")
    @told
    async def put_label_info(request: Request, label: str = "", tag: str = "") -> Response:
        """Add to what is known of a label."""
        entry = await asyncio.to_thread(studies.find, label)
        known = _info(entry, tag or FINAL)
        info = (await read_sent_form(dialect, request)).json("info")
        await asyncio.to_thread(studies.note, entry, info, tag or FINAL)
        return JSONResponse({**known, **info})


def _info(entry: ImageEntry, tag: str) -> dict[str, object]:
    if tag not in entry.labels:
        raise Fault(404, f"{shown(entry.image_id)} has no label tagged {shown(tag)}")
    return dict(entry.labels[tag].info)
