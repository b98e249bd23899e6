"""A live server on a free port of this machine, with the shipped weights, and a scan to send to it."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
import uvicorn

from medsam2.inference.predictor import Predictor, load
from medsam2.inference.runtime import Runtime
from medsam2.serving.app import Extension
from medsam2.serving.run import listen, server_for
from medsam2.serving.settings import ServerSettings, load_settings

BOX = [22.0, 18.0, 41.0, 37.0]
WINDOW = [0.0, 255.0]
KEY_SLICE = 5
PATIENCE_S = 120.0  # the machine may be busy with something else


class Live:
    """A server that runs, and a client for it."""

    def __init__(self, server: uvicorn.Server, settings: ServerSettings, port: int) -> None:
        self.server = server
        self.settings = settings
        self.port = port
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S)

    def score(self, table: dict[str, object], **options: object) -> httpx.Response:
        return self.client.post("/score", json={"input_data": table}, **options)

    def figure(self, name: str) -> float:
        """A figure of /metrics, the sum over its labels."""
        lines = self.client.get("/metrics").text.splitlines()
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        assert found, name
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.05)


@contextmanager
def running(
    predictor: Predictor,
    *,
    extensions: Sequence[Extension] = (),
    **given: object,
) -> Iterator[Live]:
    """Run a server in a thread; at the end it finishes what it has begun."""
    settings = load_settings({"port": 0, "readers": 1, **given})
    with listen(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
        server = server_for(predictor, settings, extensions)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
        thread.start()
        live = Live(server, settings, port)
        try:
            live.wait_until(lambda: server.started or not thread.is_alive())
            assert server.started
            yield live
        finally:
            live.client.close()
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    """The shipped weights."""
    return load("compact", device="cpu")


@pytest.fixture(scope="session")
def server(predictor: Predictor) -> Iterator[Live]:
    """A server with nothing special about it, for all tests that leave it as it was."""
    with running(predictor) as live:
        yield live


@pytest.fixture(scope="session")
def run_server(predictor: Predictor) -> Callable[..., AbstractContextManager[Live]]:
    """Run a server with settings for as long as a `with` lasts."""
    return partial(running, predictor)


@pytest.fixture(scope="session")
def run_tiny(runtime: Runtime) -> Callable[..., AbstractContextManager[Live]]:
    """The same with a tiny network, where it does not matter what is found."""
    return partial(running, Predictor(runtime))


@pytest.fixture
def serve(predictor: Predictor) -> Iterator[Callable[..., Live]]:
    """Run a server of one's own, with settings."""
    with ExitStack() as stack:
        yield lambda **given: stack.enter_context(running(predictor, **given))


@pytest.fixture(scope="session")
def scan_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright ball in noise, 12 slices of 56 x 64 pixels, oblique in space; its header names somebody."""
    z, y, x = np.mgrid[:12, :56, :64]
    ball = ((x - 31.5) / 10) ** 2 + ((y - 27.5) / 10) ** 2 + ((z - 5.5) / 4) ** 2 < 1
    grey = np.random.default_rng(0).normal(60, 8, ball.shape) + 120 * ball
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([-0.8, 0.8, 2.5])
    affine[:3, 3] = 7, -3, 11
    image = nibabel.Nifti1Image(grey.T.astype(np.int16), affine)
    image.header["descrip"] = b"Jane Roe"
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nibabel.save(image, path)
    return path


@pytest.fixture(scope="session")
def scan(scan_path: Path) -> str:
    """The scan in base64."""
    return base64.b64encode(scan_path.read_bytes()).decode()


@pytest.fixture(scope="session")
def long_scan(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bright cylinder through 400 slices: seconds of work."""
    y, x = np.mgrid[:64, :64] - 32
    grey = np.random.default_rng(1).normal(60, 8, (400, 64, 64)) + 120 * (x * x + y * y < 100)
    path = tmp_path_factory.mktemp("long") / "long.nii.gz"
    nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.uint8), np.eye(4)), path)
    return base64.b64encode(path.read_bytes()).decode()


@pytest.fixture
def table(scan: str) -> dict[str, list[object]]:
    """The contract's sample with the scan."""
    return one_row(scan)


@pytest.fixture
def long_table(long_scan: str) -> dict[str, list[object]]:
    """A request that takes seconds."""
    return {**one_row(long_scan), "bbox": [[22.0, 22.0, 42.0, 42.0]], "key_slice_idx": [200]}


def one_row(image: str) -> dict[str, list[object]]:
    return {
        "nii_image": [image],
        "bbox": [BOX],
        "key_slice_idx": [KEY_SLICE],
        "dicom_window": [WINDOW],
        "slice_offset": [0],
    }
