"""Files with mutated headers, a million of them: each gives a volume or one sentence, or it is a finding.

    python benchmarks/fuzz.py [--cases 1000000] [--workers 2] [--seed 1] [--format NAME]...
    python benchmarks/fuzz.py --seed 1 --format dicom --show 4711        # one case again, with its traceback

Processes that may die read the files with `medsam2.read`. A finding is: an exception that is no InputError,
words that do not begin with the file's name or fill more than a line, a warning that only programmers
understand, more memory or time than a file of a kilobyte may take, the end of the process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from random import Random
from typing import Protocol

from mutations import mutated
from small_files import COMPANION, VOXELS, SmallFile, small_files

MEMORY_BYTES = 256 * 2**20
"""What a process may take on top of its imports."""
PATIENCE_S = 5.0
"""For one file; the machine may be busy with something else."""
CHUNK = 500
LONGEST_SENTENCE = 1500
VOLUME = "volume"

_IN_MEMORY = Path("/dev/shm")
_TOLD_EVERY = 50_000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A file that got what no file should."""

    format: str
    case: int
    what: str

    def __str__(self) -> str:
        return f"{self.format} case {self.case}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Cases `start` to `stop` of a format."""

    format: str
    seed: int
    start: int
    stop: int


@dataclass(kw_only=True)
class Tally:
    """What became of the cases of one format."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def num_cases(self) -> int:
        """How many there were."""
        return self.outcomes.total() + len(self.findings)

    def add(self, other: Tally) -> None:
        """Count another part with this one."""
        self.outcomes += other.outcomes
        self.findings += other.findings


class Place(Protocol):
    """A number that two processes share."""

    value: int


def content_of(file: SmallFile, name: str, seed: int, case: int) -> bytes:
    """The bytes of a case, the same on every machine."""
    return mutated(file, Random(f"{seed}/{name}/{case}"))


def run(num_cases: int, *, seed: int, num_workers: int = 1, formats: Sequence[str] = ()) -> dict[str, Tally]:
    """Read mutated files; see `parts`."""
    tallies: dict[str, Tally] = {}
    for name, tally in parts(num_cases, seed=seed, num_workers=num_workers, formats=formats):
        tallies.setdefault(name, Tally()).add(tally)
    return tallies


def parts(
    num_cases: int, *, seed: int, num_workers: int = 1, formats: Sequence[str] = ()
) -> Iterator[tuple[str, Tally]]:
    """Read mutated files and say of some at a time what became of them.

    Args:
        num_cases: Of all formats together, spread evenly.
        seed: Another one gives other files.
        num_workers: Processes at a time.
        formats: Names from `small_files`; all if none are given.
    """
    names = list(formats or small_files())
    share = -(-num_cases // len(names))
    waiting: SimpleQueue[Chunk] = SimpleQueue()
    for start in range(0, share, CHUNK):
        for name in names:
            waiting.put(Chunk(format=name, seed=seed, start=start, stop=min(start + CHUNK, share)))
    done: SimpleQueue[tuple[str, Tally] | None] = SimpleQueue()
    with ThreadPoolExecutor(num_workers) as pool:
        workers = [pool.submit(_drain, waiting, done) for _ in range(num_workers)]
        for _ in workers:
            while (part := done.get()) is not None:
                yield part
        for worker in workers:
            worker.result()


def _drain(waiting: SimpleQueue[Chunk], done: SimpleQueue[tuple[str, Tally] | None]) -> None:
    """Do chunks as long as there are any, in a process of one's own."""
    try:
        with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as folder:
            reader = _Reader(Path(folder))
            try:
                while not waiting.empty():
                    with suppress(Empty):  # another thread was quicker
                        chunk = waiting.get_nowait()
                        done.put((chunk.format, reader.read(chunk)))
            finally:
                reader.close()
    finally:
        done.put(None)


