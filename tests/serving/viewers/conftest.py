"""An image as viewers have it: an array without a file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import medsam2
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.session import Session
from medsam2.serving.viewers.viewed_object import ViewedObject

WINDOW = (0.0, 255.0)


@pytest.fixture(scope="session")
def image(scan_path) -> Volume:
    """The scan's voxels on a grid of 1 mm: 12 slices of 56 x 64."""
    return Volume(np.asarray(medsam2.read(scan_path).array), np.eye(4))


@pytest.fixture
def view(image: Volume, predictor: Predictor) -> Callable[..., ViewedObject]:
    """Look at an image without a server."""

    def open_session(volume: Volume, axis: int) -> Session:
        return predictor.session(volume, window=WINDOW, axis=axis)

    def look(volume: Volume = image) -> ViewedObject:
        return ViewedObject(volume, open_session)

    return look
