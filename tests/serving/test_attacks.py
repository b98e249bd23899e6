"""Everything that a network may do to a server process, one thing after the other, and what is left of it."""

from __future__ import annotations

import pytest
from attacks import LARGEST_GROWTH_MIB, NUM_CONNECTIONS, run
from live_server import live_server, sound_row

NUM_TINY = 10_000


@pytest.mark.slow
def test_a_server_survives_and_its_memory_returns() -> None:
    with live_server(NUM_CONNECTIONS) as live:
        assert live.score(sound_row()).status_code == 200
        levels = []
        for num_tiny in (NUM_TINY, 100):
            outcomes = list(run(live, num_tiny))
            assert [(one.attack.name, one.got) for one in outcomes if not one.is_right] == []
            assert outcomes[-1].got == {"400": num_tiny}
            levels.append(live.resident_mib())
        assert levels[1] - levels[0] < LARGEST_GROWTH_MIB
        assert live.client.get("/readyz").status_code == 200
