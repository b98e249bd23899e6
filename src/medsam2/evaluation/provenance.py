"""What a report was made with: command, versions, weights and machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from medsam2.checkpoints import file_digest, resolve

PACKAGES = ("medsam2", "torch", "numpy", "scipy", "monai", "SimpleITK", "matplotlib")
_CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Facts for whoever wants to have the numbers again."""

    command: str
    """As it would be typed."""
    started: str
    """Date and time in UTC, ISO 8601."""
    versions: Mapping[str, str]
    """Of Python and the packages that took part."""
    machine: Mapping[str, str]
    code: str
    """SHA-256 of the package's source files."""
    cases: str
    """SHA-256 of the list of cases."""
    weights: Mapping[str, str]
    """Weights as the user named them -> SHA-256 of their file."""


def describe_run(command: str, cases: Path, weights: Sequence[str], device: str) -> Provenance:
    """Collect what there is to say about this run, before it starts.

    Args:
        command: The command line.
        cases: The list of cases.
        weights: Names or files as the user gave them; none for a classical method.
        device: What the network computes on, and in what.

    Raises:
        CheckpointError: Weights are not there.
    """
    return Provenance(
        command=command,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        machine={
            "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
            "processor": _processor(),
            "processors": str(os.cpu_count()),
            "threads of PyTorch": str(torch.get_num_threads()),
            "device": device,
        },
        code=_code_digest(),
        cases=file_digest(cases),
        weights={name: file_digest(resolve(name)) for name in weights},
    )


def _code_digest() -> str:
    """Digest names and contents of the package's own files, which change more often than its version."""
    package = Path(__file__).parents[1]
    digest = sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()} {file_digest(path)}\n".encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = _CPU_FACTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")
