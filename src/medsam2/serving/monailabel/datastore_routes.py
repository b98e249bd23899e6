"""The routes of the datastore: images, labels, and for OHIF the lists and pixels of the archive."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from fastapi import APIRouter, Request, Response
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, JSONResponse, StreamingResponse

from medsam2.errors import InputError
from medsam2.imaging.io import write
from medsam2.proxies import proxy_for
from medsam2.serving.http_errors import ArchiveFailed, NotFound, shown
from medsam2.serving.limits import usage_of
from medsam2.serving.monailabel.datastore import FINAL, IMAGES, ImageEntry, statistics, suffix_of
from medsam2.serving.monailabel.folder import stamp_of
from medsam2.serving.monailabel.images import Source
from medsam2.serving.monailabel.labels import file_response, take_label
from medsam2.serving.monailabel.state import ViewerState, checked_choice

if TYPE_CHECKING:
    from medsam2.serving.monailabel.dicomweb import Address

_MAX_DIGESTS = 1024
_OUTPUTS = ("stats", "all", "train")
_CONVERTED = ".nii.gz"
SERVICES = ("qido", "wado")
_PATH = re.compile(r"(studies|series|instances)(/[A-Za-z0-9.,]+)*/?")
_PASSED_ON = ("content-type", "content-encoding", "content-length", "warning")


def checksum(path: Path) -> str:
    """A file's checksum as clients write it."""
    return "SHA256:" + _digest(path, stamp_of(path))


