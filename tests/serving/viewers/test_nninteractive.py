"""The real client of nnInteractive's viewers, against a live server."""

from __future__ import annotations

import struct
import threading
import time

import httpx
import numpy as np
import pytest

remote = pytest.importorskip(
    "nnInteractive.inference.remote.remote_session", reason="needs nninteractive-client"
)
serialization = pytest.importorskip("nnInteractive.inference.remote.serialization")
Client = remote.nnInteractiveRemoteInferenceSession

KEY = "k3y-of-viewers"
WINDOW = (0.0, 255.0)
PREFIX = "/viewers/0,255"  # names the window
BOX = [[5, 6], [18, 38], [22, 42]]
CLICK = [5, 27, 31]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("NN_INTERACTIVE_API_KEY", raising=False)


@pytest.fixture
def connect(server):
    """Connect a client; it is closed at the end."""
    clients = []

    def connect(live=server, prefix: str = PREFIX, **options):
        clients.append(Client(f"http://127.0.0.1:{live.port}{prefix}", **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def opened(connect, image):
    """A client with the image and an empty mask."""
    return show(connect(), image.array)


def show(client, array, spacing=(1.0, 1.0, 1.0)):
    client.set_image(array[None], {"spacing": list(spacing)})
    client.set_target_buffer(np.zeros(array.shape, np.uint8))
    return client


def found_by(session) -> np.ndarray:
    session.finish()
    return session.result().array


def test_what_a_viewer_reads_before_anything_else(connect) -> None:
    client = connect()
    assert client.ping()
    assert all(
        client.supported_interactions[kind] for kind in ("points", "bbox2d", "bbox3d", "scribble", "lasso")
    )
    assert client.supports_undo
    assert client.supports_initial_label
    assert "medsam2 (compact), Apache-2.0" in client.license
    assert len(client.preferred_scribble_thickness) == 3
    client.set_do_autozoom(False)  # before any image, as napari does
    assert client.heartbeat() > 1000
    assert client.lease_status()["idle_timeout_seconds"] == 1800


def test_the_masks_are_those_of_the_python_api(opened, image, predictor) -> None:
    session = predictor.session(image, window=WINDOW)
    opened.add_point_interaction(CLICK, include_interaction=True)
    session.add(1, slice=5, points=[(31, 27)])
    expected = found_by(session)
    assert expected.any()
    assert (opened.target_buffer == expected).all()
    box = opened.add_bbox_interaction(BOX, include_interaction=True)
    session.add(1, slice=5, box=(22, 18, 41, 37))
    expected = found_by(session)
    assert box is None or all(0 <= low < high for low, high in box)
    assert (opened.target_buffer == expected).all()
    opened.add_point_interaction([7.2, 26.9, 38.4], include_interaction=False)  # napari sends floats
    session.add(1, slice=7, points=[(38, 27)], labels=[0])
    assert (opened.target_buffer == found_by(session)).all()


def test_strokes_outlines_and_boxes_of_both_signs(opened, image, predictor) -> None:
    outline = np.zeros(image.shape, np.uint8)
    outline[5, 18:38, 22:42] = 1
    opened.add_lasso_interaction(outline[5:6, 18:38, 22:42], True, interaction_bbox=BOX)
    session = predictor.session(image, window=WINDOW)
    session.add(1, slice=5, mask=outline[5])
    assert (opened.target_buffer == found_by(session)).all()
    masks = [opened.target_buffer.copy()]
    stroke = np.zeros(image.shape, np.uint8)
    stroke[8, 27, 24:40] = 1
    opened.add_scribble_interaction(stroke, include_interaction=True)  # as a whole volume
    masks.append(opened.target_buffer.copy())
    opened.add_scribble_interaction(
        np.ones((1, 1, 3), np.uint8), False, interaction_bbox=[[5, 6], [18, 19], [22, 25]]
    )
    masks.append(opened.target_buffer.copy())
    opened.add_lasso_interaction(
        np.ones((1, 20, 5), bool), False, interaction_bbox=[[5, 6], [18, 38], [37, 42]]
    )
    assert not opened.target_buffer[5, :, 37:].any()
    masks.append(opened.target_buffer.copy())
    opened.add_bbox_interaction([[5, 6], [18, 38], [22, 26]], include_interaction=False)
    assert not opened.target_buffer[5, :, :26].any()
    for before in masks[::-1]:
        assert opened.undo()
        assert (opened.target_buffer == before).all()
    assert opened.undo()
    assert not opened.target_buffer.any()
    assert not opened.undo()


def test_a_box_in_three_dimensions(opened) -> None:
    opened.add_bbox_interaction([[4, 7], [18, 38], [22, 42]], include_interaction=True)
    assert opened.target_buffer[5].any()
    assert not opened.target_buffer[:4].any()
    assert not opened.target_buffer[7:].any()


def test_next_object_initial_mask_and_undo(opened, image, predictor) -> None:
    opened.add_bbox_interaction(BOX, include_interaction=True)
    first = opened.target_buffer.copy()
    opened.reset_interactions()
    assert not opened.target_buffer.any()
    assert not opened.undo()
    opened.add_bbox_interaction(BOX, include_interaction=True)
    assert (opened.target_buffer == first).all()
    opened.reset_interactions()
    opened.add_initial_seg_interaction(first)
    assert not opened.undo()  # no marker of the viewer stands for it
    assert (opened.target_buffer == first).all()
    opened.add_point_interaction([7, 27, 31], include_interaction=False)
    assert opened.undo()
    assert (opened.target_buffer == first).all()
    opened.add_initial_seg_interaction(np.roll(first, 2, axis=1))
    assert opened.undo()
    assert (opened.target_buffer == first).all()


def test_what_means_nothing_is_counted_and_changes_nothing(opened) -> None:
    assert opened.add_point_interaction([-7, 5, 99], include_interaction=True) is None
    assert opened.add_point_interaction(CLICK, include_interaction=False) is None
    assert opened.add_bbox_interaction([[50, 51], [0, 4], [0, 4]], include_interaction=True) is None
    assert opened.add_scribble_interaction(np.zeros((12, 56, 64), np.uint8), include_interaction=True) is None
    for _ in range(4):
        assert opened.undo()
    assert not opened.undo()


def test_several_prompts_before_one_prediction(opened, connect, image) -> None:
    assert opened._predict() is None
    opened.add_point_interaction(CLICK, include_interaction=True, run_prediction=False)
    opened.add_bbox_interaction(BOX, include_interaction=True, run_prediction=False)
    assert not opened.target_buffer.any()
    assert opened._predict() is not None
    at_once = show(connect(), image.array)
    at_once.add_point_interaction(CLICK, include_interaction=True)
    at_once.add_bbox_interaction(BOX, include_interaction=True)
    assert (opened.target_buffer == at_once.target_buffer).all()


KINDS = ("bool", "int8", "uint8", "uint16", "int32", "int64", "float16", "float32", "float64", ">i2")


def test_images_of_every_type_and_order(connect, image) -> None:
    client = connect(prefix="")
    for kind in KINDS:
        grey = image.array.clip(0, 250) // (2 if kind == "int8" else 1)
        array = (grey > 120) if kind == "bool" else grey.astype(kind)
        show(client, np.moveaxis(array, 0, 2))  # not contiguous; slices last
        assert client.original_image_shape == (1, 56, 64, 12)
    client.add_bbox_interaction([BOX[1], BOX[2], BOX[0]], include_interaction=True)
    assert client.target_buffer[27, 31, 5]


def test_two_viewers_do_not_mix(connect, image, predictor) -> None:
    one, other = show(connect(), image.array), show(connect(), np.flip(image.array, 2))
    one.add_bbox_interaction(BOX, include_interaction=True)
    mirrored = [BOX[0], BOX[1], [22, 42]]
    other.add_bbox_interaction(mirrored, include_interaction=True)
    kept = one.target_buffer.copy()
    other.reset_interactions()
    one.add_point_interaction([7, 27, 31], include_interaction=True)
    assert one.undo()
    assert (one.target_buffer == kept).all()


def test_places_are_limited_and_end(run_tiny, monkeypatch) -> None:
    with run_tiny(max_sessions=2, session_idle_s=0.8) as live:
        address = f"http://127.0.0.1:{live.port}"
        first, second = Client(address), Client(address)
        with pytest.raises(remote.ServerAtCapacityError, match="2 images, as many as it takes"):
            Client(address)
        second.close()
        with Client(address):
            time.sleep(1.0)
            with pytest.raises(remote.SessionExpiredError, match="left alone"):
                first.heartbeat()
        first.close()
        Client(address).close()


def test_the_key_as_bearer_and_in_the_address(run_tiny) -> None:
    with run_tiny(api_key=KEY) as live:
        Client(f"http://127.0.0.1:{live.port}", api_key=KEY).close()
        Client(f"http://anna:{KEY}@127.0.0.1:{live.port}/viewers/anna").close()
        for options in ({}, {"api_key": "wrong"}):
            with pytest.raises(httpx.HTTPStatusError) as caught:
                Client(f"http://127.0.0.1:{live.port}", **options)
            assert caught.value.response.status_code == 401
        foreign = live.client.post(
            "/claim", headers={"Sec-Fetch-Site": "cross-site", "Authorization": f"Bearer {KEY}"}
        )
        assert foreign.status_code == 403
        assert live.client.post("/score", headers={"Authorization": "Bearer wrong"}).status_code == 403


def test_a_mistake_of_a_program_is_one_sentence_in_the_status_line(opened, connect, image) -> None:
    with pytest.raises(httpx.HTTPStatusError, match=r"a drawing has .* voxels; its box has"):
        opened.add_lasso_interaction(np.ones((1, 2, 2), np.uint8), True, interaction_bbox=BOX)
    with pytest.raises(httpx.HTTPStatusError, match=r"three finite numbers|three numbers"):
        opened.add_point_interaction([1, 2], include_interaction=True)
    with pytest.raises(httpx.HTTPStatusError, match="2 channels"):
        opened.set_image(np.stack([image.array, image.array]))
    with pytest.raises(httpx.HTTPStatusError, match="there is nothing to segment"):
        opened.set_image(np.zeros((1, 4, 20, 20), np.int16))
    with pytest.raises(httpx.HTTPStatusError, match="No image uploaded"):
        opened.add_point_interaction(CLICK, include_interaction=True)
    show(opened, image.array)
    with pytest.raises(httpx.HTTPStatusError, match="the buffer has the shape"):
        opened.set_target_buffer(np.zeros((3, 3, 3), np.uint8))


def occupy(app, service) -> None:
    """A route that keeps the model's thread at work for three seconds."""

    @app.post("/occupy")
    async def work() -> None:
        await service.model.run(lambda: time.sleep(3))


def test_a_slow_answer_is_waited_for(run_tiny, image) -> None:
    """A client that gives up after less than that: interim answers keep it waiting."""
    with (
        run_tiny(interim_s=0.3, extensions=(occupy,)) as live,
        Client(f"http://127.0.0.1:{live.port}", read_timeout=2.0) as client,
    ):
        show(client, image.array)
        other = threading.Thread(target=live.client.post, args=("/occupy",))
        other.start()
        time.sleep(0.5)
        started = time.monotonic()
        client.add_point_interaction(CLICK, include_interaction=True)
        assert time.monotonic() - started > 2
        other.join()
        assert client.undo()


def test_a_viewer_that_leaves_ends_its_work(run_tiny) -> None:
    y, x = np.mgrid[:64, :64] - 32
    long = (60 + 120 * (x * x + y * y < 100))[None].repeat(400, 0).astype(np.uint8)
    with run_tiny() as live, Client(f"http://127.0.0.1:{live.port}") as client:
        show(client, long)
        box = [[200, 201], [22, 43], [22, 43]]
        with pytest.raises(httpx.ReadTimeout):
            client._http.post(
                "/add_bbox_interaction",
                json={"bbox_coords": box, "include_interaction": True},
                timeout=httpx.Timeout(10, read=0.5),
            )
        assert client.heartbeat() > 0
        assert not client.undo()  # answered once the slice at hand is done; the box left no trace


def packed(array, **fields) -> bytes:
    """A packed array with some fields of its head replaced."""
    body = bytearray(serialization.pack_array(array))
    name = body[8 : 8 + body[7]]
    shape_at = 8 + len(name)
    chunks_at = shape_at + 8 * body[6]
    for field, value in fields.items():
        if field == "shape":
            body[shape_at : shape_at + 24] = struct.pack("<3q", *value)
        elif field == "count":
            body[chunks_at : chunks_at + 4] = struct.pack("<I", value)
        elif field == "length":
            body[chunks_at + 4 : chunks_at + 12] = struct.pack("<Q", value)
        elif field == "stored":
            body[chunks_at + 12 : chunks_at + 20] = struct.pack("<Q", value)
        elif field == "name":
            body[8:shape_at] = value
        else:
            body[{"magic": 0, "version": 4, "ndim": 6}[field]] = value
    return bytes(body)


GREY = np.arange(600, dtype=np.int16).reshape(6, 10, 10)
HOSTILE = {
    "empty": b"",
    "magic": packed(GREY, magic=0),
    "version": packed(GREY, version=9),
    "dimensions": packed(GREY, ndim=2),
    "type": packed(GREY, name=b"obj16"),
    "huge": packed(GREY, shape=(2**40, 2**40, 2**40)),
    "negative": packed(GREY, shape=(-6, 10, -10)),
    "parts": packed(GREY, count=2**32 - 1),
    "length": packed(GREY, length=2**33),
    "odd": packed(GREY, length=1199),
    "stored": packed(GREY, stored=2**40),
    "cut": packed(GREY)[:-5],
    "more": packed(GREY) + b"x",
    "noise": packed(GREY)[:60] + b"\xff" * (len(packed(GREY)) - 60),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_arrays_are_refused_with_a_sentence(opened, name: str) -> None:
    answer = opened._http.post("/set_image", content=HOSTILE[name], headers={"X-Meta": "{}"})
    assert answer.status_code in (400, 413, 422), answer.text
    assert answer.json()["detail"]
    assert answer.reason_phrase.startswith(answer.json()["detail"][:30])


def test_a_few_bytes_that_stand_for_a_gibibyte(opened) -> None:
    blosc2 = pytest.importorskip("blosc2")
    chunk = blosc2.compress2(np.zeros(2**28, np.uint8), typesize=1)
    head = struct.pack("<4sBBBB", b"NNIA", 1, 1, 3, 5) + b"uint8"
    count = 12
    body = head + struct.pack("<3q", count, 2**14, 2**14) + struct.pack("<I", count)
    body += (struct.pack("<QQ", 2**28, len(chunk)) + chunk) * count
    answer = opened._http.post("/set_image", content=body, headers={"X-Meta": "{}"})
    assert answer.status_code == 413
    assert "MEDSAM2_MAX_VOLUME" in answer.json()["detail"]
