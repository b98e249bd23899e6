"""A job: read, opened, prompted, propagated, measured and recorded, in one go and in steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medsam2.errors import InputError, PromptError
from medsam2.imaging.io import read, write
from medsam2.imaging.volume import Volume
from medsam2.inference.grid import SliceGrid
from medsam2.inference.job import Job, open_job, run
from medsam2.inference.options import InferenceOptions
from medsam2.inference.predictor import Predictor
from medsam2.inference.prompting import Objects
from medsam2.inference.runtime import Runtime
from medsam2.prompts.types import prompt_from

OPTIONS = InferenceOptions(zoom=False)
BOX = prompt_from(4, box=(18, 12, 37, 25))
CLICK = prompt_from(6, points=[(40, 30)])


@pytest.fixture
def predictor(runtime: Runtime) -> Predictor:
    return Predictor(runtime)


@pytest.fixture
def file(scan: Volume, tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii.gz"
    write(scan, path)
    return path


def test_a_job_gives_what_a_session_gives(predictor: Predictor, file: Path) -> None:
    done: list[int] = []
    job = Job(image=file, objects={3: [BOX], 7: [CLICK]}, names={3: "cyst"}, window=(0, 200), options=OPTIONS)
    outcome = run(job, predictor, done.append)
    session = predictor.session(read(file), window=(0, 200), options=OPTIONS)
    session.add(3, BOX)
    session.add(7, CLICK)
    session.finish()
    np.testing.assert_array_equal(outcome.labels.array, session.result().array)
    assert outcome.names == {3: "cyst", 7: None}
    assert outcome.scores == {number: session.object(number).scores() for number in (3, 7)}
    assert outcome.measurements[7] == session.object(7).measurements()
    assert set(done) == set(outcome.scores[3]) | set(outcome.scores[7])
    record = outcome.record
    assert [(one.object, one.name, one.slice_index) for one in record.prompts] == [
        (3, "cyst", 4),
        (7, None, 6),
    ]
    assert (record.window.lower, record.window.upper, record.num_slices) == (0, 200, 9)
    assert record.visited == len(outcome.scores[3]) + len(outcome.scores[7])
    assert record.seconds > 0


def test_prompts_may_depend_on_the_volume(predictor: Predictor, file: Path) -> None:
    def objects(grid: SliceGrid) -> Objects:
        assert grid.shape == (40, 9, 56), "coronal slices"
        return Objects(prompts={1: [prompt_from(20, box=(10, 2, 30, 7))]}, windows=["lung"], where="p.json")

    opened = open_job(Job(image=file, objects=objects, plane="coronal", options=OPTIONS), predictor)
    assert not opened.session.status.objects, "nothing is computed yet"
    assert opened.session.window.source == "lung"
    slices = list(opened.propagate())
    assert slices[0] == 20
    assert opened.outcome().labels.shape == (9, 40, 56)


def test_several_windows_of_the_prompts_are_refused_unless_one_is_chosen(
    predictor: Predictor, scan: Volume
) -> None:
    def objects(grid: SliceGrid) -> Objects:
        return Objects(prompts={1: [BOX]}, windows=[(0.0, 9.0), "lung"], where="p.json")

    with pytest.raises(PromptError, match=r"p\.json: has several windows \(0 to 9, lung\)"):
        open_job(Job(image=scan, objects=objects), predictor)
    assert (
        open_job(Job(image=scan, objects=objects, window="bone"), predictor).session.window.source == "bone"
    )


def test_a_prompt_outside_keeps_all_others_out_and_says_where_it_stands(
    predictor: Predictor, scan: Volume
) -> None:
    outside = prompt_from(99, box=(1, 1, 5, 5))
    opened = open_job(Job(image=scan, objects={1: [BOX], 2: [outside]}, options=OPTIONS), predictor)
    with pytest.raises(PromptError, match="slice 99 is outside"):
        next(opened.propagate())
    assert not opened.session.status.objects
    assert not opened.session.status.can_undo


@pytest.mark.parametrize(
    ("change", "words"),
    [({"window": "moon"}, "moon"), ({"frame": 1}, "frame"), ({"plane": "oblique"}, "oblique")],
)
def test_what_is_not_there_is_named(
    predictor: Predictor, file: Path, change: dict[str, object], words: str
) -> None:
    job: Callable[..., Job] = Job
    with pytest.raises(InputError, match=words):
        run(job(image=file, objects={1: [BOX]}, **change), predictor)
