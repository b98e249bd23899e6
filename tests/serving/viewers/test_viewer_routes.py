"""All protocols at one address, and words for a viewer that speaks the wrong one."""

from __future__ import annotations

import socket
import time

import pytest

from medsam2.errors import InputError
from medsam2.serving.viewers.error_answers import reason
from medsam2.serving.viewers.paths import basic_pair, is_viewer_path
from medsam2.serving.viewers.windows import check_window, named_window


@pytest.mark.parametrize(
    ("path", "is_viewers"),
    [
        ("/claim", True),
        ("/add_point_interaction", True),
        ("/viewers/anna/claim", True),
        ("/viewers/", True),
        ("/start_session", True),
        ("/v2/start_session/nnInteractive", True),
        ("/process_point_interaction/abc", True),
        ("/v2/models", True),
        ("/score", False),
        ("/v1/sessions", False),
        ("/status/a/b", False),
        ("/", False),
        ("/healthz", False),
        ("/session/", False),
    ],
)
def test_paths_of_viewers(path: str, is_viewers: bool) -> None:
    assert is_viewer_path(path) is is_viewers


def test_users_and_reasons() -> None:
    assert basic_pair("Basic YW5uYTprZXk=") == ("anna", b"key")
    assert basic_pair("basic !") == ("", b"")
    assert basic_pair("Bearer x") == ("", b"")
    assert reason("a sentence\r\nX-Bad: 1 with é") == "a sentence X-Bad: 1 with ?"
    assert len(reason("x" * 1000)) == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/info/", 404, "--studies"),
        ("GET", "/viewers/anna/info/", 404, "without a path"),
        ("POST", "/viewers/anna/infer/segment", 404, "/viewers/NAME"),
        ("GET", "/viewers/anna/nothing", 404, "/viewers/NAME"),
        ("POST", "/add_point_interaction", 400, "coordinates"),
        ("POST", "/viewers/9,1/claim", 422, "the smaller number comes first"),
        ("POST", "/set_image", 410, "connect and send it again"),
    ],
)
def test_the_wrong_dialect_is_answered_in_words(
    server, method: str, path: str, status: int, words: str
) -> None:
    answer = server.client.request(method, path, json={})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert words in answer.reason_phrase


def test_an_address_with_a_name_is_there(server) -> None:
    assert server.client.get("/viewers/anna").json()["ok"]
    assert server.client.get("/viewers/anna/healthz").json()["ok"]


def test_ids_are_not_logged(server, caplog) -> None:
    import logging

    with caplog.at_level(logging.INFO, logger="medsam2.serving"):
        one = server.client.get("/start_session").json()["session_id"]
        server.client.get(f"/end_session/{one}")
    assert one not in caplog.text
    figures = server.client.get("/metrics").text
    assert one not in figures
    assert "/end_session/{session_id}" in figures


def test_windows_by_name_and_numbers(run_tiny) -> None:
    assert named_window("Lung") == "lung"
    assert named_window("-1000,400.5") == (-1000.0, 400.5)
    assert named_window("anna") is None
    check_window("")
    with pytest.raises(InputError, match="MEDSAM2_VIEWER_WINDOW is 'lungs'"), run_tiny(viewer_window="lungs"):
        pass


@pytest.mark.parametrize("path", ["/claim", "/viewers/anna/claim", "/start_session"])
def test_a_name_that_is_not_the_servers_is_refused_where_viewers_show_it(server, path: str) -> None:
    answer = server.client.post(path, headers={"Host": "scans.evil.example:8000"})
    elsewhere = server.client.post("/score", headers={"Host": "scans.evil.example:8000"})
    assert answer.status_code == elsewhere.status_code == 403
    assert answer.json()["error"] == answer.json()["detail"] == elsewhere.json()["error"]
    assert "MEDSAM2_ALLOWED_HOSTS" in answer.reason_phrase


def send(port: int, announced: int, pieces: list[tuple[float, int]]) -> bytes:
    """Send an image in pieces, each after a pause in seconds; return the answer as far as it came."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        head = f"POST /upload_image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {announced}\r\n"
        connection.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n")
        try:
            for pause, size in pieces:
                time.sleep(pause)
                connection.sendall(b"x" * size)
            return connection.recv(65536)
        except ConnectionError:
            return connection.recv(65536)


def test_an_image_may_take_longer_than_other_bodies_if_it_keeps_coming(run_tiny) -> None:
    megabyte = 1 << 20  # gives it 16 seconds more
    with run_tiny(body_timeout_s=0.5) as live:
        in_time = send(live.port, 2 * megabyte, [(0, megabyte), (1.2, megabyte)])
        assert b" 408 " not in in_time.partition(b"\r\n")[0], (
            "it came whole; that it is no form is another matter"
        )
        assert b"multipart" in in_time or b"form" in in_time
        trickled = send(live.port, 1000, [(0.2, 1)] * 10)
        assert b" 408 " in trickled.partition(b"\r\n")[0]
        assert b"one more for each 64 KiB" in trickled
