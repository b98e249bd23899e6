"""Folders of a few made stacks, a learner that notes its inputs, and a small official network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from medsam2.model.compact.network import PLANES, CompactNetwork
from medsam2.model.config import PRESETS
from medsam2.model.network import Network
from medsam2.training.compact_learner import CompactLearner, Recalled
from medsam2.training.config import LossConfig
from medsam2.training.stack_files import MANIFEST, generate_stacks

WriteStacks = Callable[..., Path]


@pytest.fixture
def write_stacks(tmp_path: Path) -> WriteStacks:
    """Write prepared stacks; each is `image`, `labels` and what its entry in the list has."""

    def write(train: Sequence[Mapping[str, object]], validation: Sequence[Mapping[str, object]] = ()) -> Path:
        folder = tmp_path / "made-stacks"
        folder.mkdir()
        listed: dict[str, list[dict[str, object]]] = {"train": [], "validation": []}
        for split, stacks in (("train", train), ("validation", validation)):
            for number, stack in enumerate(stacks):
                entry = {"file": f"{split}-{number:03d}.npz", "case": f"{split} {number}", **stack}
                image, labels = entry.pop("image"), entry.pop("labels")
                entry.setdefault("objects", [f"object {n}" for n in range(1, int(np.max(labels)) + 1)])
                np.savez(folder / str(entry["file"]), image=image, labels=labels, modality="MR")
                listed[split].append(entry)
        (folder / MANIFEST).write_text(json.dumps(listed), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three generated stacks."""
    folder = tmp_path_factory.mktemp("stacks")
    list(generate_stacks(folder, range(3), workers=1))
    return folder


@pytest.fixture
def tiny_preset(network: Network, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the official network in a size for tests, of 64 px."""
    monkeypatch.setitem(PRESETS, "tiny-64", network.config)
    return "tiny-64"


class Noted(nn.Module):
    """A learner that notes what it is given."""

    def __init__(self, learner: CompactLearner) -> None:
        super().__init__()
        self.learner = learner
        self.given: list[tuple[Tensor, Tensor, Tensor, Recalled | None]] = []

    def forward(
        self, planes: Tensor, target: Tensor, counts: Tensor, recalled: Recalled | None
    ) -> tuple[Tensor, ...]:
        self.given.append((planes, target, counts, recalled))
        return self.learner(planes, target, counts, recalled)

    def planes(self, call: int, name: str) -> Tensor:
        return self.given[call][0][:, PLANES.index(name)]


@pytest.fixture
def noted(compact_network: CompactNetwork) -> Noted:
    return Noted(CompactLearner(compact_network, LossConfig(absent_mask_weight=1.0)))
