"""What bounds sessions: time, number, memory, keys, and the one folder that files are opened from."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medsam2.imaging.io import write
from medsam2.imaging.volume import Volume

SESSIONS = "/v1/sessions"
KEY = "k3y-of-this-test"


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    grey = np.random.default_rng(3).integers(0, 60, (9, 40, 56)).astype(np.int16)
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    write(Volume.from_array(grey), path)
    return path


@pytest.fixture(scope="module")
def scan_bytes(scan_file: Path) -> bytes:
    return scan_file.read_bytes()


@pytest.fixture(scope="module")
def folder(scan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a server may open, with ways out of it."""
    outside = scan_file.parent
    root = tmp_path_factory.mktemp("root") / "folder"
    (root / "case 1" / "series").mkdir(parents=True)
    (root / "case 1" / "scan.nii.gz").write_bytes(scan_file.read_bytes())
    (root / "inner.nii.gz").symlink_to(root / "case 1" / "scan.nii.gz")
    (root / "outer.nii.gz").symlink_to(scan_file)
    (root / "outer").symlink_to(outside, target_is_directory=True)
    (root / "ring").symlink_to(root / "ring")
    (root / "case 1" / "series" / "slice.dcm").symlink_to("/etc/hostname")
    return root


@pytest.fixture(scope="module")
def live(run_tiny, folder: Path) -> Iterator[object]:
    with run_tiny(folder=folder) as server:
        yield server
        assert server.figure("medsam2_sessions") == 0
        assert server.figure("medsam2_reserved_bytes") == 0


def refused(response, status: int, *words: str) -> str:
    assert response.status_code == status, response.text
    told = response.json()
    assert told["status"] == status
    for word in words:
        assert word in told["error"]
    return str(told["error"])


def opened(live, scan_bytes: bytes, **headers: str) -> str:
    response = live.client.post(SESSIONS, content=scan_bytes, params={"name": "s.nii.gz"}, headers=headers)
    assert response.status_code == 201, response.text
    return f"{SESSIONS}/{response.json()['id']}"


