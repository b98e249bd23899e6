"""Work on a scan without a server: corrections, objects, undo, stopping, reloads, keys, no network at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import medsam2
from medsam2.measure.overlap import dice

pytestmark = pytest.mark.slow
BOX = (22, 18, 41, 37)
NEWER_WAITS = """async () => {
    const registration = await navigator.serviceWorker.getRegistration();
    while (!registration.waiting) await new Promise((resolve) => setTimeout(resolve, 50));
}"""
STOP_LATER = """async () => {
    const { state } = await import("/page/state.js");
    const frames = {};
    const texts = new Set();
    while (Object.keys(frames).length < 5) {
        await new Promise((resolve) => requestAnimationFrame(resolve));
        const done = state.task?.done ?? 0;
        frames[done] = (frames[done] ?? 0) + 1;
        texts.add(document.getElementById("progress-text").textContent);
    }
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    return [frames, [...texts]];
}"""
"""Draws frames until four numbers of slices were seen, and then presses Escape."""


def _open_ball(screen, save_scan, folder: Path, **kind) -> Path:
    path = save_scan(folder / "ball.nii.gz", **kind)
    screen.open()
    screen.drop(path)
    return path


def test_corrections_objects_and_undo(screen, save_scan, tmp_path: Path) -> None:
    _open_ball(screen, save_scan, tmp_path)
    screen.go_to(5)
    screen.draw_box(BOX)
    screen.propagate()
    first = screen.num_voxels()
    screen.click(28, 22, is_inside=False)
    screen.propagate()
    corrected = screen.num_voxels()
    assert corrected != first
    screen.page.keyboard.press("n")
    screen.go_to(6)
    screen.draw_box((2, 2, 12, 12))
    assert screen.slices(2) == [6]
    screen.propagate()
    assert screen.num_voxels(1) == corrected
    screen.page.wait_for_function("() => document.querySelectorAll('#measurements table').length === 2")
    saved = medsam2.read(screen.export("NIfTI", tmp_path))
    assert set(map(int, set(saved.array.ravel()))) <= {0, 1, 2}
    for _ in range(2):
        screen.page.keyboard.press("Control+z")
        screen.page.wait_for_timeout(50)
        screen.rests()
    assert screen.slices(2) == []
    assert screen.num_voxels() == first
    screen.page.keyboard.press("Control+Shift+Z")
    screen.page.wait_for_timeout(50)
    screen.rests()
    screen.propagate()
    assert screen.num_voxels() == corrected


def test_the_page_moves_while_it_segments_and_stops_when_told(screen, save_scan, tmp_path: Path) -> None:
    _open_ball(screen, save_scan, tmp_path, shape=(60, 96, 96), half=28)
    screen.go_to(30)
    screen.draw_box((38, 38, 57, 57))
    screen.page.keyboard.press("Enter")
    frames, texts = screen.page.evaluate(STOP_LATER)
    assert len(frames) == 5
    assert any("slice" in text and "of 60" in text for text in texts)
    screen.rests()
    found = screen.slices()
    assert 3 <= len(found) < 50
    assert "stopped" in screen.notices()
    screen.propagate()
    assert len(screen.slices()) > len(found)


def test_a_reload_repeats_the_steps(screen, save_scan, tmp_path: Path) -> None:
    _open_ball(screen, save_scan, tmp_path)
    screen.go_to(5)
    screen.draw_box(BOX)
    screen.propagate()
    found = screen.slices(), screen.num_voxels()
    screen.page.wait_for_timeout(600)
    screen.page.reload()
    screen.is_ready().is_open()
    assert (screen.slices(), screen.num_voxels()) == found


def test_it_works_without_a_network_after_the_first_visit(
    screen, file_server, save_scan, tmp_path: Path
) -> None:
    screen.open()
    file_server.end()
    screen.page.context.set_offline(True)
    screen.page.reload()
    screen.is_ready()
    assert screen.page.evaluate("crossOriginIsolated")
    path = save_scan(tmp_path / "ball.nii.gz")
    screen.drop(path)
    screen.go_to(5)
    screen.draw_box(BOX)
    screen.propagate()
    screen.page.wait_for_selector("#measurements table")
    expected = medsam2.load("compact").segment(path, slice=5, box=BOX)
    saved = medsam2.read(screen.export("NIfTI", tmp_path))
    assert dice(saved.array > 0, expected.array > 0) >= 0.995


def test_a_new_export_takes_the_place_of_the_old_one(screen, serve, site: Path, tmp_path: Path) -> None:
    """Once all tabs with the old one are closed."""
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    screen.address = serve(folder).address
    screen.open()
    worker, style = folder / "service-worker.js", folder / "page" / "start.css"
    style.write_text(style.read_text("utf-8") + "/* new */", encoding="utf-8")
    worker.write_text(worker.read_text("utf-8").replace('"version": "', '"version": "new-'), encoding="utf-8")
    context = screen.page.context
    for is_new in (False, True):
        page = context.new_page()
        page.goto(screen.address)
        page.wait_for_selector("body[data-offline=yes]")
        text = page.evaluate("async () => (await fetch('page/start.css')).text()")
        assert text.endswith("/* new */") == is_new
        if not is_new:
            page.evaluate(NEWER_WAITS)
        for one in context.pages:
            one.close()


def test_all_by_keyboard(screen, save_scan, tmp_path: Path) -> None:
    _open_ball(screen, save_scan, tmp_path)
    keyboard = screen.page.keyboard
    screen.page.locator(".pane.main canvas").focus()
    while screen.state("crosshair.2") > 5:
        keyboard.press("ArrowDown")
        screen.page.wait_for_timeout(20)
    keyboard.press("p")
    keyboard.press("Space")
    screen.page.wait_for_timeout(100)
    screen.rests()
    assert screen.slices() == [screen.state("crosshair.2")]
    keyboard.press("Enter")
    screen.page.wait_for_timeout(100)
    screen.rests()
    assert len(screen.slices()) > 4


def test_a_finger_clicks_inside_and_stays_to_click_outside(new_screen, save_scan, tmp_path: Path) -> None:
    screen = new_screen({"width": 1024, "height": 768}, has_touch=True)
    _open_ball(screen, save_scan, tmp_path)
    screen.page.locator("[data-tool=point]").tap()
    screen.page.touchscreen.tap(*screen.place(31, 27))
    screen.page.wait_for_timeout(100)
    screen.rests()
    touch = screen.page.context.new_cdp_session(screen.page)
    x, y = screen.place(5, 5)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    screen.page.wait_for_timeout(700)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    screen.page.wait_for_timeout(100)
    screen.rests()
    assert [step["labels"] for step in screen.state("log")] == [[1], [0]]


def test_the_tour_leads_to_a_mask_of_a_real_heart(screen) -> None:
    screen.open(has_seen_tour=False)
    screen.is_open()
    screen.page.wait_for_selector("#tour-hint:not([hidden])")
    target = screen.state("target")
    screen.draw_box(tuple(target["box"]))
    screen.propagate()
    screen.page.wait_for_selector("body[data-dice]")
    assert float(screen.page.evaluate("document.body.dataset.dice")) > 0.9
    screen.shoot("site-tour")


def test_a_page_opened_as_a_file_says_why_it_does_not_start(screen, site: Path) -> None:
    screen.page.goto((site / "index.html").as_uri())
    notice = screen.page.locator("#not-started")
    notice.wait_for(state="visible")
    assert "python -m http.server" in notice.inner_text()
    screen.faults.clear()  # the browser tells the console what it does not load


def test_a_browser_that_is_too_old_is_named(screen, save_scan, tmp_path: Path) -> None:
    """A worker whose WebAssembly takes no module with SIMD."""
    path = save_scan(tmp_path / "ball.nii.gz")
    screen.open()
    for worker in screen.page.workers:
        if worker.url.startswith("blob:"):
            worker.evaluate("WebAssembly.validate = () => false")
    assert "has no SIMD" in screen.refuses(path)
