"""More requests than a server can take, callers that leave, and its end."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from medsam2.serving.http_errors import Busy, TooLarge
from medsam2.serving.limits import MemoryBudget, Places, Reservation


def test_a_full_queue_says_when_to_come_again_and_nothing_is_lost(serve, table) -> None:
    live = serve(queue=1)
    expected = live.score(table).content
    turned_away: Counter[int] = Counter()

    def ask(number: int) -> bytes:
        while True:
            response = live.score(table)
            if response.status_code == 200:
                return response.content
            assert response.status_code == 503
            assert response.json()["status"] == 503
            assert 1 <= int(response.headers["retry-after"]) <= 120
            turned_away[number] += 1
            time.sleep(0.1)

    with ThreadPoolExecutor(6) as callers:
        answers = list(callers.map(ask, range(6)))
    assert answers == [expected] * 6
    assert turned_away.total() > 0
    assert live.figure("medsam2_requests_in_flight") == 0
    assert live.figure("medsam2_reserved_bytes") == 0


def abandoned(live, table: dict[str, list[object]]) -> socket.socket:
    """Send a request by hand, to be left."""
    body = json.dumps({"input_data": table}).encode()
    connection = socket.create_connection(("127.0.0.1", live.port))
    head = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_work_for_a_caller_that_left_ends_with_the_slice(serve, table, long_table) -> None:
    live = serve(queue=4)
    working, waiting = abandoned(live, long_table), abandoned(live, long_table)
    live.wait_until(lambda: live.figure("medsam2_slices_total") > 3)
    assert live.figure("medsam2_requests_in_flight") == 2
    working.close()
    waiting.close()
    live.wait_until(lambda: live.figure("medsam2_requests_in_flight") == 0)
    live.wait_until(lambda: live.figure("medsam2_model_seconds_count") >= 1)
    seen = live.figure("medsam2_slices_total")
    assert seen < 200  # of 800
    assert live.score(table).status_code == 200
    assert live.figure("medsam2_slices_total") - seen < 20
    assert live.figure("medsam2_reserved_bytes") == 0


def test_what_takes_too_long_is_a_504_and_ends(serve, long_table, table) -> None:
    live = serve(answer_timeout_s=1.0)
    two = {name: entries * 2 for name, entries in long_table.items()}
    first, second = live.score(two).json()
    assert first["status"] == second["status"] == 504
    assert "row 0: no mask within 1 s" in first["error"]
    live.wait_until(lambda: live.figure("medsam2_requests_in_flight") == 0)
    assert live.figure("medsam2_slices_total") < 400
    assert live.figure("medsam2_row_errors_total") == 2


def test_the_end_waits_for_what_runs(run_server, table) -> None:
    threads = set(threading.enumerate())  # other servers may run beside this one
    with run_server() as live, ThreadPoolExecutor(1) as caller:
        answer = caller.submit(live.score, table)
        live.wait_until(lambda: live.figure("medsam2_requests_in_flight") == 1)
        live.server.should_exit = True
        assert np.any(answer.result().json()["mask"])
    assert not [
        thread.name for thread in set(threading.enumerate()) - threads if thread.name.startswith("medsam2")
    ]


def test_memory_is_counted_before_a_file_is_unpacked(serve, table, long_table) -> None:
    live = serve(memory_budget=1)
    assert live.score(table).status_code == 200
    response = live.score(long_table)  # 1.6 MiB of voxels in a body of half that
    assert response.status_code == 413
    assert "1 MiB for all requests" in response.json()["error"]
    assert live.figure("medsam2_reserved_bytes") == 0
    assert live.score(table).status_code == 200


def test_a_reservation_takes_from_the_budget_and_gives_back() -> None:
    budget = MemoryBudget(10 * 2**20)
    first, second = Reservation(budget), Reservation(budget)
    first.grow(2**20)
    first.grow(5 * 2**20)
    with pytest.raises(Busy) as caught:
        second.grow(5 * 2**20)
    assert caught.value.retry_after_s is not None
    with pytest.raises(TooLarge):
        first.grow(5 * 2**20)
    assert budget.num_reserved == first.num_bytes == 6 * 2**20
    first.shrink(2**20)
    second.grow(5 * 2**20)
    assert budget.num_reserved == 10 * 2**20
    first.close()
    second.close()
    assert budget.num_reserved == 0


def test_places_run_out_and_come_back() -> None:
    places = Places(1)
    with places.taken():
        with places.taken(), pytest.raises(Busy, match="1 more wait"), places.taken():
            pass
        assert places.num_taken == 1
        with places.taken():
            assert places.num_taken == 2
    assert places.num_taken == 0
    with pytest.raises(ZeroDivisionError), places.taken():
        _ = 1 / 0
    assert places.num_taken == 0
