"""The page's files: what is given, to whom, and what it may load."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from medsam2.serving import pages
from medsam2.serving.pages import Tour, add_pages

WEB = Path(pages.__file__).parent / "web"
LARGEST = 1 << 20


@pytest.fixture(scope="module")
def tour() -> Tour:
    return Tour(
        name="t.nii.gz", structure="ball", slice=3, box=(1, 2, 3, 4), window=(0, 1),
        scan=b"scan", answer=b"answer",
    )  # fmt: skip


@pytest.fixture(scope="module")
def live(run_server: Callable[..., AbstractContextManager], tour: Tour):
    with run_server(extensions=[lambda app, _: add_pages(app, lambda: tour)]) as started:
        yield started


def test_the_page_may_load_nothing_from_elsewhere(live) -> None:
    answer = live.client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    for mark in ("http://", "https://", "<script>", " style=", "onclick"):
        assert mark not in answer.text


@pytest.mark.parametrize("name", sorted(file.name for file in WEB.glob("*.js")))
def test_every_module_is_served_and_small(live, name: str) -> None:
    answer = live.client.get(f"/page/{name}")
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.content == (WEB / name).read_bytes()
    assert len(answer.text.splitlines()) < 300


def test_niivue_travels_packed(live) -> None:
    answer = live.client.get("/page/niivue.js")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.content == gzip.decompress((WEB / "niivue.js.gz").read_bytes())
    assert (WEB / "niivue.js.gz").stat().st_size < LARGEST


@pytest.mark.parametrize(
    "name", ["none.js", "NOTICE", "..%2fpages.py", "%2e%2e/settings.py", "index.html%00"]
)
def test_nothing_else_is_given(live, name: str) -> None:
    answer = live.client.get(f"/page/{name}")
    assert answer.status_code == 404
    assert answer.json()["status"] == 404


def test_the_tour_is_told_and_given(live) -> None:
    facts = live.client.get("/v1/tour").json()
    assert facts == {
        "name": "t.nii.gz",
        "structure": "ball",
        "slice": 3,
        "box": [1, 2, 3, 4],
        "window": [0, 1],
    }
    assert live.client.get("/v1/tour/scan").content == b"scan"
    assert live.client.get("/v1/tour/answer").content == b"answer"


def test_a_key_guards_the_data_and_not_the_page(run_server, tour: Tour) -> None:
    extensions = [lambda app, _: add_pages(app, lambda: tour)]
    with run_server(api_key="k" * 20, extensions=extensions) as live:
        assert live.client.get("/").status_code == 200
        assert live.client.get("/page/main.js").status_code == 200
        assert live.client.get("/v1/tour").status_code == 401
        key = {"Authorization": f"Bearer {'k' * 20}"}
        assert live.client.get("/v1/tour", headers=key).status_code == 200
