"""`medsam2 bench`: the numbers of this machine, and where the comparison of policies is."""

from __future__ import annotations

import json

import pytest

from medsam2.cli.main import run


def test_bench_measures_each_slice(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--slices", "4", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["slices"] == 4
    assert facts["seconds_a_slice"] == facts["seconds"] / 4
    assert 0 < facts["box_seconds"] < facts["seconds"]
    assert facts["device"] == "cpu"


def test_the_comparison_of_policies_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "memory", "cases.json", "--generated", "2"]) == 2
    assert "benchmarks/memory_policies.py" in capsys.readouterr().err
