"""Requests byte by byte as 3D Slicer and OHIF send them, and what else a network may send to these routes."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import httpx
import nibabel
import numpy as np
import pytest
import SimpleITK

import medsam2
from medsam2.imaging.intensity import resolve_window

LIMIT = "----------lImIt_of_THE_fIle_eW_$"
BOX = {"roi": [22, 41, 18, 37, 5, 5], "window": [0, 255]}
SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-xyz"}
OHIF = {
    "result_extension": ".nrrd",
    "result_dtype": "uint8",
    "result_compress": False,
    "restore_label_idx": False,
}


def slicer_body(params: dict[str, object], files: dict[str, tuple[str, bytes]] | None = None) -> bytes:
    """A form put together as Slicer's plug-in does: a full path as file name, an empty line at the end."""
    lines = [f"--{LIMIT}", 'Content-Disposition: form-data; name="params"', "", json.dumps(params)]
    parts: list[bytes] = [line.encode() for line in lines]
    for field, (path, content) in (files or {}).items():
        parts += [
            f"--{LIMIT}".encode(),
            f'Content-Disposition: form-data; name="{field}"; filename="{path}"'.encode(),
            b"Content-Type: application/octet-stream",
            b"",
            content,
        ]
    parts += [f"--{LIMIT}--".encode(), b""]
    return b"".join(part + b"\r\n" for part in parts)


def ask(live, method: str, path: str, body: bytes = b"") -> tuple[http.client.HTTPResponse, bytes]:
    """One request over a connection that follows no redirects, as Slicer's."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=120)
    headers = {"content-type": f"multipart/form-data; boundary={LIMIT}", "content-length": str(len(body))}
    try:
        connection.request(method, path, body, headers if body else {})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def parts_of(response: http.client.HTTPResponse, body: bytes) -> tuple[dict[str, object], str, bytes]:
    """The parameters, the file's name and the file of an answer."""
    boundary = re.fullmatch(r"multipart/form-data; boundary=(\w+)", response.headers["content-type"])
    assert boundary is not None
    empty, params, image, end = body.split(f"--{boundary[1]}".encode())
    assert (empty, end) == (b"", b"--\r\n")
    head, _, text = params.partition(b"\r\n\r\n")
    assert b'name="params"' in head
    head, _, content = image.partition(b"\r\n\r\n")
    name = re.search(rb'name="image"; filename="([^"/\\]+)"', head)
    assert name is not None
    return json.loads(text), name[1].decode(), content[:-2]


def segmented(live, params: dict[str, object], model: str = "medsam2_3d", image: str = "alpha") -> np.ndarray:
    response, body = ask(live, "POST", f"/infer/{model}?image={image}", slicer_body({**SLICER, **params}))
    assert response.status == 200, body
    return nrrd(parts_of(response, body)[2])[1]


def nrrd(content: bytes) -> tuple[dict[str, str], np.ndarray]:
    """Read an NRRD file's fields and voxels, as simple as a page's code does."""
    head, _, data = content.partition(b"\n\n")
    lines = [line.split(": ", 1) for line in head.decode().splitlines() if ": " in line]
    fields = {name: value for name, value in lines}  # noqa: C416
    data = gzip.decompress(data) if fields["encoding"] == "gzip" else data
    dtype = {"uint8": np.uint8, "unsigned char": np.uint8, "uint16": "<u2", "unsigned short": "<u2"}
    shape = [int(size) for size in fields["sizes"].split()]
    return fields, np.frombuffer(data, dtype[fields["type"]]).reshape(shape[::-1])


def test_slicers_request_gets_a_form_with_a_file(shared_server, box_mask: np.ndarray, volume) -> None:
    response, body = ask(
        shared_server,
        "POST",
        "/infer/medsam2_3d?image=alpha",
        slicer_body({**SLICER, **BOX, "label": "spleen"}),
    )
    assert response.status == 200
    params, name, content = parts_of(response, body)
    assert params["label_names"] == {"spleen": 1}
    assert name.endswith(".nrrd")
    fields, found = nrrd(content)
    assert fields["space"] == "left-posterior-superior"
    assert np.array_equal(found, box_mask)
    origin = [float(number) for number in fields["space origin"].strip("()").split(",")]
    np.testing.assert_allclose(origin, volume.origin, atol=1e-5)


