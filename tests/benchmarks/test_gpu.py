"""The script for a GPU machine: one sentence without a GPU, and all of its work on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gpu import NO_GPU, main


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert capsys.readouterr().out == f"{NO_GPU}\n"


@pytest.mark.slow
def test_all_of_it_runs_on_the_cpu(tmp_path: Path) -> None:
    small = ["--objects", "1", "2", "--train-steps", "2", "--train-size", "64", "--train-batch", "1"]
    path = tmp_path / "gpu.json"
    main(
        [
            "--device",
            "cpu",
            "--slices",
            "8",
            "--check-slices",
            "3",
            "--minutes",
            "60",
            *small,
            "--json",
            str(path),
        ]
    )
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told["reason"].startswith(told["precision"])
    assert told["left_out"] == []
    assert [(row["network"], row["slices"]) for row in told["masks"]] == [("tiny-512", 3)] * 2 + [
        ("compact", 3)
    ] * 2
    assert all(row["dice"] == 1.0 for row in told["masks"] if row["precision"] == "float32")
    assert all(row["dice"] > 0.9 for row in told["masks"] if row["network"] == "compact")
    assert [(row["objects"], row["slices"]) for row in told["walk"]] == [(1, 4), (1, 8), (2, 8)] * 2
    assert all(row["seconds_a_slice"] > 0 for row in told["walk"])
    assert [row["network"] for row in told["training"]] == ["tiny-512", "compact"]
    assert all(row["steps_a_second"] > 0 for row in told["training"])
