"""Read what a DICOM file says about its images, without their pixels."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging.dicom.elements import PRIVATE_TAGS, UnusableElement, element_name
from medsam2.imaging.dicom.facts import IMAGE, TAGS, Header, header_of

_DEFLATED = "1.2.840.10008.1.2.1.99"
_PREAMBLE_SIZE = 128
_MARK = b"DICM"
# Files from before the preamble was asked for begin with group 2 or 8, little endian.
_OLD_STARTS = (
    b"\x02\x00\x00\x00",
    b"\x08\x00\x00\x00",
    b"\x08\x00\x01\x00",
    b"\x08\x00\x05\x00",
    b"\x08\x00\x08\x00",
)


def damage(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what pydicom and its decoders raise over a file that is not as the standard has it."""
    from pydicom.errors import BytesLengthException

    return (
        AttributeError,
        EOFError,
        LookupError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
        BytesLengthException,
        *others,
    )


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from warning of odd values, which it quotes: they may be the patient's."""
    from pydicom.config import disable_value_validation

    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def require_pydicom() -> None:
    """Say what is missing where DICOM cannot be read.

    Raises:
        InputError: The extra `dicom` is not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise InputError("reading DICOM needs pydicom: pip install 'medsam2[dicom]'") from error


def looks_like_dicom(head: bytes) -> bool:
    """Tell from its first 132 bytes whether a file may be DICOM."""
    return head[_PREAMBLE_SIZE : _PREAMBLE_SIZE + 4] == _MARK or head[:4] in _OLD_STARTS


def read_header(path: Path) -> Header | None:
    """Read a file's header.

    Returns:
        None if it is no DICOM file.

    Raises:
        InputError: The file cannot be read.
        UnsupportedFormat: It is DICOM, but damaged, or an element that is needed cannot be understood.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError
    from pydicom.tag import Tag

    try:
        with path.open("rb") as file, quiet_pydicom():
            head = file.read(_PREAMBLE_SIZE + 4)
            if not looks_like_dicom(head):
                return None
            has_preamble = head[_PREAMBLE_SIZE:] == _MARK
            if has_preamble:
                _refuse_deflated(path)
            file.seek(0)
            dataset = dcmread(
                file,
                stop_before_pixels=True,
                specific_tags=[*map(Tag, TAGS), *map(Tag, PRIVATE_TAGS)],
                force=not has_preamble,
            )
            is_at_end = not file.read(1)
            header = header_of(dataset, path) if has_preamble or "SOPClassUID" in dataset else None
            if header is None and has_preamble:
                raise UnsupportedFormat(
                    f"{path}: {element_name('SOPClassUID')} and {element_name('Modality')} are missing, so "
                    "that nothing says what it is"
                )
            if header is not None and IMAGE in header.sop_class_name:
                if is_at_end:
                    raise UnsupportedFormat(f"{path}: ends before its pixels; it is truncated")
                if not header.rows:
                    raise UnusableElement(f"{element_name('Rows')} and {element_name('Columns')} are missing")
            return header
    except InvalidDicomError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnsupportedFormat:
        raise
    except UnusableElement as error:
        raise UnsupportedFormat(f"{path}: {error}") from error
    except damage(MemoryError) as error:  # room for an element is made before it is seen to be short
        raise UnsupportedFormat(f"{path}: the DICOM header is damaged") from error


def _refuse_deflated(path: Path) -> None:
    """Deflated files are unpacked as a whole, a thousand times their size, before anything can be checked."""
    from pydicom.filereader import read_file_meta_info

    if read_file_meta_info(path).get("TransferSyntaxUID") == _DEFLATED:
        raise UnsupportedFormat(f"{path}: is deflated as a whole; DICOM with compressed pixels is read")