def test_ohif_gets_a_bare_file_with_plain_voxels(shared_server, box_mask: np.ndarray) -> None:
    form = {"params": (None, json.dumps({**OHIF, **BOX}))}
    response = shared_server.client.post("/infer/medsam2_3d?image=alpha&output=image", files=form)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].endswith('.nrrd"')
    fields, found = nrrd(response.content)
    assert fields["encoding"] == "raw"
    assert np.array_equal(found, box_mask)
    form = {"params": (None, json.dumps({**OHIF, **BOX, "result_dtype": "uint16"}))}
    response = shared_server.client.post("/infer/medsam2_3d?image=alpha&output=image", files=form)
    fields, found = nrrd(response.content)
    assert fields["type"] in ("uint16", "unsigned short")
    assert np.array_equal(found, box_mask)
    response = shared_server.client.post("/infer/medsam2_3d?image=alpha&output=json", files=form)
    assert response.headers["content-type"] == "application/json"
    assert response.json()["label_names"] == {"object": 1}


@pytest.mark.parametrize(
    "params",
    [
        {"roi": [41, 22, 37, 18, 5, 5]},
        {"roi": [41, 22, 18, 37, 6, 4]},
        {"roi": [22, 41, 18, 37, 0, 11]},
        {"roi": [22, 18, 41, 37], "slice": 5},
        {"roi": [22.0, 18.0, 41.0, 37.0], "slice": "5"},
        {"roi": [22, 41, 18, 37, 0, 3], "slice": 5, "reset_state": "true", "memory": "recent"},
    ],
    ids=["reversed", "slices reversed", "all slices", "four numbers", "text", "slice named"],
)
def test_every_form_of_a_box_is_the_same_box(shared_server, box_mask: np.ndarray, params) -> None:
    assert np.array_equal(segmented(shared_server, {"window": "0,255", **params}), box_mask)


def test_a_box_beyond_the_image_ends_at_its_edge(shared_server, tiny, volume) -> None:
    expected = tiny.segment(volume, slice=5, box=(0, 18, 41, 55), window=(0, 255)).array
    assert np.array_equal(segmented(shared_server, {**BOX, "roi": [-9, 41, 18, 90, 5, 5]}), expected)


def test_a_click_on_background_corrects_what_was_found(shared_server, tiny, volume) -> None:
    session = tiny.session(volume, window=(0, 255))
    session.add(1, slice=5, points=[(31, 27)])
    for _ in session.propagate():
        pass
    session.add(1, slice=7, points=[(26, 27)], labels=[0])
    for _ in session.propagate():
        pass
    params = {"foreground": [[31, 27, 5]], "background": [[26, 27, 7]], "window": [0, 255]}
    assert np.array_equal(segmented(shared_server, params), session.result().array)


def test_clicks_and_a_box_on_one_slice_belong_together(shared_server, tiny, volume) -> None:
    session = tiny.session(volume, window=(0, 255))
    session.add(1, slice=5, box=(22, 18, 41, 37), points=[(31, 27), (23, 19)], labels=[1, 0])
    for _ in session.propagate():
        pass
    params = {**BOX, "foreground": [[31, 27, 5]], "background": [[23, 19, 5]]}
    assert np.array_equal(segmented(shared_server, params), session.result().array)


def test_an_empty_mask_is_still_a_file(shared_server, volume) -> None:
    # A click far from everything, in the model's view a speck or nothing; the form is the same.
    found = segmented(
        shared_server, {"foreground": [[1, 1, 0]], "window": [1000, 1001], "slice": 0}, "medsam2_2d"
    )
    assert found.shape == volume.shape


