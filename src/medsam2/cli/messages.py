"""Messages for people: failures, warnings and the log, one line each on standard error."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeVar

import click

from medsam2.errors import CheckpointError, InputError, MedSAM2Error

EXIT_FAILED = 1
EXIT_INPUT = 2  # the command line, a file or a prompt is wrong
EXIT_INTERRUPTED = 130  # as shells report a process that was stopped with Ctrl-C

_EXTRAS = MappingProxyType(
    {
        "monai": "evaluate",
        "lightning_fabric": "train",
        "tensorboard": "train",
        "av": "video",
        "pydicom": "dicom",
        "pyarrow": "batch",
        "ray": "ray",
    }
)
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)

_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)


def say(text: object) -> None:
    """Write a text for a person in one line."""
    click.echo(f"medsam2: {' '.join(str(text).split())}", err=True)


def with_progress(results: Iterable[_Result], what: str, total: int | None) -> Iterator[_Result]:
    """Pass results on, with a progress bar on a terminal.

    Args:
        results: Each is one step of the bar.
        what: The name of the bar.
        total: How many results there will be; None if nobody knows.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:  # Rich before 15 writes an empty line for a bar that is disabled
        return iter(results)
    return iter(track(results, description=what, total=total, console=console, transient=True))


def report(error: BaseException) -> int:
    """Report an error in one line.

    Returns:
        The exit code of the process.
    """
    code, text = _explain(error)
    say(text)
    # The place in the code is shown only with -v.
    logger.info("where it happened", exc_info=error)
    return code


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Name our extra if an import fails because a package is not installed.

    Raises:
        InputError: A package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("medsam2"):
            raise
        raise InputError(f"{what} needs the package {error.name}: pip install 'medsam2[{extra}]'") from error


def set_verbosity(count: int) -> None:
    """Choose which log messages are shown: warnings, with 1 also progress, with 2 all."""
    logging.getLogger("medsam2").setLevel(_LEVELS[min(count, len(_LEVELS) - 1)])


@contextmanager
def messages_on_stderr() -> Iterator[None]:
    """Send log records and warnings to standard error as lines for people, until the context ends."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("medsam2: %(message)s"))
    root, package = logging.getLogger(), logging.getLogger("medsam2")
    level = package.level
    root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    finally:
        root.removeHandler(handler)
        package.setLevel(level)


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return EXIT_INTERRUPTED, "interrupted"
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "medsam2"
        return EXIT_INPUT, f"{error.format_message().rstrip('.')} (see {command} --help)"
    if isinstance(error, click.ClickException):
        return error.exit_code, error.format_message()
    if isinstance(error, (InputError, CheckpointError)):
        return EXIT_INPUT, str(error)
    if isinstance(error, MedSAM2Error):
        return EXIT_FAILED, str(error)
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRAS.get(error.name or "")):
        return EXIT_FAILED, f"this needs the package {error.name}: pip install 'medsam2[{extra}]'"
    if isinstance(error, OSError) and error.strerror:
        return EXIT_FAILED, f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return EXIT_FAILED, f"failed unexpectedly, {type(error).__name__}: {error} (medsam2 -v shows where)"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    if issubclass(category, UserWarning):
        say(f"warning: {message}")
    else:  # for programmers, about our code or another package's
        logger.debug("%s:%s: %s: %s", filename, lineno, category.__name__, message)
