"""The page without a server: from a dropped file to a mask, and no request leaves the origin."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import nibabel
import numpy as np
import pytest

import medsam2
from medsam2.measure.overlap import dice
from medsam2.measure.sizes import measure_objects

pytestmark = pytest.mark.slow
BOX = (22, 18, 41, 37)
ELSEWHERE = "http://127.0.0.1:9/"
AGREES = 0.995
ASKS_ELSEWHERE = """async (address) => {
    const seen = [];
    addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
    const answer = await fetch(address, { mode: "no-cors" }).then(() => "sent", () => "refused");
    await new Promise((resolve) => setTimeout(resolve, 100));
    return [answer, ...seen];
}"""


def _segment(screen, path: Path) -> None:
    screen.drop(path)
    screen.go_to(5)
    screen.draw_box(BOX)
    screen.propagate()


def test_a_box_becomes_the_mask_that_python_finds(screen, save_scan, tmp_path: Path) -> None:
    path = save_scan(tmp_path / "ball.nii.gz")
    screen.open()
    _segment(screen, path)
    screen.page.wait_for_selector("#measurements table")
    saved = screen.export("NIfTI", tmp_path)
    assert saved.name == "ball_mask.nii.gz"
    image, scan = nibabel.load(saved), nibabel.load(path)
    assert image.get_data_dtype() == np.uint8
    for field in ("dim", "pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "sform_code", "qform_code"):
        np.testing.assert_array_equal(image.header[field], scan.header[field], field)
    expected = medsam2.load("compact").segment(path, slice=5, box=BOX)
    found = medsam2.read(saved)
    assert dice(found.array > 0, expected.array > 0) >= AGREES
    (python,) = measure_objects(found, medsam2.read(path))
    (ours,) = screen.state("measurements")
    for name in ("num_voxels", "volume_ml", "num_slices"):
        assert ours[name] == pytest.approx(getattr(python, name))
    assert ours["diameters"]["long"]["length_mm"] == pytest.approx(python.diameters.long.length_mm)
    assert ours["diameters"]["short"]["length_mm"] == pytest.approx(python.diameters.short.length_mm)
    assert ours["intensities"]["mean"] == pytest.approx(python.intensities.mean)
    assert ours["intensities"]["std"] == pytest.approx(python.intensities.std)
    origins = {urlsplit(address.removeprefix("blob:"))[:2] for address in screen.requests}
    assert origins - {("data", "")} == {urlsplit(screen.address)[:2]}
    screen.shoot("site-mask")


def test_nothing_can_be_sent_from_the_page_or_its_worker(screen) -> None:
    screen.open()
    assert screen.page.evaluate("crossOriginIsolated")
    answer, *directives = screen.page.evaluate(ASKS_ELSEWHERE, ELSEWHERE)
    assert (answer, set(directives)) == ("refused", {"connect-src"})
    (worker, *_) = [one for one in screen.page.workers if one.url.startswith("blob:")]
    answer, *directives = worker.evaluate(ASKS_ELSEWHERE, ELSEWHERE)
    assert (answer, set(directives)) == ("refused", {"connect-src"})
    screen.faults.clear()  # the browser tells the console what it has refused


def test_an_address_without_encryption_has_one_thread_and_the_same_policy(
    screen, save_scan, tmp_path: Path
) -> None:
    """There the browser has no service worker, and so nothing adds headers."""
    screen.page.add_init_script("localStorage.setItem('medsam2.tour', 'yes')")
    port = urlsplit(screen.address).port
    screen.page.goto(f"http://hospital.test:{port}/")
    screen.page.wait_for_selector("body[data-ready=yes]")
    assert not screen.page.evaluate("isSecureContext || crossOriginIsolated")
    (worker,) = screen.page.workers
    answer, *directives = worker.evaluate(ASKS_ELSEWHERE, ELSEWHERE)
    assert (answer, set(directives)) == ("refused", {"connect-src"})
    screen.faults.clear()  # the browser tells the console what it has refused
    _segment(screen, save_scan(tmp_path / "ball.nii.gz"))
    assert len(screen.slices()) > 5


def test_what_needs_a_server_is_not_shown(screen) -> None:
    screen.open()
    for name in ("report", "improve", "user", "cases", "filter-label", "away"):
        assert not screen.page.locator(f"#{name}").is_visible(), name
    assert "stays on this computer" in screen.page.locator("#start-text").inner_text()


@pytest.mark.parametrize("size", [(1280, 800), (1024, 768), (768, 1024)])
def test_nothing_lies_outside_the_screen(
    new_screen, save_scan, tmp_path: Path, size: tuple[int, int]
) -> None:
    screen = new_screen({"width": size[0], "height": size[1]}, has_touch=True)
    screen.open()
    _segment(screen, save_scan(tmp_path / "ball.nii.gz"))
    assert screen.slices()
    for name in ("undo", "export-menu", "help", "propagate", "strip-slice", "tools", "objects"):
        box = screen.page.locator(f"#{name}").bounding_box()
        assert box is not None, name
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= size[0], name
        assert box["y"] + box["height"] <= size[1], name
    screen.shoot(f"site-{size[0]}x{size[1]}")
