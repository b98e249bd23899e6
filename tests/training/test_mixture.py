"""Which object a clip shows: by data sets and their structures, whatever the number of files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from medsam2.errors import InputError
from medsam2.training.compact_clips import Mixture
from medsam2.training.config import DataConfig

DRAWS = 4000
TOLERANCE = 0.04  # five standard deviations of a share of so many draws

WriteStacks = Callable[..., Path]
Stack = Mapping[str, object]


def _stack(dataset: str, *objects: str, patient: str = "", num_slices: int = 3) -> Stack:
    """An empty stack: what is drawn follows from the list and the number of slices."""
    voxels = np.zeros((num_slices, 2, 2), np.uint8)
    return {
        "image": voxels, "labels": voxels, "objects": objects, "dataset": dataset, "patient": patient,
    }  # fmt: skip


def _shares(
    folder: Path, stacks: list[Stack], config: DataConfig | None = None
) -> dict[tuple[str, str], float]:
    """How often each structure of each data set is drawn."""
    mixture = Mixture(folder, range(len(stacks)), config or DataConfig())
    rng = np.random.default_rng(0)
    counts: Counter[tuple[str, str]] = Counter()
    for _ in range(DRAWS):
        pick = mixture.draw(rng)
        stack = stacks[pick.seed]
        counts[str(stack["dataset"]), stack["objects"][pick.label - 1]] += 1  # type: ignore[index]
    return {key: count / DRAWS for key, count in counts.items()}


def test_forty_stacks_count_no_more_than_one(write_stacks: WriteStacks) -> None:
    stacks = [_stack("large", "liver", patient="one") for _ in range(40)] + [_stack("small", "cell")]
    shares = _shares(write_stacks(stacks), stacks)
    assert shares == {
        ("large", "liver"): pytest.approx(1 / 2, abs=TOLERANCE),
        ("small", "cell"): pytest.approx(1 / 2, abs=TOLERANCE),
    }


def test_a_data_set_counts_by_the_root_of_its_patients(write_stacks: WriteStacks) -> None:
    stacks = [_stack("large", "liver", patient=f"patient {n}") for n in range(16)] + [_stack("small", "cell")]
    shares = _shares(write_stacks(stacks), stacks)
    assert shares["small", "cell"] == pytest.approx(1 / (4 + 1), abs=TOLERANCE)


def test_a_scan_with_many_structures_counts_as_many_patients_with_one(write_stacks: WriteStacks) -> None:
    organs = [f"organ {n}" for n in range(16)]
    stacks = [_stack("whole body", *organs, patient="one"), _stack("small", "cell", patient="two")]
    shares = _shares(write_stacks(stacks), stacks)
    assert shares["small", "cell"] == pytest.approx(1 / (4 + 1), abs=TOLERANCE)


def test_without_patients_cases_are_counted(write_stacks: WriteStacks) -> None:
    stacks = [_stack("large", "liver") for _ in range(9)] + [_stack("small", "cell")]
    shares = _shares(write_stacks(stacks), stacks)
    assert shares["small", "cell"] == pytest.approx(1 / (3 + 1), abs=TOLERANCE)


def test_structures_of_a_data_set_come_equally_often(write_stacks: WriteStacks) -> None:
    stacks = [_stack("set", "liver", patient="p") for _ in range(39)]
    stacks.append(_stack("set", "liver", "spleen", patient="p"))
    shares = _shares(write_stacks(stacks), stacks)
    assert shares["set", "spleen"] == pytest.approx(1 / 2, abs=TOLERANCE)


POOLS = [
    _stack("painted", "bone"),
    _stack("photographs", "polyp", num_slices=1),
    _stack("scans", "liver"),
]


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ("painted photographs scans", {"painted": 0.5, "photographs": 0.2, "scans": 0.3}),
        ("painted scans", {"painted": 0.5 / 0.8, "scans": 0.3 / 0.8}),
        ("photographs scans", {"photographs": 0.4, "scans": 0.6}),
        ("scans", {"scans": 1.0}),
        ("painted", {"painted": 1.0}),
    ],
)
def test_painted_stacks_and_stills_have_shares(
    write_stacks: WriteStacks, there: str, expected: dict[str, float]
) -> None:
    stacks = [stack for stack in POOLS if stack["dataset"] in there.split()]
    shares = _shares(write_stacks(stacks), stacks, DataConfig(painted_share=0.5, still_share=0.2))
    found = {dataset: share for (dataset, _), share in shares.items()}
    assert found == {name: pytest.approx(share, abs=TOLERANCE) for name, share in expected.items()}


def test_stacks_that_are_not_wanted_are_drawn_where_there_are_no_others(write_stacks: WriteStacks) -> None:
    stacks = [POOLS[0]]
    shares = _shares(write_stacks(stacks), stacks, DataConfig(painted_share=0.0))
    assert shares == {("painted", "bone"): 1.0}


def test_a_data_set_may_be_left_out(write_stacks: WriteStacks) -> None:
    stacks = [_stack("hospital A", "liver"), _stack("hospital B", "liver")]
    shares = _shares(write_stacks(stacks), stacks, DataConfig(leave_out=("hospital A",)))
    assert shares == {("hospital B", "liver"): 1.0}


def test_an_unknown_data_set_is_not_left_out_in_silence(write_stacks: WriteStacks) -> None:
    folder = write_stacks([_stack("hospital A", "liver"), _stack("hospital B", "liver")])
    sentence = r"has no data set 'hospital C' to leave out; it has hospital A, hospital B"
    with pytest.raises(InputError, match=sentence):
        Mixture(folder, range(2), DataConfig(leave_out=("hospital C",)))


def test_something_has_to_be_left(write_stacks: WriteStacks) -> None:
    folder = write_stacks([_stack("hospital A", "liver")])
    with pytest.raises(InputError, match="has no stacks to train on"):
        Mixture(folder, range(1), DataConfig(leave_out=("hospital A",)))


def test_generated_stacks_are_one_data_set(stacks: Path) -> None:
    mixture = Mixture(stacks, range(1, 3), DataConfig())
    picks = [mixture.draw(np.random.default_rng(seed)) for seed in range(50)]
    assert {pick.seed for pick in picks} == {1, 2}
    assert min(pick.label for pick in picks) == 1
