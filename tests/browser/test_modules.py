"""What TypeScript's compiler finds in the page's modules, going by their comments: nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from medsam2.serving import pages

pytestmark = pytest.mark.slow
COMPILER = "typescript@5.9.3"
WEB = Path(pages.__file__).parent / "web"
ENTRIES = [str(WEB / name) for name in ("main.js", "browser/worker.js", "browser/service_worker.js")]
OPTIONS = (
    "--noEmit", "--allowJs", "--checkJs", "--target", "es2023", "--module", "esnext",
    "--moduleResolution", "bundler", "--lib", "es2023,dom,dom.iterable", "--strict", "false",
    "--noUnusedLocals", "--noUnusedParameters",
)  # fmt: skip


def test_the_modules_fit_together(tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm is not installed")
    got = subprocess.run(
        [npm, "install", "--silent", "--prefix", str(tmp_path), COMPILER],
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    if got.returncode != 0:
        pytest.skip("the compiler cannot be had from npm")
    compiler = tmp_path / "node_modules" / "typescript" / "bin" / "tsc"
    found = subprocess.run(
        [node, str(compiler), *OPTIONS, *ENTRIES], capture_output=True, text=True, check=False, timeout=300
    )
    assert found.stdout == ""