def test_ct_without_a_window_gets_the_default_one(serve_tiny, tmp_path: Path) -> None:
    z, y, x = np.mgrid[:8, :48, :48]
    hu = np.random.default_rng(0).normal(-950, 20, z.shape)
    hu[:, 4:44, 4:44] = np.random.default_rng(1).normal(40, 10, (8, 40, 40))
    hu += 120 * ((x - 24) ** 2 + (y - 24) ** 2 + (2 * (z - 4)) ** 2 < 64)
    nibabel.save(nibabel.Nifti1Image(hu.T.astype(np.int16), np.eye(4)), tmp_path / "ct.nii.gz")
    live = serve_tiny(studies=str(tmp_path))
    volume = medsam2.read(tmp_path / "ct.nii.gz")
    window = resolve_window(volume)
    assert window.source == "soft-tissue"
    params = {"foreground": [[24, 24, 4]], "window": "auto", "slice": 4}
    response, body = ask(live, "POST", "/infer/medsam2_2d?image=ct", slicer_body(params))
    assert parts_of(response, body)[0]["window"] == {
        "lower": window.lower,
        "upper": window.upper,
        "source": "soft-tissue",
    }


def test_slashes_are_served_as_they_are(shared_server) -> None:
    for path in ("/info/", "/datastore/", "/datastore/?output=all", "/datastore/?output=train"):
        assert ask(shared_server, "GET", path)[0].status == 200
    for path in ("/train/", "/train/?check_if_running=true", "/batch/infer/", "/scoring/", "/auth/"):
        assert ask(shared_server, "GET", path)[0].status == 404


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{}", "application/json", 400),
        (b"nonsense", f"multipart/form-data; boundary={LIMIT}", 400),
        (slicer_body({})[:60], f"multipart/form-data; boundary={LIMIT}", 400),
        (slicer_body({}), "multipart/form-data", 400),
        (slicer_body({}).replace(b"{}", b"[]"), f"multipart/form-data; boundary={LIMIT}", 422),
        (slicer_body({}).replace(b"{}", b"{"), f"multipart/form-data; boundary={LIMIT}", 422),
        (slicer_body({}).replace(b"{}", b"\xff"), f"multipart/form-data; boundary={LIMIT}", 422),
        (b"", "", 422),
    ],
    ids=["json", "nonsense", "half", "no boundary", "a list", "no json", "no text", "nothing"],
)
def test_a_body_that_is_no_form_is_refused(
    shared_server, body: bytes, content_type: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = shared_server.client.post("/infer/medsam2_3d?image=alpha", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status
    assert not [record for record in caplog.records if "multipart" in record.name]


def test_a_series_is_sent_file_by_file(viewed, tmp_path: Path) -> None:
    write_series(tmp_path)
    files = [("files", (path.name, path.read_bytes())) for path in sorted(tmp_path.glob("*.dcm"))]
    answer = viewed.client.put("/session/", files=files, params={"expiry": "60", "uncompress": "true"}).json()
    assert answer["session_info"]["expiry"] == 60
    form = {"params": (None, json.dumps({"foreground": [[16, 12, 2]], "result_extension": ".nrrd"}))}
    path = f"/infer/medsam2_3d?session_id={answer['session_id']}&output=image"
    _, found = nrrd(viewed.client.post(path, files=form).content)
    assert found.shape == (4, 24, 32)
    assert viewed.client.put("/session/", files=[("files", ("x.exe", b"1"))]).status_code == 422
    assert viewed.client.put("/session/", data={"a": "b"}).status_code == 422


def test_a_series_in_a_folder_is_an_image(viewed, studies: Path, tiny, tmp_path: Path) -> None:
    client = viewed.client
    (studies / "Schädel 1").mkdir()
    write_series(studies / "Schädel 1")
    before = sorted(studies.iterdir())
    volume = medsam2.read(studies / "Schädel 1")
    assert client.get("/datastore/").json()["total"] == 3
    samples = {client.post("/activelearning/first", json={}).json()["id"] for _ in range(3)}
    assert samples <= {"alpha", "beta", "Schädel 1"}
    assert client.head("/datastore/image?image=Schädel 1").status_code == 200
    (tmp_path / "given.nii.gz").write_bytes(client.get("/datastore/image?image=Schädel 1").content)
    assert np.array_equal(medsam2.read(tmp_path / "given.nii.gz").array, volume.array)
    params = {"foreground": [[16, 12, 2]]}
    found = segmented(viewed, params, "medsam2_3d", quote("Schädel 1"))
    assert np.array_equal(found, tiny.segment(volume, slice=2, points=[(16, 12)]).array)
    medsam2.write(volume.with_array(found), tmp_path / "label.nrrd")
    files = {"label": ("label.nrrd", (tmp_path / "label.nrrd").read_bytes())}
    assert client.put("/datastore/label?image=Schädel 1", files=files).status_code == 200
    stored = medsam2.read(studies / "labels" / "final" / "Schädel 1.nrrd")
    assert np.array_equal(stored.array, found)
    assert client.get("/datastore/").json()["completed"] == 1
    assert client.delete("/datastore/?id=Schädel 1").status_code == 501
    assert [path for path in sorted(studies.iterdir()) if path in before] == before
    assert viewed.figure("medsam2_reserved_bytes") == 0


def write_series(folder: Path) -> None:
    """Write a small MR series."""
    grey = np.random.default_rng(0).integers(0, 60, (4, 24, 32)).astype(np.int16)
    grey[1:4, 6:18, 10:24] += 100
    image = SimpleITK.GetImageFromArray(grey)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(4):
        one = image[:, :, z]
        for tag, value in (
            ("0008|0060", "MR"),
            ("0020|000d", "1.2.826.0.1.1"),
            ("0020|000e", "1.2.826.0.1.2"),
            ("0008|0018", f"1.2.826.0.1.3.{z}"),
            ("0020|0032", f"0\\0\\{2 * z}"),
            ("0020|0037", "1\\0\\0\\0\\1\\0"),
            ("0020|0013", str(z + 1)),
            ("0018|0050", "2"),
        ):
            one.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{z}.dcm"))
        writer.Execute(one)


def test_a_picture_is_a_volume_of_one_slice(viewed, studies: Path, tiny, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).normal(60, 8, (48, 56)).clip(0, 255).astype(np.uint8)
    grey[12:30, 16:40] += 150
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(grey), str(studies / "still.png"))
    expected = tiny.segment(medsam2.read(studies / "still.png"), slice=0, points=[(28, 20)]).array
    params = {"foreground": [[28, 20]]}
    assert np.array_equal(segmented(viewed, params, "medsam2_3d", "still"), expected)
    assert np.array_equal(segmented(viewed, {**params, "slice": 0}, "medsam2_2d", "still"), expected)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(expected), str(tmp_path / "label.nrrd"))
    files = {"label": ("label.nrrd", (tmp_path / "label.nrrd").read_bytes())}
    assert viewed.client.put("/datastore/label?image=still", files=files).status_code == 200
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(expected[:, 1:]), str(tmp_path / "label.nrrd"))
    files = {"label": ("label.nrrd", (tmp_path / "label.nrrd").read_bytes())}
    answer = viewed.client.put("/datastore/label?image=still", files=files)
    assert answer.status_code == 422
    assert "(1, 47, 56)" in answer.json()["detail"]


