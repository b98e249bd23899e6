"""What a network may do to a server, one thing after the other, and what each gets.

    python benchmarks/attacks.py [--tiny 10000] [--rounds 3]

Prints a table, whether another caller's mask is the same before and after, and the server's memory. Ends
with 1 if something got what it should not.
"""

from __future__ import annotations

import argparse
import gzip
import json
import select
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

import httpx
import nibabel
import numpy as np
from live_server import (
    KEY,
    MAX_BODY_MIB,
    PATIENCE_S,
    Live,
    head,
    heard,
    live_server,
    row_of,
    sound_row,
    status_of,
)
from mutations import mutated
from small_files import small_files

NUM_SLOW = 200
NUM_HALF = 100
NUM_KEYS = 200
NUM_MUTATED = 100
NUM_CONNECTIONS = 512
NUM_EXTRA = 100
SMALL_FILES = ("nifti-1", "nifti-1 scaled", "nifti-2", "nifti gz", "nifti gz bytes")
LARGEST_GROWTH_MIB = 24
"""That the last round may add to the server's process. The first leaves what the allocator keeps, later
ones find most of it there."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Something that is done to a server."""

    name: str
    do: Callable[[Live], Counter[str]]
    """Returns how often it got what."""
    gets: Sequence[str]
    """What it may get; each attempt has to get one of them."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an attack got."""

    attack: Attack
    got: Counter[str]
    seconds: float
    is_at_rest: bool
    """Whether the server then held nothing of it."""
    is_other_served: bool
    """Whether another caller's mask was the same after it."""

    @property
    def is_right(self) -> bool:
        """Whether all of that is as it should be."""
        return (
            self.is_at_rest
            and self.is_other_served
            and bool(self.got)
            and set(self.got) <= set(self.attack.gets)
        )


def attacks(num_tiny: int) -> list[Attack]:
    """All of them."""
    return [
        Attack(name="no key", do=_no_key, gets=["401"]),
        Attack(name="wrong keys", do=_wrong_keys, gets=["403"]),
        Attack(name="the name of another server", do=_header("Host", "evil.example"), gets=["403"]),
        Attack(name="a page of another site", do=_header("Origin", "https://evil.example"), gets=["403"]),
        Attack(name="headers that trickle in", do=_slow_headers, gets=["408", "hung up", "other served"]),
        Attack(name="a body that trickles in", do=_slow_body, gets=["408"]),
        Attack(name="half a body, then gone", do=_half_bodies, gets=["gone"]),
        Attack(
            name="a header of 1 MB", do=_sent(head("X: " + "y" * 10**6) + b"\r\n"), gets=["400", "hung up"]
        ),
        Attack(name="10 000 headers", do=_sent(head(*["X: y"] * 10_000) + b"\r\n"), gets=["400", "hung up"]),
        Attack(
            name="two lengths",
            do=_sent(head("Content-Length: 2", "Content-Length: 3") + b"\r\n{}"),
            gets=["400"],
        ),
        Attack(name="a length and chunks", do=_two_framings, gets=["400"]),
        Attack(name="1000 requests in a row, unasked", do=_pipelined, gets=["200"]),
        Attack(name="more connections than allowed", do=_many_connections, gets=["open", "408", "hung up"]),
        Attack(name="a body above the limit", do=_large_body, gets=["413"]),
        Attack(name="gzip of 1 GB of zeros", do=_packed_bomb, gets=["413"]),
        Attack(name="gzip in gzip", do=_packed_twice, gets=["400"]),
        Attack(name="JSON 100 000 deep", do=_deep_json, gets=["400"]),
        Attack(name="a header that claims terabytes", do=_claims(32767), gets=["413"]),
        Attack(name="a header that claims more than is there", do=_claims(400), gets=["422"]),
        Attack(name="a scan of 1 GB in 1 MB", do=_honest_bomb, gets=["413"]),
        Attack(name="mutated headers", do=_mutated_headers, gets=["200", "413", "422"]),
        Attack(name="URLs that lead inside", do=_inside, gets=["422"]),
        Attack(name="paths for images", do=_paths, gets=["422"]),
        Attack(name="an answer nobody takes", do=_untaken_answer, gets=["200"]),
        Attack(name=f"{num_tiny} tiny requests", do=lambda live: _tiny(live, num_tiny), gets=["400"]),
    ]


def run(live: Live, num_tiny: int) -> Iterator[Outcome]:
    """Attack, and look after each attack how another caller fares."""
    row = sound_row()
    expected = live.score(row).content
    for attack in attacks(num_tiny):
        started = time.perf_counter()
        got = attack.do(live)
        seconds = time.perf_counter() - started
        is_at_rest = live.is_at_rest()
        yield Outcome(
            attack=attack,
            got=got,
            seconds=seconds,
            is_at_rest=is_at_rest,
            is_other_served=live.score(row).content == expected,
        )


