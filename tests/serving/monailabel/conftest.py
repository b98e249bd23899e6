"""A folder of studies with a server on it, and MONAI Label's own Python client for that server."""

from __future__ import annotations

import gc
import importlib.util
import shutil
import subprocess
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import nibabel
import numpy as np
import pytest

import medsam2
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime

RELEASE = "monailabel==0.8.5"
MEMBER = "monailabel/client/client.py"
PATIENCE_S = 120


@pytest.fixture(scope="session")
def client_module(tmp_path_factory: pytest.TempPathFactory) -> types.ModuleType:
    """The client's module out of the wheel; what the wheel depends on is left alone."""
    pytest.importorskip("requests", reason="MONAI Label's client needs requests")
    pytest.importorskip(
        "cgi", reason="MONAI Label's client needs cgi, which Python has up to 3.12", exc_type=ImportError
    )
    folder = tmp_path_factory.mktemp("monailabel")
    options = ["--quiet", "--no-deps", "--retries", "1", "--timeout", "15", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, RELEASE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        pytest.skip("no package index answers, to fetch MONAI Label's client from")
    if done.returncode:
        pytest.skip("MONAI Label's client cannot be fetched from a package index")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(MEMBER, folder))
    spec = importlib.util.spec_from_file_location("monailabel_client", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # cgi
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def connect(client_module: types.ModuleType, tmp_path: Path) -> Iterator[Callable[..., object]]:
    """Make a client for a live server. It leaves files and sockets to the garbage collector."""
    folder = tmp_path / "client"
    folder.mkdir()

    def connect(live) -> object:
        return client_module.MONAILabelClient(
            f"http://127.0.0.1:{live.port}", tmpdir=str(folder), client_id="me"
        )

    yield connect
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def studies(tmp_path: Path, scan_path: Path) -> Path:
    """A folder with the scan, twice."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for name in ("alpha", "beta"):
        shutil.copyfile(scan_path, folder / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def tiny(runtime: Runtime) -> Predictor:
    """A network that finds nothing in particular, but quickly and the same every time."""
    return Predictor(runtime)


@pytest.fixture
def serve_tiny(run_tiny) -> Iterator[Callable[..., object]]:
    """Run a server of one's own with it."""
    with ExitStack() as stack:
        yield lambda **given: stack.enter_context(run_tiny(**given))


@pytest.fixture
def viewed(serve_tiny: Callable[..., object], studies: Path) -> object:
    """A server on the folder."""
    return serve_tiny(studies=str(studies))


@pytest.fixture(scope="module")
def shared_studies(tmp_path_factory: pytest.TempPathFactory, scan_path: Path) -> Path:
    """The same for tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("studies")
    shutil.copyfile(scan_path, folder / "alpha.nii.gz")
    medsam2.write(medsam2.read(scan_path), folder / "gamma.nrrd")
    return folder


@pytest.fixture(scope="module")
def shared_server(run_tiny, shared_studies: Path) -> Iterator[object]:
    """A server on it."""
    with run_tiny(studies=str(shared_studies)) as live:
        yield live


@pytest.fixture(scope="session")
def volume(scan_path: Path) -> Volume:
    """The scan."""
    return medsam2.read(scan_path)


@pytest.fixture(scope="session")
def box_mask(tiny: Predictor, volume: Volume) -> np.ndarray:
    """What the Python API makes of a box on the scan, (z, y, x)."""
    found = tiny.segment(volume, slice=5, box=(22, 18, 41, 37), window=(0, 255)).array
    assert found.any()
    return found


@pytest.fixture(scope="session")
def label_path(tmp_path_factory: pytest.TempPathFactory, scan_path: Path) -> Path:
    """A label that a person may have drawn on the scan."""
    image = nibabel.load(scan_path)
    label = np.zeros(image.shape, np.uint8)
    label[24:40, 20:36, 3:8] = 1
    path = tmp_path_factory.mktemp("label") / "tmp label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(label, image.affine), path)
    return path


@pytest.fixture(scope="session")
def long_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright cylinder through 1500 slices."""
    y, x = np.mgrid[:64, :64] - 32
    grey = np.random.default_rng(1).normal(60, 8, (1500, 64, 64)) + 120 * (x * x + y * y < 100)
    path = tmp_path_factory.mktemp("long") / "long.nii"
    nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.uint8), np.eye(4)), path)
    return path
