"""What a network throws at a server: it answers or hangs up, and goes on."""

from __future__ import annotations

import base64
import gzip
import json
import os
import signal
import socket
import struct
import subprocess
import time
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

HEAD = b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def said(live, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send parts by hand and return all that comes until the server hangs up."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=60) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)
        return heard(connection)


def heard(connection: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def error_in(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    told = json.loads(body)
    assert head.split(b" ")[1] == str(told["status"]).encode()
    return told


@pytest.fixture(scope="module")
def hurried(run_server):
    """A server with little patience and little room."""
    with run_server(
        header_timeout_s=0.4,
        body_timeout_s=0.4,
        send_timeout_s=1.0,
        max_body=1,
        max_volume=64,
        reader_memory=512,
    ) as live:
        yield live
        assert live.figure("medsam2_reserved_bytes") == 0
        assert live.figure("medsam2_requests_in_flight") == 0


def is_well(live) -> bool:
    return live.client.get("/readyz").status_code == 200


@pytest.mark.parametrize("start", [b"", b"PO", HEAD, HEAD + b"Content-Length: 5\r\n"])
def test_headers_that_never_end_are_a_408(hurried, start: bytes) -> None:
    told = error_in(said(hurried, start))
    assert told["status"] == 408
    assert "0.4 s" in told["error"]


def test_headers_that_trickle_in_are_too_slow_as_well(hurried) -> None:
    with socket.create_connection(("127.0.0.1", hurried.port), timeout=60) as connection:
        answer = b""
        for letter in HEAD + b"X: " + b"y" * 1000:
            try:
                connection.sendall(bytes([letter]))
            except OSError:
                break
            time.sleep(0.02)
        answer += heard(connection)
    assert b" 408 " in answer or answer == b""  # a reset may overtake the words
    assert is_well(hurried)


def test_a_body_that_does_not_come_is_a_408(hurried) -> None:
    told = error_in(said(hurried, HEAD + b"Content-Length: 50\r\n\r\n{"))
    assert told["status"] == 408
    assert "body" in told["error"]


def test_half_a_body_and_a_caller_that_left_leave_nothing(hurried) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", hurried.port)) as connection:
            connection.sendall(HEAD + b"Content-Length: 5000\r\n\r\n" + b"{" * 2500)
    hurried.wait_until(lambda: hurried.figure("medsam2_reserved_bytes") == 0)
    assert is_well(hurried)


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http_is_a_400(hurried, bytes_sent: bytes) -> None:
    answer = said(hurried, bytes_sent)
    assert answer.startswith(b"HTTP/1.1 400 ") or answer == b""  # cut off while it was sending
    if answer:
        assert error_in(answer)["status"] == 400
    assert is_well(hurried)


def test_a_body_that_is_too_large_is_a_413_before_it_is_sent(hurried) -> None:
    told = error_in(said(hurried, HEAD + b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n"))
    assert told["status"] == 413
    assert "1 MiB" in told["error"]


def test_a_body_that_is_too_large_is_a_413_however_it_is_sent(hurried) -> None:
    body = b"[" + b" " * (2 * 2**20)
    response = hurried.client.post("/score", content=body)
    assert response.status_code == 413
    response = hurried.client.post(
        "/score", content=(body[i : i + 65536] for i in range(0, len(body), 65536))
    )
    assert response.status_code == 413


def test_a_packed_bomb_is_a_413(hurried) -> None:
    bomb = gzip.compress(bytes(10**8), 9)
    assert len(bomb) < 2**20
    response = hurried.client.post("/score", content=bomb, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"not gzip", "is not"),
        (gzip.compress(b"{}")[:-4], "ends before"),
        (gzip.compress(b"{}") + b"more", "goes on"),
    ],
    ids=["no gzip", "an end", "more than an end"],
)
def test_a_body_that_is_packed_badly_is_a_400(hurried, body: bytes, word: str) -> None:
    response = hurried.client.post("/score", content=body, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 400
    assert word in response.json()["error"]
    assert hurried.client.post("/score", content=body, headers={"Content-Encoding": "br"}).status_code == 400


def test_a_caller_that_takes_no_answer_is_let_go(hurried, table) -> None:
    grey = np.zeros((512, 512, 30), np.uint8)
    grey[20:44, 20:44, 3:6] = 200
    file = gzip.compress(bytes(nifti_header(grey.shape, bits=8, code=2)) + grey.tobytes(order="F"), 9)
    body = json.dumps({"input_data": {**table, "nii_image": [base64.b64encode(file).decode()]}}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", hurried.port))
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        hurried.wait_until(lambda: hurried.figure("medsam2_reserved_bytes") > 0)
        hurried.wait_until(lambda: hurried.figure("medsam2_reserved_bytes") == 0)  # and we are still here
        received = heard(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert len(received) < 2 * grey.size
    assert is_well(hurried)


def nifti_header(shape_xyz: tuple[int, int, int], bits: int = 16, code: int = 4) -> bytearray:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.dtype(np.int16))
    header["dim"] = [3, *shape_xyz, 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = code, bits
    header["pixdim"] = 1
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return bytearray(header.binaryblock + bytes(4))


def scored(live, table: dict[str, list[object]], file: bytes) -> tuple[int, str]:
    response = live.score({**table, "nii_image": [base64.b64encode(file).decode()]})
    return response.status_code, response.json().get("error", "")


def test_a_header_that_claims_terabytes_is_refused(hurried, table) -> None:
    header = bytes(nifti_header((32767, 32767, 32767)))
    for file in (header + bytes(1000), gzip.compress(header + bytes(1000))):
        status, sentence = scored(hurried, table, file)
        assert status == 413
        assert "70362301923326 bytes" in sentence
        assert "64 MiB" in sentence
    second = nibabel.Nifti2Header()
    second["dim"] = [3, 2**40, 2**20, 2**20, 1, 1, 1, 1]
    second["datatype"], second["bitpix"], second["magic"], second["vox_offset"] = 4, 16, b"n+2", 544
    status, _ = scored(hurried, table, second.binaryblock + bytes(1000))
    assert status in (413, 422)


def test_a_header_that_claims_more_than_the_file_has_is_refused(hurried, table) -> None:
    status, sentence = scored(hurried, table, bytes(nifti_header((512, 512, 10))) + bytes(1000))
    assert status == 422
    assert "truncated" in sentence
    assert "/" not in sentence.replace("nii.gz", "")  # no place on the machine


@pytest.mark.parametrize("seed", range(24))
def test_headers_with_random_bytes_never_end_the_server(hurried, table, seed: int) -> None:
    random = np.random.default_rng(seed)
    file = bytearray(nifti_header((16, 16, 4)) + random.bytes(16 * 16 * 4 * 2))
    for place in random.integers(0, 352, random.integers(1, 12)):
        file[place] = random.integers(0, 256)
    packed = gzip.compress(bytes(file))
    if seed % 2:
        packed = bytearray(packed)
        packed[random.integers(0, len(packed))] ^= 1 << random.integers(0, 8)
    table |= {"bbox": [[2, 2, 12, 12]], "key_slice_idx": [0]}
    status, _ = scored(hurried, table, bytes(packed if seed % 3 else file))
    assert status in (200, 413, 422)


def honest_bomb(megabytes: int) -> bytes:
    """A file that is what it says, hundreds of times as large as it is sent."""
    shape = (1024, 1024, megabytes // 2)
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = packer.compress(bytes(nifti_header(shape)))
    for _ in range(megabytes):
        packed += packer.compress(bytes(2**20))
    return packed + packer.flush()


def test_a_file_that_takes_too_much_memory_ends_its_reader_and_nothing_else(run_server, table) -> None:
    with run_server(reader_memory=64, max_volume=1024) as live:
        status, sentence = scored(live, table, honest_bomb(128))
        assert status == 413, sentence
        assert "64 MiB" in sentence
        assert live.score(table).status_code == 200
        assert live.figure("medsam2_reader_starts") == 2
        assert live.figure("medsam2_reserved_bytes") == 0


def test_a_file_that_takes_too_long_ends_its_reader_and_nothing_else(run_server, table) -> None:
    with run_server(read_timeout_s=0.05, max_volume=1024) as live:
        status, sentence = scored(live, table, honest_bomb(400))
        assert status == 504, sentence
        assert "0.05 s" in sentence
        assert live.figure("medsam2_reader_starts") == 1
        assert is_well(live)


def test_a_reader_that_dies_is_replaced(run_server, table) -> None:
    others = children()
    with run_server() as live:
        (reader,) = children() - others
        os.kill(reader, signal.SIGSTOP)  # it holds the file, and does not get to the end of it
        body = json.dumps({"input_data": table}).encode()
        with socket.create_connection(("127.0.0.1", live.port), timeout=120) as connection:
            connection.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            live.wait_until(lambda: live.figure("medsam2_requests_in_flight") == 1)
            time.sleep(0.2)
            os.kill(reader, signal.SIGKILL)
            told = error_in(heard(connection))
        assert told["status"] == 422
        assert "ended the process" in told["error"]
        assert live.score(table).status_code == 200
        assert len(children() - others - {reader}) == 1


def children() -> set[int]:
    """Processes of this one that read files."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {int(line.split()[0]) for line in listed if "medsam2.serving.reader_process" in line}


def test_many_small_requests_leave_nothing(hurried) -> None:
    for number in range(300):
        response = hurried.client.post("/score", content=struct.pack("<I", number))
        assert response.status_code == 400
    assert hurried.figure("medsam2_reserved_bytes") == 0


def test_more_connections_than_allowed_are_cut_off(serve) -> None:
    live = serve(max_connections=5)
    live.client.close()
    opened = [socket.create_connection(("127.0.0.1", live.port), timeout=60) for _ in range(5)]
    with socket.create_connection(("127.0.0.1", live.port), timeout=60) as another:
        assert heard(another) == b""
    for connection in opened:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert heard(connection).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_a_name_from_a_caller_becomes_no_path(hurried, table, tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "file:///etc/passwd", str(tmp_path)):
        response = hurried.score({**table, "nii_image": [name]})
        assert response.status_code == 422
        error = response.json()["error"]
        assert "base64" in error or "not a NIfTI file" in error, "letters and slashes are base64 as well"