def test_nothing_is_left_in_the_folder_or_in_memory(viewed, studies: Path) -> None:
    segmented(viewed, BOX)
    assert sorted(path.name for path in studies.iterdir()) == ["alpha.nii.gz", "beta.nii.gz"]
    assert viewed.figure("medsam2_reserved_bytes") == 0
    assert viewed.figure("medsam2_requests_in_flight") == 0


def test_users_at_the_same_time_get_their_own_masks(shared_server, tiny, volume) -> None:
    boxes = [(22, 18, 41, 37), (2, 3, 20, 30), (30, 5, 60, 50), (10, 10, 50, 50)]

    def ask_for(box: tuple[int, ...]) -> np.ndarray:
        x_min, y_min, x_max, y_max = box
        return segmented(shared_server, {**BOX, "roi": [x_min, x_max, y_min, y_max, 5, 5]})

    with ThreadPoolExecutor(len(boxes)) as users:
        found = list(users.map(ask_for, boxes))
    for mask, box in zip(found, boxes, strict=True):
        assert np.array_equal(mask, tiny.segment(volume, slice=5, box=box, window=(0, 255)).array)


def test_a_viewer_that_leaves_is_worked_for_no_longer(viewed, studies: Path, long_path: Path) -> None:
    shutil.copyfile(long_path, studies / "long.nii")
    body = slicer_body({"foreground": [[32, 32, 700]], "window": [0, 255]})
    headers = {"content-type": f"multipart/form-data; boundary={LIMIT}"}
    with closing(http.client.HTTPConnection("127.0.0.1", viewed.port, timeout=120)) as connection:
        connection.request("POST", "/infer/medsam2_3d?image=long", body, headers)
        viewed.wait_until(lambda: viewed.figure("medsam2_slices_total") > 3)
    viewed.wait_until(lambda: viewed.figure("medsam2_requests_in_flight") == 0)
    assert viewed.figure("medsam2_slices_total") < 1500
    viewed.wait_until(lambda: viewed.figure("medsam2_reserved_bytes") == 0)
    assert segmented(viewed, BOX).shape == (12, 56, 64)


