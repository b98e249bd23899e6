"""ITK-SNAP's requests, as libcurl sends them, in both dialects."""

from __future__ import annotations

import asyncio
import base64
import gzip
import importlib
import json
import shutil
import subprocess
import sys
import warnings

import httpx
import numpy as np
import pytest

from medsam2.imaging.volume import Volume

WINDOW = (0.0, 255.0)
GRID = {"spacing": [0.8, 0.8, 2.5], "origin": [1.0, -2.0, 3.0], "direction": [0, 1, 0, 1, 0, 0, 0, 0, -1]}
V1, V2 = "", "/v2"


def form(array: np.ndarray, **facts) -> dict[str, tuple]:
    """The parts of a form: an image in gzip and what is known of it."""
    known = {
        "dimensions": list(array.shape[::-1]),
        **GRID,
        "components_per_pixel": 1,
        "component_type": "float32",
        **facts,
    }
    packed = gzip.compress(array.astype("<f4").tobytes(), 1)
    return {
        "file": ("image.gz", packed, "application/gzip"),
        "metadata": (None, json.dumps(known), "application/json"),
    }


def shown(answer: httpx.Response, shape: tuple[int, int, int]) -> np.ndarray:
    """The mask as ITK-SNAP reads it: exactly one byte for each voxel."""
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said["status"] == "success"
    content = gzip.decompress(base64.b64decode(said["result"], validate=True))
    return np.frombuffer(content, np.int8).reshape(shape)


@pytest.fixture(scope="module")
def windowed(run_server):
    """A server; ITK-SNAP builds its addresses without a path, so tests name the window by one."""
    with (
        run_server() as live,
        httpx.Client(base_url=f"http://127.0.0.1:{live.port}/viewers/0,255", timeout=120) as client,
    ):
        yield client


