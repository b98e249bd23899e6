"""The wheel carries the weights and the demo's scan: a newcomer's first command needs both."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_WEIGHTS_BYTES = 25_000_000
MAX_DEMO_BYTES = 500_000


def test_the_wheel_carries_weights_and_scan(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert 0 < sizes["medsam2/shipped/compact.safetensors"] < MAX_WEIGHTS_BYTES
    assert sizes["medsam2/shipped/compact.md"] > 0
    demo = [sizes[f"medsam2/shipped/{name}"] for name in ("demo.nii.gz", "demo-mask.nii.gz", "demo.md")]
    assert min(demo) > 0
    assert sum(demo) < MAX_DEMO_BYTES
    assert sizes["medsam2/training/rounds/compact-finetune.toml"] > 0, "the page's fine-tuning needs it"
    assert not [name for name in sizes if name.startswith(("tests/", "runs/"))]
