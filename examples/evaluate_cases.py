"""Measure masks against known masks, on generated scans.

    python examples/evaluate_cases.py cases

For your own scans, write such a list of cases; `medsam2 evaluate cases/cases.json` reads the same file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import medsam2
from medsam2.evaluation.cases import read_cases
from medsam2.evaluation.report import write_csv
from medsam2.evaluation.runner import run_cases
from medsam2.prompts.simulate import tight_box
from medsam2.synthesis.scan import STRUCTURES, generate_scan

TARGET = "lesion"
SEEDS = (1, 2)


def write_case(folder: Path, seed: int) -> dict[str, object]:
    """Write a scan and its labels, and return the case: the object to segment and its box."""
    scan = generate_scan(seed)
    label = STRUCTURES.index(TARGET) + 1
    truth = scan.labels == label
    key_slice = int(truth.sum(axis=(1, 2)).argmax())
    for name, array in (("image", scan.image), ("mask", scan.labels)):
        volume = medsam2.Volume.from_array(array, scan.spacing_mm, modality="CT")
        medsam2.write(volume, folder / f"{name}_{seed}.nii.gz")
    return {
        "name": f"scan {seed}",
        "image": f"image_{seed}.nii.gz",
        "mask": f"mask_{seed}.nii.gz",
        "label": label,
        "modality": "CT",
        "target": TARGET,
        "window": "abdomen",
        "axis": 2,
        "key_slice": key_slice,
        "box": [round(end) for end in tight_box(np.asarray(truth[key_slice])).xyxy],
    }


def main(output: str) -> None:
    """Write the cases, run them, print the measurements and save them."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.json").write_text(json.dumps([write_case(folder, seed) for seed in SEEDS], indent=2))

    results = []
    for result in run_cases(read_cases(folder / "cases.json"), medsam2.load("compact")):
        results.append(result)
        if result.scores is None:
            print(f"{result.name} failed: {result.error}")
        else:
            print(f"{result.name}: Dice {result.scores.dice:.3f}, HD95 {result.scores.hd95_mm:.1f} mm")
    write_csv(results, folder / "results.csv")


if __name__ == "__main__":
    main(*sys.argv[1:])
