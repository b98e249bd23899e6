"""A `medsam2 serve` process with a key and little patience, and a caller who minds his own business."""

from __future__ import annotations

import base64
import gzip
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import nibabel
import numpy as np

KEY = "the-key-of-this-server"
PATIENCE_S = 2.0
"""Of the server, with headers, bodies and those who take no answer."""
MAX_BODY_MIB = 16
MAX_VOLUME_MIB = 256
TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Live:
    """A server that runs."""

    port: int
    client: httpx.Client
    """Has the key."""
    site_port: int
    """Of a host that the server may fetch from, which sends it on to wherever a path below /to/ says."""

    def score(self, row: dict[str, object]) -> httpx.Response:
        """Ask for the mask of one row."""
        return self.client.post("/score", json={"dataframe_records": [row]})

    def figure(self, name: str) -> float:
        """A figure of /metrics, the sum over its labels."""
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        return sum(map(float, found))

    def resident_mib(self) -> float:
        """Memory of the server's process, its readers left out."""
        return self.figure("process_resident_memory_bytes") / 2**20

    def connect(self) -> socket.socket:
        """Open a connection to write to by hand."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)

    def is_at_rest(self) -> bool:
        """Wait for the end of all requests; whether it came."""
        end = time.monotonic() + 5 * PATIENCE_S
        while self.figure("medsam2_requests_in_flight") or self.figure("medsam2_reserved_bytes"):
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True


def head(*lines: str, path: str = "/score") -> bytes:
    """The beginning of a request with the key; its end is for the caller to send."""
    usual = (f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {KEY}")
    return "".join(f"{line}\r\n" for line in (*usual, *lines)).encode()


def heard(connection: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except OSError:  # it hung up while it was sent something
        pass
    return received


def status_of(answer: bytes) -> str:
    """The status of an answer as it came, or that the server hung up without one."""
    return answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/") else "hung up"


def sound_row() -> dict[str, object]:
    """A scan of a bright ball, and a box around it."""
    z, y, x = np.mgrid[:12, :56, :64]
    ball = ((x - 31.5) / 10) ** 2 + ((y - 27.5) / 10) ** 2 + ((z - 5.5) / 4) ** 2 < 1
    grey = np.random.default_rng(0).normal(60, 8, ball.shape) + 120 * ball
    content = nibabel.Nifti1Image(grey.T.astype(np.int16), np.eye(4)).to_bytes()
    return row_of(gzip.compress(content, mtime=0)) | {"bbox": [22, 18, 41, 37], "key_slice_idx": 5}


def row_of(file: bytes) -> dict[str, object]:
    """A row with some file, and a small box on its first slice."""
    return {
        "nii_image": base64.b64encode(file).decode(),
        "bbox": [1, 1, 4, 3],
        "key_slice_idx": 0,
        "dicom_window": [0, 255],
    }


@contextmanager
def live_server(num_connections: int = 512) -> Iterator[Live]:
    """Run a server, and beside it the host that it may fetch from."""
    with _site() as site_port, _process(site_port, num_connections) as (process, port):
        assert process.stderr is not None
        headers = {"Authorization": f"Bearer {KEY}"}
        transport = httpx.HTTPTransport(retries=5)
        with (
            # Or the pipe fills and all stops.
            ThreadPoolExecutor(1) as drain,
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=TIMEOUT_S, transport=transport
            ) as client,
        ):
            drain.submit(lambda: [None for _ in process.stderr or ()])
            try:
                yield Live(port=port, client=client, site_port=site_port)
            finally:
                process.kill()


@contextmanager
def _process(site_port: int, num_connections: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDSAM2_")}
    settings = {
        "API_KEY": KEY,
        "HEADER_TIMEOUT_S": PATIENCE_S,
        "BODY_TIMEOUT_S": PATIENCE_S,
        "SEND_TIMEOUT_S": PATIENCE_S,
        "FETCH_TIMEOUT_S": PATIENCE_S,
        "MAX_BODY": MAX_BODY_MIB,
        "MAX_VOLUME": MAX_VOLUME_MIB,
        "MAX_CONNECTIONS": num_connections,
        "READERS": 1,
    }
    environment = kept | {f"MEDSAM2_{name}": str(value) for name, value in settings.items()}
    hosts = [f"127.0.0.1:{site_port}", socket.gethostname(), "127.1", "::ffff:127.0.0.1", "10.0.0.1"]
    command = [sys.executable, "-m", "medsam2", "serve", "--port", "0", "--allow-urls", *hosts]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+:(\d+)", line)
        if not found:
            process.kill()
            raise SystemExit(line)
        yield process, int(found[1])


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.path.removeprefix("/to/"))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _site() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
