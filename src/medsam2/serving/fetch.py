"""Fetch a file from a URL, from the hosts that the operator allows and nowhere else."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from urllib.parse import urljoin

import httpx

from medsam2.serving.addresses import Target, check_address, target_of
from medsam2.serving.faults import Fault, shown
from medsam2.serving.settings import MIB, ServerSettings

MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)


async def fetch(url: str, path: Path, settings: ServerSettings) -> None:
    """Write what a URL holds to a file.

    Every host on the way is checked: by name, and by each address that the name has at that moment. The
    connection goes to an address that was checked, so that a second answer of the resolver changes nothing.

    Raises:
        Fault: 422, it is not fetched from there, or not there; 413, too large; 504, too slow.
    """
    try:
        async with asyncio.timeout(settings.fetch_timeout_s):
            # No proxy, no .netrc: neither the environment's way nor its passwords.
            async with httpx.AsyncClient(trust_env=False, timeout=settings.fetch_timeout_s) as client:
                await _follow(client, url, path, settings)
    except (TimeoutError, httpx.TimeoutException):
        raise Fault(504, f"the URL was not fetched within {settings.fetch_timeout_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # the last for what is no URL at all
        raise Fault(422, f"the URL cannot be fetched: {type(error).__name__}") from None


async def _follow(client: httpx.AsyncClient, url: str, path: Path, settings: ServerSettings) -> None:
    for _ in range(MAX_REDIRECTS + 1):
        target = target_of(url, settings.allow_urls)
        request = client.build_request(
            "GET",
            target.at(await _checked_address(target)),
            # As it is stored: what a host unpacks for us is not counted as it arrives.
            headers={"Host": target.authority, "Accept-Encoding": "identity"},
            extensions={"sni_hostname": target.host},
        )
        response = await client.send(request, stream=True)
        try:
            if response.status_code not in _REDIRECTS:
                await _store(response, path, settings.max_body * MIB)
                return
            url = urljoin(f"{target.scheme}://{target.authority}{target.path}", _location(response))
        finally:
            await response.aclose()
    raise Fault(422, f"the URL is redirected more than {MAX_REDIRECTS} times")


async def _checked_address(target: Target) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            target.host, target.port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        raise Fault(422, f"{shown(target.host)} has no address") from None
    addresses = [str(address[0]) for *_, address in found]
    for address in addresses:
        check_address(target, address)
    return addresses[0]


def _location(response: httpx.Response) -> str:
    try:
        return response.headers["location"]
    except KeyError:
        raise Fault(422, f"the URL's host answers {response.status_code} without a place to go") from None


async def _store(response: httpx.Response, path: Path, max_bytes: int) -> None:
    if response.status_code != 200:
        raise Fault(422, f"the URL's host answers {response.status_code}")
    # A caller's word for it is not enough, so bytes are counted below as well.
    announced = response.headers.get("content-length", "0")
    too_large = Fault(413, f"the URL holds more than the {max_bytes // MIB} MiB that are fetched")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large
    num_bytes = 0
    with path.open("xb") as file:
        async for chunk in response.aiter_raw():
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise too_large
            file.write(chunk)
