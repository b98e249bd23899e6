"""What a run was: versions, weights, files, prompts, settings and time, as one JSON object."""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from medsam2.errors import InputError
from medsam2.imaging.replacing import replacing

if TYPE_CHECKING:
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
class PromptFacts:
    """What was said about one object in one slice."""

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
class RunReport:
    """One run. It says nothing of a patient that the paths do not."""

    versions: Versions = field(default_factory=Versions)
    weights: WeightsFacts
    input_files: Sequence[FileFacts]
    output_files: Sequence[FileFacts]
    prompts: Sequence[PromptFacts]
    window: WindowFacts
    plane: str | None = None
    """"axial", "coronal" or "sagittal"; None for slices along the file's third axis."""
    device: str
    """Where it was computed, "cpu" or "cuda:0", not what was asked for."""
    precision: str
    """What it was computed in, such as "float32"."""
    memory: str
    """The memory policy's name."""
    runtime_seconds: float
    warnings: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            InputError: The file cannot be written.
        """
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with replacing(path, ".json") as temporary:
            # Bytes of a name that are no UTF-8, from an old disc, as escapes: \\udce9 in JSON.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def describe_file(path: Path) -> FileFacts:
    """Read a file, or the files that lie right in a folder, for their size and SHA-256.

    Raises:
        InputError: There is no such file, or it cannot be read.
    """
    try:
        files = [one for one in path.iterdir() if one.is_file()] if path.is_dir() else [path]
        digests = sorted(_digest(one) for one in files)
        size = sum(one.stat().st_size for one in files)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    lines = "".join(f"{digest}\n" for digest in digests)
    return FileFacts(
        path=str(path),
        num_files=len(files),
        size_bytes=size,
        sha256=hashlib.sha256(lines.encode()).hexdigest() if path.is_dir() else digests[0],
    )


def describe_weights(name: str, file: Path) -> WeightsFacts:
    """Tell which weights were used.

    Args:
        name: Name or file, as the user gave it.
        file: Where they lie, as `checkpoints.resolve` says; it is not told.

    Raises:
        InputError: The file cannot be read.
    """
    return WeightsFacts(name=name, sha256=describe_file(file).sha256)


def describe_prompt(number: int, prompt: Prompt, name: str | None = None) -> PromptFacts:
    """Tell what was said about an object.

    Args:
        number: The object's label.
        prompt: What was said.
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
