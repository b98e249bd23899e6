"""What viewers store: images, labels, sessions, batches; and what callers may try with them."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

import medsam2

BOX = {"roi": [22, 41, 18, 37, 5, 5], "window": [0, 255]}


def test_a_page_may_store_its_voxels(viewed, studies: Path, volume) -> None:
    label = np.zeros(volume.shape, np.uint8)
    label[3, 20:30, 22:44] = 2
    label[4, 20:30, 22:44] = 1
    params = {"label_info": [{"name": "a", "idx": 1}, {"name": "b", "idx": 2}]}
    files = {"params": (None, json.dumps(params)), "label": ("label.bin", label.tobytes())}
    response = viewed.client.put("/datastore/label?image=alpha", files=files)
    assert response.status_code == 200, response.text
    stored = medsam2.read(studies / "labels" / "final" / "alpha.nii.gz")
    assert np.array_equal(stored.array, label)
    np.testing.assert_array_equal(stored.affine, volume.affine)
    files["label"] = ("label.bin", label.tobytes()[:-1])
    response = viewed.client.put("/datastore/label?image=alpha", files=files)
    assert response.status_code == 422
    assert str(label.size) in response.json()["detail"]
    files["label"] = ("label.bin", label.astype("<u2").tobytes())
    assert viewed.client.put("/datastore/label?image=alpha&tag=second", files=files).status_code == 200
    stored = medsam2.read(studies / "labels" / "second" / "alpha.nii.gz")
    assert np.array_equal(stored.array, label)


def test_images_and_labels_are_asked_after_and_removed(viewed, studies: Path, label_path: Path) -> None:
    client: httpx.Client = viewed.client
    assert client.head("/datastore/image?image=alpha").status_code == 200
    assert client.head("/datastore/image?image=alpha.nii.gz").status_code == 200
    assert client.head("/datastore/image?image=nobody").status_code == 404
    given = client.get("/datastore/image?image=alpha")
    assert given.content == (studies / "alpha.nii.gz").read_bytes()
    assert 'filename="alpha.nii.gz"' in given.headers["content-disposition"]
    assert client.head("/datastore/image?image=alpha&check_sum=SHA256:00").status_code == 404
    assert client.head("/datastore/label?image=alpha&tag=final").status_code == 404
    files = {"label": (str(label_path), label_path.read_bytes())}
    assert client.put("/datastore/label?image=alpha", files=files).status_code == 200
    assert client.head("/datastore/label?image=alpha&tag=final").status_code == 200
    form = {"info": json.dumps({"note": "good"})}
    for path in ("image/info?image=alpha", "label/info?label=alpha", "updatelabelinfo?label=alpha&tag=final"):
        assert client.put(f"/datastore/{path}", data=form).json()["note"] == "good"
    assert client.get("/datastore/image/info?image=alpha").json()["note"] == "good"
    assert client.get("/datastore/label/info?label=alpha&tag=final").json()["note"] == "good"
    pairs = client.get("/datastore/?output=train").json()
    assert pairs == [{"image": "alpha.nii.gz", "label": "labels/final/alpha.nii.gz"}]
    assert client.delete("/datastore/label?id=alpha&tag=final").json() == {}
    assert client.delete("/datastore/image?id=alpha").json() == {}
    assert sorted(path.name for path in studies.rglob("*.nii.gz")) == ["beta.nii.gz"]
    assert client.get("/datastore/").json() == {"total": 1, "completed": 0, "label_tags": {}}


HOSTILE = [
    "../../evil",
    "..",
    "/etc/evil",
    "a/b",
    "",
    ".hidden",
    "a\x00b",
    "x" * 300,
    "CON:",
    "a\\b",
    "<img>",
]


def test_names_of_callers_never_become_paths(
    viewed, studies: Path, scan_path: Path, label_path: Path
) -> None:
    client: httpx.Client = viewed.client
    before = sorted(studies.parent.rglob("*"))
    for name in HOSTILE:
        image = {"file": (f"{name}.nii.gz", scan_path.read_bytes())}
        label = {"label": ("../../x.nii.gz", label_path.read_bytes())}
        answers = [
            client.put("/datastore/label", params={"image": name}, files=label),
            client.get("/datastore/image", params={"image": name}),
            client.delete("/datastore/", params={"id": name}),
        ]
        if name:
            answers.append(client.put("/datastore/", params={"image": name}, files=image))
            answers.append(
                client.put("/datastore/label", params={"image": "alpha", "tag": name}, files=label)
            )
        for answer in answers:
            assert answer.status_code in (404, 422), (name, answer.text)
            assert answer.json()["detail"]
            assert str(studies) not in answer.text
    assert sorted(studies.parent.rglob("*")) == before


def test_the_guard_stands_before_all_of_it(run_tiny, shared_studies: Path, scan_path: Path) -> None:
    with run_tiny(studies=str(shared_studies), api_key="k3y", max_body=1) as live:
        for method, path in (
            ("GET", "/info/"),
            ("POST", "/infer/medsam2_3d"),
            ("PUT", "/session/"),
            ("GET", "/datastore/"),
            ("DELETE", "/datastore/?id=alpha"),
        ):
            assert live.client.request(method, path).status_code == 401
        headers = {"Authorization": "Bearer k3y"}
        assert live.client.get("/info/", headers=headers).status_code == 200
        assert (
            live.client.get("/info/", headers={**headers, "Origin": "https://evil.example"}).status_code
            == 403
        )
        assert live.client.get("/info/", headers={**headers, "Host": "evil.example"}).status_code == 403
        too_large = {"files": ("x.nii.gz", b"\x00" * (2 << 20))}
        answer = live.client.put("/session/", files=too_large, headers=headers)
        assert answer.status_code == 413
        assert "1 MiB" in answer.json()["detail"]


def test_what_could_not_be_written_again_is_not_taken(viewed, studies: Path, label_path: Path) -> None:
    client: httpx.Client = viewed.client
    label = ("x.nii.gz", label_path.read_bytes())
    deep = '{"a":' * 300 + "1" + "}" * 300
    answer = client.put("/datastore/label?image=alpha", files={"params": (None, deep), "label": label})
    assert answer.status_code == 422
    assert "nested" in answer.json()["detail"]
    form = {"info": '{"a": 1e400, "b": NaN}'}
    assert client.put("/datastore/image/info?image=alpha", data=form).status_code == 422
    large = {"info": json.dumps({"a": 2**64 - 1, "b": "\u00e9\U0001f600", "c": [None] * 9})}
    assert client.put("/datastore/image/info?image=alpha", data=large).status_code == 200
    assert client.put("/datastore/label?image=alpha", files={"label": label}).status_code == 200
    assert json.loads((studies / "datastore_v2.json").read_bytes())["objects"]["alpha"]["image"]["info"]["c"]


def test_sessions_are_few_and_end(viewed, scan_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client: httpx.Client = viewed.client
    sent = [("files", ("scan.nii.gz", scan_path.read_bytes()))]
    session_id = client.put("/session/", files=sent).json()["session_id"]
    assert client.get(f"/session/{session_id}?image=true").content == scan_path.read_bytes()
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: 4e9)
        assert client.get(f"/session/{session_id}").status_code == 404
    assert client.get("/session/../../etc/passwd").status_code == 404
    assert client.put("/session/?expiry=-1", files=sent).status_code == 422
    for _ in range(64):
        answer = client.put("/session/", files=sent)
    assert answer.status_code == 200
    full = client.put("/session/", files=sent)
    assert full.status_code == 503
    assert int(full.headers["retry-after"]) > 0
    assert "64 images are open" in full.json()["detail"]


def test_a_batch_runs_in_the_background(viewed, studies: Path, box_mask: np.ndarray, long_path: Path) -> None:
    client: httpx.Client = viewed.client
    (studies / "broken.nii").write_bytes(b"nothing")
    assert client.post("/batch/infer/medsam2_3d", json={}).status_code == 422
    assert client.post("/batch/infer/nothing", json=BOX).status_code == 404
    assert client.delete("/batch/infer/").status_code == 404
    started = client.post("/batch/infer/medsam2_3d?images=unlabeled", json=BOX).json()
    assert started["status"] in ("SUBMITTED", "RUNNING")
    assert client.post("/batch/infer/medsam2_3d", json=BOX).status_code == 429
    viewed.wait_until(lambda: client.get("/batch/infer/?check_if_running=true").status_code == 404)
    done = client.get("/batch/infer/").json()
    assert done["status"] == "DONE"
    assert done["result"] == {"images": 3, "failed": 1}
    assert any("broken" in line for line in done["details"])
    for name in ("alpha", "beta"):
        stored = medsam2.read(studies / "labels" / "original" / f"{name}.nii.gz")
        assert np.array_equal(stored.array, box_mask)
    assert client.get("/batch/infer/?all=true").json() == [done]
    assert viewed.figure("medsam2_reserved_bytes") == 0
    shutil.copyfile(long_path, studies / "a long one.nii")
    long = {"foreground": [[32, 32, 700]], "window": [0, 255]}
    num_slices = viewed.figure("medsam2_slices_total")
    assert client.post("/batch/infer/medsam2_3d?images=all", json=long).status_code == 200
    viewed.wait_until(lambda: viewed.figure("medsam2_slices_total") > num_slices)
    assert client.delete("/batch/infer/").json()["status"] == "STOPPED"
    viewed.wait_until(lambda: client.get("/batch/infer/?check_if_running=true").status_code == 404)
    assert client.get("/batch/infer/").json()["status"] == "STOPPED"
    assert viewed.figure("medsam2_slices_total") < num_slices + 1500
    assert not (studies / "labels" / "original" / "a long one.nii.gz").exists()