class _Reader:
    """A process that reads files until one of them ends it, and its successors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._place = context.Value("q", 0, lock=False)
        self._process = context.Process(target=work, args=(self._folder, theirs, self._place), daemon=True)
        self._process.start()
        theirs.close()

    def read(self, chunk: Chunk) -> Tally:
        """Return what became of a chunk; where it ended the process, the rest is done by the next one."""
        if chunk.start == chunk.stop:
            return Tally()
        self._connection.send(chunk)
        try:
            tally = self._connection.recv()
            assert isinstance(tally, Tally)
            return tally
        except EOFError:
            case = self._place.value
            tally = Tally(findings=[Finding(format=chunk.format, case=case, what=self._ended())])
        self._start()
        for start, stop in ((chunk.start, case), (case + 1, chunk.stop)):
            tally.add(self.read(Chunk(format=chunk.format, seed=chunk.seed, start=start, stop=stop)))
        return tally

    def _ended(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        self.close()
        if code == -signal.SIGALRM:
            return f"takes more than {PATIENCE_S:g} s"
        return f"ends the process by {signal.Signals(-code).name if code < 0 else code}"

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()
        self._process.close()


def work(folder: Path, connection: Connection, place: Place) -> None:
    """Read chunks until nobody asks for more; what a worker process does."""
    import resource

    from medsam2.imaging import io  # noqa: F401  the limit is on top of it

    files = small_files()
    (folder / COMPANION).write_bytes(VOXELS.tobytes())
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # ITK's own words, which Python cannot catch
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever library it is in
    while True:
        try:
            chunk = connection.recv()
        except EOFError:
            return
        connection.send(_tally_of(chunk, files[chunk.format], folder, place))


def _tally_of(chunk: Chunk, file: SmallFile, folder: Path, place: Place) -> Tally:
    tally = Tally()
    path = folder / f"scan{file.suffix}"
    for case in range(chunk.start, chunk.stop):
        place.value = case
        path.write_bytes(content_of(file, chunk.format, chunk.seed, case))
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
        outcome, fault = outcome_of(path)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if fault is None:
            tally.outcomes[outcome] += 1
        else:
            tally.findings.append(Finding(format=chunk.format, case=case, what=fault))
    return tally


def outcome_of(path: Path) -> tuple[str, str | None]:
    """Read a file.

    Returns:
        `volume` or the name of an InputError's kind, and what is wrong with that if anything is.
    """
    import medsam2
    from medsam2.errors import InputError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", UserWarning)  # ours, in words for people
            volume = medsam2.read(path)
            assert volume.array.size
            assert all(step > 0 for step in volume.spacing)
    except InputError as error:
        text = str(error)
        is_sentence = text.startswith(f"{path}: ") and text.isprintable() and len(text) < LONGEST_SENTENCE
        return type(error).__name__, None if is_sentence else f"says {text[:300]!r}"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = next(
            (frame for frame in reversed(frames) if "medsam2" in Path(frame.filename).parts), frames[-1]
        )
        where = f"{Path(ours.filename).name}:{ours.lineno} in {ours.name}"
        return type(error).__name__, f"{type(error).__name__} at {where}: {str(error)[:200]}"
    return VOLUME, None


def show(name: str, seed: int, case: int) -> None:
    """Read one case again and let its exception through."""
    import medsam2

    file = small_files()[name]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / COMPANION).write_bytes(VOXELS.tobytes())
        path = Path(folder) / f"scan{file.suffix}"
        path.write_bytes(content_of(file, name, seed, case))
        print(medsam2.read(path))


def print_table(tallies: dict[str, Tally]) -> None:
    """Print how often each outcome came, and each kind of finding once."""
    kinds = [VOLUME, *sorted({kind for tally in tallies.values() for kind in tally.outcomes} - {VOLUME})]
    print(f"| {'format':16} | {'cases':>9} | {' | '.join(f'{kind:>17}' for kind in kinds)} | findings |")
    for name, tally in tallies.items():
        counts = " | ".join(f"{tally.outcomes[kind]:17}" for kind in kinds)
        print(f"| {name:16} | {tally.num_cases:9} | {counts} | {len(tally.findings):8} |")
    seen: dict[tuple[str, str], list[Finding]] = {}
    for finding in (one for tally in tallies.values() for one in tally.findings):
        seen.setdefault((finding.format, finding.what.partition(":")[0]), []).append(finding)
    for alike in seen.values():
        print(f"{len(alike)} like {alike[0]}")


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", action="append", default=[], choices=list(small_files()))
    parser.add_argument("--show", type=int, metavar="CASE", help="read one case of one format again")
    arguments = parser.parse_args()
    if arguments.show is not None:
        show(arguments.format[0], arguments.seed, arguments.show)
        return
    started = time.perf_counter()
    tallies: dict[str, Tally] = {}
    num_cases = 0
    for name, tally in parts(
        arguments.cases, seed=arguments.seed, num_workers=arguments.workers, formats=arguments.format
    ):
        tallies.setdefault(name, Tally()).add(tally)
        for finding in tally.findings:
            print(finding, flush=True)
        before, num_cases = num_cases, num_cases + tally.num_cases
        if before // _TOLD_EVERY < num_cases // _TOLD_EVERY:
            print(f"{num_cases} files, {time.perf_counter() - started:.0f} s", flush=True)
    seconds = time.perf_counter() - started
    print_table(tallies)
    print(f"seed {arguments.seed}: {num_cases} files in {seconds:.0f} s, {num_cases / seconds:.0f} a second")


if __name__ == "__main__":
    main()
