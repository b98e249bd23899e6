"""Which object of which stack a clip shows: evenly over data sets and structures, not over files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medsam2.errors import InputError
from medsam2.training.bank import BankEntry, list_entries, num_slices
from medsam2.training.config import DataConfig

PAINTED = "painted"
"""Data set of stacks that are painted from label maps; see `training.painting`."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """An object of a stack of the bank."""

    seed: int
    """Number of the stack in the bank."""
    label: int


@dataclass
class _Group:
    """One data set: its structures, and where each is found."""

    structures: dict[str, list[Pick]] = field(default_factory=dict)
    patients: set[str] = field(default_factory=set)

    @property
    def weight(self) -> float:
        """The root of the number of patients: one with many counts more, but not for all of them."""
        return float(np.sqrt(max(1, len(self.patients))))

    def names(self) -> list[str]:
        return list(self.structures)


class Mixture:
    """The objects of a bank in three pools: painted stacks, stills, volumes with videos."""

    def __init__(self, folder: Path, seeds: range, config: DataConfig) -> None:
        """Sort the objects of some stacks.

        Raises:
            InputError: A data set that is to be left out is not there, or nothing is left.
        """
        entries = dict(zip(seeds, list_entries(folder, seeds), strict=True))
        known = sorted({entry.dataset for entry in entries.values()})
        for name in config.leave_out:
            if name not in known:
                raise InputError(
                    f"{folder}: has no data set {name!r} to leave out; it has {', '.join(known)}"
                )
        pools: dict[str, dict[str, _Group]] = {"painted": {}, "still": {}, "volume": {}}
        for seed, entry in entries.items():
            if entry.dataset not in config.leave_out:
                _add(pools[_pool_of(entry, folder)], entry, seed)
        shares = {"painted": config.painted_share, "still": config.still_share}
        shares["volume"] = max(1 - sum(shares.values()), 0)
        self._pools = [list(pool.values()) for pool in pools.values() if pool]
        if not self._pools:
            raise InputError(f"{folder}: has no stacks to train on")
        chances = [shares[name] for name, pool in pools.items() if pool]
        total = sum(chances)
        self._chances = np.array([c / total if total > 0 else 1 / len(chances) for c in chances])
        self._weights = [np.array([group.weight for group in pool]) for pool in self._pools]

    def draw(self, rng: np.random.Generator) -> Pick:
        """Draw a pool, a data set in it, a structure of that, and a stack that shows it."""
        number = int(rng.choice(len(self._pools), p=self._chances))
        weights = self._weights[number]
        group = self._pools[number][int(rng.choice(len(weights), p=weights / weights.sum()))]
        names = group.names()
        picks = group.structures[names[int(rng.integers(len(names)))]]
        return picks[int(rng.integers(len(picks)))]


def _pool_of(entry: BankEntry, folder: Path) -> str:
    if entry.dataset == PAINTED:
        return "painted"
    return "still" if num_slices(folder / entry.file) == 1 else "volume"


def _add(pool: dict[str, _Group], entry: BankEntry, seed: int) -> None:
    group = pool.setdefault(entry.dataset, _Group())
    group.patients.add(entry.patient or entry.case)
    for label, name in enumerate(entry.objects, start=1):
        group.structures.setdefault(name, []).append(Pick(seed=seed, label=label))
