"""One story, told to a session here and to one on a server: the same masks, to the voxel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

import medsam2
from medsam2.client.client import Client
from medsam2.client.session import RemoteSession
from medsam2.errors import InputError, PromptError, SessionError
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.session import Session

AnySession = Session | RemoteSession
Story = list[tuple[str, object]]
WINDOW = (0.0, 255.0)


def tell(session: AnySession) -> Story:
    """Box, preview, propagate, correct, undo, redo, a second object, remove, result; what each gave."""
    _, height, width = session.shape
    k = session.shape[0] // 2
    box = (width * 0.3, height * 0.3, width * 0.7, height * 0.65)
    story: Story = [("shape", session.shape), ("axis", session.axis), ("pixel_mm", session.pixel_mm)]

    def note(what: str, value: object = None) -> None:
        story.append((what, value))
        objects = session.objects
        story.append(("objects", objects))
        story.append(("flags", (session.can_undo, session.can_redo, session.is_propagated)))
        story.extend((f"mask {number}", session.mask(number)) for number in objects)
        story.extend((f"scores {number}", session.scores(number)) for number in objects)

    note("undo of nothing", session.undo())
    note("box", session.add(1, slice=k, box=box))
    note("propagate", list(session.propagate()))
    note("correct", session.add(1, slice=k + 1, points=[(width * 0.5, height * 0.5)], labels=[0]))
    note("correct again", session.add(1, slice=k + 1, points=[(width * 0.2, height * 0.2)]))
    note("propagate again", list(session.propagate()))
    note("undo", session.undo())
    note("undo once more", session.undo())
    note("redo", session.redo())
    drawn = np.zeros((height, width), np.uint8)
    drawn[1 : height // 2, 2 : width // 3] = 7
    note("second object", session.add(5, slice=k - 1, mask=drawn))
    note("propagate both", list(session.propagate()))
    story.append(("labels", session.result().array))
    story.append(("one", session.result(5).array))
    story.append(("measured", [session.measurements(number) for number in (1, 5)]))
    session.remove(1, slice=k + 1)
    note("remove a prompt")
    session.remove(1)
    note("remove an object")
    result = session.result()
    story.append(("result", result.array))
    story.append(
        ("grid", (result.affine, result.spacing, result.origin, result.direction, result.array.dtype))
    )
    story.append(("window", (session.window.lower, session.window.upper)))
    return story


def same(first: object, second: object) -> bool:
    if isinstance(first, np.ndarray):
        return (
            isinstance(second, np.ndarray) and first.dtype == second.dtype and np.array_equal(first, second)
        )
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    return first == second


@contextmanager
def here(predictor: Predictor, url: str, scan: Volume, path: Path, plane: str | None) -> Iterator[AnySession]:
    yield predictor.session(scan, window=WINDOW, plane=plane)


@contextmanager
def of_a_file(
    predictor: Predictor, url: str, scan: Volume, path: Path, plane: str | None
) -> Iterator[AnySession]:
    with Client(url) as client, client.session(path, window=WINDOW, plane=plane) as session:
        yield session


@contextmanager
def of_a_volume(
    predictor: Predictor, url: str, scan: Volume, path: Path, plane: str | None
) -> Iterator[AnySession]:
    with Client(url) as client, client.session(scan, window=WINDOW, plane=plane) as session:
        yield session


@contextmanager
def of_the_server(
    predictor: Predictor, url: str, scan: Volume, path: Path, plane: str | None
) -> Iterator[AnySession]:
    with Client(url) as client, client.open("case 1/scan.nrrd", window=WINDOW, plane=plane) as session:
        assert np.array_equal(session.volume.array, scan.array)
        session.volume = scan  # what comes as NIfTI has a grid in float32
        yield session


@pytest.fixture(scope="module")
def expected(predictor: Predictor) -> Callable[[Volume, str | None], Story]:
    """The story as it goes here, told once for each plane."""
    told: dict[str | None, Story] = {}

    def tell_once(scan: Volume, plane: str | None) -> Story:
        if plane not in told:
            told[plane] = tell(predictor.session(scan, window=WINDOW, plane=plane))
        return told[plane]

    return tell_once


@pytest.mark.parametrize(
    ("opened", "plane"),
    [
        (here, None),
        (here, "sagittal"),
        (of_a_file, None),
        (of_a_file, "sagittal"),
        (of_a_volume, None),
        (of_a_volume, "coronal"),
        (of_the_server, None),
    ],
)
def test_the_same_story_gives_the_same_masks(
    opened: Callable[..., AbstractContextManager[AnySession]],
    plane: str | None,
    expected: Callable[[Volume, str | None], Story],
    predictor: Predictor,
    url: str,
    scan: Volume,
    scan_path: Path,
) -> None:
    with opened(predictor, url, scan, scan_path, plane) as session:
        told = tell(session)
    wanted = expected(scan, plane)
    assert [what for what, _ in told] == [what for what, _ in wanted]
    differing = [
        what for (what, value), (_, other) in zip(told, wanted, strict=True) if not same(value, other)
    ]
    assert differing == []
    assert all(np.any(value) for what, value in told if what in ("labels", "one"))


WRONG: list[tuple[type[Exception], Callable[[AnySession], object]]] = [
    (PromptError, lambda session: session.add(1, slice=99, box=(1, 1, 5, 5))),
    (PromptError, lambda session: session.add(1, slice=4, box=(5, 5, 1, 1))),
    (PromptError, lambda session: session.add(1, slice=4, box=(1, 1, 500, 5))),
    (PromptError, lambda session: session.add(1, slice=4, points=[(1, 2)], labels=[2])),
    (PromptError, lambda session: session.add(1, slice=4)),
    (PromptError, lambda session: session.add(1, slice=4, mask=np.ones((28, 24)))),
    (PromptError, lambda session: session.add(1, slice=4, mask=np.zeros((24, 28)))),
    (PromptError, lambda session: session.add(300, slice=4, box=(1, 1, 5, 5))),
    (PromptError, lambda session: session.add(0, slice=4, box=(1, 1, 5, 5))),
    (SessionError, lambda session: session.remove(7)),
    (SessionError, lambda session: session.remove(2, slice=4)),
    (SessionError, lambda session: session.remove(2, slice=6)),
    (SessionError, lambda session: session.mask(7)),
    (SessionError, lambda session: session.scores(7)),
    (SessionError, lambda session: session.measurements(7)),
    (SessionError, lambda session: session.result(7)),
    (SessionError, lambda session: (session.remove(2), next(session.propagate()))),
]


def test_what_is_wrong_raises_the_same_words(predictor: Predictor, url: str, scan: Volume) -> None:
    local = predictor.session(scan, window=WINDOW)
    with Client(url) as client, client.session(scan, window=WINDOW) as remote:
        for session in (local, remote):
            session.add(2, slice=4, box=(5, 5, 20, 20))
        for expected, do in WRONG:
            with pytest.raises(expected) as here_:
                do(local)
            with pytest.raises(expected) as there:
                do(remote)
            assert str(there.value) == str(here_.value)
            assert type(there.value) is type(here_.value)


def test_leaving_the_loop_stops_and_the_session_goes_on(url: str, scan: Volume) -> None:
    with Client(url) as client, client.session(scan) as session:
        session.add(1, slice=4, points=[(14, 12)])
        steps = session.propagate()
        seen = [next(steps)[0] for _ in range(2)]
        steps.close()
        assert seen == [4, 5]
        assert len(list(session.propagate())) == 9
        assert session.is_propagated


def test_a_change_ends_a_propagation_under_way(url: str, scan: Volume) -> None:
    many = Volume.from_array(np.tile(scan.array, (40, 1, 1)))
    with Client(url) as client, client.session(many) as session:
        session.add(1, slice=4, points=[(14, 12)])
        steps = session.propagate()
        next(steps)
        session.add(1, slice=4, points=[(9, 12)])
        with pytest.raises(SessionError, match=r"changed.*propagate again"):
            list(steps)


def test_a_window_is_found_as_here(predictor: Predictor, url: str, scan: Volume, scan_path: Path) -> None:
    with Client(url) as client:
        for given in (scan, scan.with_array(scan.array - np.int16(1000)), scan_path):
            volume = given if isinstance(given, Volume) else medsam2.read(given)
            found = predictor.session(volume).window
            with client.session(given) as session:
                assert (session.window.lower, session.window.upper) == (found.lower, found.upper)
        with client.session(scan, window="lung") as session:
            assert (session.window.lower, session.window.upper) == (-1350.0, 150.0)


def test_a_session_that_has_ended_says_so(url: str, scan: Volume) -> None:
    with Client(url) as client:
        session = client.session(scan)
        session.close()
        with pytest.raises(SessionError, match="there is no session"):
            session.add(1, slice=4, points=[(14, 12)])
        session.close()


def test_refusals_at_the_door(url: str, scan: Volume, scan_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"nothing")
    with Client(url) as client:
        with pytest.raises(InputError, match="no window is called 'bones'"):
            client.session(scan, window="bones")
        for window in ((5, 1), (1, 2, 3), (float("nan"), 4), "bones"):
            with pytest.raises(InputError, match="window"):
                client.session(scan_path, window=window)
            with pytest.raises(InputError, match="window"):
                client.open("case 1/scan.nrrd", window=window)
        with pytest.raises(InputError, match="plane is 'oblique'"):
            client.session(scan, plane="oblique")
        with pytest.raises(InputError, match="memory is 'long'"):
            client.session(scan, memory="long")
        with pytest.raises(InputError, match="no such file"):
            client.session(tmp_path / "missing.nii.gz")
        with pytest.raises(InputError, match=r"not a NIfTI|damaged|NIfTI"):
            client.session(broken)
        with pytest.raises(InputError, match="leads out of the server's folder"):
            client.open("../scan.nrrd")
        with pytest.raises(InputError, match=r"there is no file 'none\.nii'"):
            client.open("none.nii")


def test_a_sheared_grid_is_measured_in_the_patient(predictor: Predictor, url: str, scan: Volume) -> None:
    """As a tilted gantry leaves it: in the planes across, columns and rows are not at right angles."""
    affine = np.diag((0.8, 0.9, 3.0, 1.0))
    affine[1, 2] = 1.2
    leaning = Volume(scan.array, affine)
    drawn = np.zeros(scan.shape[:2], np.uint8)
    drawn[1:-1, 3:9] = 1
    session = predictor.session(leaning, window=WINDOW, plane="sagittal")
    session.add(1, slice=5, mask=drawn)
    with Client(url) as client, client.session(leaning, window=WINDOW, plane="sagittal") as remote:
        remote.add(1, slice=5, mask=drawn)
        found, expected = remote.measurements(1), session.measurements(1)
    assert found["longest_diameter_mm"] == pytest.approx(expected["longest_diameter_mm"], rel=1e-5)