@pytest.mark.parametrize("v", [V1, V2])
def test_a_session_of_the_viewer(windowed, image, predictor, v: str) -> None:
    assert windowed.get("/status").json() == {"status": "ok", "version": "0.1.6"}
    if v:
        (model,) = windowed.get("/v2/models").json()["models"]
        assert model["id"] == "nnInteractive"
        start = f"/v2/start_session/{model['id']}"
    else:
        start = "/start_session"
    one = windowed.get(start).json()["session_id"]
    sent = windowed.post(f"{v}/upload_raw/{one}?filename=upload.nii.gz", files=form(image.array))
    assert sent.status_code == 200, sent.text
    point = "point=31&point=27&point=5" if v else "x=31&y=27&z=5"
    answer = windowed.get(f"{v}/process_point_interaction/{one}?{point}&foreground=true")
    grid = {name: tuple(map(float, value)) for name, value in GRID.items()}
    volume = Volume.from_array(image.array.astype(np.float32), **grid)
    session = predictor.session(volume, window=WINDOW, axis=2)
    session.add(1, slice=5, points=[(31, 27)])
    session.finish()
    expected = session.result().array
    assert expected.any()
    assert (shown(answer, image.shape) == expected).all()

    stroke = np.zeros(image.shape)
    stroke[7, 27, 37] = 1
    answer = windowed.post(f"{v}/process_scribble_interaction/{one}?foreground=false", files=form(stroke))
    without = shown(answer, image.shape)
    if expected[7, 27, 37]:
        session.add(1, slice=7, points=[(37, 27)], labels=[0])
        session.finish()
        assert (without == session.result().array).all()

    polygon = np.zeros(image.shape)
    polygon[5, 18:38, 22:42] = 1
    answer = windowed.post(f"{v}/process_lasso_interaction/{one}?foreground=true", files=form(polygon))
    assert shown(answer, image.shape)[5, 18:38, 22:42].all()

    assert windowed.get(f"{v}/reset_interactions/{one}").json() == {"status": "success"}
    answer = windowed.get(f"{v}/process_point_interaction/{one}?{point}&foreground=true")
    assert (shown(answer, image.shape) == expected).all()
    assert windowed.get(f"{v}/end_session/{one}").status_code == 200
    answer = windowed.get(f"{v}/process_point_interaction/{one}?{point}&foreground=true")
    assert answer.status_code == 404
    assert "choose the server again" in answer.json()["detail"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_real_libcurl(run_tiny, image, tmp_path) -> None:
    with run_tiny() as live:
        address = f"http://127.0.0.1:{live.port}"

        def curl(*arguments: str) -> dict[str, object]:
            command = ["curl", "-sS", "--noproxy", "*", "--fail-with-body", *arguments]
            return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

        one = curl(f"{address}/start_session")["session_id"]
        parts = form(np.repeat(image.array, 10, 0) + np.random.default_rng(0).random((120, 56, 64)))
        (tmp_path / "image.gz").write_bytes(parts["file"][1])
        assert (tmp_path / "image.gz").stat().st_size > 1 << 20  # libcurl waits for 100 Continue
        sent = [
            "-F", f"file=@{tmp_path}/image.gz;filename=image.gz;type=application/gzip",
            "-F", f"metadata={parts['metadata'][1]};type=application/json",
        ]  # fmt: skip
        assert "message" in curl(
            "-H", "Expect: 100-continue", *sent, f"{address}/upload_raw/{one}?filename=a"
        )
        said = curl(f"{address}/process_point_interaction/{one}?x=31&y=27&z=50&foreground=true")
        assert len(gzip.decompress(base64.b64decode(said["result"]))) == 120 * 56 * 64


@pytest.mark.parametrize(
    ("facts", "status", "words"),
    [
        ({"components_per_pixel": 3}, 422, "one component"),
        ({"dimensions": [64, 56]}, 422, "three sizes"),
        ({"dimensions": [64, 56, 13]}, 422, "its dimensions need"),
        ({"dimensions": [64, 56, 11]}, 422, "more than the"),
        ({"dimensions": [2**20, 2**20, 2**20]}, 413, "MEDSAM2_MAX_VOLUME"),
        ({"direction": [0] * 9}, 422, ""),
    ],
)
def test_an_unusable_image_is_refused_at_once(server, image, facts, status: int, words: str) -> None:
    one = server.client.get("/start_session").json()["session_id"]
    answer = server.client.post(f"/upload_raw/{one}", files=form(image.array, **facts))
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    server.client.get(f"/end_session/{one}")


def test_other_mistakes(server, image) -> None:
    get = server.client.get
    assert get("/v2/start_session/other").status_code == 404
    one = get("/start_session").json()["session_id"]
    point = f"/process_point_interaction/{one}"
    assert get(f"{point}?x=1&y=1&z=1").status_code == 409  # no image
    assert server.client.post(f"/upload_raw/{one}", files={"file": b"x"}).status_code == 422
    server.client.post(f"/upload_raw/{one}", files=form(image.array))
    for query in ("x=1&y=1", "x=1&y=b&z=2", "x=1&y=1&z=99", "x=1&y=1&z=12", "x=1&y=1&z=1&foreground=maybe"):
        assert get(f"{point}?{query}").status_code == 422
    cut = form(image.array)
    cut["file"] = ("image.gz", cut["file"][1][:-20], "application/gzip")
    assert server.client.post(f"/upload_raw/{one}", files=cut).status_code == 422
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert get("/start_session", headers=foreign).status_code == 403
    get(f"/end_session/{one}")


RELEASE = "itksnap-dls==0.1.6"


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """ITK-SNAP's own server with its stand-ins for networks; what the wheel depends on is left alone."""
    folder = tmp_path_factory.mktemp("itksnap")
    options = ["--quiet", "--no-deps", "--retries", "1", "--timeout", "15", "--target", str(folder)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, RELEASE], capture_output=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.skip("no package index answers, to fetch ITK-SNAP's server from")
    if done.returncode:
        pytest.skip("ITK-SNAP's server cannot be fetched from a package index")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.syspath_prepend(str(folder))
        segment = importlib.import_module("itksnap_dls.segment")
        patch.setattr(segment.global_config, "mock_models", True)
        yield importlib.import_module("itksnap_dls.server").app


def test_answers_have_the_form_of_the_official_server(official, server, image) -> None:
    """The same requests to both: the same statuses, keys and types."""

    async def ask(app) -> list:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await talk(client.get, client.post)

    async def talk(get, post) -> list:
        async def now(answer):
            answer = await answer if asyncio.iscoroutine(answer) else answer
            assert answer.status_code == 200, answer.text
            return answer.json()

        said = [await now(get("/status")), await now(get("/v2/models"))]
        one = (await now(get("/start_session")))["session_id"]
        said.append({"session_id": one})
        await now(post(f"/upload_raw/{one}?filename=upload.nii.gz", files=form(image.array)))
        said.append(await now(get(f"/process_point_interaction/{one}?x=31&y=27&z=5&foreground=true")))
        stroke = np.zeros(image.shape)
        stroke[5, 20, 20:24] = 1
        said.append(
            await now(post(f"/process_scribble_interaction/{one}?foreground=true", files=form(stroke)))
        )
        said.append(await now(get(f"/reset_interactions/{one}")))
        await now(get(f"/end_session/{one}"))
        return said

    theirs = asyncio.run(ask(official))
    ours = asyncio.run(talk(server.client.get, server.client.post))
    for one, other in zip(theirs, ours, strict=True):
        assert {key: type(value) for key, value in one.items()} == {
            key: type(value) for key, value in other.items()
        }
        assert one.get("status") == other.get("status")
        if "result" in one:
            sizes = {len(gzip.decompress(base64.b64decode(said["result"]))) for said in (one, other)}
            assert sizes == {image.array.size}
