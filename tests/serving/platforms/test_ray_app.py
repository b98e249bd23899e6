"""The Ray Serve application on a cluster of two machines, of which one dies while requests are under way."""

from __future__ import annotations

import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own, about its own
    ray = pytest.importorskip("ray", reason="needs the extra ray-serve")
    pytest.importorskip("ray.serve", reason="needs the extra ray-serve", exc_type=ImportError)

from medsam2.errors import InputError
from medsam2.serving.platforms.ray_app import DEPLOYMENT, application

KEY = "a-key-of-the-test"
NUM_REQUESTS = 60
NUM_CALLERS = 4
PATIENCE_S = 240.0
MACHINE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own, about its own

Table = dict[str, list[object]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"replicas": 0}, ("replicas", "0", "cpus")),
        ({"replicas": "many"}, ("replicas", "many")),
        ({"machines": 3}, ("machines", "replicas, cpus, gpus")),
    ],
)
def test_an_argument_that_cannot_be_is_named(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, object], words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MEDSAM2_API_KEY", KEY)
    with pytest.raises(InputError) as caught:
        application(arguments)
    for word in words:
        assert word in str(caught.value)


def test_a_cluster_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDSAM2_API_KEY", raising=False)
    with pytest.raises(InputError, match="MEDSAM2_API_KEY"):
        application({})


@dataclass
class Tally:
    """What callers got, over all tries."""

    url: str
    statuses: Counter[str] = field(default_factory=Counter)
    num_answered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, table: Table) -> bytes:
        """Ask until there is a mask, as a caller should of a cluster whose machines may die."""
        end = time.monotonic() + PATIENCE_S
        with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
            while time.monotonic() < end:
                try:
                    response = client.post(self.url, json={"input_data": table})
                    status = str(response.status_code)
                except httpx.TransportError as error:
                    status = type(error).__name__
                with self.lock:
                    self.statuses[status] += 1
                    self.num_answered += status == "200"
                if status == "200":
                    return response.content
                time.sleep(0.2)
        raise AssertionError(f"no answer: {self.statuses}")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    from ray import serve
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("MEDSAM2_API_KEY", KEY)
    monkeypatch.setenv("MEDSAM2_READERS", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    machines = Cluster(initialize_head=True, head_node_args={**MACHINE, "include_dashboard": False})
    try:
        ray.init(address=machines.address, log_to_driver=False)
        yield machines
        serve.shutdown()
    finally:
        ray.shutdown()
        machines.shutdown()


def running_replicas() -> int:
    from ray import serve

    return serve.status().applications["medsam2"].deployments[DEPLOYMENT].replica_states.get("RUNNING", 0)


def wait_until(is_so: Callable[[], bool]) -> float:
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < PATIENCE_S, "nothing happened"
        time.sleep(0.2)
    return time.monotonic() - started


@pytest.mark.slow
def test_a_machine_that_dies_loses_no_request(cluster, table: Table, server) -> None:
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    second = cluster.add_node(**MACHINE)
    cluster.wait_for_nodes()
    # Both machines are one here, which has one port to give: so one entrance, on the one that stays.
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    # A machine has one processor and a replica takes one: they run on different machines.
    serve.run(application({"replicas": 2, "cpus": 1}), name="medsam2")
    assert running_replicas() == 2
    url = f"http://127.0.0.1:{port}/score"
    assert httpx.post(url, json={}).status_code == 401
    assert httpx.get(f"http://127.0.0.1:{port}/readyz").json() == {"status": "ready"}

    tally = Tally(url)
    with ThreadPoolExecutor(NUM_CALLERS) as callers:
        answers = [callers.submit(tally.ask, table) for _ in range(NUM_REQUESTS)]
        wait_until(lambda: tally.num_answered >= NUM_REQUESTS // 4)
        num_before = tally.num_answered
        cluster.remove_node(second, allow_graceful=False)
        texts = [answer.result() for answer in answers]
    num_retried = tally.statuses.total() - tally.statuses["200"]
    assert len(texts) == tally.statuses["200"] == NUM_REQUESTS
    assert set(tally.statuses) <= {"200", "500", "503"}
    assert len(set(texts)) == 1
    mask = np.array(httpx.Response(200, content=texts[0]).json()["mask"])
    ours = np.array(server.score(table).json()["mask"])
    assert 2 * (mask & ours).sum() / (mask.sum() + ours.sum()) > 0.995

    wait_until(lambda: running_replicas() == 1)
    cluster.add_node(**MACHINE)
    seconds = wait_until(lambda: running_replicas() == 2)
    print(
        f"ray: {NUM_REQUESTS} requests, a machine killed after {num_before}; {dict(tally.statuses)}, "
        f"{num_retried} retried, 0 lost; mask {mask.shape}, sum {mask.sum()}; "
        f"two replicas again {seconds:.1f} s after a new machine came"
    )