def test_a_session_that_is_left_alone_ends(run_tiny, scan_bytes: bytes, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with run_tiny(session_idle_s=1.5) as live:
        left, kept = opened(live, scan_bytes), opened(live, scan_bytes)
        assert live.figure("medsam2_reserved_bytes") > 0
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            assert live.client.get(kept).status_code == 200
            time.sleep(0.1)
        refused(live.client.get(left), 404, "there is no session", "left alone for 1.5 s", "open another one")
        refused(live.client.post(f"{left}/prompts", content=b"{}"), 404)
        assert live.figure("medsam2_sessions") == 1
        live.wait_until(lambda: live.figure("medsam2_sessions") == 0)
        assert live.figure("medsam2_reserved_bytes") == 0
        refused(live.client.get(kept), 404)
        (service_folder,) = tmp_path.iterdir()
        assert list(service_folder.iterdir()) == []


def test_more_sessions_than_places_are_told_to_come_again(run_tiny, scan_bytes: bytes) -> None:
    with run_tiny(max_sessions=2) as live:
        first, _ = opened(live, scan_bytes), opened(live, scan_bytes)
        response = live.client.post(SESSIONS, content=scan_bytes)
        refused(response, 503, "2 sessions")
        assert int(response.headers["retry-after"]) == 60
        assert live.client.delete(first).status_code == 204
        for _ in range(3):  # places are not lost over what is refused
            refused(live.client.post(SESSIONS, content=b"junk"), 422)
        opened(live, scan_bytes)


def test_memory_is_counted_until_a_session_ends(run_tiny, scan_bytes: bytes) -> None:
    with run_tiny(memory_budget=1, max_body=1, max_sessions=100) as live:
        sessions = []
        while True:
            response = live.client.post(SESSIONS, content=scan_bytes, params={"name": "s.nii.gz"})
            if response.status_code != 201:
                break
            sessions.append(f"{SESSIONS}/{response.json()['id']}")
        refused(response, 503, "memory")
        assert response.headers["retry-after"]
        num_bytes = 9 * 40 * 56 * (2 + 2)  # voxels, and labels while they are put together
        assert live.figure("medsam2_reserved_bytes") == len(sessions) * num_bytes
        assert live.client.delete(sessions.pop()).status_code == 204
        sessions.append(opened(live, scan_bytes))
        for path in sessions:
            live.client.delete(path)
        assert live.figure("medsam2_reserved_bytes") == 0
        large = gzip.compress(bytes(10))
        refused(live.client.post(SESSIONS, content=large + bytes(2 * 2**20)), 413, "1 MiB")


def test_what_is_found_counts_as_well(run_tiny, scan_bytes: bytes) -> None:
    with run_tiny(memory_budget=1, max_body=1, max_sessions=100) as live:
        first = opened(live, scan_bytes)
        others = []
        while (response := live.client.post(SESSIONS, content=scan_bytes)).status_code == 201:
            others.append(f"{SESSIONS}/{response.json()['id']}")
        for number in range(1, 256):
            before = live.figure("medsam2_reserved_bytes")
            said = {"object": number, "slice": 4, "box": [10, 10, 20, 20]}
            response = live.client.post(f"{first}/prompts", json=said)
            if response.status_code != 200:
                break
            assert live.figure("medsam2_reserved_bytes") > before
        refused(response, 503, "memory")
        assert response.headers["retry-after"]
        # What is there is given; no more is added to it, by nobody.
        assert len(live.client.get(first).json()["objects"]) == number - 1
        assert live.client.get(f"{first}/masks").status_code == 200
        told = live.client.post(f"{first}/propagate").text
        assert told.startswith("event: error")
        assert '"status":503' in told
        refused(live.client.post(SESSIONS, content=scan_bytes), 503, "memory")
        # With room it goes on where it was.
        for path in others:
            assert live.client.delete(path).status_code == 204
        assert live.client.post(f"{first}/prompts", json=said).status_code == 200
        assert "event: slice" in live.client.post(f"{first}/propagate").text
        assert live.client.delete(first).status_code == 204
        assert live.figure("medsam2_reserved_bytes") == 0


def test_what_a_header_claims_is_counted_before_it_is_unpacked(run_tiny, tmp_path: Path) -> None:
    write(Volume.from_array(np.zeros((64, 200, 200), np.int16)), tmp_path / "large.nii.gz")
    write(Volume.from_array(np.zeros((64, 200, 200), np.int16)), tmp_path / "large.nrrd")
    with zipfile.ZipFile(tmp_path / "large.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(5):
            packed.writestr(f"{number}.dcm", bytes(1024000))
    with run_tiny(max_volume=4) as live:
        for name in ("large.nii.gz", "large.nrrd", "large.zip"):
            content = (tmp_path / name).read_bytes()
            response = live.client.post(SESSIONS, content=content, params={"name": name})
            refused(response, 413, "5120000 bytes", "4 MiB")
            assert live.figure("medsam2_reserved_bytes") == 0


@pytest.mark.parametrize(
    ("content", "name", "status"),
    [
        (b"", "a.nii.gz", 400),
        (b"nothing", "a.nii.gz", 422),
        (b"nothing", "a.nrrd", 422),
        (b"nothing", "a.dcm", 422),
        (b"nothing", "a.zip", 422),
        (b"nothing", "a", 422),
        (b"PK\x03\x04" + bytes(100), "", 422),
        (b"DDIM" * 300, "", 422),
        (bytes(128) + b"DICM" + bytes(1000), "", 422),
        (b"NRRD0004\ntype: short\ndimension: 3\nsizes: 99999 99999 99999\nencoding: raw\n\n", "a.nrrd", 422),
    ],
    ids=range(10),
)
def test_files_that_are_none_are_refused(live, content: bytes, name: str, status: int) -> None:
    sentence = refused(live.client.post(SESSIONS, content=content, params={"name": name}), status)
    assert "/tmp" not in sentence
    assert live.figure("medsam2_reserved_bytes") == 0


def test_an_archive_that_leads_out_is_refused(live, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as packed:
        packed.writestr("../../escaped.nii", b"x")
    response = live.client.post(
        SESSIONS, content=(tmp_path / "out.zip").read_bytes(), params={"name": "a.zip"}
    )
    assert "/tmp" not in refused(response, 422, "outside")


def test_a_reader_that_dies_takes_no_session_with_it(run_tiny, scan_bytes: bytes) -> None:
    others = readers()
    with run_tiny() as live:
        path = opened(live, scan_bytes)
        (reader,) = readers() - others
        os.kill(reader, signal.SIGKILL)
        assert live.client.get(path).status_code == 200
        # Until its end is noticed, it is taken for the fault of the file at hand.
        live.wait_until(lambda: live.client.post(SESSIONS, content=scan_bytes).status_code == 201)
        assert live.figure("medsam2_reader_starts") == 2
        assert live.figure("medsam2_sessions") == 2


def readers() -> set[int]:
    """Processes of this one that read files."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=,args=", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return {int(line.split()[0]) for line in listed if "medsam2.serving.reader_process" in line}


@pytest.mark.parametrize("path", ["case 1/scan.nii.gz", "./case 1//scan.nii.gz", "inner.nii.gz"])
def test_files_below_the_folder_are_opened(live, path: str) -> None:
    response = live.client.post(SESSIONS, json={"path": path, "window": [0, 60], "plane": None})
    assert response.status_code == 201, response.text
    assert response.json()["shape"] == [9, 40, 56]
    assert response.json()["name"] == path.rpartition("/")[2]
    assert live.client.delete(f"{SESSIONS}/{response.json()['id']}").status_code == 204


WAYS_OUT = [
    ("../scan.nii.gz", 403),
    ("../..", 403),
    ("case 1/../../folder/case 1/scan.nii.gz", 403),
    ("/etc/passwd", 403),
    ("//etc/passwd", 403),
    ("outer.nii.gz", 403),
    ("outer/scan.nii.gz", 403),
    ("outer", 403),
    ("case 1/series", 403),
    ("case 1/series/slice.dcm", 403),
    ("ring", 404),
    ("nothing.nii.gz", 404),
    ("case 1/scan.nii.gz/more", 404),
    ("x" * 5000, 404),
    ("a\0b", 422),
    ("..\\scan.nii.gz", 422),
    ("file:///etc/passwd", 404),
    ("~/scan.nii.gz", 404),
    ("", 422),
    (5, 422),
]


@pytest.mark.parametrize(("path", "status"), WAYS_OUT, ids=range(len(WAYS_OUT)))
def test_no_path_leads_out_of_the_folder(live, folder: Path, path: object, status: int) -> None:
    sentence = refused(live.client.post(SESSIONS, json={"path": path}), status)
    assert str(folder) not in sentence
    assert len(sentence) < 250


def test_a_large_body_that_is_not_wanted_is_refused_in_words(live) -> None:
    for _ in range(2):  # the connection goes on
        response = live.client.post(SESSIONS, content=bytes(5 * 2**20), params={"window": "bones"})
        refused(response, 422, "window is 'bones'")


def test_a_request_for_a_file_is_an_object_with_known_keys(live) -> None:
    response = live.client.post(SESSIONS, json={"path": "inner.nii.gz", "slices": 3})
    refused(response, 400, "keys are window, plane, memory, frame, path")
    refused(live.client.post(SESSIONS, json=["inner.nii.gz"]), 400, "an object")
    headers = {"Content-Type": "application/json; charset=utf-8"}
    refused(live.client.post(SESSIONS, content=b"{", headers=headers), 400, "not JSON")


def test_without_a_folder_no_file_is_opened(run_tiny) -> None:
    with run_tiny() as live:
        refused(live.client.post(SESSIONS, json={"path": "scan.nii.gz"}), 403, "--folder", "send the file")


def test_nothing_is_there_without_the_key(run_tiny, scan_bytes: bytes, folder: Path) -> None:
    with run_tiny(api_key=KEY, folder=folder) as live:
        right = {"Authorization": f"Bearer {KEY}"}
        path = opened(live, scan_bytes, **right)
        asked = [("POST", SESSIONS), ("GET", SESSIONS), ("GET", path), ("DELETE", path)]
        asked += [("POST", f"{path}/{what}") for what in ("prompts", "propagate", "undo", "redo")]
        asked += [
            ("GET", f"{path}/{what}") for what in ("masks", "measurements", "volume", "export?type=npz")
        ]
        asked += [("DELETE", f"{path}/objects/1"), ("GET", f"{SESSIONS}/unknown")]
        for method, address in asked:
            refused(live.client.request(method, address), 401, "Bearer")
            wrong = {"Authorization": f"Bearer {KEY}x"}
            refused(live.client.request(method, address, headers=wrong), 403)
            strange = {**right, "Origin": "https://evil.example"}
            refused(live.client.request(method, address, headers=strange), 403, "pages of")
            renamed = {**right, "Host": "evil.example"}
            refused(live.client.request(method, address, headers=renamed), 403, "not a name")
        (listed,) = live.client.get(SESSIONS, headers=right).json()["sessions"]
        assert path.endswith(listed["id"])
        assert listed["name"] == "s.nii.gz"
        assert 0 <= listed["idle_s"] < 60


def test_sessions_of_everybody_are_listed_to_nobody(run_tiny, scan_bytes: bytes) -> None:
    with run_tiny(host="0.0.0.0", insecure=True) as live:
        opened(live, scan_bytes)
        refused(live.client.get(SESSIONS), 403, "with a key")


def test_ids_cannot_be_guessed_and_are_told_to_nobody_else(live, scan_bytes: bytes) -> None:
    paths = {opened(live, scan_bytes) for _ in range(8)}
    ids = {path.rpartition("/")[2] for path in paths}
    assert len(ids) == 8
    assert all(len(one) >= 22 for one in ids)
    live.client.get(next(iter(paths)))
    told = live.client.get("/metrics").text
    assert not any(one in told for one in ids)
    assert 'path="/v1/sessions/{session_id}"' in told
    assert len(live.client.get(SESSIONS).json()["sessions"]) == 8
    for path in paths:
        assert live.client.delete(path).status_code == 204
        refused(live.client.delete(path), 404)
    for wrong in ("x", "%2e%2e", "a" * 3000, "'"):
        refused(live.client.get(f"{SESSIONS}/{wrong}"), 404)
