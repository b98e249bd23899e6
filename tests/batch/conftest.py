"""Small scans, weights that are quick, and tables about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medsam2.batch.cases import Case, Row
from medsam2.checkpoints import save_weights
from medsam2.imaging.io import write
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime

BOX = [18, 12, 37, 25]


def make_scan(path: Path, seed: int = 0, num_slices: int = 8) -> Path:
    """Write a bright block in noise, slices of 40 x 56 pixels."""
    grey = np.random.default_rng(seed).integers(0, 60, (num_slices, 40, 56)).astype(np.int16)
    grey[2:7, 12:26, 18:38] += 150
    write(Volume.from_array(grey, (0.7, 0.8, 2.5), (3.0, -4.0, 5.0), modality="MR"), path)
    return path


@pytest.fixture(scope="session")
def weights(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network's weights as a file."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(runtime.network.state_dict(), runtime.network.config, path)
    return path


@pytest.fixture(scope="session")
def predictor(runtime: Runtime) -> Predictor:
    """The tiny network, ready in this process."""
    return Predictor(runtime)


@pytest.fixture
def scans(tmp_path: Path) -> Callable[[int], list[Path]]:
    """Write a number of scans, s0.nii.gz and so on, into a folder `scans`."""

    def make(count: int) -> list[Path]:
        folder = tmp_path / "scans"
        folder.mkdir(exist_ok=True)
        return [make_scan(folder / f"s{index}.nii.gz", index) for index in range(count)]

    return make


@pytest.fixture
def case_of(tmp_path: Path) -> Callable[..., Case]:
    """Make a case of one scan with the rows that are given, or with a box."""

    def make(*rows: dict[str, object], name: str = "one", **changes: object) -> Case:
        place = changes.pop("place", None) or str(make_scan(tmp_path / f"{name}.nii.gz"))
        said = rows or ({"slice": 4, "box": BOX},)
        values = {"image": Path(str(place)).name, "folder": tmp_path, **changes}
        return Case(
            name=name,
            place=str(place),
            rows=tuple(Row(f"t.csv: row {number}", row) for number, row in enumerate(said, start=2)),
            **values,  # type: ignore[arg-type]
        )

    return make
