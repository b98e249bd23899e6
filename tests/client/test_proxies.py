"""A proxy in the environment: it never gets what is meant for this machine, and errors name it."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import medsam2
from medsam2.errors import InputError, ServerError
from medsam2.imaging.volume import Volume
from medsam2.proxies import is_this_machine, proxy_for

BOX = (4.0, 4.0, 23.0, 17.0)
NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class SmallProxy:
    """Keeps what it gets and answers each connection with a page of its own."""

    def __init__(self) -> None:
        self.got = bytearray()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                asked, _ = self._socket.accept()
            except OSError:
                return
            with asked:
                asked.settimeout(0.5)
                try:
                    while part := asked.recv(65536):
                        self.got.extend(part)
                except TimeoutError:
                    pass
                asked.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 20\r\n\r\n<h1>Proxy's own</h1>")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # an `accept` that waits keeps a closed one open
        self._socket.close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallProxy]:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    small = SmallProxy()
    yield small
    small.close()


@pytest.mark.parametrize(
    "given",
    [
        {"HTTP_PROXY": "http://{}"},
        {"http_proxy": "{}"},
        {"ALL_PROXY": "http://user:word@{}", "NO_PROXY": "hospital.lan"},
        {"ALL_PROXY": "socks5://{}"},
        {"HTTP_PROXY": "no scheme://{}"},
    ],
)
def test_what_is_meant_for_this_machine_passes_no_proxy(
    given: dict[str, str], proxy: SmallProxy, url: str, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value.format(proxy.address))
    for server in (url, url.replace("127.0.0.1", "localhost")):
        with medsam2.Client(server, "SECRET") as client:
            with client.session(scan, window=(0, 255)) as session:
                session.add(1, slice=4, box=BOX)
            row = {"nii_image": scan, "key_slice_idx": 4, "dicom_window": [0, 255], "bbox": BOX}
            client.score([row])
    assert proxy.got == b""


def test_errors_name_the_proxy_and_how_to_do_without(
    proxy: SmallProxy, scan_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:word@{proxy.address}")
    with medsam2.Client("http://scans.example:8000") as client:
        with pytest.raises(ServerError, match="answers 503") as caught:
            client.session(scan_path)
        assert f"the proxy http://{proxy.address} of HTTP_PROXY" in str(caught.value)
        assert "NO_PROXY=scans.example" in str(caught.value)
        assert "word" not in str(caught.value)
        assert b"http://scans.example:8000/v1/sessions" in proxy.got
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gone = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("HTTP_PROXY", gone)
    with (
        medsam2.Client("http://scans.example:8000") as client,
        pytest.raises(ServerError, match="cannot be reached") as caught,
    ):
        client.open("x.nii")
    assert f"the proxy {gone} of HTTP_PROXY" in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("socksio") is not None, reason="httpx[socks] is installed")
def test_socks_without_its_package_is_one_sentence(
    proxy: SmallProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://{proxy.address}")
    with pytest.raises(
        InputError, match=r"the proxy socks5://.* of ALL_PROXY, .*pip install 'httpx\[socks\]'"
    ):
        medsam2.Client("https://scans.example")


def test_a_proxy_that_is_none_is_named(proxy: SmallProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("ftp://proxy.lan:21", "http://proxy.lan:port"):
        monkeypatch.setenv("HTTPS_PROXY", wrong)
        with pytest.raises(InputError, match="HTTPS_PROXY"):
            medsam2.Client("https://scans.example")
    with pytest.raises(InputError, match="is not a URL"):
        medsam2.Client("http://[::1")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.255.3.4", "127.1", "0x7f000001", "2130706433", "::1", "[::1]", "0:0:0:0:0:0:0:1"),
        *("::ffff:127.0.0.1", "localhost", "LOCALHOST", "localhost.", "a.localhost", "0.0.0.0", "::"),
        socket.gethostname(),
    ],
)
def test_ways_to_write_this_machine(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize(
    "host", ["", "10.0.0.1", "128.0.0.1", "::2", "localhost.lan", "127.example", "fe80::1"]
)
def test_other_machines(host: str) -> None:
    assert not is_this_machine(host)


@pytest.mark.parametrize(
    ("url", "no_proxy", "variable"),
    [
        ("http://scans.lan", "", "HTTP_PROXY"),
        ("https://scans.lan", "", "ALL_PROXY"),
        ("http://scans.lan", "*", None),
        ("http://scans.lan:8000", "other.lan, scans.lan", None),
        ("http://scans.lan", ".lan", None),
        ("http://scans.lan", "*.lan", None),
        ("http://scans.lan", "ans.lan", "HTTP_PROXY"),
        ("http://10.1.2.3:8000", "10.0.0.0/8", None),
        ("http://11.1.2.3:8000", "10.0.0.0/8", "HTTP_PROXY"),
        ("http://[fd00::5]:8000", "fd00::5", None),
        ("http://[fd00::5]:8000", "fd00::/16", None),
        ("http://127.0.0.1:8000", "scans.lan", None),
        ("https://[::1]", "", None),
    ],
)
def test_no_proxy_holds_names_addresses_and_networks(
    url: str, no_proxy: str, variable: str | None, proxy: SmallProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "proxy.lan:3128")
    monkeypatch.setenv("ALL_PROXY", "http://proxy.lan:3129")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    found = proxy_for(url)
    assert (None if found is None else found.variable) == variable


def test_viewers_archive_on_this_machine_passes_no_proxy(
    proxy: SmallProxy,
    run_server: Callable[..., AbstractContextManager[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")
    from medsam2.serving.http_errors import ArchiveFailed
    from medsam2.serving.monailabel.dicomweb import Address, Archive

    monkeypatch.setenv("ALL_PROXY", f"http://{proxy.address}")
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
    with run_server() as url:  # no archive, but it answers
        archive = Archive(Address.of(url.replace("//", "//user:word@")), timeout_s=5)
        with pytest.raises(ArchiveFailed, match="404"):
            archive.list_series("CT")
    assert proxy.got == b""
