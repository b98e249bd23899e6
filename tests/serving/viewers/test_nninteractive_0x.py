"""Requests of SlicerNNInteractive 0.x, made with the libraries that it uses."""

from __future__ import annotations

import gzip
import io
import socket
import time

import numpy as np
import pytest

from medsam2.imaging.volume import Volume

requests = pytest.importorskip("requests")
toolbelt = pytest.importorskip("requests_toolbelt")

PREFIX = "/viewers/0,255"
KEY = "k3y-of-slicer"
CLICK = {"voxel_coord": [5, 27, 31], "positive_click": True}


def npy(array: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.save(target, array)
    return target.getvalue()


def post_file(address: str, path: str, array: np.ndarray, positive: bool | None = None):
    """Send an array as the plug-in does; packed ones go with a header that is not true."""
    is_packed = path != "/upload_image"
    content = gzip.compress(npy(array)) if is_packed else npy(array)
    name = "volume.npy.gz" if is_packed else "volume.npy"
    fields = {"file": (name, content, "application/octet-stream")}
    if positive is not None:
        fields["positive_click"] = str(positive)
    form = toolbelt.MultipartEncoder(fields=fields)
    headers = {"Content-Type": form.content_type}
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    return requests.post(address + path, data=form, headers=headers, timeout=120)


def shown(answer, shape) -> np.ndarray:
    """The mask as the plug-in reads it."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream", answer.text
    bits = np.unpackbits(np.frombuffer(answer.content, np.uint8))
    return bits[: np.prod(shape)].reshape(shape)


def say(address: str, path: str, **words):
    return requests.post(address + path, json=words, timeout=120)


@pytest.fixture
def address(server) -> str:
    return f"http://127.0.0.1:{server.port}{PREFIX}"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_the_order_of_calls_of_the_plug_in(address, image, predictor) -> None:
    array = image.array[:11, :55, :63]  # its number of voxels is no multiple of 8
    empty = np.zeros(array.shape, bool)
    assert requests.get(address, timeout=5).status_code == 200
    assert post_file(address, "/upload_image", array).json() == {"status": "ok"}
    assert post_file(address, "/upload_segment", empty).json() == {"status": "ok"}
    click = shown(say(address, "/add_point_interaction", **CLICK), array.shape)
    session = predictor.session(Volume(array, np.eye(4)), window=(0, 255), axis=2)
    session.add(1, slice=5, points=[(31, 27)])
    session.finish()
    assert click.any()
    assert (click == session.result().array).all()
    corners = {"outer_point_one": [5, 37, 22], "outer_point_two": [5, 18, 41], "positive_click": True}
    box = shown(say(address, "/add_bbox_interaction", **corners), array.shape)
    session.add(1, slice=5, box=(22, 18, 41, 37))
    session.finish()
    assert (box == session.result().array).all()
    stroke = np.zeros(array.shape, np.uint8)
    stroke[8, 27, 28:34] = 1
    stroke[2, 5, 5:50] = 255  # erased, which is no paint
    painted = shown(post_file(address, "/add_scribble_interaction", stroke, True), array.shape)
    assert not painted[2, 5, 45]
    outline = np.zeros(array.shape, np.uint8)
    outline[5, 18:38, 36:44] = 1
    less = shown(post_file(address, "/add_lasso_interaction", outline, False), array.shape)
    assert not less[5, 18:38, 36:44].any()
    # The next segment, and a hand-edited one.
    assert post_file(address, "/upload_segment", empty).json() == {"status": "ok"}
    again = shown(say(address, "/add_point_interaction", **CLICK), array.shape)
    assert (again == click).all()
    edited = click.astype(bool)
    edited[:, :, :28] = False
    assert post_file(address, "/upload_segment", edited).json() == {"status": "ok"}
    outside = {"voxel_coord": [0, 2, 2], "positive_click": False}
    assert (shown(say(address, "/add_point_interaction", **outside), array.shape) == edited).all()


def test_sentences_come_where_the_plug_in_shows_them(server, image) -> None:
    address = f"http://127.0.0.1:{server.port}/viewers/nobody"
    answer = say(address, "/add_point_interaction", **CLICK)
    assert answer.status_code == 200
    assert answer.json()["status"] == "error"
    assert "No image uploaded" in answer.json()["message"]  # the plug-in then sends it
    # For a stroke these words would make it wait for ever.
    lost = post_file(address, "/add_scribble_interaction", np.zeros((2, 2, 2), np.uint8), True).json()
    assert lost["status"] == "error"
    assert "No image uploaded" not in lost["message"]
    for array, words in (
        (np.zeros((5, 8, 8), np.int16), "nothing to segment"),
        (np.zeros((5, 8), np.int16), "three dimensions|3 dimensions"),
        (np.array([[["a"]]]), "numbers in"),
    ):
        said = post_file(address, "/upload_image", array).json()
        assert said["status"] == "error"
        assert any(word in said["message"] for word in words.split("|"))
    assert post_file(address, "/upload_image", image.array).json() == {"status": "ok"}
    said = post_file(address, "/upload_segment", np.zeros((3, 3, 3), bool)).json()
    assert "the image" in said["message"]
    large = post_file(address, "/upload_segment", np.zeros((200, 200, 200), bool)).json()
    assert "more than the" in large["message"]
    objects = np.array([[[object()]]], dtype=object)
    said = post_file(address, "/upload_image", objects).json()
    assert said["message"] == "the npy file is damaged"


def test_two_names_are_two_images(server, image) -> None:
    anna, ben = (f"http://127.0.0.1:{server.port}/viewers/{name}" for name in ("anna", "ben"))
    post_file(anna, "/upload_image", image.array)
    assert "No image" in say(ben, "/add_point_interaction", **CLICK).json()["message"]
    post_file(ben, "/upload_image", image.array[:, ::-1])
    first = shown(say(anna, "/add_point_interaction", **CLICK), image.shape)
    say(ben, "/add_point_interaction", voxel_coord=[3, 20, 31], positive_click=True)
    far = {"voxel_coord": [0, 1, 1], "positive_click": False}
    assert (shown(say(anna, "/add_point_interaction", **far), image.shape) == first).all()


def test_the_key_in_the_address(run_tiny, image) -> None:
    with run_tiny(api_key=KEY) as live:
        wrong = f"http://anna:x@127.0.0.1:{live.port}"
        assert post_file(wrong, "/upload_image", image.array).status_code == 401
        right = f"http://anna:{KEY}@127.0.0.1:{live.port}"
        assert post_file(right, "/upload_image", image.array).json() == {"status": "ok"}
        other = f"http://ben:{KEY}@127.0.0.1:{live.port}"
        assert "No image" in say(other, "/add_point_interaction", **CLICK).json()["message"]


def test_a_form_without_its_body_does_not_stop_the_server(run_tiny, image) -> None:
    """The plug-in sends a stroke again without the body that it has read."""
    with run_tiny(body_timeout_s=1.0) as live:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", live.port), timeout=30) as line:
            line.sendall(
                b"POST /add_scribble_interaction HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            )
            assert b" 408 " in line.recv(4096)
        assert time.monotonic() - started < 20
        address = f"http://127.0.0.1:{live.port}"
        assert post_file(address, "/upload_image", image.array).json() == {"status": "ok"}
