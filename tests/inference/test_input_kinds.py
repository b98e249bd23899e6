"""A scan gives the same mask as a file, an array or an image of a library; the mask comes back so."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from medsam2.errors import InputError
from medsam2.imaging.io import read, write
from medsam2.imaging.volume import Volume
from medsam2.inference.job import Job, run
from medsam2.inference.options import InferenceOptions
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime
from medsam2.prompts.types import prompt_from

BOX = (18, 12, 37, 25)
OPTIONS = InferenceOptions(zoom=False)
# Directions of x, y and z in LPS: as it is, flipped in x and z, turned by 25 degrees.
C, S = np.cos(np.radians(25)), np.sin(np.radians(25))
DIRECTIONS = {
    "straight": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "flipped": (-1, 0, 0, 0, 1, 0, 0, 0, -1),
    "swapped": (0, 0, 1, 1, 0, 0, 0, -1, 0),
    "oblique": (C, -S, 0, S, C, 0, 0, 0, 1),
}


@pytest.fixture
def predictor(runtime: Runtime) -> Predictor:
    return Predictor(runtime)


@pytest.fixture(params=DIRECTIONS)
def path(request: pytest.FixtureRequest, scan: Volume, tmp_path: Path) -> Path:
    """The block in noise as a file, its axes in many directions."""
    direction = DIRECTIONS[request.param]
    write(Volume.from_array(scan.array, scan.spacing, scan.origin, direction), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def kinds_of(path: Path) -> Iterator[tuple[str, object]]:
    yield "str", str(path)
    yield "volume", read(path)
    yield "numpy", read(path).array
    yield "nibabel", nibabel.load(path)
    yield "SimpleITK", SimpleITK.ReadImage(str(path))
    monai = pytest.importorskip("monai.data", reason="needs the extra evaluate")
    nifti = nibabel.load(path)
    yield "MetaTensor", monai.MetaTensor(np.asarray(nifti.dataobj)[None], affine=nifti.affine)


def voxels_of(mask: object, kind: str) -> np.ndarray:
    """The mask (z, y, x), as each library itself gives it."""
    if kind == "SimpleITK":
        return SimpleITK.GetArrayFromImage(mask)
    if kind == "nibabel":
        return np.asarray(mask.dataobj).transpose(2, 1, 0)
    return mask.numpy()[0].transpose(2, 1, 0) if kind == "MetaTensor" else np.asarray(mask)


@pytest.mark.parametrize("plane", [None, "coronal"])
def test_every_kind_gives_the_mask_of_the_file(predictor: Predictor, path: Path, plane: str | None) -> None:
    z, height, width = predictor.session(path, plane=plane).shape
    prompt = {"slice": z // 2, "box": (2, 2, width - 4, height - 3)}
    expected = predictor.segment(path, plane=plane, **prompt)
    assert 0 < expected.array.sum() < expected.array.size
    for kind, image in kinds_of(path):
        if kind == "numpy" and plane is not None:
            continue  # an array does not say where it lies in the patient
        mask = predictor.segment(image, plane=plane, **prompt)
        assert isinstance(mask, Volume)
        np.testing.assert_array_equal(mask.array, expected.array, err_msg=kind)
        back = mask.like(image)
        assert isinstance(back, Volume if kind == "str" else type(image))
        np.testing.assert_array_equal(voxels_of(back, kind), expected.array, err_msg=kind)


def test_a_job_takes_every_kind(predictor: Predictor, path: Path) -> None:
    prompts = {3: [prompt_from(4, box=BOX)]}
    expected = run(Job(image=path, objects=prompts, options=OPTIONS), predictor).labels
    for kind, image in kinds_of(path):
        outcome = run(Job(image=image, objects=prompts, options=OPTIONS), predictor)
        np.testing.assert_array_equal(outcome.labels.array, expected.array, err_msg=kind)
    thick = Job(image=expected.array, spacing=(0.5, 0.5, 9), objects=prompts, window=(0, 3), options=OPTIONS)
    assert run(thick, predictor).labels.spacing == (0.5, 0.5, 9)


def test_an_array_in_hounsfield_units_asks_for_a_window(predictor: Predictor) -> None:
    array = np.full((5, 40, 50), -1000, np.int16)
    array[:, 8:32, 10:40] = np.random.default_rng(0).integers(-100, 100, (5, 24, 30))
    words = "no window given; data look like Hounsfield units; soft-tissue .* used; .*name the window"
    with pytest.warns(UserWarning, match=words):
        session = predictor.session(array, spacing=(0.8, 0.8, 5))
    assert session.volume.spacing == (0.8, 0.8, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.session(array, window="abdomen")
        predictor.session(np.abs(array))
        predictor.session(Volume.from_array(array, modality="CT"))


def test_the_file_is_named_and_what_is_no_image_refused(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.nii: no such file"):
        predictor.segment(tmp_path / "nothing.nii", slice=0, box=BOX)
    with pytest.raises(InputError, match=r"an image is a Volume, .*, not int"):
        predictor.session(3)
