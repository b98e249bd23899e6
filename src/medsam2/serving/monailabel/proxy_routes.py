"""The routes by which OHIF, as MONAI Label builds it, looks through this server into the archive."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator

import httpx
from fastapi import APIRouter, Request, Response
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from medsam2.proxies import proxy_for
from medsam2.serving.faults import Fault, shown
from medsam2.serving.monailabel.dialect import told
from medsam2.serving.monailabel.dicomweb import Address

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
