"""A server with a tiny network on a free port of this machine, and a scan in a file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from medsam2.imaging.io import write
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime
from medsam2.serving.run import listen, server_for
from medsam2.serving.settings import load_settings

PATIENCE_S = 120.0


@pytest.fixture(scope="session")
def predictor(runtime: Runtime) -> Predictor:
    """The tiny network."""
    return Predictor(runtime)


@pytest.fixture(scope="session")
def run_server(predictor: Predictor) -> Callable[..., AbstractContextManager[str]]:
    """Run a server with settings for as long as a `with` lasts; gives its address."""

    @contextmanager
    def running(**given: object) -> Iterator[str]:
        settings = load_settings({"port": 0, "readers": 1, **given})
        with listen(settings.host, settings.port) as listener:
            server = server_for(predictor, settings)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            end = time.monotonic() + PATIENCE_S
            try:
                while not server.started:
                    assert thread.is_alive()
                    assert time.monotonic() < end
                    time.sleep(0.02)
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join(PATIENCE_S)
                assert not thread.is_alive()

    return running


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server may open files from."""
    return tmp_path_factory.mktemp("folder")


@pytest.fixture(scope="session")
def url(run_server: Callable[..., AbstractContextManager[str]], folder: Path) -> Iterator[str]:
    """A server for all tests that leave it as it was."""
    with run_server(folder=folder) as address:
        yield address


@pytest.fixture
def scan(scan: Volume) -> Volume:
    """The block and a little around it, since every plane is cut: 9 slices of 24 x 28 pixels."""
    return Volume.from_array(
        np.ascontiguousarray(scan.array[:, 8:32, 14:42]), scan.spacing, scan.origin, modality="MR"
    )


@pytest.fixture
def scan_path(scan: Volume, folder: Path) -> Path:
    """The scan as a file, in the server's folder as well as here."""
    path = folder / "case 1" / "scan.nrrd"
    path.parent.mkdir(exist_ok=True)
    write(scan, path)
    return path
