"""The recorded outputs of the reference, and our own run of the same prompts."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from medsam2.imaging.volume import Volume
from medsam2.inference.grid import cut_volume
from medsam2.inference.runtime import InferenceOptions, Runtime, start_runtime
from medsam2.inference.session import Session
from medsam2.model.config import TINY_512
from medsam2.model.network import Network

GOLDEN = Path(__file__).resolve().parent / "golden"
GROUPS = ("encoder", "box", "point", "two_objects")
RTOL, ATOL = 1e-3, 2e-3  # the recordings' own tolerance; logits have a standard deviation of about 8


@cache
def golden_inputs() -> ModuleType:
    """The file that makes weights and slices, from beside the recordings; without it the tests fail."""
    spec = importlib.util.spec_from_file_location("golden_inputs", GOLDEN / "inputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def recordings() -> Mapping[str, np.ndarray]:
    """All recorded arrays by name."""
    found: dict[str, np.ndarray] = {}
    for group in GROUPS:
        with np.load(GOLDEN / f"{group}.npz", allow_pickle=False) as file:
            found |= {name: file[name] for name in file.files}
    return found


@cache
def golden_runtime() -> Runtime:
    """The official network with the recordings' weights."""
    # As recorded: with one thread the encoder agrees to the bit, and no pixel of a prompted mask
    # falls on the other side of the threshold at which it enters memory.
    torch.set_num_threads(1)
    state = {name: torch.from_numpy(value) for name, value in golden_inputs().weights().items()}
    network = Network(TINY_512)
    network.load_state_dict(state, strict=True)
    return start_runtime(network, device="cpu", precision="float32")


def golden_session(**options: object) -> Session:
    """A session over the recordings' slices: no window, no zoom, no early end, as the reference ran."""
    volume = Volume.from_array(golden_inputs().slices(6, 512, seed=7))
    chosen = InferenceOptions(**{"keep_component": False, "stop_after": 0, **options})
    return Session(golden_runtime(), cut_volume(volume), window=(0, 255), options=chosen)


def compare(session: Session, number: int, entry: str) -> dict[str, float]:
    """Hold an object's visited slices against a recording; return the largest differences."""
    expected = recordings()
    largest = dict.fromkeys(("logits", "score", "pointer"), 0.0)
    for index, z in enumerate(expected[f"{entry}/frames"]):
        frame = session.frame(number, int(z))
        pairs = {
            "logits": (frame.low_res_logits[0, 0], expected[f"{entry}/low_res_logits"][index]),
            "score": (frame.object_logits[0, 0], expected[f"{entry}/object_score"][index]),
            "pointer": (frame.pointer[0], expected[f"{entry}/object_pointer"][index]),
        }
        for what, (ours, theirs) in pairs.items():
            np.testing.assert_allclose(
                ours.numpy(), theirs, rtol=RTOL, atol=ATOL, err_msg=f"{entry} slice {z} {what}"
            )
            largest[what] = max(largest[what], float(np.abs(ours.numpy() - theirs).max()))
    return largest
