"""Several users at once, and users that leave: nobody waits for a volume, nobody's work is mixed up."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from medsam2.client.client import Client
from medsam2.client.session import RemoteSession
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime

NUM_SLICES = 100
WINDOW = (0.0, 255.0)
POINT = [(14.0, 12.0)]


@pytest.fixture(scope="module")
def live(run_tiny) -> Iterator[object]:
    with run_tiny() as server:
        yield server
        server.wait_until(lambda: server.figure("medsam2_sessions") == 0)
        assert server.figure("medsam2_reserved_bytes") == 0


@pytest.fixture
def client(live) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{live.port}") as one:
        yield one


@pytest.fixture(scope="module")
def long_volume() -> Volume:
    """A bright block through 100 small slices: seconds of work."""
    grey = np.random.default_rng(1).integers(0, 60, (NUM_SLICES, 24, 28)).astype(np.uint8)
    grey[:, 6:18, 8:20] += 150
    return Volume.from_array(grey)


@pytest.fixture(scope="module")
def short_volume(long_volume: Volume) -> Volume:
    return Volume.from_array(long_volume.array[:9, ::-1].copy())


@contextlib.contextmanager
def following(session: RemoteSession) -> Iterator[tuple[list[int], threading.Thread]]:
    """Propagate in a thread; gives the slices seen so far."""
    seen: list[int] = []

    def follow() -> None:
        for z, _ in session.propagate():
            seen.append(z)

    thread = threading.Thread(target=follow)
    thread.start()
    yield seen, thread
    thread.join(120)
    assert not thread.is_alive()


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_click_does_not_wait_for_the_volume_of_another(
    client: Client, long_volume: Volume, short_volume: Volume, runtime: Runtime
) -> None:
    predictor = Predictor(runtime)
    alone = predictor.session(short_volume, window=WINDOW)
    with (
        client.session(long_volume, window=WINDOW) as slow,
        client.session(short_volume, window=WINDOW) as quick,
    ):
        slow.add(1, slice=50, points=POINT)
        with following(slow) as (seen, _):
            wait_until(lambda: len(seen) > 2)
            before = len(seen)
            masks = [quick.add(1, slice=4, points=POINT), quick.add(1, slice=4, points=[(4, 4)], labels=[0])]
            steps = list(quick.propagate())
            assert len(seen) < NUM_SLICES, "the others' slices are not done before"
            assert before < len(seen), "and go on meanwhile"
        assert sorted(seen) == list(range(NUM_SLICES))
        expected = [alone.add(1, slice=4, points=POINT), alone.add(1, slice=4, points=[(4, 4)], labels=[0])]
        assert np.array_equal(masks, expected)
        for (z, found), (other_z, other) in zip(steps, alone.propagate(), strict=True):
            assert z == other_z
            assert np.array_equal(found[1], other[1])


def test_many_users_get_what_each_would_get_alone(live, short_volume: Volume, runtime: Runtime) -> None:
    def work(number: int) -> np.ndarray:
        volume = Volume.from_array(np.roll(short_volume.array, number, axis=2))
        with Client(f"http://127.0.0.1:{live.port}") as client:
            return client.segment(volume, slice=4, points=[(14 + number, 12)], window=WINDOW).array

    with ThreadPoolExecutor(4) as users:
        found = list(users.map(work, range(4)))
    for number, labels in enumerate(found):
        volume = Volume.from_array(np.roll(short_volume.array, number, axis=2))
        alone = Predictor(runtime).segment(volume, slice=4, points=[(14 + number, 12)], window=WINDOW)
        assert np.array_equal(labels, alone.array)


def test_the_contract_is_answered_while_a_session_is_followed(
    live, client: Client, long_volume: Volume, short_volume: Volume, runtime: Runtime
) -> None:
    alone = Predictor(runtime).segment(short_volume, slice=4, box=(8, 6, 19, 17), window=WINDOW)
    row = {"nii_image": short_volume, "key_slice_idx": 4, "dicom_window": WINDOW, "bbox": (8, 6, 19, 17)}
    with client.session(long_volume, window=WINDOW) as slow:
        slow.add(1, slice=50, points=POINT)
        with following(slow) as (seen, _):
            wait_until(lambda: len(seen) > 2)
            (found,) = client.score([row])
            assert len(seen) < NUM_SLICES
        assert np.array_equal(found.mask, alone.array.astype(bool))


def test_work_ends_with_the_slice_when_the_caller_leaves(live, client: Client, long_volume: Volume) -> None:
    before = live.figure("medsam2_slices_total")
    with client.session(long_volume, window=WINDOW) as session:
        session.add(1, slice=50, points=POINT)
        steps = session.propagate()
        for _ in range(3):
            next(steps)
        steps.close()
        # What the state says is said between two slices.
        first = len(session.scores(1))
        time.sleep(0.3)
        assert len(session.scores(1)) <= first + 1
        assert live.figure("medsam2_slices_total") - before < NUM_SLICES / 2
        assert not session.is_propagated
        # Nothing was lost, and what was done is not done again.
        seen = [z for z, _ in session.propagate()]
        assert sorted(seen) == list(range(NUM_SLICES))
        assert session.is_propagated


def test_a_caller_that_reads_nothing_stops_the_work_and_nobody_else(
    live, client: Client, long_volume: Volume, short_volume: Volume
) -> None:
    with client.session(long_volume, window=WINDOW) as session, client.session(short_volume) as other:
        session.add(1, slice=50, points=POINT)
        with live.client.stream("POST", f"/v1/sessions/{session.id}/propagate") as response:
            assert response.status_code == 200
            assert other.add(1, slice=4, points=POINT).shape == (24, 28)
            assert session.objects == [1]  # between two slices


def test_a_session_that_is_changed_ends_its_propagation(live, client: Client, long_volume: Volume) -> None:
    with client.session(long_volume, window=WINDOW) as session:
        session.add(1, slice=50, points=POINT)
        for change in (
            lambda: session.add(1, slice=50, points=[(4, 4)], labels=[0]),
            lambda: session.undo(),
            lambda: session.redo(),
            lambda: session.add(2, slice=3, points=POINT),
            lambda: session.remove(2),
        ):
            with live.client.stream("POST", f"/v1/sessions/{session.id}/propagate") as response:
                lines = response.iter_lines()
                assert next(lines) == "event: slice"
                change()
                *_, name, data = (line for line in lines if line)
            assert name == "event: error"
            told = json.loads(data.removeprefix("data: "))
            assert told["status"] == 409
            assert "propagate again" in told["error"]


def test_a_second_propagation_takes_over(live, client: Client, long_volume: Volume) -> None:
    with client.session(long_volume, window=WINDOW) as session:
        session.add(1, slice=50, points=POINT)
        with live.client.stream("POST", f"/v1/sessions/{session.id}/propagate") as response:
            lines = response.iter_lines()
            next(lines)
            assert len(list(session.propagate())) == NUM_SLICES
            assert "event: error" in list(lines)


def test_a_session_that_is_ended_ends_its_propagation(live, client: Client, long_volume: Volume) -> None:
    session = client.session(long_volume, window=WINDOW)
    session.add(1, slice=50, points=POINT)
    with live.client.stream("POST", f"/v1/sessions/{session.id}/propagate") as response:
        lines = response.iter_lines()
        next(lines)
        session.close()
        *_, name, data = (line for line in lines if line)
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["status"] == 404
    assert live.figure("medsam2_reserved_bytes") == 0


def test_the_end_of_the_server_ends_sessions_and_leaves_nothing(
    run_tiny, long_volume: Volume, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(threading.enumerate())
    with run_tiny() as live, Client(f"http://127.0.0.1:{live.port}") as client:
        session = client.session(long_volume, window=WINDOW)
        session.add(1, slice=50, points=POINT)
        client.session(long_volume)
        assert list(tmp_path.iterdir())
        with contextlib.suppress(httpx.HTTPError), following(session) as (seen, _):
            wait_until(lambda: len(seen) > 2)
            live.server.should_exit = True  # what runs may finish
        assert len(seen) == NUM_SLICES
    assert list(tmp_path.iterdir()) == []
    left = [one.name for one in set(threading.enumerate()) - before if one.name.startswith("medsam2")]
    assert left == []
