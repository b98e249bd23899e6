"""The annotator's page: its files as they lie in the package, and the scan of its tour."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources

from fastapi import FastAPI, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from medsam2.serving.guard import PAGE_PATH, PAGE_PREFIX
from medsam2.serving.http_errors import NotFound
from medsam2.serving.schemas import Answer, json_response

_START = "index.html"
_GZIP = ".gz"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from other hosts and nothing inline. NiiVue has its letters as data: URLs, thumbnails are blobs.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class TourFacts(Answer):
    """What the page is told about the tour before it fetches the files."""

    name: str
    """Of the file that the page opens."""
    structure: str
    """What the hints ask for."""
    slice: int
    """Where they ask for a box."""
    box: tuple[int, int, int, int]
    """x_min, y_min, x_max, y_max in pixels of the slice."""
    window: tuple[float, float]


class Tour(TourFacts):
    """A scan whose answer is known, for people who see the page for the first time."""

    scan: bytes = Field(exclude=True)
    """A .nii.gz file."""
    answer: bytes = Field(exclude=True)
    """A .nii.gz file on the same grid, not 0 inside the structure."""


def add_pages(app: FastAPI, make_tour: Callable[[], Tour] | None = None) -> None:
    """Serve the annotator.

    Args:
        app: Gets the routes.
        make_tour: Makes the tour's scan when it is first needed; without it there is no tour.
    """
    files = _page_files()

    def answer(name: str) -> Response:
        if name not in files:
            raise NotFound("the page has no file of this name")
        body, headers = files[name]
        return Response(body, headers=headers)

    @app.get(PAGE_PATH, include_in_schema=False)
    async def show_page() -> Response:
        """Give the page."""
        return answer(_START)

    @app.get(PAGE_PREFIX + "{name}", include_in_schema=False)
    async def show_file(name: str) -> Response:
        """Give one of its files."""
        return answer(name)

    if make_tour is not None:
        _add_tour(app, cache(make_tour))


def _add_tour(app: FastAPI, tour: Callable[[], Tour]) -> None:
    @app.get("/v1/tour", response_model=TourFacts)
    async def show_facts() -> Response:
        """Say what the tour's scan is and where to draw."""
        return json_response(await run_in_threadpool(tour))

    @app.get("/v1/tour/scan")
    async def give_scan() -> Response:
        """Give the tour's scan as .nii.gz."""
        return Response((await run_in_threadpool(tour)).scan, media_type="application/gzip")

    @app.get("/v1/tour/answer")
    async def give_answer() -> Response:
        """Give the known answer as .nii.gz."""
        return Response((await run_in_threadpool(tour)).answer, media_type="application/gzip")


@cache
def _page_files() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Name to content and headers; no path leads out of the package, since names are looked up."""
    found = {}
    for entry in resources.files("medsam2.serving").joinpath("web").iterdir():
        name = entry.name.removesuffix(_GZIP)
        suffix = name[name.rfind(".") :] if "." in name else ""
        if suffix not in _TYPES:
            continue
        body = entry.read_bytes()
        headers = {**_HEADERS, "Content-Type": _TYPES[suffix]}
        if name != entry.name:
            headers["Content-Encoding"] = "gzip"
        found[name] = body, headers
    return found