def _no_key(live: Live) -> Counter[str]:
    with httpx.Client(base_url=f"http://127.0.0.1:{live.port}") as client:
        return Counter(
            str(client.request(m, p).status_code) for m in ("GET", "POST") for p in ("/score", "/metrics")
        )


def _wrong_keys(live: Live) -> Counter[str]:
    keys = [KEY[:end] for end in range(len(KEY))][1:] + [f"{number:x}" for number in range(NUM_KEYS)]
    return Counter(
        str(live.client.post("/score", headers={"Authorization": f"Bearer {key}"}).status_code)
        for key in keys
    )


def _header(name: str, value: str) -> Callable[[Live], Counter[str]]:
    return lambda live: Counter([str(live.client.post("/score", headers={name: value}).status_code)])


def _sent(content: bytes) -> Callable[[Live], Counter[str]]:
    def send(live: Live) -> Counter[str]:
        with live.connect() as connection:
            try:
                connection.sendall(content)
            except OSError:
                return Counter(["hung up"])
            return Counter([status_of(heard(connection))])

    return send


_two_framings = _sent(head("Content-Length: 2", "Transfer-Encoding: chunked") + b"\r\n0\r\n\r\n")


def _slow_headers(live: Live) -> Counter[str]:
    """Many at once; meanwhile somebody else wants something."""
    got: Counter[str] = Counter()
    opened = [live.connect() for _ in range(NUM_SLOW)]
    for letter in head("X: y"):
        for connection in opened:
            try:
                connection.sendall(bytes([letter]))
            except OSError:
                continue  # it was told already
        time.sleep(0.03)
        if letter == ord("/"):
            got["other served" if live.client.get("/readyz").status_code == 200 else "other not served"] += 1
    for connection in opened:
        got[status_of(heard(connection))] += 1
        connection.close()
    return got


def _slow_body(live: Live) -> Counter[str]:
    opened = [live.connect() for _ in range(NUM_SLOW)]
    for connection in opened:
        connection.sendall(head("Content-Length: 1000") + b"\r\n{")
    got = Counter(status_of(heard(connection)) for connection in opened)
    for connection in opened:
        connection.close()
    return got


def _half_bodies(live: Live) -> Counter[str]:
    for _ in range(NUM_HALF):
        with live.connect() as connection:
            connection.sendall(head("Content-Length: 500000") + b"\r\n" + b"[" * 250_000)
    return Counter({"gone": NUM_HALF})


def _pipelined(live: Live) -> Counter[str]:
    usual = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
    with live.connect() as connection, ThreadPoolExecutor(1) as listener:
        answer = listener.submit(heard, connection)
        connection.sendall(f"{usual}\r\n".encode() * 999 + f"{usual}Connection: close\r\n\r\n".encode())
        parts = answer.result().split(b"HTTP/1.1 ")[1:]
    return Counter(part.split(b" ")[0].decode() for part in parts)


def _many_connections(live: Live) -> Counter[str]:
    got: Counter[str] = Counter()
    opened = [live.connect() for _ in range(NUM_CONNECTIONS + NUM_EXTRA)]
    readable: list[socket.socket] = []
    end = time.monotonic() + 10 * PATIENCE_S  # on a busy machine some are told first that they are too slow
    while len(readable) < NUM_EXTRA and time.monotonic() < end:
        time.sleep(0.05)
        readable, *_ = select.select(opened[NUM_CONNECTIONS:], [], [], 0)
    for connection in opened:
        connection.setblocking(False)
        try:
            got[status_of(connection.recv(65536))] += 1
        except BlockingIOError:
            got["open"] += 1
        except OSError:
            got["hung up"] += 1
        connection.close()
    return got if got["hung up"] else Counter(["none hung up"])


def _large_body(live: Live) -> Counter[str]:
    parts = (b" " * 2**16 for _ in range(MAX_BODY_MIB * 2**4 + 1))
    announced = live.client.post("/score", content=b" " * (MAX_BODY_MIB * 2**20 + 1))
    return Counter([str(announced.status_code), str(live.client.post("/score", content=parts).status_code)])


