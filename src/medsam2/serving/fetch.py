"""Fetch a file from a URL, from the hosts that the operator allows and nowhere else."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx

from medsam2.errors import InputError
from medsam2.serving.http_errors import TooLarge, TooSlow, shown
from medsam2.serving.settings import MIB, ServerSettings, is_loopback

SCHEMES = ("http://", "https://")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_PORTS = {"http": 80, "https": 443}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class Target:
    """A URL that may be fetched once the addresses of its host are known and allowed."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query."""

    @property
    def authority(self) -> str:
        """Host and port, as a `Host` header has them."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _PORTS[self.scheme] else f"{name}:{self.port}"

    def at(self, address: str) -> str:
        """The URL with an address in place of the name, so that the name is not resolved again."""
        return f"{self.scheme}://{f'[{address}]' if ':' in address else address}:{self.port}{self.path}"


def target_of(url: str, allowed: Collection[str]) -> Target:
    """Take a URL apart, if the operator allows its host.

    Args:
        url: What the caller or a redirect says.
        allowed: Hosts, to be reached on the port of the URL's scheme, and HOST:PORT.

    Raises:
        InputError: Nothing is fetched from there.
    """
    if not allowed:
        raise InputError("this server fetches no URLs (it was started without --allow-urls); send base64")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError(f"{shown(url)} is no URL; https://HOST/PATH is expected") from None
    host = (parts.hostname or "").rstrip(".").lower()
    # Plain http is for tests on one machine: a loopback host that the operator allows.
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise InputError(f"{shown(url)} is not fetched; only https is")
    if parts.username is not None or parts.password is not None:
        raise InputError("a URL with a user name or password is not fetched; sign it, or send base64")
    port = port or _PORTS[parts.scheme]
    # A host that is allowed without a port is reached on the usual port only.
    names = {f"{host}:{port}", host} if port == _PORTS[parts.scheme] else {f"{host}:{port}"}
    if names.isdisjoint(allowed):
        raise InputError(
            f"{shown(f'{host}:{port}')} is not a host this server fetches from; {', '.join(allowed)} are"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme=parts.scheme, host=host, port=port, path=path)


def check_address(target: Target, address: str) -> None:
    """Refuse an address that is not in the public network.

    Raises:
        InputError: It is in a private network.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_loopback and is_loopback(target.host):
        return  # the operator has allowed this name
    if not _is_public(ip):
        raise InputError(
            f"{shown(target.host)} is not fetched from: it lies at an address of a private network"
        )


def _is_public(ip: Address) -> bool:
    if isinstance(ip, ipaddress.IPv6Address) and (
        # An IPv4 address inside an IPv6 one: gateways decide where it leads.
        ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in _NAT64 or ip.is_site_local
    ):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)


async def fetch(url: str, path: Path, settings: ServerSettings) -> None:
    """Write what a URL holds to a file.

    Every host on the way is checked: by name, and by each address that the name has at that moment. The
    connection goes to an address that was checked, so that a second answer of the resolver changes nothing.

    Raises:
        InputError: The URL is not one that may be fetched, or nothing is there.
        HttpError: The file is too large, or comes too slowly.
    """
    try:
        async with asyncio.timeout(settings.fetch_timeout_s):
            # Neither the environment's proxies nor the passwords of .netrc.
            async with httpx.AsyncClient(trust_env=False, timeout=settings.fetch_timeout_s) as client:
                await _follow(client, url, path, settings)
    except (TimeoutError, httpx.TimeoutException):
        raise TooSlow(f"the URL was not fetched within {settings.fetch_timeout_s:g} s") from None
    except InputError:
        raise
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError for a text that is no URL
        raise InputError(f"the URL cannot be fetched: {type(error).__name__}") from None


async def _follow(client: httpx.AsyncClient, url: str, path: Path, settings: ServerSettings) -> None:
    for _ in range(MAX_REDIRECTS + 1):
        target = target_of(url, settings.allow_urls)
        request = client.build_request(
            "GET",
            target.at(await _checked_address(target)),
            # As it is stored, so that the bytes that arrive are the bytes that count.
            headers={"Host": target.authority, "Accept-Encoding": "identity"},
            extensions={"sni_hostname": target.host},
        )
        response = await client.send(request, stream=True)
        try:
            if response.status_code not in _REDIRECTS:
                await _store(response, path, settings.max_body * MIB)
                return
            place = response.headers.get("location")
            if place is None:
                raise InputError(f"the URL's host answers {response.status_code} without a place to go")
            url = urljoin(f"{target.scheme}://{target.authority}{target.path}", place)
        finally:
            await response.aclose()
    raise InputError(f"the URL is redirected more than {MAX_REDIRECTS} times")


async def _checked_address(target: Target) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            target.host, target.port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        raise InputError(f"{shown(target.host)} has no address") from None
    addresses = [str(address[0]) for *_, address in found]
    for address in addresses:
        check_address(target, address)
    return addresses[0]


async def _store(response: httpx.Response, path: Path, max_bytes: int) -> None:
    if response.status_code != 200:
        raise InputError(f"the URL's host answers {response.status_code}")
    # The header may be wrong, so bytes are counted below as well.
    announced = response.headers.get("content-length", "0")
    too_large = TooLarge(f"the URL holds more than the {max_bytes // MIB} MiB that are fetched")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large
    num_bytes = 0
    with path.open("xb") as file:
        async for chunk in response.aiter_raw():
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise too_large
            file.write(chunk)
