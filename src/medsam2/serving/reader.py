"""Read files in processes of their own, which a hostile file may end."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import Base64Bytes, BaseModel, ValidationError

from medsam2.errors import InputError, MedSAM2Error
from medsam2.imaging.geometry import ItkGrid
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import HttpError, TooLarge, TooSlow
from medsam2.serving.reader_process import VOXELS
from medsam2.serving.settings import MIB, ServerSettings, reader_environment

_MODULE = "medsam2.serving.reader_process"
_START_S = 120.0  # for its imports, on a busy machine
_END_S = 5.0  # for a process that answers no more to end


class Claim(BaseModel):
    """What a file says that reading it takes."""

    num_voxels: int
    num_bytes: int


class _Facts(BaseModel):
    """All of a volume but its voxels. A process that a file has taken over may say anything."""

    affine: list[list[float]]
    modality: str | None
    window: tuple[float, float] | None
    nifti_header: Base64Bytes | None
    itk_grid: ItkGrid | None


class FileReader:
    """One process that reads one file at a time; it is started anew when it is gone."""

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
        try:
            return Claim.model_validate(await self._order("measure", path))
        except ValidationError as error:
            raise InputError("the file cannot be read") from error

    async def read(self, path: Path, frame: int | None = None) -> Volume:
        """Read a file, or one frame of it; the voxels are mapped from a file that is deleted already.

        Raises:
            InputError: The file cannot be read.
            HttpError: It takes too much memory or time.
        """
        answer = await self._order("read", path, frame)
        try:
            voxels = _mapped(path.with_name(VOXELS))
            facts = _Facts.model_validate(answer)
            return Volume(
                voxels, np.array(facts.affine), facts.modality,
                nifti_header=facts.nifti_header, itk_grid=facts.itk_grid, window=facts.window,
            )  # fmt: skip
        except MedSAM2Error as error:
            raise InputError(str(error)) from error
        except (OSError, TypeError, ValueError) as error:
            raise InputError("the file cannot be read") from error

    async def unpack(self, path: Path) -> npt.NDArray[np.generic]:
        """Unpack an array that a viewer sent; it is mapped from a file that is deleted already.

        Raises:
            InputError: It is damaged.
            HttpError: It takes too much memory or time.
        """
        await self._order("unpack", path)
        try:
            return _mapped(path.with_name(VOXELS))
        except (OSError, ValueError) as error:
            raise InputError("the array cannot be read") from error

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
            # Its limit on processor time ends it first, unless it waits for something.
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
        except (ConnectionError, ValueError):  # the process is gone, or its line is too long
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
        """How often a process was started; more starts than readers mean that processes ended."""
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


def _mapped(path: Path) -> npt.NDArray[np.generic]:
    """Map voxels from a file, and delete it."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    finally:
        path.unlink(missing_ok=True)


async def _code_of(process: Process) -> int | None:
    """The exit code of a process that answers no more; None if it still runs.

    Call it before the process is killed: `kill` collects the code itself, and then it is lost.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_S):
            await process.wait()
    return process.returncode
