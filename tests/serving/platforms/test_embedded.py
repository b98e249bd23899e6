"""The contract without our HTTP: the same answers, limits and errors as the server's."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import medsam2
from medsam2.inference.predictor import Predictor
from medsam2.serving.platforms.embedded import Embedded, Reply, embed
from medsam2.serving.settings import load_settings, reader_environment

Table = dict[str, list[object]]


@pytest.fixture
def embedded(predictor: Predictor) -> Iterator[Callable[..., Embedded]]:
    """Embed the model with settings."""
    with ExitStack() as stack:
        yield lambda **given: stack.enter_context(
            closing(Embedded(predictor, load_settings({"readers": 1, **given})))
        )


def asked(table: Table) -> bytes:
    return json.dumps({"input_data": table}).encode()


def test_the_answer_is_the_server_s_to_the_byte(server, embedded, table: Table) -> None:
    reply = embedded().answer(asked(table))
    assert reply.status == 200
    assert reply.headers == {}
    assert reply.body == server.score(table).content


def test_of_several_rows_one_may_fail(server, embedded, table: Table) -> None:
    two = {name: entries * 2 for name, entries in table.items()} | {"key_slice_idx": [5, 99]}
    reply = embedded().answer(asked(two))
    assert reply.status == 200
    assert reply.body == server.score(two).content
    assert json.loads(reply.body)[1]["status"] == 422


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"\xff{", 400, "not JSON"),
        (b'{"input_data": {}}', 400, "no rows"),
        (b" " * (2 * 2**20), 413, "1 MiB"),
        (asked({"nii_image": ["QUJD"], "bbox": [[1, 1, 5, 5]], "key_slice_idx": [0],
                "dicom_window": [[0, 1]]}), 422, "not a NIfTI file"),
    ],
    ids=["no JSON", "no rows", "too large", "no image"],
)  # fmt: skip
def test_what_is_wrong_has_the_contract_s_form(embedded, body: bytes, status: int, words: str) -> None:
    reply = embedded(max_body=1).answer(body)
    answer = json.loads(reply.body)
    assert reply.status == answer["status"] == status
    assert words in answer["error"]


def test_beyond_the_queue_it_says_when_to_come_again(embedded, table: Table) -> None:
    one = embedded(queue=0)
    together = threading.Barrier(4)

    def ask(_: int) -> Reply:
        together.wait()
        return one.answer(asked(table))

    with ThreadPoolExecutor(4) as callers:
        replies = list(callers.map(ask, range(4)))
    assert {reply.status for reply in replies} == {200, 503}
    assert all(int(reply.headers["Retry-After"]) >= 1 for reply in replies if reply.status == 503)
    assert one.answer(asked(table)).status == 200


def test_the_end_leaves_neither_threads_nor_files(
    predictor: Predictor, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    threads = set(threading.enumerate())
    one = Embedded(predictor, load_settings({"readers": 1}))
    assert one.answer(asked(table)).status == 200
    one.close()
    assert list(tmp_path.iterdir()) == []
    left = [thread.name for thread in set(threading.enumerate()) - threads if thread.is_alive()]
    assert [name for name in left if name.startswith("medsam2")] == []


def test_it_listens_nowhere_and_so_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDSAM2_API_KEY", raising=False)
    monkeypatch.setenv("MEDSAM2_HOST", "0.0.0.0")
    monkeypatch.setenv("MEDSAM2_READERS", "1")
    with closing(embed()) as one:
        assert json.loads(one.answer(b"{}").body)["status"] == 400


def test_readers_find_the_package_that_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM2_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    environment = reader_environment()
    home = str(Path(medsam2.__file__).parents[1])
    assert environment["PYTHONPATH"].split(os.pathsep) == [home, "elsewhere"]
    assert "MEDSAM2_API_KEY" not in environment
    monkeypatch.setattr("site.getsitepackages", lambda: [home])
    assert reader_environment()["PYTHONPATH"] == "elsewhere"
