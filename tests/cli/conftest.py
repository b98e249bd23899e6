"""The command line where a package is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

_SCRIPT = """
import sys
sys.modules[sys.argv[1]] = None
from medsam2.cli.main import run
sys.exit(run(sys.argv[2:]))
"""

RunWithout = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_without() -> RunWithout:
    """Run `medsam2` in a process of its own, as if a package were not installed.

    In this one, modules that were imported before would have to go from `sys.modules`. They would come back
    with the end of the test, but those imported in between would stay attributes of their packages.
    """

    def run(missing: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-c", _SCRIPT, missing, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run
