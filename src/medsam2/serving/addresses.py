"""Which hosts and addresses a file may be fetched from: none that only this network can reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from medsam2.serving.faults import Fault, shown
from medsam2.serving.settings import is_loopback

SCHEMES = ("http://", "https://")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_PORTS = {"http": 80, "https": 443}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class Target:
    """A URL that may be asked for, once its host's addresses are known and allowed."""

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
        """The URL with an address in place of the name, so that nobody resolves it again."""
        return f"{self.scheme}://{f'[{address}]' if ':' in address else address}:{self.port}{self.path}"


def target_of(url: str, allowed: Collection[str]) -> Target:
    """Take a URL apart, if the operator allows its host.

    Args:
        url: What the caller or a redirect says.
        allowed: Hosts, which may be asked on their scheme's port, and HOST:PORT.

    Raises:
        Fault: 422, nothing is fetched from there.
    """
    if not allowed:
        raise Fault(422, "this server fetches no URLs (it was started without --allow-urls); send base64")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Fault(422, f"{shown(url)} is no URL; https://HOST/PATH is expected") from None
    host = (parts.hostname or "").rstrip(".").lower()
    # A loopback host is plain http only where the operator named it, for trying things out on one machine.
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise Fault(422, f"{shown(url)} is not fetched; only https is")
    if parts.username is not None or parts.password is not None:
        raise Fault(422, "a URL with a user name or password is not fetched; sign it, or send base64")
    port = port or _PORTS[parts.scheme]
    # A host that stands there without a port may be asked on the usual one alone.
    names = {f"{host}:{port}", host} if port == _PORTS[parts.scheme] else {f"{host}:{port}"}
    if names.isdisjoint(allowed):
        raise Fault(
            422, f"{shown(f'{host}:{port}')} is not a host this server fetches from; {', '.join(allowed)} are"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme=parts.scheme, host=host, port=port, path=path)


def check_address(target: Target, address: str) -> None:
    """Refuse an address that is not out in the public network.

    Raises:
        Fault: 422.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_loopback and is_loopback(target.host):
        return  # named as such by the operator
    if not _is_public(ip):
        raise Fault(
            422, f"{shown(target.host)} is not fetched from: it lies at an address of a private network"
        )


def _is_public(ip: Address) -> bool:
    if isinstance(ip, ipaddress.IPv6Address) and (
        # IPv4 in other clothes: what it leads to depends on gateways.
        ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in _NAT64 or ip.is_site_local
    ):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)
