"""Time the page that `medsam2 export web` writes, in Chromium: from the drop of a scan to the whole mask.

    python benchmarks/site_time.py SITE SCAN --slice 1 --box 27 26 79 86

The site is served by a plain file server in this process. Printed are the seconds from the drop to the first
outline and to the whole mask, processor time and largest memory of the tab, and the hosts of all requests.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import shutil
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, sync_playwright

FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--disable-dev-shm-usage"]
SETTLE_MS = 8000  # the network is loaded and all files are kept
PATIENCE_MS = 1_800_000
CORNERS = """async ([x0, y0, x1, y1]) => {
    const { drawingView } = await import("/page/plane_panes.js");
    const { shownPoint } = await import("/page/planes.js");
    const view = drawingView();
    const { left, top } = view.canvas.getBoundingClientRect();
    return [[x0, y0], [x1, y1]].map(([x, y]) => {
        const [u, v] = view.at(view.frame(), ...shownPoint(view.plane, x, y));
        return [left + u, top + v];
    });
}"""
NUM_SLICES = "async () => (await import('/page/state.js')).state.masks.slices(1).length"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serve files and say nothing."""

    def log_message(self, *_: object) -> None:
        pass


def renderers() -> dict[int, tuple[float, float]]:
    """Processor seconds and largest memory in MB of each renderer on this machine, by process."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" not in (place / "cmdline").read_bytes():
                continue
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            peak = (place / "status").read_text().partition("VmHWM:")[2].split()[0]
        except (OSError, IndexError):
            continue  # it has ended
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        found[int(place.name)] = seconds, int(peak) / 1024
    return found


def rest(page: Page) -> None:
    page.wait_for_timeout(20)
    page.wait_for_selector("body:not(.is-working)")


def measure(page: Page, scan: Path, key_slice: int, box: list[float], others: set[int]) -> dict[str, object]:
    def processor_s() -> float:
        return sum(seconds for pid, (seconds, _) in renderers().items() if pid not in others)

    started, processor_before = time.perf_counter(), processor_s()
    page.set_input_files("#file", scan)
    page.wait_for_selector("#work:not([hidden])")
    rest(page)
    opened = time.perf_counter()
    page.locator("#strip-slice").fill(str(key_slice))
    start, end = page.evaluate(CORNERS, box)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=3)
    page.mouse.up()
    rest(page)
    outlined = time.perf_counter()
    page.keyboard.press("Enter")
    rest(page)
    done = time.perf_counter()
    return {
        "opened_s": round(opened - started, 2),
        "outline_s": round(outlined - started, 2),
        "mask_s": round(done - started, 2),
        "num_slices": page.evaluate(NUM_SLICES),
        "processor_s": round(processor_s() - processor_before, 1),
        "memory_mb": round(max(peak for pid, (_, peak) in renderers().items() if pid not in others)),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--slice", type=int, required=True)
    parser.add_argument("--box", type=float, nargs=4, required=True, metavar=("X0", "Y0", "X1", "Y1"))
    chosen = parser.parse_args()
    handler = functools.partial(Quiet, directory=str(chosen.site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    others = set(renderers())
    hosts: set[str] = set()
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.add_init_script("localStorage.setItem('medsam2.tour', 'yes')")
        context.on("request", lambda request: hosts.add(urlsplit(request.url.removeprefix("blob:")).netloc))
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("body[data-offline=yes]")
        page.wait_for_timeout(SETTLE_MS)
        found = measure(page, chosen.scan, chosen.slice, chosen.box, others)
        browser.close()
    print(json.dumps({**found, "hosts": sorted(hosts - {""})}))


if __name__ == "__main__":
    main()
