"""Access to images: files on local disks directly, URLs by download through fsspec."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import glob
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
# Names of values that change with a file's content, in different storages.
_MARKS = ("ETag", "Content-MD5", "LastModified", "Last-Modified", "last_modified", "mtime", "updated")
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, InputError)
"""Errors that a second attempt cannot avoid."""

_NO_CONNECTION = (errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPIPE)

_WILD = re.compile(r"\*\*/|(?:\*|\?|\[[^\]]+\])+")

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)


def is_url(place: str) -> bool:
    """Return whether a place is a URL and not a file on this machine."""
    return "://" in place


def state_of(place: str) -> dict[str, object]:
    """Return values that change when a file changes, without reading it: its size and time of change.

    Args:
        place: A file, a folder of DICOM files, or a URL.

    Raises:
        InputError: It is missing or cannot be reached.
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
    """Yield a local file; a downloaded one is deleted afterwards.

    Args:
        place: A file, a folder or a URL.
        max_mib: Largest download.

    Raises:
        InputError: It cannot be downloaded, or is larger.
    """
    if not is_url(place):
        yield Path(place)
        return
    with TemporaryDirectory(prefix="medsam2-") as folder:
        # Readers need the suffix; the rest of the name may identify a patient.
        path = Path(folder) / f"image{_suffix(place)}"
        _fetch(place, path, max_mib)
        yield path


def list_urls(pattern: str) -> list[str]:
    """Return the URLs that match a pattern, from a storage that can list files.

    Raises:
        InputError: The storage cannot be listed.
    """
    try:
        system, path = _system(pattern)
        scheme = f"{pattern.partition('://')[0]}://"
        return sorted(one if is_url(one) else scheme + one for one in system.glob(path))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{shown(pattern)}: cannot be listed: {_reason(error)}") from error


def find_images(pattern: str) -> dict[str, str]:
    """Return case to image, sorted by image.

    Args:
        pattern: A shell pattern such as `scans/*/ct.nii.gz`, with `**/` for any folders, or the URL of a
            storage that can list files. The parts of several stars are joined by `_`; `**/` is not part of
            the name.

    Raises:
        InputError: The pattern has no star, no file matches it, or two images have the same name.
    """
    if not _WILD.search(pattern.replace("**/", "")):
        raise InputError(
            f"--glob {pattern}: needs a star for the name of the case, such as scans/*/ct.nii.gz"
        )
    named = _expression(pattern)
    paths = list_urls(pattern) if is_url(pattern) else sorted(glob(pattern, recursive=True))
    found: dict[str, str] = {}
    for path in paths:
        match = named.fullmatch(path)
        case = "_".join(match.groups()) if match else Path(path).name
        if case in found:
            raise InputError(f"--glob {pattern}: {found[case]} and {path} are both called {case!r}")
        found[case] = path
    if not found:
        raise InputError(f"--glob {pattern}: matches no file")
    return found


def _expression(pattern: str) -> re.Pattern[str]:
    """Return the pattern as a regular expression with a group for each star."""
    parts: list[str] = []
    end = 0
    for wild in _WILD.finditer(pattern):
        parts += [re.escape(pattern[end : wild.start()]), "(?:.*/)?" if wild[0] == "**/" else "([^/]*)"]
        end = wild.end()
    return re.compile("".join((*parts, re.escape(pattern[end:]))))


def shown(place: str) -> str:
    """Return a place for messages: a URL without its query, which may be a signature."""
    return place.partition("?")[0] if is_url(place) else place


def _state_of_url(url: str) -> dict[str, object]:
    def look_up() -> dict[str, object]:
        system, path = _system(url)
        found = system.info(path)
        marks = {mark: str(found[mark]) for mark in _MARKS if found.get(mark)}
        return {"size": found.get("size"), **marks}

    return _tried(url, look_up)


def _fetch(url: str, path: Path, max_mib: int) -> None:
    def fetch() -> None:
        system, remote = _system(url)
        is_http = url.lower().startswith("http")
        num_bytes = 0
        # Over http read the file in one request from start to end; storages can seek.
        with (
            system.open(remote, "rb", **({"block_size": 0} if is_http else {})) as source,
            path.open("wb") as target,
        ):
            while chunk := source.read(_CHUNK):
                num_bytes += len(chunk)
                if num_bytes > max_mib * _MIB:
                    raise InputError(f"{shown(url)}: is larger than {max_mib} MiB; raise --max-download")
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
    """Return the storage of a URL, with the credentials that fsspec finds, and the path in it."""
    from fsspec.core import url_to_fs

    if "::" in url:
        raise InputError(f"{shown(url)}: chained URLs are not supported; give the URL of the file")
    scheme = urlsplit(url).scheme
    try:
        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        if scheme != "s3":
            raise InputError(f"{shown(url)}: cannot be fetched: {_reason(error)}") from error
        return _arrow_s3(url)
    return system, path


def _arrow_s3(url: str) -> tuple[AbstractFileSystem, str]:
    """Return S3 through Arrow's own client, for installations without s3fs.

    It reads key, secret, token, anon, endpoint_url and region_name from fsspec's configuration, as s3fs does,
    and missing values from the places that Amazon's tools use.
    """
    from fsspec.config import conf
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import S3FileSystem

    options = conf.get("s3", {})
    endpoint = urlsplit(options.get("endpoint_url") or "")
    found = {
        "access_key": options.get("key"),
        "secret_key": options.get("secret"),
        "session_token": options.get("token"),
        "region": options.get("region_name") or options.get("client_kwargs", {}).get("region_name"),
        "endpoint_override": endpoint.netloc or None,
        "scheme": endpoint.scheme or None,
    }
    is_anonymous = str(options.get("anon", "")).lower() in ("true", "1")
    given = {name: value for name, value in found.items() if value}
    return ArrowFSWrapper(S3FileSystem(anonymous=is_anonymous, **given)), url.partition("://")[2]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # fsspec reports every failure over http as a missing file; the real reason is its cause.
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    for one in causes:
        if (words := _connection_words(one)) is not None:
            return words
    return "no such file" if isinstance(error, FileNotFoundError) else text.partition("?")[0][:300]


def _connection_words(error: BaseException) -> str | None:
    """Describe a failed connection or answer; None for other errors."""
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
