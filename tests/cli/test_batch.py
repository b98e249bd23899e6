"""`medsam2 batch`: a table to a folder of masks, run again, killed, changed, refused."""

from __future__ import annotations

import csv
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from medsam2.checkpoints import save_weights
from medsam2.cli.main import run
from medsam2.imaging.io import read, write
from medsam2.imaging.volume import Volume
from medsam2.inference.runtime import Runtime

BOX = "18 12 37 25"


@pytest.fixture(scope="module")
def weights(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(runtime.network.state_dict(), runtime.network.config, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five scans of 8 slices, and a table with a box for each."""
    (tmp_path / "scans").mkdir()
    lines = ["image,slice,box"]
    for index in range(5):
        grey = np.random.default_rng(index).integers(0, 60, (8, 40, 56)).astype(np.int16)
        grey[2:7, 12:26, 18:38] += 150
        volume = Volume.from_array(grey, (0.7, 0.8, 2.5), (3.0, -4.0, 5.0), modality="MR")
        write(volume, tmp_path / "scans" / f"s{index}.nii.gz")
        lines.append(f"scans/s{index}.nii.gz,4,{BOX}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def words(folder: Path, weights: Path, *more: object, table: str = "table.csv") -> list[str]:
    arguments = (folder / table, "-o", folder / "out", "--weights", weights, *more)
    return ["batch", *(str(argument) for argument in arguments)]


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "out" / "results.csv").open() as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "out" / "masks").glob("*.nii.gz"))}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "out" / "masks").iterdir()}


def test_errors_do_not_stop_the_rest_and_a_second_run_does_what_is_missing(
    folder: Path, weights: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder / "table.csv"
    lines = [
        table.read_text().rstrip().replace("scans/s0", f"{server}/scans/s0"),
        f"scans/gone.nii.gz,4,{BOX}",
        f"table.csv,4,{BOX}",
        f"{server}/scans/lost.nii.gz?token=secret,4,{BOX}",
    ]
    table.write_text("\n".join(lines))
    table.write_text(table.read_text().replace(f"s1.nii.gz,4,{BOX}", "s1.nii.gz,99,1 2 3 4"))
    assert run(words(folder, weights, "--json")) == 1
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert (facts["cases"], facts["done"], facts["failed"]) == (8, 4, 4)
    found = rows(folder)
    assert "slices 0 to 7" in found["s1"]["error"]
    assert "no such file" in found["gone"]["error"]
    assert "this suffix is not read" in found["table"]["error"]
    assert "cannot be fetched: no such file" in found["lost"]["error"]
    assert "medsam2: s1: " in captured.err
    assert "secret" not in captured.err + "".join(
        file.read_text() for file in (folder / "out").glob("results.*")
    )
    assert found["s2"]["status"] == "done"
    volume, mask = read(folder / "scans" / "s2.nii.gz"), read(folder / "out" / "masks" / "s2.nii.gz")
    assert mask.array.shape == volume.array.shape
    np.testing.assert_array_equal(mask.affine, volume.affine)
    assert {"s1", "gone"} <= {
        one["case"] for one in json.loads((folder / "out" / "results.json").read_text())["errors"]
    }
    assert "slices 0 to 7" in (folder / "out" / "report.html").read_text()

    before = times(folder)
    repaired = table.read_text().replace("99,1 2 3 4", f"4,{BOX}").split("\n")
    table.write_text(
        "\n".join(
            line for line in repaired if not line.startswith(("table", "scans/gone", f"{server}/scans/lost"))
        )
    )
    assert run(words(folder, weights)) == 0
    captured = capsys.readouterr()
    assert captured.err == "medsam2: 4 of 5 cases are done already\n"
    assert captured.out.startswith("5 cases: 1 done, 4 done before, 0 failed; ")
    after = times(folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"s1.nii.gz", "s1.json"}

    # Nothing is left: no process is started, nothing is written but the results.
    assert run(words(folder, weights)) == 0
    assert capsys.readouterr().out.startswith("5 cases: 0 done, 5 done before, 0 failed; ")
    assert times(folder) == after


def test_images_by_a_pattern_and_what_has_changed_is_reported_or_done_again(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder / "prompts.csv"
    table.write_text("\n".join(["id,slice,box", *(f"s{index},4,{BOX}" for index in (0, 1, 2, 3, 7))]))
    wanted = functools.partial(
        words, folder, weights, "--glob", folder / "scans" / "*.nii.gz", table="prompts.csv"
    )
    assert run(wanted("--workers", 2)) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"medsam2: 1 images of --glob are in no row of {table} and are left out",
        "medsam2: s7: no image of --glob is called 's7'",
    ]
    assert rows(folder)["s7"]["error"] == said[1].removeprefix("medsam2: s7: ")
    before, old = times(folder), masks(folder)
    assert sorted(old) == ["s0.nii.gz", "s1.nii.gz", "s2.nii.gz", "s3.nii.gz"]

    os.utime(folder / "scans" / "s3.nii.gz", (1, 1))
    table.write_text(table.read_text().replace(f"s0,4,{BOX}", "s0,4,2 2 12 12").replace("s7", "s4"))
    (folder / "scans" / "s4.nii.gz").rename(folder / "scans" / "s5.nii.gz")
    assert run(wanted("--changed", "report")) == 1
    assert "2 changed since" in capsys.readouterr().out
    assert {name for name, row in rows(folder).items() if row["status"] == "changed"} == {"s0", "s3"}
    assert times(folder) == before
    assert run(wanted()) == 1
    assert "medsam2: 2 have changed and are segmented again\n" in capsys.readouterr().err
    after, new = times(folder), masks(folder)
    assert {name.partition(".")[0] for name in after if after[name] != before[name]} == {"s0", "s3"}
    assert new["s3.nii.gz"] == old["s3.nii.gz"]
    assert new["s0.nii.gz"] != old["s0.nii.gz"]


def test_killed_in_the_middle_and_run_again(folder: Path, weights: Path) -> None:
    command = [sys.executable, "-m", "medsam2", *words(folder, weights)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    place = folder / "out" / "masks"
    wait_for(lambda: place.is_dir() and any(place.glob("*.json")))
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    before = times(folder)
    finished = {name.removesuffix(".json") for name in before if name.endswith(".json")}
    assert finished
    assert run(words(folder, weights)) == 0
    found = rows(folder)
    assert {name for name, row in found.items() if row["status"] == "kept"} == finished
    assert all(times(folder)[f"{name}.nii.gz"] == before[f"{name}.nii.gz"] for name in finished)
    assert sorted(masks(folder)) == [f"s{index}.nii.gz" for index in range(5)]
    assert not list(place.glob(".medsam2-*"))


def wait_for(condition: object, timeout_s: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("table", "options", "sentence"),
    [
        ("case,image,slice\n../../up,a.nii,1\n", (), "'../../up' cannot be a file's name"),
        ("case,image,slice\na,a.nii,1\nA,b.nii,1\n", (), "row 3: there is another case 'A'"),
        ("image,slicee\na.nii,1\n", (), "did you mean 'slice'"),
        ("image,slice\nout/masks/a.nii.gz,1\n", (), "lies where masks are written"),
        ("image,slice\na.nii,1\n", ("--window", "moon"), "not 'moon'"),
        ("image,slice\na.nii,1\n", ("--address", "auto"), "--engine ray"),
        ("image,slice\na.nii,1\n", ("--key", "who"), "no row has the column 'who'"),
        ("image,slice\na.nii,1\n", ("--source", "series"), "{case}"),
        ("image,slice\na.nii,1\n", ("--stop-after", "-1"), "0 or more slices, not -1"),
        ("image,slice\na.nii,1\n", ("--weights", "none"), "no weights are called 'none'"),
    ],
    ids=["escape", "twice", "column", "inside", "window", "address", "key", "source", "stop", "weights"],
)
def test_what_is_refused_before_anything_runs(
    folder: Path,
    weights: Path,
    capsys: pytest.CaptureFixture[str],
    table: str,
    options: tuple[str, ...],
    sentence: str,
) -> None:
    (folder / "table.csv").write_text(table)
    assert run(words(folder, weights, *options)) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not (folder / "out").exists()
