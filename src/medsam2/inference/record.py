"""How a mask was made: software, prompts, settings, time, memory; and the report of a run with its files."""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import torch

from medsam2.checkpoints import resolve
from medsam2.errors import reading
from medsam2.imaging.replacing import replacing
from medsam2.inference.onnx.chain import weights_digest
from medsam2.inference.options import InferenceOptions
from medsam2.inference.runtime import Runtime
from medsam2.inference.session import Session
from medsam2.prompts.types import Prompt


@dataclass(frozen=True, kw_only=True)
class Versions:
    """The software of this process."""

    medsam2: str = field(default_factory=lambda: version("medsam2"))
    torch: str = field(default_factory=lambda: version("torch"))
    python: str = field(default_factory=platform.python_version)
    platform: str = field(default_factory=platform.platform)
    """Operating system and processor; not the machine's name."""


@dataclass(frozen=True, kw_only=True)
class PromptFacts:
    """The prompt of one object in one slice."""

    object: int
    name: str | None = None
    slice_index: int
    box_xyxy: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, int], ...] = ()
    """(x, y, label) each; label 1 inside, 0 outside."""
    mask_pixels: int | None = None
    """How many pixels of a drawn mask are inside; its file, if it has one, is among the input files."""


@dataclass(frozen=True, kw_only=True)
class WindowFacts:
    """The intensities shown as black and as white, in the image's units."""

    lower: float
    upper: float
    source: str
    """"caller", a preset's name, or how they were found."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """How the masks of one session were made."""

    versions: Versions = field(default_factory=Versions)
    prompts: Sequence[PromptFacts]
    window: WindowFacts
    plane: str | None = None
    """"axial", "coronal" or "sagittal"; None for slices along a file axis, the third if none was named."""
    device: str
    """Where it was computed, "cpu" or "cuda:0", not what was chosen."""
    precision: str
    """What it was computed in, such as "float32"."""
    precision_reason: str = ""
    """Why it was computed in that."""
    runtime: str = "torch"
    """What computed it: "torch", or "onnx" for ONNX Runtime."""
    memory: str
    """The memory policy's name."""
    threads: int = field(default_factory=torch.get_num_threads)
    """Of PyTorch. With another number sums run in another order, and a voxel may change."""
    num_slices: int
    """Of the image, along the axis of the slices."""
    visited: int
    """Slices that the network looked at, each object's counted."""
    seconds: float
    """From the open volume to the masks."""


def record_of(
    session: Session,
    runtime: Runtime,
    prompts: Mapping[int, Sequence[Prompt]],
    names: Mapping[int, str | None],
    *,
    plane: str | None,
    options: InferenceOptions,
    seconds: float,
) -> Record:
    """Tell how the masks of a session were made."""
    window, memory = session.window, options.memory
    return Record(
        prompts=[
            describe_prompt(n, prompt, names.get(n)) for n, given in prompts.items() for prompt in given
        ],
        window=WindowFacts(lower=window.lower, upper=window.upper, source=window.source),
        plane=plane,
        device=str(runtime.device),
        precision=str(runtime.precision).removeprefix("torch."),
        precision_reason=runtime.reason,
        runtime=runtime.name,
        memory=memory if isinstance(memory, str) else type(memory).__name__,
        num_slices=session.grid.shape[0],
        visited=sum(len(session.object(number).scores()) for number in session.status.objects),
        seconds=seconds,
    )


def describe_prompt(number: int, prompt: Prompt, name: str | None = None) -> PromptFacts:
    """Tell how an object was prompted.

    Args:
        number: The object's label.
        prompt: Its prompt.
        name: What the user calls the object.
    """
    return PromptFacts(
        object=number,
        name=name,
        slice_index=prompt.slice_index,
        box_xyxy=None if prompt.box is None else prompt.box.xyxy,
        points=tuple((point.x, point.y, int(point.is_positive)) for point in prompt.points),
        mask_pixels=None if prompt.mask is None else int(prompt.mask.array.sum()),
    )


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """A file, or a folder with the files of a series, as it is now."""

    path: str
    """As the user gave it."""
    num_files: int
    """1 for a file."""
    size_bytes: int
    """Of a folder: of all its files."""
    sha256: str
    """Of a folder: the digest of its files' digests, sorted, a line each, so that no name in it counts:
    `sha256sum FOLDER/* | cut -c1-64 | sort | sha256sum`."""


@dataclass(frozen=True, kw_only=True)
class WeightsFacts:
    """The network's weights."""

    name: str
    """Name or file, as the user gave it."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """One run with its files, for `--report`. It says nothing of a patient that the paths do not."""

    record: Record
    weights: WeightsFacts
    input_files: Sequence[FileFacts]
    output_files: Sequence[FileFacts]
    runtime_seconds: float
    """Of the whole run, from reading to writing."""
    warnings: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            InputError: The file cannot be written.
        """
        facts = asdict(self)
        made = facts.pop("record")
        facts |= {name: made[name] for name in _REPORTED}
        text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with replacing(path, ".json") as temporary:
            # Bytes of a name that are no UTF-8, from an old disc, as escapes: \\udce9 in JSON.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


_REPORTED = (
    "versions", "prompts", "window", "plane", "device", "precision", "precision_reason", "runtime", "memory",
)  # fmt: skip


def describe_file(path: Path) -> FileFacts:
    """Read a file, or the files that lie right in a folder, for their size and SHA-256.

    Raises:
        InputError: There is no such file, or it cannot be read.
    """
    with reading(path):
        files = [one for one in path.iterdir() if one.is_file()] if path.is_dir() else [path]
        digests = sorted(_digest(one) for one in files)
        size = sum(one.stat().st_size for one in files)
    lines = "".join(f"{digest}\n" for digest in digests)
    return FileFacts(
        path=str(path),
        num_files=len(files),
        size_bytes=size,
        sha256=hashlib.sha256(lines.encode()).hexdigest() if path.is_dir() else digests[0],
    )


def describe_weights(name: str) -> WeightsFacts:
    """Tell which weights were used.

    Args:
        name: Name, file or folder of exported parts, as the user gave it.

    Raises:
        CheckpointError: They are missing.
        InputError: The file cannot be read.
    """
    if Path(name).is_dir():
        return WeightsFacts(name=name, sha256=weights_digest(Path(name)))
    return WeightsFacts(name=name, sha256=describe_file(resolve(name)).sha256)


@contextmanager
def noting_warnings() -> Iterator[list[str]]:
    """Collect the warnings meant for users, while they are shown as they were before.

    Yields:
        The list that fills.
    """
    noted: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, UserWarning):
                noted.append(str(message))
            show(message, category, filename, lineno, file, line)

        warnings.showwarning = note
        yield noted


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Linux keeps a high-water mark of each process and takes it back to today's level on request (proc(5)).
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_MARK = "5"
_MARK = "VmHWM:"


@dataclass
class Peak:
    """Filled when the work is done."""

    mib: float | None = None
    """Of the whole process, libraries and weights included; None where the system does not tell."""


@contextmanager
def watched_memory() -> Iterator[Peak]:
    """Give a `Peak` that says, after the block, how much memory the process held at most within it."""
    peak = Peak()
    can_reset = _reset()
    yield peak
    if can_reset:
        peak.mib = _read()


def _reset() -> bool:
    try:
        _RESET.write_text(_RESET_MARK)
    except OSError:
        return False
    return True


def _read() -> float | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith(_MARK)), None)
    return None if kib is None else int(kib) / 1024
