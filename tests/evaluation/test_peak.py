"""Peak memory: a large array is seen, and forgotten by the next watch."""

import sys

import numpy as np
import pytest

from medsam2.inference.record import watched_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_the_peak_is_that_of_the_block_alone():
    with watched_memory() as before:
        pass
    if before.mib is None:
        pytest.skip("this system does not let a process take its mark back")
    with watched_memory() as large:
        np.ones(160 << 20, np.uint8)
    with watched_memory() as after:
        pass
    assert large.mib - before.mib > 120
    assert large.mib - after.mib > 120
