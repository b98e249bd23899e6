"""What axe-core finds on each face of the page: nothing that keeps people out."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
AXE = "axe-core@4.14.1"
BOX = (22, 18, 41, 37)


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of axe-core, from npm."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("npm is not installed")
    packed = subprocess.run(
        [npm, "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    if packed.returncode != 0:
        pytest.skip("axe-core cannot be had from npm")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def _violations(screen, axe: str) -> list[str]:
    if not screen.page.evaluate("typeof axe === 'object'"):
        screen.page.evaluate(axe)
    found = screen.page.evaluate("async () => (await axe.run()).violations")
    return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]


def test_no_face_of_the_page_keeps_people_out(screen, axe: str, folder: Path) -> None:
    screen.open()
    screen.page.wait_for_selector(".card img[src]")
    assert _violations(screen, axe) == []
    screen.drop(folder / "ball.nii.gz")
    screen.go_to(5)
    screen.draw_box(BOX)
    screen.propagate()
    screen.page.wait_for_selector("#measurements table")
    assert _violations(screen, axe) == []
    screen.page.keyboard.press("?")
    assert _violations(screen, axe) == []