def _packed(num_mib: int, start: bytes = b"") -> bytes:
    """Zeros behind some bytes, packed without ever being there."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = packer.compress(start)
    for _ in range(num_mib):
        packed += packer.compress(bytes(2**20))
    return packed + packer.flush()


def _packed_bomb(live: Live) -> Counter[str]:
    response = live.client.post("/score", content=_packed(1024), headers={"Content-Encoding": "gzip"})
    return Counter([str(response.status_code)])


def _packed_twice(live: Live) -> Counter[str]:
    content = gzip.compress(gzip.compress(b"{}"))
    statuses = (
        live.client.post("/score", content=content, headers={"Content-Encoding": how}).status_code
        for how in ("gzip", "gzip, gzip")
    )
    return Counter(map(str, statuses))


def _deep_json(live: Live) -> Counter[str]:
    bodies = (opening * 100_000 for opening in (b"[", b'{"input_data":', b'{"inputs":['))
    return Counter(str(live.client.post("/score", content=body).status_code) for body in bodies)


def _scan_header(side: int, num_slices: int) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.dtype(np.int16))
    header["dim"] = [3, side, side, num_slices, 1, 1, 1, 1]
    header["vox_offset"] = 352
    return header.binaryblock + bytes(4)


def _claims(side: int) -> Callable[[Live], Counter[str]]:
    def ask(live: Live) -> Counter[str]:
        content = _scan_header(side, min(side, 30000) if side > 400 else 100) + bytes(1000)
        files = (content, gzip.compress(content))
        return Counter(str(live.score(row_of(file)).status_code) for file in files)

    return ask


def _honest_bomb(live: Live) -> Counter[str]:
    return Counter([str(live.score(row_of(_packed(1024, _scan_header(1024, 512)))).status_code)])


def _mutated_headers(live: Live) -> Counter[str]:
    files = small_files()
    got: Counter[str] = Counter()
    for number in range(NUM_MUTATED):
        file = files[SMALL_FILES[number % len(SMALL_FILES)]]
        content = mutated(file, Random(f"attack {number}"))
        got[str(live.score(row_of(content)).status_code)] += 1
    return got


def _inside(live: Live) -> Counter[str]:
    """By redirect, by a name of this machine, by other spellings of an address, mostly allowed."""
    at = f"http://127.0.0.1:{live.site_port}"
    urls = (
        f"{at}/to/http://169.254.169.254/latest/meta-data",
        f"{at}/to/https://10.0.0.1/",
        f"{at}/to/https://[::ffff:127.0.0.1]/",
        f"{at}/to/https://{socket.gethostname()}/",
        f"{at}/to/file:///etc/passwd",
        f"{at}/to/{at}/to/{at}/to/{at}/to/{at}/",
        f"https://{socket.gethostname()}/",
        f"https://127.0.0.1:{live.port}/metrics",
        "https://[::ffff:127.0.0.1]/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://10.0.0.1/",
    )
    return Counter(str(live.score(row_of(b"") | {"nii_image": url}).status_code) for url in urls)


def _paths(live: Live) -> Counter[str]:
    paths = (
        "/etc/passwd",
        "../../etc/passwd",
        "file:///etc/passwd",
        "~/.ssh/id_rsa",
        "\\\\host\\share",
        "a\0b",
    )
    return Counter(str(live.score(row_of(b"") | {"nii_image": path}).status_code) for path in paths)


def _untaken_answer(live: Live) -> Counter[str]:
    grey = np.zeros((30, 512, 512), np.int16)
    grey[3:6, 20:44, 20:44] = 200
    file = gzip.compress(_scan_header(512, 30) + grey.tobytes(), 1)
    row = row_of(file) | {"bbox": [20, 20, 43, 43], "key_slice_idx": 4}
    body = json.dumps({"dataframe_records": [row]}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", live.port))
        connection.sendall(head(f"Content-Length: {len(body)}") + b"\r\n" + body)
        while not live.figure("medsam2_requests_in_flight"):
            time.sleep(0.02)
        live.is_at_rest()
        connection.settimeout(5)
        return Counter([status_of(heard(connection))])


def _tiny(live: Live, count: int) -> Counter[str]:
    def ask(number: int) -> str:
        return str(live.client.post("/score", content=struct.pack("<I", number)).status_code)

    with ThreadPoolExecutor(8) as callers:
        return Counter(callers.map(ask, range(count)))


def print_outcome(outcome: Outcome, mib: float) -> None:
    """Print a row of the table."""
    got = ", ".join(f"{what} x {count}" for what, count in sorted(outcome.got.items()))
    fine = "yes" if outcome.is_at_rest and outcome.is_other_served else "NO"
    mark = "" if outcome.is_right else "  <- wrong"
    name, seconds = outcome.attack.name, outcome.seconds
    print(f"| {name:40} | {got:36} | {seconds:7.1f} | {fine:22} | {mib:3.0f} |{mark}", flush=True)


def main() -> None:
    """Start a server, attack it, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", type=int, default=10_000, help="how many requests of four bytes")
    parser.add_argument("--rounds", type=int, default=3, help="how often all of it is done")
    arguments = parser.parse_args()
    is_right = True
    with live_server(NUM_CONNECTIONS) as live:
        live.score(sound_row())
        levels = [live.resident_mib()]
        print(f"| {'attack':40} | {'got':36} | seconds | at rest, others served | MiB |")
        for _ in range(arguments.rounds):
            for outcome in run(live, arguments.tiny):
                print_outcome(outcome, live.resident_mib())
                is_right = is_right and outcome.is_right
            levels.append(live.resident_mib())
        print(f"memory before, and after each round: {', '.join(f'{mib:.0f}' for mib in levels)} MiB")
        print(f"readers started {live.figure('medsam2_reader_starts'):.0f}")
    sys.exit(not is_right or (arguments.rounds > 1 and levels[-1] - levels[-2] > LARGEST_GROWTH_MIB))


if __name__ == "__main__":
    main()