def test_a_label_with_a_request_is_refused_in_a_sentence(shared_server, label_path: Path) -> None:
    files = {"label": ("/tmp/Slicer-1/scribbles.nii.gz", label_path.read_bytes())}
    response, body = ask(shared_server, "POST", "/infer/medsam2_3d?image=alpha", slicer_body(BOX, files))
    assert response.status == 422
    assert b"takes no label" in body


JUNK = ["", "alpha", "%00", "\u00e9", "-1", "1e9", "x" * 2000, "[]", "true", "../../x", "label", "final"]
BODIES = [
    (b"", ""),
    (b"{}", "application/json"),
    (b"[1", "application/json"),
    (b"a=1&info=%7B%7D&params=%7B%7D", "application/x-www-form-urlencoded"),
    (
        slicer_body({"foreground": [[1, 1, 1]]}, {"file": ("x.nii", b"1")}),
        f"multipart/form-data; boundary={LIMIT}",
    ),
    (slicer_body({}, {"label": ("x.nrrd", b"NRRD0004")}), f"multipart/form-data; boundary={LIMIT}"),
]


def test_no_junk_makes_a_route_fail(viewed) -> None:
    client: httpx.Client = viewed.client
    described = client.get("/openapi.json").json()["paths"]
    routes = [(path, verb) for path, verbs in described.items() for verb in verbs if "/v1/" not in path]
    chance = random.Random(0)
    num_answers = 0
    for path, verb in routes:
        for body, content_type in BODIES:
            filled = re.sub(r"\{\w+\}", lambda _: quote(chance.choice(JUNK[1:]), safe=""), path)
            names = [
                one["name"] for one in described[path][verb].get("parameters", ()) if one["in"] == "query"
            ]
            query = {name: chance.choice(JUNK) for name in names}
            headers = {"content-type": content_type} if content_type else {}
            content = body if verb in ("put", "post") else b""
            answer = client.request(verb.upper(), filled, params=query, content=content, headers=headers)
            assert answer.status_code != 500, (verb, filled, query, content_type)
            num_answers += 1
    assert num_answers > 150


def test_without_studies_viewers_have_no_routes(server) -> None:
    assert server.client.get("/info/").status_code == 404
