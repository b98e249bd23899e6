"""Where images lie: local disks as they are, anything else fetched through fsspec when its turn comes."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from medsam2.errors import InputError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

ATTEMPTS = 3
FIRST_PAUSE_S = 1.0  # doubled after each failed attempt
_CHUNK = 1 << 20
_MIB = 1 << 20
# What storage calls the mark that changes with a file's content.
_MARKS = ("ETag", "Content-MD5", "LastModified", "Last-Modified", "last_modified", "mtime", "updated")
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, InputError)
"""Errors that no second attempt changes."""

_NO_CONNECTION = (errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPIPE)

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)


def is_url(place: str) -> bool:
    """Say whether a place is not on this machine's disks."""
    return "://" in place


def state_of(place: str) -> dict[str, object]:
    """Say what shows that a file is still the same, without reading it: its size and time of change.

    Args:
        place: A file, a folder of DICOM files, or a URL.

    Raises:
        InputError: It is not there, or cannot be asked for.
    """
    if is_url(place):
        return _state_of_url(place)
    path = Path(place)
    try:
        if not path.is_dir():
            found = path.stat()
            return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}
        files = sorted(one for one in path.rglob("*") if one.is_file())
        listed = [(str(one.relative_to(path)), one.stat().st_size, one.stat().st_mtime_ns) for one in files]
    except FileNotFoundError:
        raise InputError(f"{place}: no such file") from None
    except (OSError, ValueError) as error:  # the latter for a name with a null byte
        raise InputError(f"{place}: cannot be read: {error}") from error
    return {"files": len(listed), "listing": sha256(repr(listed).encode()).hexdigest()}


@contextmanager
def at_hand(place: str, max_mib: int) -> Iterator[Path]:
    """Give a file that can be opened; what was fetched is gone afterwards.

    Args:
        place: A file, a folder or a URL.
        max_mib: The most that is fetched.

    Raises:
        InputError: It cannot be fetched, or is larger.
    """
    if not is_url(place):
        yield Path(place)
        return
    with TemporaryDirectory(prefix="medsam2-") as folder:
        # Readers choose by the suffix; the rest of the name may be a patient's.
        path = Path(folder) / f"image{_suffix(place)}"
        _fetch(place, path, max_mib)
        yield path


def list_urls(pattern: str) -> list[str]:
    """Return the URLs that match a pattern of a storage that lists what it holds.

    Raises:
        InputError: It cannot be asked.
    """
    try:
        system, path = _system(pattern)
        scheme = f"{pattern.partition('://')[0]}://"
        return sorted(one if is_url(one) else scheme + one for one in system.glob(path))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{shown(pattern)}: cannot be listed: {_reason(error)}") from error


def shown(place: str) -> str:
    """A place for messages: a URL without its query, which may be a signature."""
    return place.partition("?")[0] if is_url(place) else place


def _state_of_url(url: str) -> dict[str, object]:
    def ask() -> dict[str, object]:
        system, path = _system(url)
        found = system.info(path)
        marks = {mark: str(found[mark]) for mark in _MARKS if found.get(mark)}
        return {"size": found.get("size"), **marks}

    return _tried(url, ask)


def _fetch(url: str, path: Path, max_mib: int) -> None:
    def fetch() -> None:
        system, remote = _system(url)
        is_http = url.lower().startswith("http")
        num_bytes = 0
        # A server is asked for a file once, from its beginning to its end; storage knows to seek.
        with (
            system.open(remote, "rb", **({"block_size": 0} if is_http else {})) as source,
            path.open("wb") as target,
        ):
            while chunk := source.read(_CHUNK):
                num_bytes += len(chunk)
                if num_bytes > max_mib * _MIB:
                    raise InputError(f"{shown(url)}: holds more than {max_mib} MiB; raise --max-download")
                target.write(chunk)

    _tried(url, fetch)


def _tried(url: str, work: Callable[[], _T]) -> _T:
    pause_s = FIRST_PAUSE_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except InputError:
            raise
        except Exception as error:  # every storage has exceptions of its own
            if attempt == ATTEMPTS or isinstance(error, _FINAL):
                raise InputError(f"{shown(url)}: cannot be fetched: {_reason(error)}") from error
            _logger.info("%s: attempt %d failed: %s", shown(url), attempt, error)
            time.sleep(pause_s)
            pause_s *= 2
    raise AssertionError("the last attempt returns or raises")


def _system(url: str) -> tuple[AbstractFileSystem, str]:
    """The storage of a URL, with the passwords that fsspec finds for it, and the path in it."""
    from fsspec.core import url_to_fs

    if "::" in url:
        raise InputError(f"{shown(url)}: chained URLs are not fetched; give the one that the file has")
    scheme = urlsplit(url).scheme
    try:
        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        if scheme != "s3":
            raise InputError(f"{shown(url)}: cannot be fetched: {_reason(error)}") from error
        return _arrow_s3(url)
    return system, path


def _arrow_s3(url: str) -> tuple[AbstractFileSystem, str]:
    """S3 without s3fs: Arrow's own client.

    It takes key, secret, token, anon, endpoint_url and region_name from fsspec's configuration, as s3fs does,
    and what is not there from where Amazon's tools have it.
    """
    from fsspec.config import conf
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import S3FileSystem

    said = conf.get("s3", {})
    endpoint = urlsplit(said.get("endpoint_url") or "")
    found = {
        "access_key": said.get("key"),
        "secret_key": said.get("secret"),
        "session_token": said.get("token"),
        "region": said.get("region_name") or said.get("client_kwargs", {}).get("region_name"),
        "endpoint_override": endpoint.netloc or None,
        "scheme": endpoint.scheme or None,
    }
    is_anonymous = str(said.get("anon", "")).lower() in ("true", "1")
    given = {name: value for name, value in found.items() if value}
    return ArrowFSWrapper(S3FileSystem(anonymous=is_anonymous, **given)), url.partition("://")[2]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # fsspec says of every failure over http that there is no such file; what happened is its cause.
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    for one in causes:
        if (said := _connection_words(one)) is not None:
            return said
    return "no such file" if isinstance(error, FileNotFoundError) else text.partition("?")[0][:300]


def _connection_words(error: BaseException) -> str | None:
    """What a failed connection or answer is called, None for other errors."""
    if isinstance(error, socket.gaierror):
        return "its host has no address"
    if isinstance(error, ssl.SSLError):
        return "its certificate is not accepted"
    if isinstance(error, TimeoutError):
        return "its host does not answer in time"
    if isinstance(error, OSError) and error.errno in _NO_CONNECTION:
        return f"its host cannot be reached, {os.strerror(error.errno).lower()}"
    status = getattr(error, "status", None)  # aiohttp's, of an answer
    return f"its host answers {status}" if isinstance(status, int) and status != 404 else None


def _suffix(url: str) -> str:
    name = PurePosixPath(urlsplit(url).path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else PurePosixPath(name).suffix
