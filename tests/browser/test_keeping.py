"""Work that is not saved survives a reload, an expired session and a server that was killed."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

BOX = (22, 18, 41, 37)
pytestmark = pytest.mark.slow


def _segment(screen) -> tuple[list[int], int]:
    screen.go_to(5)
    screen.draw_box(BOX)
    screen.propagate()
    screen.page.wait_for_timeout(600)
    return screen.slices(), screen.num_voxels()


def test_a_reload_finds_the_same_session(screen) -> None:
    screen.open()
    screen.open_case("ball")
    found = _segment(screen)
    session = screen.state("session.id")
    screen.page.reload()
    screen.is_ready().is_open()
    assert screen.state("session.id") == session
    assert (screen.slices(), screen.num_voxels()) == found
    screen.page.locator("#back").click()
    screen.page.wait_for_selector("#start:not([hidden])")


def test_a_session_that_expired_is_opened_again(screen, annotator) -> None:
    screen.open()
    screen.open_case("ball")
    found = _segment(screen)
    num_steps = screen.state("log.length")
    session = screen.state("session.id")
    httpx.delete(f"{annotator.address}v1/sessions/{session}").raise_for_status()
    screen.click(30, 20, is_inside=False)
    assert screen.state("session.id") != session
    assert screen.state("log.length") == num_steps + 1
    screen.page.keyboard.press("Control+z")
    screen.page.wait_for_timeout(50)
    screen.rests()
    assert (screen.slices(), screen.num_voxels()) == found
    screen.page.locator("#back").click()
    screen.page.wait_for_selector("#start:not([hidden])")


@pytest.mark.parametrize("kind", ["case", "file"])
def test_a_server_that_was_killed_is_missed_and_gone_on_with(
    screen, annotator, folder: Path, kind: str
) -> None:
    screen.open()
    if kind == "case":
        screen.open_case("ball")
    else:
        screen.drop(folder / "other.nii.gz")
    found = _segment(screen)
    annotator.kill()
    screen.click(30, 20, is_inside=False)
    screen.page.wait_for_selector("#away:not([hidden])")
    assert "does not answer" in screen.page.locator("#away").inner_text()
    screen.shoot("server-away")
    annotator.start()
    screen.page.wait_for_selector("#away[hidden]", state="attached")
    screen.page.wait_for_timeout(200)
    screen.rests()
    assert (screen.slices(), screen.num_voxels()) == found
    screen.page.reload()
    screen.is_ready().is_open()
    assert (screen.slices(), screen.num_voxels()) == found
    screen.page.locator("#back").click()
    screen.page.wait_for_selector("#start:not([hidden])")
