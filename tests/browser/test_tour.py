"""The tour: box, propagate, correct on a scan whose answer is known; and how long each takes."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.slow


def test_the_tour_leads_to_a_good_mask(screen, record_property) -> None:
    started = time.perf_counter()
    screen.open(has_seen_tour=False)
    screen.is_open()
    screen.page.wait_for_selector("#tour-hint:not([hidden])")
    screen.page.wait_for_function("() => document.querySelector('#tour-hint').textContent.includes('1 of 3')")
    screen.page.wait_for_timeout(300)
    screen.shoot("tour-1-box")
    opened = time.perf_counter()
    tour = screen.page.evaluate("async () => (await fetch('/v1/tour')).json()")
    x0, y0, x1, y1 = tour["box"]
    screen.draw_box((x0, y0, x1, y1))
    screen.shoot("tour-2-outline")
    boxed = time.perf_counter()
    screen.page.keyboard.press("Enter")
    screen.page.wait_for_timeout(50)
    screen.rests()
    propagated = time.perf_counter()
    screen.page.wait_for_selector("body[data-dice]")
    dice = float(screen.page.evaluate("document.body.dataset.dice"))
    screen.page.wait_for_selector("body[data-solids='1']")
    screen.page.wait_for_timeout(500)
    screen.shoot("tour-3-propagated")
    name = screen.page.locator(".object-name").first
    assert name.evaluate("input => input.scrollWidth <= input.clientWidth"), "the name is cut off"
    before = screen.num_voxels()
    screen.page.keyboard.press("p")
    where = screen.place(x0 + 2, (y0 + y1) // 2)
    clicked = time.perf_counter()
    screen.page.mouse.click(*where, button="right")
    screen.page.wait_for_function(
        "() => document.querySelector('#tour-hint').textContent.includes('That is all')"
    )
    outlined = time.perf_counter()
    screen.rests()
    screen.shoot("tour-4-corrected")
    assert dice > 0.85
    assert screen.num_voxels() != before or screen.state("log.length") == 3
    for name, seconds in (
        ("open_s", opened - started), ("preview_s", boxed - opened), ("propagate_s", propagated - boxed),
        ("drop_to_mask_s", propagated - started), ("click_to_outline_s", outlined - clicked),
    ):  # fmt: skip
        record_property(name, round(seconds, 2))
        print(name, round(seconds, 2))
    print("dice", dice)
