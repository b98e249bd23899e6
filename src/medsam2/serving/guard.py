"""Who may call the server: its name in the request, the calling page and the key are checked."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from medsam2.serving.http_errors import HttpError, KeyMissing, NotAllowed, error_response, shown
from medsam2.serving.limits import discard_rest, header
from medsam2.serving.settings import ServerSettings
from medsam2.serving.viewers.error_answers import error_answer
from medsam2.serving.viewers.paths import check_viewer_key, is_viewer_path

OPEN_PATHS = ("/healthz", "/readyz", "/ping", "/auth/", "/auth/token")
"""Paths that need no key: those of probes, and those by which viewers ask a person for the password."""
PAGE_PATH = "/"
PAGE_PREFIX = "/page/"
"""The annotator's page: it holds no data, and asks the person for the key."""
_BEARER = "bearer "


class Guard:
    """Refuses requests before their bodies are read; the others go on to the application."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._key = settings.key
        self._origins = settings.allowed_origins
        self._names = {
            "localhost",
            settings.host.lower(),
            socket.gethostname().lower(),
            *settings.allowed_hosts,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except HttpError as error:
                await discard_rest(scope, receive)
                is_viewers = is_viewer_path(scope["path"])
                answer = error_answer(error, {}) if is_viewers else error_response(error, closes=True)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        host = header(scope, b"host").lower()
        self._check_host(host)
        if header(scope, b"sec-fetch-site").lower() == "cross-site" and is_viewer_path(scope["path"]):
            # ITK-SNAP changes things by GET, which any page can have a browser send without an Origin.
            raise NotAllowed("pages of other sites may not call these paths; viewers and programs may")
        self._check_origin(header(scope, b"origin").lower(), host)
        is_preflight = scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method")
        if self._key is not None and not _is_open(scope["path"]) and not is_preflight:
            authorization = header(scope, b"authorization")
            if is_viewer_path(scope["path"]):
                check_viewer_key(authorization, self._key)
            else:
                _check_key(authorization, self._key)

    def _check_host(self, host: str) -> None:
        """Refuse names that are not this server's: a foreign page may let its own name point here."""
        name = _name_of(host)
        if name in self._names or _is_address(name):
            return
        raise NotAllowed(
            f"{shown(host)} is not a name of this server; if it is, add it to MEDSAM2_ALLOWED_HOSTS"
        )

    def _check_origin(self, origin: str, host: str) -> None:
        """Refuse pages of other sites; programs send no `Origin`."""
        if not origin or origin in self._origins or origin.partition("://")[2] == host:
            return
        raise NotAllowed(
            f"pages of {shown(origin)} may not call this server; add it to MEDSAM2_ALLOWED_ORIGINS if so"
        )


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path == PAGE_PATH or path.startswith(PAGE_PREFIX)


def _check_key(authorization: str, key: bytes) -> None:
    if not authorization.lower().startswith(_BEARER):
        raise KeyMissing("this server needs a key: send it as the header Authorization: Bearer KEY")
    given = authorization[len(_BEARER) :].strip()
    if not hmac.compare_digest(given.encode("latin-1"), key):
        raise NotAllowed("the key is not that of this server")


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    """Whether a host is an address, which no name server can point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
