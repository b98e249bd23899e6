"""Sessions over HTTP: open, click, see, follow, go back, measure, end."""

from __future__ import annotations

import io
import json
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest

from medsam2.imaging.io import read, write
from medsam2.imaging.labels import coco_counts, from_coco_counts
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime
from medsam2.serving.run import listen

SESSIONS = "/v1/sessions"
BOX = [18, 12, 37, 25]
SIZE = (40, 56)


@pytest.fixture(scope="module")
def live(run_tiny) -> Iterator[object]:
    with run_tiny() as server:
        yield server
        assert server.figure("medsam2_sessions") == 0
        assert server.figure("medsam2_reserved_bytes") == 0


@pytest.fixture
def scan() -> Volume:
    """A bright block in noise: 9 slices of 40 x 56 pixels, each axis of another length."""
    grey = np.random.default_rng(3).integers(0, 60, (9, *SIZE)).astype(np.int16)
    grey[2:7, 12:26, 18:38] += 150
    return Volume.from_array(grey, (0.7, 0.8, 2.5), (3.0, -4.0, 5.0))


@pytest.fixture
def scan_bytes(scan: Volume, tmp_path: Path) -> bytes:
    write(scan, tmp_path / "scan.nii.gz")
    return (tmp_path / "scan.nii.gz").read_bytes()


@pytest.fixture
def session(live, scan_bytes: bytes) -> Iterator[str]:
    """The path of an open session, ended afterwards."""
    response = live.client.post(SESSIONS, content=scan_bytes, params={"name": "s.nii.gz", "window": "0,255"})
    assert response.status_code == 201
    path = f"{SESSIONS}/{response.json()['id']}"
    yield path
    live.client.delete(path)


