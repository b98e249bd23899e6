"""Which proxy a request goes through: none to this machine, else the one that the environment names."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Proxy:
    """A proxy as the environment, or the settings of the system, name it."""

    url: str
    """With the user and password that it may ask for."""
    variable: str
    """HTTP_PROXY, HTTPS_PROXY or ALL_PROXY."""

    def __str__(self) -> str:
        """For messages: without user and password."""
        scheme, _, rest = self.url.partition("://")
        return f"the proxy {scheme}://{rest.rpartition('@')[2].rstrip('/')} of {self.variable}"


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy for a URL, or None where the request goes there directly.

    A request to this machine goes there directly, whatever the environment says. A scan for a server here
    must not pass a proxy that runs elsewhere. Networks in NO_PROXY (10.0.0.0/8) count as well as names.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_this_machine(host) or _is_excepted(host, parts.port):
        return None
    named = getproxies()
    for key in (parts.scheme.lower(), "all"):
        if place := named.get(key):
            return Proxy(place if "://" in place else f"http://{place}", f"{key.upper()}_PROXY")
    return None


def proxies_in_use() -> list[Proxy]:
    """List the proxies that the environment, or the settings of the system, name; without their passwords."""
    named = sorted((key, place) for key, place in getproxies().items() if key != "no")
    return [
        Proxy(place if "://" in place else f"http://{place}", f"{key.upper()}_PROXY") for key, place in named
    ]


def is_this_machine(host: str) -> bool:
    """Whether a name or an address leads back to this machine, in any of the ways it can be written."""
    name = host.strip("[]").rstrip(".").lower()
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    address = _address(name)
    if address is None:
        own = socket.gethostname().lower()
        return name != "" and name in (own, own.partition(".")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return address.is_loopback or address.is_unspecified


def _address(name: str) -> _Address | None:
    try:
        return ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(name))  # 127.1 or 0x7f000001
    except (OSError, ValueError):
        return None


def _is_excepted(host: str, port: int | None) -> bool:
    """Whether NO_PROXY, or what the system has in its place, holds a host."""
    authority = host if port is None else f"{host}:{port}"
    if proxy_bypass(authority):
        return True
    return any(_holds(entry.strip(), host) for entry in getproxies().get("no", "").split(","))


def _holds(entry: str, host: str) -> bool:
    """Forms of NO_PROXY that Python does not know: networks, addresses of version 6, `*.hospital.lan`."""
    address = _address(host)
    if address is None:
        return entry.startswith("*.") and host.endswith(entry[1:].lower())
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False