@lru_cache(maxsize=_MAX_DIGESTS)
def _digest(path: Path, _: tuple[int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_images(router: APIRouter, state: ViewerState) -> None:
    """Add the routes that list, store, return and remove images.

    Plain functions run in a thread, so they may wait for a disk or an archive.
    """
    datastore = state.datastore

    @router.get("/datastore/")
    def get_datastore(output: str = "") -> Response:
        """List the datastore: counts, everything, or the pairs to train on."""
        content = checked_choice(output, "output", _OUTPUTS)
        if content == "all":
            return JSONResponse(datastore.document())
        entries = datastore.entries()
        return JSONResponse(statistics(entries) if content == "stats" else _pairs(list(entries.values())))

    @router.put("/datastore/", operation_id="put_datastore")
    @router.put("/datastore/image", operation_id="put_image")
    async def put_image(request: Request, image: str = "") -> Response:
        """Add an image."""
        return JSONResponse({"image": await _take_image(state, request, image)})

    @router.get("/datastore/image", operation_id="get_image")
    @router.head("/datastore/image", operation_id="head_image")
    async def get_image(request: Request, image: str = "", check_sum: str = "") -> Response:
        """Return an image, or whether it is there and has the checksum."""
        entry = await asyncio.to_thread(datastore.find, image)
        if request.method == "HEAD" and not entry.suffix and not check_sum:  # no need to read it
            return Response()
        path = await asyncio.to_thread(datastore.image_path, entry)
        if check_sum and not (path.is_file() and await asyncio.to_thread(checksum, path) == check_sum):
            raise NotFound(f"{shown(image)} is not the file of this checksum")
        if path.is_file():
            return FileResponse(path, filename=entry.name)
        return await _converted(state, request, Source(path=path, suffix="", entry=entry))

    @router.delete("/datastore/", operation_id="delete_datastore")
    @router.delete("/datastore/image", operation_id="delete_image")
    def delete_image(id: str = "") -> Response:  # noqa: A002
        """Remove an image with its labels."""
        datastore.remove_image(datastore.find(id))
        return JSONResponse({})

    @router.get("/datastore/image/info")
    def get_image_info(image: str = "") -> Response:
        """Return the facts about an image."""
        return JSONResponse(dict(datastore.find(image).info))

    @router.put("/datastore/image/info")
    async def put_image_info(request: Request, image: str = "") -> Response:
        """Add facts about an image."""
        entry = await asyncio.to_thread(datastore.find, image)
        info = (await state.read_form(request)).json("info")
        await asyncio.to_thread(datastore.note, entry, info)
        return JSONResponse({**entry.info, **info})


def _pairs(entries: list[ImageEntry]) -> list[dict[str, str]]:
    """Images with an approved label, as paths below the datastore's folder."""
    return [
        {"image": entry.name, "label": f"labels/{FINAL}/{entry.image_id}{entry.labels[FINAL].suffix}"}
        for entry in entries
        if FINAL in entry.labels
    ]


async def _take_image(state: ViewerState, request: Request, image: str) -> str:
    form = await state.read_form(request)
    upload = form.file("file")
    if upload is None:
        raise InputError("the form has no file called file")
    suffix = suffix_of(upload.name, IMAGES, "the image")
    params = form.json("params")
    with state.request_folder() as folder:
        source = await state.find_source("", folder, upload=upload)
        # Only files that can be read become images of the datastore.
        await state.open_source(source, folder, usage_of(request.scope).reservation)
        return await asyncio.to_thread(
            state.datastore.add_image, image or upload.name, source.path, suffix, {"params": params}
        )


async def _converted(state: ViewerState, request: Request, source: Source) -> Response:
    """A series as one file."""
    assert source.entry is not None
    reservation = usage_of(request.scope).reservation
    with state.request_folder() as folder:
        volume = await state.open_source(source, folder, reservation)
        path = folder / f"converted{_CONVERTED}"
        await asyncio.to_thread(write, volume, path)
        content = await asyncio.to_thread(path.read_bytes)
    return file_response(f"{source.entry.image_id}{_CONVERTED}", content)


def add_labels(router: APIRouter, state: ViewerState) -> None:
    """Add the routes that store, return and remove labels and the facts about them."""
    datastore = state.datastore

    @router.put("/datastore/label")
    async def put_label(request: Request, image: str = "", tag: str = "") -> Response:
        """Store a label."""
        return JSONResponse(await take_label(state, request, image=image, tag=tag))

    @router.get("/datastore/label", operation_id="get_label")
    @router.head("/datastore/label", operation_id="head_label")
    def get_label(label: str = "", image: str = "", tag: str = "") -> Response:
        """Return a label, or whether it is there."""
        entry = datastore.find(label or image)
        path = datastore.label_path(entry, tag or FINAL)
        return FileResponse(path, filename=f"{entry.image_id}{entry.label(tag or FINAL).suffix}")

    @router.delete("/datastore/label")
    def delete_label(id: str = "", tag: str = "") -> Response:  # noqa: A002
        """Remove a label."""
        datastore.remove_label(datastore.find(id), tag or FINAL)
        return JSONResponse({})

    @router.get("/datastore/label/info")
    def get_label_info(label: str = "", tag: str = "") -> Response:
        """Return the facts about a label."""
        return JSONResponse(dict(datastore.find(label).label(tag or FINAL).info))

    @router.put("/datastore/label/info", operation_id="put_label_info")
    @router.put("/datastore/updatelabelinfo", operation_id="put_updatelabelinfo")
    async def put_label_info(request: Request, label: str = "", tag: str = "") -> Response:
        """Add facts about a label."""
        entry = await asyncio.to_thread(datastore.find, label)
        known = entry.label(tag or FINAL).info
        info = (await state.read_form(request)).json("info")
        await asyncio.to_thread(datastore.note, entry, info, tag or FINAL)
        return JSONResponse({**known, **info})


def add_proxy(router: APIRouter, address: Address, timeout_s: float) -> None:
    """Add the route by which viewers ask the archive for lists and pixels.

    Args:
        router: Gets the route.
        address: The archive's, with the server's own password for it.
        timeout_s: For each part of an answer.
    """
    certificates = ssl.create_default_context()
    proxy = proxy_for(address.url)
    proxy_url = None if proxy is None else proxy.url

    @router.get("/proxy/dicom/{service}/{path:path}")
    async def get_proxied(request: Request, service: str, path: str) -> Response:
        """Pass a request on to the archive, and its answer back as it arrives."""
        if service not in SERVICES:
            raise NotFound(f"there is no service {shown(service)}; services are {' and '.join(SERVICES)}")
        if not _PATH.fullmatch(path) or ".." in path:
            raise NotFound(f"{shown(path)} is not a resource of DICOMweb")
        client = httpx.AsyncClient(
            auth=address.login, timeout=timeout_s, verify=certificates, trust_env=False, proxy=proxy_url
        )
        forwarded = client.build_request(
            "GET",
            f"{address.url}/{path}",
            params=str(request.query_params),
            headers={
                "Accept": request.headers.get("accept", "*/*"),
                "Accept-Encoding": request.headers.get("accept-encoding", "identity"),
            },
        )
        try:
            answer = await client.send(forwarded, stream=True)
        except httpx.HTTPError as error:
            await client.aclose()
            raise ArchiveFailed(f"the archive does not answer: {type(error).__name__}") from None
        headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        return StreamingResponse(
            _parts(client, answer), answer.status_code, headers, background=BackgroundTask(client.aclose)
        )


async def _parts(client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()
        await client.aclose()
