"""What a session keeps beside its volume is counted, each value once and no longer than it is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medsam2.inference.features import RetainedBytes
from medsam2.inference.predictor import Predictor
from medsam2.inference.session import Session


@dataclass(frozen=True)
class Slice:
    logits: Tensor
    same: Tensor
    runs: np.ndarray | None = None
    number: int = 3


@dataclass(frozen=True)
class Pair:
    first: Slice
    second: Slice


def test_values_are_counted_once_and_for_as_long_as_they_are_kept() -> None:
    held = RetainedBytes()
    logits = torch.zeros(10)
    one = Slice(logits, logits)
    held.keep(one)
    held.keep(one)
    assert held.num_bytes == 40
    two = replace(one, runs=np.zeros(4, np.int32))
    held.keep(Pair(one, two))
    assert held.num_bytes == 56
    del two
    assert held.num_bytes == 40
    del one, logits
    assert held.num_bytes == 0


def propagated(session: Session) -> int:
    for _ in session.propagate():
        pass
    return session.num_bytes


def test_a_session_counts_what_it_found_and_what_undo_comes_back_to(runtime, scan) -> None:
    session = Predictor(runtime).session(scan)
    assert session.num_bytes == 0
    mask = np.zeros(scan.shape[1:], bool)
    mask[10:20, 10:20] = True
    session.add(1, slice=2, mask=mask)
    prompted = session.num_bytes
    assert prompted > mask.nbytes
    followed = propagated(session)
    assert followed > prompted + (scan.shape[0] - 1) * 16 * 16 * 2  # logits of the other slices, rounded
    assert propagated(session) == followed  # nothing was found anew
    session.add(2, slice=1, points=[(12, 12)])
    with_two = session.num_bytes
    assert with_two > followed
    session.remove(2)
    assert session.num_bytes == with_two  # undo would bring it back
    session.undo()
    session.undo()
    assert session.num_bytes == with_two  # redo would
    session.add(3, slice=1, points=[(12, 12)])
    session.remove(3)
    assert session.num_bytes <= with_two + (with_two - followed)