def events(response: httpx.Response) -> list[tuple[str, dict[str, object]]]:
    """Name and data of each event."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for text in response.text.strip().split("\n\n"):
        name, data = text.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def refused(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    told = response.json()
    assert told["status"] == status
    assert told.keys() == {"error", "status"}
    for word in words:
        assert word in told["error"]


def test_a_session_from_its_first_to_its_last_moment(
    live, session: str, scan: Volume, runtime: Runtime
) -> None:
    here = Predictor(runtime).session(scan, window=(0, 255))
    client = live.client
    about = client.get(session).json()
    assert about["shape"] == about["file_shape"] == [9, 40, 56]
    assert about["axis"] == 2
    assert about["spacing"] == pytest.approx([0.7, 0.8, 2.5])
    assert about["origin"] == pytest.approx([3, -4, 5])
    assert about["direction"] == pytest.approx([1, 0, 0, 0, 1, 0, 0, 0, 1])
    assert about["window"] == [0, 255]
    assert about["name"] == "s.nii.gz"
    assert about["idle_timeout_s"] == 1800
    assert about["objects"] == []

    seen = client.post(f"{session}/prompts", json={"object": 1, "slice": 4, "box": BOX}).json()
    expected = here.add(1, slice=4, box=BOX)
    assert (seen["object"], seen["slice"], seen["size"]) == (1, 4, [40, 56])
    assert np.array_equal(from_coco_counts(seen["mask"], SIZE), expected)
    assert seen["confidence"] == pytest.approx(here.scores(1)[4])

    *slices, (last, done) = events(client.post(f"{session}/propagate"))
    assert last == "done"
    assert done["num_slices"] == len(slices) == 9
    assert done["seconds"] >= 0
    for number, ((name, event), (z, masks)) in enumerate(zip(slices, here.propagate(), strict=True), start=1):
        assert name == "slice"
        assert (event["slice"], event["done"], event["of"]) == (z, number, None)
        assert event["confidence"] == {"1": pytest.approx(here.scores(1)[z])}
        assert np.array_equal(from_coco_counts(event["masks"]["1"], SIZE), masks[1])

    state = client.get(session).json()
    assert state["is_propagated"]
    (only,) = state["objects"]
    assert only["slices"] == list(range(9))
    assert only["prompts"] == [{"slice": 4, "box": BOX, "points": [], "labels": [], "has_mask": False}]
    masks = client.get(f"{session}/masks").json()
    assert masks["size"] == [40, 56]
    for z, plane in enumerate(here.mask(1)):
        assert (str(z) in masks["slices"]) == plane.any()
        if plane.any():
            assert np.array_equal(from_coco_counts(masks["slices"][str(z)]["1"], SIZE), plane)
    one = client.get(f"{session}/masks", params={"slice": 4}).json()
    assert one["slices"] == {"4": masks["slices"]["4"]}
    assert one["confidence"] == {"4": masks["confidence"]["4"]}

    (measured,) = client.get(f"{session}/measurements").json()["objects"]
    assert measured["num_voxels"] == np.count_nonzero(here.result().array)
    assert measured["intensities"]["mean"] == pytest.approx(scan.array[here.result().array == 1].mean())

    refused(client.post(f"{session}/redo"), 409, "nothing to redo")
    assert client.post(f"{session}/undo").json()["objects"] == []
    refused(client.post(f"{session}/undo"), 409, "nothing to undo")
    refused(client.post(f"{session}/propagate"), 409, "nothing to propagate")
    again = client.post(f"{session}/redo").json()
    assert again["is_propagated"]
    assert not again["can_redo"]
    assert client.delete(session).status_code == 204
    refused(client.get(session), 404, "there is no session", "open another one")


def test_prompts_of_each_kind_and_their_end(live, session: str) -> None:
    client = live.client
    drawn = np.zeros(SIZE, bool)
    drawn[10:20, 15:40] = True
    seen = client.post(
        f"{session}/prompts", json={"object": 3, "slice": 2, "mask": coco_counts(drawn)}
    ).json()
    found = from_coco_counts(seen["mask"], SIZE)  # as coarse as the network's own masks
    assert (found & drawn).sum() > 0.9 * (found | drawn).sum()
    client.post(
        f"{session}/prompts", json={"object": 3, "slice": 5, "points": [[20, 15], [3, 3]], "labels": [1, 0]}
    )
    client.post(f"{session}/prompts", json={"object": 9, "slice": 5, "points": [[20.5, 15]]})
    state = client.get(session).json()
    assert [one["number"] for one in state["objects"]] == [3, 9]
    assert state["objects"][0]["prompts"] == [
        {"slice": 2, "box": None, "points": [], "labels": [], "has_mask": True},
        {"slice": 5, "box": None, "points": [[20, 15], [3, 3]], "labels": [1, 0], "has_mask": False},
    ]
    known = events(client.post(f"{session}/propagate"))
    assert {event["of"] for name, event in known if name == "slice"} == {9}
    # Objects that start from different slices are followed through some slices one after the other.
    assert len(known) - 1 > known[-2][1]["done"] == known[-1][1]["num_slices"] == 9
    refused(client.delete(f"{session}/objects/4"), 409, "no object 4")
    refused(client.delete(f"{session}/objects/9", params={"slice": 5}), 409, "only prompt")
    refused(client.delete(f"{session}/objects/3", params={"slice": 8}), 409, "no prompt on slice 8")
    state = client.delete(f"{session}/objects/3", params={"slice": 2}).json()
    assert [prompt["slice"] for prompt in state["objects"][0]["prompts"]] == [5]
    assert [one["number"] for one in client.delete(f"{session}/objects/3").json()["objects"]] == [9]


BAD_PROMPTS: list[tuple[str, int, str]] = [
    ("", 400, "not JSON"),
    ("[1]", 400, "an object"),
    ('{"object": 1, "slice": 4, "bbox": [1, 1, 5, 5]}', 400, "keys are object, slice, box"),
    ('{"slice": 4, "box": [1, 1, 5, 5]}', 422, "object is missing; a whole number"),
    ('{"object": true, "slice": 4, "box": [1, 1, 5, 5]}', 422, "object is True"),
    ('{"object": 1.5, "slice": 4, "box": [1, 1, 5, 5]}', 422, "whole number"),
    ('{"object": 0, "slice": 4, "box": [1, 1, 5, 5]}', 422, "1 to 255"),
    ('{"object": 256, "slice": 4, "box": [1, 1, 5, 5]}', 422, "1 to 255"),
    ('{"object": 1, "slice": 9, "box": [1, 1, 5, 5]}', 422, "0 to 8"),
    ('{"object": 1, "slice": -1, "box": [1, 1, 5, 5]}', 422, "0 or more"),
    ('{"object": 1, "slice": 4}', 422, "needs a box"),
    ('{"object": 1, "slice": 4, "box": [1, 1, 5]}', 422, "four"),
    ('{"object": 1, "slice": 4, "box": "1 1 5 5"}', 422, "four numbers"),
    ('{"object": 1, "slice": 4, "box": [1, 1, 56, 5]}', 422, "outside"),
    ('{"object": 1, "slice": 4, "box": [1, 1, 1e999, 5]}', 400, "JSON"),
    ('{"object": 1, "slice": 4, "points": [1, 2]}', 422, "two numbers [x, y]"),
    ('{"object": 1, "slice": 4, "points": [[1, 2, 3]]}', 422, "pairs"),
    ('{"object": 1, "slice": 4, "points": [[1, 2]], "labels": [1, 0]}', 422, "one label"),
    ('{"object": 1, "slice": 4, "points": [[1, 2]], "labels": [7]}', 422, "1 (inside)"),
    ('{"object": 1, "slice": 4, "points": [[1, 2]], "labels": 1}', 422, "1 (inside)"),
    ('{"object": 1, "slice": 4, "points": [' + "[1, 2], " * 1001 + "[1, 2]]}", 422, "at most 1000"),
    ('{"object": 1, "slice": 4, "mask": [[0]]}', 422, "run lengths"),
    ('{"object": 1, "slice": 4, "mask": "abc"}', 422, "mask: these run lengths"),
    ('{"object": 1, "slice": 4, "mask": "' + "o" * 4000 + '"}', 422, "mask: these run lengths"),
    ('{"object": 1, "slice": 4, "mask": "' + "1" * 1_000_000 + '"}', 422, "mask has 1000000 letters"),
]


@pytest.mark.parametrize(("text", "status", "words"), BAD_PROMPTS, ids=range(len(BAD_PROMPTS)))
def test_a_prompt_that_cannot_be_is_refused_in_a_sentence(
    live, session: str, text: str, status: int, words: str
) -> None:
    response = live.client.post(f"{session}/prompts", content=text)
    refused(response, status, words)
    assert len(response.json()["error"]) < 300
    assert live.client.get(session).json()["objects"] == []


ODDITIES: list[object] = [
    None, True, -1, 0, 1, 4, 1.5, 2**63, 1e300, "", "1", "x" * 300, [], [1], [1, 2], [1, 2, 3, 4], [[1, 2]],
    [[20, 15], [30, 20]], [[None, "a"]], {}, {"a": [1]}, [[[1]]], BOX, [-1e9, 0, 1e9, 1],
]  # fmt: skip


def test_nothing_that_is_said_makes_the_server_fail(live, session: str) -> None:
    random = np.random.default_rng(0)
    keys = ["object", "slice", "box", "points", "labels", "mask"]
    statuses = set()
    for _ in range(200):
        said = {key: ODDITIES[random.integers(len(ODDITIES))] for key in keys if random.random() < 0.25}
        said = {"object": 1, "slice": 4, **said} if random.random() < 0.7 else said
        response = live.client.post(f"{session}/prompts", json=said)
        assert response.status_code in (200, 400, 422), (said, response.text)
        statuses.add(response.status_code)
        part = ODDITIES[random.integers(len(ODDITIES))]
        for method, path in (("DELETE", f"objects/{part}"), ("GET", f"masks?slice={part}")):
            assert live.client.request(method, f"{session}/{path}").status_code in (200, 404, 405, 409, 422)
    assert statuses >= {200, 422}


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/masks?slice=x", 422, "slice is 'x'"),
        ("/masks?slice=-1", 422, "slice is '-1'"),
        ("/export", 422, "type is None; one of nifti, seg.nrrd"),
        ("/export?type=jpeg", 422, "type is 'jpeg'"),
        ("/export?type=seg.nrrd&names=liver", 422, "NUMBER:NAME"),
        ("/export?type=seg.nrrd&names=x:liver", 422, "'x'"),
        ("/export?type=stl", 422, "no voxel is labelled"),
        ("/nothing", 404, "Not Found"),
    ],
)
def test_results_that_cannot_be(live, session: str, path: str, status: int, words: str) -> None:
    refused(live.client.get(f"{session}{path}"), status, words)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"window": "bones"}, "window is 'bones'; one of abdomen, bone"),
        ({"window": "1,2,3"}, "two numbers lower,upper"),
        ({"window": "5,5"}, "lower < upper"),
        ({"window": "nan,5"}, "finite"),
        ({"plane": "oblique"}, "one of axial, coronal, sagittal"),
        ({"memory": "elephant"}, "one of recent, self-sorting"),
        ({"name": "scan.mhd"}, ".zip"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_choices_that_cannot_be(live, scan_bytes: bytes, query: dict[str, str], words: str) -> None:
    refused(live.client.post(SESSIONS, content=scan_bytes, params=query), 422, words)


def as_file(name: str, scan: Volume, folder: Path) -> bytes:
    """The scan in another format."""
    path = folder / name
    if name.endswith(".mgz"):
        nibabel.save(nibabel.MGHImage(scan.array.T, scan.affine), path)
    elif name.endswith(".npz"):
        np.savez_compressed(path, imgs=scan.array, spacing=np.array(scan.spacing))
    elif name.endswith(".zip"):
        write(scan, folder / "inner.nrrd")
        with zipfile.ZipFile(path, "w") as packed:
            packed.write(folder / "inner.nrrd", "case/inner.nrrd")
    else:
        write(scan, path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.nii", "a.NII.GZ", "a.nrrd", "a.mha", "a.mgz", "a.npz", "a.zip"])
def test_every_format_is_opened_and_comes_back(live, scan: Volume, tmp_path: Path, name: str) -> None:
    content = as_file(name, scan, tmp_path)
    # A name that says nothing does no harm where the content says it.
    for said in (name, "C:\\scans\\..\\" + name, "") if "npz" not in name and "mgz" not in name else (name,):
        response = live.client.post(SESSIONS, content=content, params={"name": said, "plane": "axial"})
        assert response.status_code == 201, response.text
        assert response.json()["file_shape"] == [9, 40, 56]
        assert response.json()["name"] == (name if said else "")
        path = f"{SESSIONS}/{response.json()['id']}"
        given = live.client.get(f"{path}/volume")
        assert given.headers["content-type"] == "application/gzip"
        (tmp_path / "back.nii.gz").write_bytes(given.content)
        assert np.array_equal(read(tmp_path / "back.nii.gz").array, scan.array)
        assert live.client.delete(path).status_code == 204


def test_a_picture_is_a_volume_of_one_slice(live, scan: Volume) -> None:
    from PIL import Image

    picture = io.BytesIO()
    Image.fromarray(scan.array[4].astype(np.uint8)).save(picture, "PNG")
    for name in ("still.png", ""):
        response = live.client.post(SESSIONS, content=picture.getvalue(), params={"name": name})
        assert response.json()["shape"] == [1, 40, 56]
        live.client.delete(f"{SESSIONS}/{response.json()['id']}")


def test_the_same_grid_comes_back_to_the_bit(live, session: str, scan_bytes: bytes, tmp_path: Path) -> None:
    (tmp_path / "sent.nii.gz").write_bytes(scan_bytes)
    sent = read(tmp_path / "sent.nii.gz")
    live.client.post(f"{session}/prompts", json={"object": 1, "slice": 4, "box": BOX})
    for path in ("/volume", "/export?type=nifti"):
        (tmp_path / "given.nii.gz").write_bytes(live.client.get(session + path).content)
        given = read(tmp_path / "given.nii.gz")
        assert given.nifti_header == sent.nifti_header
        assert np.array_equal(given.affine, sent.affine)


def test_small_answers_come_at_once() -> None:
    """Without this option the second packet of an answer waits 40 ms for word of the first."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()) as caller:
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert caller.recv(1) == b""


def test_the_description_has_every_route(live) -> None:
    paths = live.client.get("/openapi.json").json()["paths"]
    one = SESSIONS + "/{session_id}"
    assert paths.keys() >= {
        SESSIONS, one, f"{one}/prompts", f"{one}/objects/{{number}}", f"{one}/propagate", f"{one}/undo",
        f"{one}/redo", f"{one}/masks", f"{one}/measurements", f"{one}/volume", f"{one}/export",
    }  # fmt: skip
