"""URLs in requests: fetched from where the operator allows, and never from this network."""

from __future__ import annotations

import asyncio
import http.server
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medsam2.errors import InputError, MedSAM2Error
from medsam2.serving.fetch import MAX_REDIRECTS, check_address, fetch, target_of
from medsam2.serving.http_errors import status_of
from medsam2.serving.settings import ServerSettings, load_settings

FILE = b"voxels" * 1000


class Site(http.server.BaseHTTPRequestHandler):
    """What hosts may do: give, redirect, refuse, be slow, give more than they say."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.answer(302, location=rest)
        elif kind == "nowhere":
            self.answer(302)
        elif kind == "round":
            self.answer(307, location=self.path)
        elif kind == "slow":
            time.sleep(0.6)
            self.answer(200, FILE)
        elif kind == "large":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(40):
                self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        elif kind == "announced":
            self.send_response(200)
            self.send_header("Content-Length", str(10**12))
            self.end_headers()
        elif kind == "broken":
            self.wfile.write(b"this is no HTTP")
            self.close_connection = True
        elif kind == "gone":
            self.answer(404, b"no")
        else:
            self.answer(200, FILE)

    def answer(self, status: int, body: bytes = b"", location: str | None = None) -> None:
        self.send_response(status)
        if location is not None:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class QuietServer(http.server.ThreadingHTTPServer):
    """Does not tell the terminal that a client has left, which is what ours does on purpose."""

    def handle_error(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[QuietServer]:
    server = QuietServer(("127.0.0.1", 0), Site)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def port(site: QuietServer) -> int:
    site.asked.clear()
    return site.server_port


def settings_for(*hosts: str, **given: object) -> ServerSettings:
    return load_settings({"allow_urls": hosts, "max_body": 1, **given})


def fetched(url: str, tmp_path: Path, settings: ServerSettings) -> bytes:
    path = tmp_path / "image"
    asyncio.run(fetch(url, path, settings))
    return path.read_bytes()


def refused(url: str, tmp_path: Path, settings: ServerSettings, status: int = 422) -> str:
    with pytest.raises(MedSAM2Error) as caught:
        asyncio.run(fetch(url, tmp_path / "image", settings))
    assert status_of(caught.value) == status
    return str(caught.value)


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Have names resolve to addresses, another answer each time; the last one stays."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def answer(host: str, port: int, *args: object, **kwargs: object) -> list[tuple[object, ...]]:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            addresses = answers[min(len(asked), len(answers) - 1)]
            asked.append(host)
            families = {4: socket.AF_INET, 6: socket.AF_INET6}
            return [
                (families[ipaddress.ip_address(a).version], socket.SOCK_STREAM, 6, "", (a, port))
                for a in addresses
            ]
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return asked


def test_a_file_is_fetched_from_an_allowed_host(site, port: int, tmp_path: Path) -> None:
    settings = settings_for(f"127.0.0.1:{port}")
    assert fetched(f"http://127.0.0.1:{port}/file?a=1&b=%20", tmp_path, settings) == FILE
    ((path, headers),) = site.asked
    assert path == "/file?a=1&b=%20"
    assert headers["Host"] == f"127.0.0.1:{port}"
    assert headers["Accept-Encoding"] == "identity"


def test_redirects_are_followed_where_they_may_lead(site, port: int, tmp_path: Path) -> None:
    settings = settings_for(f"127.0.0.1:{port}", f"localhost:{port}")
    assert fetched(f"http://127.0.0.1:{port}/to//file", tmp_path, settings) == FILE
    far = f"http://127.0.0.1:{port}/to/http://localhost:{port}/file"
    (tmp_path / "image").unlink()
    assert fetched(far, tmp_path, settings) == FILE
    assert f"more than {MAX_REDIRECTS}" in refused(f"http://127.0.0.1:{port}/round", tmp_path, settings)
    assert "302" in refused(f"http://127.0.0.1:{port}/nowhere", tmp_path, settings)


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:127.0.0.1]/",
        "https://10.0.0.1/",
        "https://inside.example/",
        "http://other.example/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/file",
        "http://[::1",
        "https://data.example:99999/",
    ],
)
def test_a_redirect_is_checked_as_the_url_was(
    site, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """Even to hosts that are allowed by name, when they lie in a private network."""
    resolving(monkeypatch, ["192.168.0.9"])
    hosts = (f"127.0.0.1:{port}", "169.254.169.254", "::ffff:127.0.0.1", "::ffff:7f00:1", "10.0.0.1")
    settings = settings_for(*hosts, "inside.example")
    refused(f"http://127.0.0.1:{port}/to/{location}", tmp_path, settings)
    assert [path for path, _ in site.asked] == [f"/to/{location}"]
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::",
        "::127.0.0.1",
    ],
)  # fmt: skip
def test_a_name_that_leads_inside_is_refused(address: str) -> None:
    target = target_of("https://data.example/a.nii", ["data.example"])
    with pytest.raises(InputError, match="private network"):
        check_address(target, address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111"])
def test_a_name_that_leads_outside_is_not(address: str) -> None:
    check_address(target_of("https://data.example/a.nii", ["data.example"]), address)


def test_no_address_of_a_name_may_lead_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ["8.8.8.8", "127.0.0.1"])
    sentence = refused("https://data.example/a.nii", tmp_path, settings_for("data.example"))
    assert "private network" in sentence


def test_the_address_that_was_checked_is_the_one_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that says something else the second time is not asked a second time."""
    asked = resolving(monkeypatch, ["203.0.114.1"], ["127.0.0.1"])
    connected = []

    async def connect(self: object, protocol: object, host: str, port: int, **_: object) -> None:
        connected.append((host, port))
        raise OSError("not in a test")

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", connect)
    refused("https://data.example/a.nii", tmp_path, settings_for("data.example"))
    assert asked == ["data.example"]
    assert connected == [("203.0.114.1", 443)]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://data.example/a.nii", ("https",)),
        ("https://other.example/a.nii", ("other.example", "data.example")),
        ("https://data.example:22/a.nii", ("data.example:22",)),
        ("https://user:secret@data.example/a.nii", ("password",)),
        ("https://data.example@other.example/", ("user name",)),
        ("https://data.example:99999/", ("no URL",)),
        ("https://[::1/", ("no URL",)),
        ("https:///a.nii", (":443",)),
        ("http://127.0.0.1/", ("127.0.0.1:80",)),
    ],
)
def test_a_url_that_is_not_fetched_says_why(url: str, words: tuple[str, ...], tmp_path: Path) -> None:
    sentence = refused(url, tmp_path, settings_for("data.example"))
    for word in words:
        assert word in sentence
    assert "secret" not in sentence


