"""Have files read by processes that may die of it."""

from __future__ import annotations

import asyncio
import base64
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from medsam2.errors import InputError, MedSAM2Error
from medsam2.imaging.geometry import ItkGrid
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import HttpError, TooLarge, TooSlow
from medsam2.serving.reader_process import VOXELS
from medsam2.serving.settings import MIB, ServerSettings, reader_environment

_MODULE = "medsam2.serving.reader_process"
_START_S = 120.0  # imports, on a machine that is busy with something else
_END_S = 5.0  # for a process that says no more to be gone


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a file says that reading it takes."""

    num_voxels: int
    num_bytes: int


class FileReader:
    """One such process, started anew when it is gone; for one file at a time."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._process: Process | None = None
        self.num_starts = 0

    async def start(self) -> None:
        """Start the process, unless it runs."""
        if self._process is not None and self._process.returncode is None:
            return
        await self.close()
        self.num_starts += 1
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _MODULE),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=reader_environment(),
        )
        limits = {
            "memory_bytes": self._settings.reader_memory * MIB,
            "seconds": self._settings.read_timeout_s,
        }
        try:
            await self._ask(limits, _START_S)
        except (HttpError, InputError) as error:
            raise MedSAM2Error("the process that reads files does not start") from error

    async def measure(self, path: Path) -> Claim:
        """Say what reading a NIfTI file or a .zip takes, from its header.

        Raises:
            InputError: The file cannot be read.
        """
        answer = await self._order("measure", path)
        return Claim(num_voxels=_integer(answer, "num_voxels"), num_bytes=_integer(answer, "num_bytes"))

    async def read(self, path: Path, frame: int | None = None) -> Volume:
        """Read a file, or one frame of it; its voxels are pages of a file that has no name any more.

        Raises:
            InputError: The file cannot be read.
            HttpError: It takes too much memory or time.
        """
        answer = await self._order("read", path, frame)
        voxels_path = path.with_name(VOXELS)
        try:
            voxels = np.load(voxels_path, mmap_mode="r", allow_pickle=False)
            return _volume(np.asarray(voxels), answer)
        except InputError:
            raise
        except (OSError, KeyError, TypeError, ValueError) as error:
            # A process that a file has taken over may say anything.
            raise InputError("the file cannot be read") from error
        finally:
            voxels_path.unlink(missing_ok=True)

    async def write(self, source: Path) -> None:
        """Write a mask that refers to a DICOM series, as the order beside the series says.

        Raises:
            InputError: The series is not usable.
            HttpError: It takes too much memory or time.
        """
        await self._order("write", source)

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        assert process.stdin is not None
        process.stdin.close()
        with suppress(ConnectionError):
            await process.stdin.wait_closed()

    async def _order(self, do: str, path: Path, frame: int | None = None) -> Mapping[str, object]:
        await self.start()
        try:
            # Its processor time ends first, where it is not waiting for something.
            order = {"do": do, "folder": str(path.parent), "name": path.name, "frame": frame}
            return await self._ask(order, self._settings.read_timeout_s + 1)
        except BaseException as error:
            if not isinstance(error, InputError):
                await self.close()
            raise

    async def _ask(self, order: Mapping[str, object], timeout_s: float) -> Mapping[str, object]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                process.stdin.write(orjson.dumps(order) + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError:
            raise self._too_slow() from None
        except (ConnectionError, ValueError):  # it is gone, or says more than an answer has
            line = b""
        if not line.endswith(b"\n"):
            code = await _code_of(process)
            await self.close()
            raise self._died(code)
        answer = orjson.loads(line)
        if "too_large" in answer:
            limit = self._settings.reader_memory
            raise TooLarge(f"reading the file takes more than the {limit} MiB of memory there are for it")
        if "wrong" in answer:
            raise InputError(str(answer["wrong"]))
        found: Mapping[str, object] = answer["done"]
        return found

    def _died(self, code: int | None) -> HttpError | InputError:
        if hasattr(signal, "SIGXCPU") and code == -signal.SIGXCPU:
            return self._too_slow()
        return InputError("the file ended the process that was reading it; it is damaged, or made to do so")

    def _too_slow(self) -> TooSlow:
        return TooSlow(f"the file was not read within {self._settings.read_timeout_s:g} s")


class ReaderPool:
    """Readers for all requests, each lent to one of them at a time."""

    def __init__(self, settings: ServerSettings) -> None:
        self._readers = [FileReader(settings) for _ in range(settings.readers)]
        self._free: asyncio.Queue[FileReader] = asyncio.Queue()

    @property
    def num_starts(self) -> int:
        """How often a process was started; each more than there are readers is a death."""
        return sum(reader.num_starts for reader in self._readers)

    async def start(self) -> None:
        """Start all of them."""
        await asyncio.gather(*(reader.start() for reader in self._readers))
        for reader in self._readers:
            self._free.put_nowait(reader)

    async def close(self) -> None:
        """End all of them."""
        for reader in self._readers:
            await reader.close()

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[FileReader]:
        """Wait for one that is free."""
        reader = await self._free.get()
        try:
            yield reader
        finally:
            self._free.put_nowait(reader)


async def _code_of(process: Process) -> int | None:
    """The exit code of a process that answers no more; None if it still runs.

    Call it before the process is killed: `kill` collects the code itself, and then it is lost.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_S):
            await process.wait()
    return process.returncode


def _integer(answer: Mapping[str, object], name: str) -> int:
    value = answer.get(name)
    if not isinstance(value, int):
        raise InputError("the file cannot be read")
    return value


def _volume(voxels: np.ndarray, answer: Mapping[str, object]) -> Volume:
    header, grid, modality = answer["nifti_header"], answer["itk_grid"], answer["modality"]
    window = answer["window"]
    try:
        return Volume(
            voxels,
            np.array(answer["affine"], np.float64),
            modality if isinstance(modality, str) else None,
            nifti_header=base64.b64decode(header) if isinstance(header, str) else None,
            itk_grid=_itk_grid(grid) if isinstance(grid, dict) else None,
            window=(float(window[0]), float(window[1])) if isinstance(window, list) else None,
        )
    except MedSAM2Error as error:
        raise InputError(str(error)) from error


def _itk_grid(numbers: Mapping[str, list[float]]) -> ItkGrid:
    x_mm, y_mm, z_mm = numbers["spacing"]
    x, y, z = numbers["origin"]
    return ItkGrid((x_mm, y_mm, z_mm), (x, y, z), tuple(numbers["direction"]))
