"""Download the public scans of the README's accuracy table, and write the case list that measures them.

    python benchmarks/fetch_public_cases.py FOLDER [--list benchmarks/public_cases.json]
    medsam2 evaluate FOLDER/cases.json

Each file is checked against its SHA-256. A file that is there already with the right checksum is kept. A
file that cannot be fetched, or is not the one that was measured, is named in a sentence; its cases are left
out of the list, the other files are still fetched, and the exit code is 1. The files are 11 MB. Each scan
keeps the licence of its owners; the list names it.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from medsam2.errors import MedSAM2Error
from medsam2.imaging.io import read, write
from medsam2.imaging.replacing import replacing

LIST = Path(__file__).with_name("public_cases.json")
CASES = "cases.json"
TIMEOUT_S = 60.0


def fetch(path: Path, facts: Mapping[str, object]) -> str | None:
    """Download a file if it is not there.

    Args:
        path: Where to put it.
        facts: Its `url`, `sha256` and `bytes`.

    Returns:
        None, or a sentence on why the file is not there.
    """
    if path.is_file() and sha256(path.read_bytes()).hexdigest() == facts["sha256"]:
        return None
    url, size = str(facts["url"]), int(str(facts["bytes"]))
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            content = answer.read(size + 1)  # one byte more shows that another file is longer
    except (OSError, HTTPException, ValueError) as error:
        return f"{url} cannot be downloaded: {error}"
    found = sha256(content).hexdigest()
    if found != facts["sha256"]:
        return f"{url} is not the file that was measured: its SHA-256 is {found}, not {facts['sha256']}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, ".part") as temporary:
            temporary.write_bytes(content)
    except (OSError, MedSAM2Error) as error:
        return str(error)
    return None


def derive(source: Path, target: Path, label: int, count: int) -> None:
    """Write the largest connected parts of a label as labels 1, 2, ..., the largest first.

    Args:
        source: A mask.
        target: Of the same kind: a picture, or a volume.
        label: Value of the mask.
        count: How many parts to write.

    Raises:
        MedSAM2Error: The mask cannot be read, or the new one cannot be written.
        OSError: The same, of a picture.
    """
    if target.suffix == ".png":
        with Image.open(source) as picture:
            values = np.asarray(picture)[None]  # as they are stored: a palette is for people
    else:
        volume = read(source)
        values = volume.array
    parts, num_parts = ndimage.label(values == label, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=num_parts + 1)[1:]
    ranks = np.zeros(num_parts + 1, np.uint8)
    largest = np.argsort(-sizes, kind="stable")[:count]
    ranks[largest + 1] = np.arange(1, len(largest) + 1)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".png":
        Image.fromarray(ranks[parts][0]).save(target)
    else:
        write(volume.with_array(ranks[parts]), target)


def fetch_all(listed: Mapping[str, Mapping[str, Mapping[str, object]]], folder: Path) -> Iterator[str]:
    """Fetch and derive every file of a list, and yield a sentence for each that is not there in the end."""
    for name, facts in listed["files"].items():
        failure = fetch(folder / name, facts)
        if failure is not None:
            (folder / name).unlink(missing_ok=True)
            yield f"{name}: {failure}"
    for name, facts in listed["derived"].items():
        source, target = folder / str(facts["from"]), folder / name
        target.unlink(missing_ok=True)
        if not source.is_file():
            yield f"{name}: cannot be made, {facts['from']} is not there"
            continue
        try:
            derive(source, target, int(str(facts["label"])), int(str(facts["largest_components"])))
        except (MedSAM2Error, OSError) as error:
            yield f"{name}: {error}"


def is_complete(name: str, listed: Mapping[str, Mapping[str, object]], folder: Path) -> bool:
    """Whether an image or a mask is there: the file, or every file of a folder of slices."""
    every = [*listed["files"], *listed["derived"]]
    parts = [one for one in every if one == name or one.startswith(f"{name}/")]
    return bool(parts) and all((folder / part).is_file() for part in parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch the files and write the list of cases; returns the exit code."""
    parser = argparse.ArgumentParser(description="Download public scans and write a case list.")
    parser.add_argument("folder", type=Path, help="where to put scans and cases.json")
    parser.add_argument("--list", type=Path, default=LIST, help="files and cases")
    options = parser.parse_args(arguments)
    listed = json.loads(options.list.read_text(encoding="utf-8"))
    options.folder.mkdir(parents=True, exist_ok=True)
    failures = list(fetch_all(listed, options.folder))
    for failure in failures:
        print(failure, file=sys.stderr)
    cases = [
        case
        for case in listed["cases"]
        if all(is_complete(case[kind], listed, options.folder) for kind in ("image", "mask"))
    ]
    with replacing(options.folder / CASES, ".part") as temporary:
        temporary.write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")
    print(f"{len(cases)} of {len(listed['cases'])} cases: medsam2 evaluate {options.folder / CASES}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
