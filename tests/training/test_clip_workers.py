"""Clips drawn by worker processes: the same as those drawn in this process, and the same errors."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch

from medsam2.errors import InputError
from medsam2.training.clip_workers import ClipSource, Drawn, Request
from medsam2.training.config import DataConfig, PhaseConfig, TrainConfig
from medsam2.training.devices import GPU_CLIP_WORKERS, Devices, clip_workers
from medsam2.training.networks import training_of

PHASE = PhaseConfig(name="clips", steps=4, image_size=48, batch=2, clip_length=3, learning_rate=1e-3)
DATA = DataConfig(stacks=3, validation_stacks=0)
REQUESTS = [Request(phase=PHASE, step=step, clips=range(2)) for step in range(4)]


def _source(preset: str, stacks: Path, data: DataConfig, workers: int) -> ClipSource:
    config = TrainConfig(preset=preset, phases=(PHASE,), data=data)
    return ClipSource(training_of(config, stacks, torch.device("cpu")), 5, workers)


def _content(drawn: Drawn) -> bytes:
    """The clips, and the state of the generators that the simulated user goes on with."""
    states = [rng.bit_generator.state for rng in (drawn.chance.shared, *drawn.chance.clips)]
    arrays = [value.numpy() for value in vars(drawn.clips).values()]
    return pickle.dumps((arrays, states))


@pytest.mark.parametrize("preset", ["compact", "tiny-512"])
def test_worker_processes_draw_the_same_clips(preset: str, stacks: Path) -> None:
    data = dataclasses.replace(DATA, single_share=0.5) if preset == "compact" else DATA
    found = []
    for workers in (0, 2):
        source = _source(preset, stacks, data, workers)
        found.append([_content(drawn) for drawn in source.draw(REQUESTS)])
        source.close()
    assert found[0] == found[1]
    assert len(set(found[0])) == len(REQUESTS)


def test_an_error_in_a_worker_process_is_the_same_error(stacks: Path) -> None:
    source = _source("compact", stacks, dataclasses.replace(DATA, min_area=10**6), 1)
    with pytest.raises(InputError, match=r"no object for a clip was found in 60 draws"):
        list(source.draw(REQUESTS))
    source.close()


def test_workers_draw_beside_a_gpu_unless_they_are_counted() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert clip_workers(Devices(), cpu) == 0
    assert 1 <= clip_workers(Devices(), gpu) <= GPU_CLIP_WORKERS
    assert clip_workers(Devices(clip_workers=3), cpu) == 3
    assert clip_workers(Devices(clip_workers=0), gpu) == 0
    with pytest.raises(InputError, match="0 or more, not -1"):
        Devices(clip_workers=-1)