@pytest.mark.parametrize("path", ["a\x00b", "a" * 100_000, "a\x7fb"])
def test_a_path_that_no_url_has_is_refused(port: int, tmp_path: Path, path: str) -> None:
    refused(f"http://127.0.0.1:{port}/{path}", tmp_path, settings_for(f"127.0.0.1:{port}"))


def test_without_hosts_nothing_is_fetched(tmp_path: Path) -> None:
    assert "--allow-urls" in refused("https://data.example/", tmp_path, settings_for())


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [("large", 413, "1 MiB"), ("announced", 413, "1 MiB"), ("gone", 422, "404"), ("broken", 422, "fetched")],
)
def test_what_a_host_gives_is_bounded(port: int, tmp_path: Path, path: str, status: int, word: str) -> None:
    settings = settings_for(f"127.0.0.1:{port}")
    assert word in refused(f"http://127.0.0.1:{port}/{path}", tmp_path, settings, status)


def test_a_slow_host_is_a_504(port: int, tmp_path: Path) -> None:
    settings = settings_for(f"127.0.0.1:{port}", fetch_timeout_s=0.2)
    assert "0.2 s" in refused(f"http://127.0.0.1:{port}/slow", tmp_path, settings, 504)


def test_a_host_that_is_not_there_is_a_422(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        refused(f"http://127.0.0.1:{port}/", tmp_path, settings_for(f"127.0.0.1:{port}"))


def test_a_live_server_fetches_and_refuses(
    serve, site, port: int, table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, ["127.0.0.1"])
    live = serve(allow_urls=(f"127.0.0.1:{port}", "rebound.example"))
    at = f"http://127.0.0.1:{port}"
    two = {name: entries * 3 for name, entries in table.items()}
    two["nii_image"] = [f"{at}/file", "https://rebound.example/", f"{at}/to/https://169.254.169.254/"]
    first, second, third = live.score(two).json()
    assert "not a NIfTI file" in first["error"]  # it was fetched, and is none
    assert "private network" in second["error"]
    assert "169.254.169.254" in third["error"]
    assert {row["status"] for row in (first, second, third)} == {422}
