"""The routes for the images of the datastore, and those by which OHIF looks into the archive."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
import tempfile
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path

import httpx
from fastapi import APIRouter, Request, Response
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, JSONResponse, StreamingResponse

from medsam2.imaging.io import write
from medsam2.proxies import proxy_for
from medsam2.serving.http_errors import Fault, shown
from medsam2.serving.limits import usage_of
from medsam2.serving.monailabel.datastore import FINAL, IMAGES, ImageEntry, suffix_of
from medsam2.serving.monailabel.dialect import Dialect, checked_choice, read_sent_form, told
from medsam2.serving.monailabel.dicomweb import Address
from medsam2.serving.monailabel.images import Source, find_source, open_source
from medsam2.serving.monailabel.info import statistics
from medsam2.serving.monailabel.labels import file_response

_KEPT = 1024
PREFIX = "SHA256:"


def checksum(path: Path) -> str:
    """A file's checksum as clients write it."""
    stat = path.stat()
    return PREFIX + _digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=_KEPT)
def _digest(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_OUTPUTS = ("stats", "all", "train")
_CONVERTED = ".nii.gz"


def add_images(router: APIRouter, dialect: Dialect) -> None:
    """List, take in, give out and remove images."""
    studies = dialect.studies

    @router.get("/datastore/", response_model=None)
    @told
    async def get_datastore(output: str = "") -> Response:
        """Say what is there: counts, everything, or the pairs to train on."""
        wanted = checked_choice(output, "output", _OUTPUTS)
        if wanted == "all":
            return JSONResponse(await asyncio.to_thread(studies.described))
        entries = await asyncio.to_thread(studies.entries)
        return JSONResponse(statistics(entries) if wanted == "stats" else _pairs(list(entries.values())))

    @router.put("/datastore/", response_model=None, operation_id="put_datastore")
    @router.put("/datastore/image", response_model=None, operation_id="put_image")
    @told
    async def put_image(request: Request, image: str = "") -> Response:
        """Take an image in."""
        return JSONResponse({"image": await _take_image(dialect, request, image)})

    @router.get("/datastore/image", response_model=None, operation_id="get_image")
    @router.head("/datastore/image", response_model=None, operation_id="head_image")
    @told
    async def get_image(request: Request, image: str = "", check_sum: str = "") -> Response:
        """Give an image out, or say whether it is there, and as the caller has it."""
        entry = await asyncio.to_thread(studies.find, image)
        if request.method == "HEAD" and not entry.suffix and not check_sum:  # not read for a "yes"
            return Response()
        path = await asyncio.to_thread(studies.image_path, entry)
        if check_sum and not (path.is_file() and await asyncio.to_thread(checksum, path) == check_sum):
            raise Fault(404, f"{shown(image)} is not the file of this checksum")
        if path.is_file():
            return FileResponse(path, filename=entry.name)
        return await _converted(dialect, request, Source(path=path, suffix="", entry=entry))

    @router.delete("/datastore/", response_model=None, operation_id="delete_datastore")
    @router.delete("/datastore/image", response_model=None, operation_id="delete_image")
    @told
    async def delete_image(id: str = "") -> Response:  # noqa: A002
        """Remove an image with its labels."""
        entry = await asyncio.to_thread(studies.find, id)
        await asyncio.to_thread(studies.remove_image, entry)
        return JSONResponse({})

    @router.get("/datastore/image/info", response_model=None)
    @told
    async def get_image_info(image: str = "") -> Response:
        """Say what is known of an image."""
        return JSONResponse(dict((await asyncio.to_thread(studies.find, image)).info))

    @router.put("/datastore/image/info", response_model=None)
    @told
    async def put_image_info(request: Request, image: str = "") -> Response:
        """Add to what is known of an image."""
        entry = await asyncio.to_thread(studies.find, image)
        info = (await read_sent_form(dialect, request)).json("info")
        await asyncio.to_thread(studies.note, entry, info)
        return JSONResponse({**entry.info, **info})


def _pairs(entries: list[ImageEntry]) -> list[dict[str, str]]:
    """Images with an approved label, as paths below the datastore's folder."""
    return [
        {"image": entry.name, "label": f"labels/{FINAL}/{entry.image_id}{entry.labels[FINAL].suffix}"}
        for entry in entries
        if FINAL in entry.labels
    ]


async def _take_image(dialect: Dialect, request: Request, image: str) -> str:
    form = await read_sent_form(dialect, request)
    upload = form.file("file")
    if upload is None:
        raise Fault(422, "the form has no file called file")
    suffix = suffix_of(upload.name, IMAGES, "the image")
    params = form.json("params")
    with tempfile.TemporaryDirectory(dir=dialect.service.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source = await find_source(dialect, image="", upload=upload, folder=folder)
        # What cannot be read does not come to lie among the images.
        await open_source(dialect, source, folder, usage_of(request.scope).reservation)
        return await asyncio.to_thread(
            dialect.studies.add_image, image or upload.name, source.path, suffix, {"params": params}
        )


async def _converted(dialect: Dialect, request: Request, source: Source) -> Response:
    """A series as one file."""
    assert source.entry is not None
    reservation = usage_of(request.scope).reservation
    with tempfile.TemporaryDirectory(dir=dialect.service.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        volume = await open_source(dialect, source, folder, reservation)
        path = folder / f"converted{_CONVERTED}"
        await asyncio.to_thread(write, volume, path)
        content = await asyncio.to_thread(path.read_bytes)
    return file_response(f"{source.entry.image_id}{_CONVERTED}", content)


SERVICES = ("qido", "wado")
_PATH = re.compile(r"(studies|series|instances)(/[A-Za-z0-9.,]+)*/?")
_PASSED_ON = ("content-type", "content-encoding", "content-length", "warning")


def add_proxy(router: APIRouter, address: Address, timeout_s: float) -> None:
    """Let viewers ask the archive for lists and pixels.

    Args:
        router: Gets the route.
        address: The archive's, with the server's own password for it.
        timeout_s: For each part of an answer.
    """
    certificates = ssl.create_default_context()
    proxy = proxy_for(address.url)
    way = None if proxy is None else proxy.url

    @router.get("/proxy/dicom/{service}/{path:path}", response_model=None)
    @told
    async def get_proxied(request: Request, service: str, path: str) -> Response:
        """Pass a question on, and the answer as it comes."""
        if service not in SERVICES:
            raise Fault(404, f"there is no service {shown(service)}; {' and '.join(SERVICES)} are passed on")
        if not _PATH.fullmatch(path) or ".." in path:
            raise Fault(404, f"{shown(path)} is no resource of DICOMweb")
        client = httpx.AsyncClient(
            auth=address.login, timeout=timeout_s, verify=certificates, trust_env=False, proxy=way
        )
        question = client.build_request(
            "GET",
            f"{address.url}/{path}",
            params=str(request.query_params),
            headers={
                "Accept": request.headers.get("accept", "*/*"),
                "Accept-Encoding": request.headers.get("accept-encoding", "identity"),
            },
        )
        try:
            answer = await client.send(question, stream=True)
        except httpx.HTTPError as error:
            await client.aclose()
            raise Fault(502, f"the archive does not answer: {type(error).__name__}") from None
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
