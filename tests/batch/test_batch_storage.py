"""Images at URLs: fetched from real servers on this machine, within bounds, and noticed when they change."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pytest

from medsam2.batch.storage import at_hand, list_urls, shown, state_of
from medsam2.errors import InputError

pytest.importorskip("aiohttp", reason="needs the extra batch")

CONTENT = bytes(range(256)) * 5000  # more than a chunk
LISTING = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><IsTruncated>false</IsTruncated>
<Contents><Key>scans/a.nii.gz</Key><Size>{size}</Size><LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>
<Contents><Key>scans/b.txt</Key><Size>3</Size><LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>
</ListBucketResult>"""


class Shelf(ThreadingHTTPServer):
    """Serves files, and enough of S3 for one bucket; it can be told to fail."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {"/scans/a.nii.gz": CONTENT}
        self.etag = "one"
        self.failures_left = 0
        self.gets = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Shelf

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        shelf, parts = self.server, urlsplit(self.path)
        shelf.gets += with_body
        path = parts.path.removeprefix("/bucket")
        if shelf.failures_left and with_body:
            shelf.failures_left -= 1
            self._send(503, b"later", with_body)
        elif "list-type=2" in parts.query:
            self._send(200, LISTING.format(size=len(CONTENT)).encode(), with_body)
        elif path not in shelf.files:
            self._send(404, b"", with_body)
        else:
            self._send_file(shelf.files[path], with_body)

    def _send_file(self, content: bytes, with_body: bool) -> None:
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(200, content, with_body)
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1 if last else None]
        self._send(206, part, with_body, f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")

    def _send(self, code: int, body: bytes, with_body: bool, part: str | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{self.server.etag}"')
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        if part is not None:
            self.send_header("Content-Range", part)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    server = Shelf()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_image_is_fetched_and_gone_afterwards(shelf: Shelf) -> None:
    with at_hand(f"{shelf.url}/scans/a.nii.gz?sig=secret", 4) as path:
        assert path.read_bytes() == CONTENT
        assert path.name == "image.nii.gz"
    assert not path.parent.exists()
    assert shelf.gets == 1


def test_more_than_is_allowed_is_not_fetched(shelf: Shelf) -> None:
    with (
        pytest.raises(InputError, match="is larger than 1 MiB; raise --max-download"),
        at_hand(f"{shelf.url}/scans/a.nii.gz", 1),
    ):
        pass


def test_storage_that_stumbles_is_asked_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medsam2.batch.storage.FIRST_PAUSE_S", 0.01)
    shelf.failures_left = 2
    with at_hand(f"{shelf.url}/scans/a.nii.gz", 4) as path:
        assert path.read_bytes() == CONTENT
    shelf.failures_left = 3
    with (
        pytest.raises(InputError, match=r"a\.nii\.gz: cannot be fetched: .*503"),
        at_hand(f"{shelf.url}/scans/a.nii.gz?sig=secret", 4),
    ):
        pass


def test_what_is_not_there_is_asked_for_once(shelf: Shelf) -> None:
    with (
        pytest.raises(InputError, match=r"gone\.nii: cannot be fetched: no such file"),
        at_hand(f"{shelf.url}/gone.nii?sig=secret", 4),
    ):
        pass
    assert shelf.gets == 1
    with pytest.raises(InputError, match=r"gone.nii: cannot be fetched: no such file$"):
        state_of(f"{shelf.url}/gone.nii?sig=secret")


def test_a_change_at_a_url_is_noticed(shelf: Shelf) -> None:
    url = f"{shelf.url}/scans/a.nii.gz"
    first = state_of(url)
    assert first == state_of(url)
    assert first["size"] == len(CONTENT)
    shelf.etag = "two"
    assert state_of(url) != first


def test_s3_with_the_client_of_pyarrow(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra batch")
    said = {"endpoint_url": shelf.url, "key": "k", "secret": "s", "region_name": "us-east-1"}
    monkeypatch.setitem(fsspec.config.conf, "s3", said)
    assert list_urls("s3://bucket/scans/*.nii.gz") == ["s3://bucket/scans/a.nii.gz"]
    assert state_of("s3://bucket/scans/a.nii.gz")["size"] == len(CONTENT)
    with at_hand("s3://bucket/scans/a.nii.gz", 4) as path:
        assert path.read_bytes() == CONTENT
    with pytest.raises(InputError, match=r"gone\.nii: cannot be fetched: no such file"):
        state_of("s3://bucket/scans/gone.nii")


def test_a_host_that_is_not_there_is_no_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medsam2.batch.storage.FIRST_PAUSE_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refusing = f"http://127.0.0.1:{taken.getsockname()[1]}/a.nii"
    with pytest.raises(
        InputError, match=r"a\.nii: cannot be fetched: its host cannot be reached, connection ref"
    ):
        state_of(refusing)
    with pytest.raises(InputError, match="cannot be fetched: its host has no address"):
        state_of("http://nowhere.invalid/a.nii")


@pytest.mark.parametrize(
    "url", ["nowhere://x/a.nii", "simplecache::http://x/a.nii", "http://127.0.0.1:9/a.nii"]
)
def test_urls_that_cannot_be_fetched(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medsam2.batch.storage.FIRST_PAUSE_S", 0.01)
    with pytest.raises(InputError, match=r"x/a\.nii: |9/a\.nii: cannot be fetched"):
        state_of(url)


def test_folders_and_files(tmp_path: Path) -> None:
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / name).write_bytes(b"x")
    folder, file = state_of(str(tmp_path)), state_of(str(tmp_path / "1.dcm"))
    assert (folder["files"], file["size"]) == (2, 1)
    os.utime(tmp_path / "1.dcm", (1, 1))
    assert state_of(str(tmp_path)) != folder
    assert state_of(str(tmp_path / "1.dcm")) != file
    for place in (str(tmp_path / "gone"), "nul\0"):
        with pytest.raises(InputError):
            state_of(place)
    with at_hand(str(tmp_path), 1) as path:
        assert path == tmp_path


def test_signatures_are_not_said() -> None:
    assert shown("https://h/a.nii?X-Amz-Signature=1") == "https://h/a.nii"
    assert shown("/d/what?.nii") == "/d/what?.nii"
