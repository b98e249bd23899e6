"""Read a list of cases: what is to be segmented, from which prompt, and where the truth is."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from medsam2.errors import InputError
from medsam2.imaging.volume import MODALITIES
from medsam2.prompts.types import Box

XYXY = tuple[float, float, float, float]

OTHER = "other"
"""The modality of a case where nobody knows it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One entry of a list, as written there; its files have not been opened."""

    name: str
    """Unique in its list; the noise on the box follows from it."""
    image: Path
    mask: Path
    labels: tuple[int, ...]
    """Values of the mask that are the object."""
    modality: str
    """"CT", "MR", "US" or "other"; for the means by modality. What the predictor is told is what the file
    says."""
    target: str
    """What the object is, for people."""
    window: str | tuple[float, float] | None
    """Of the intensities; None leaves it to the predictor."""
    axis: int | None
    """File axis to slice along, 0 to 2; None for a 2D picture."""
    key_slice: int
    box_xyxy: XYXY
    """In pixels of the key slice, both ends included, x along the lower-numbered of the other file axes."""
    spacing: tuple[float, ...] | None = None
    """(x, y, ...) in mm. It counts for pictures, whose files have none; None measures those in pixels."""
    shape: tuple[int, ...] | None = None
    """(x, y, ...) that the image must have."""
    mask_voxels: int | None = None
    """How many voxels the object must have."""
    scan: int | None = None
    """Number of the patient, or of the image where no patient is named: cases that share one are not
    independent. Counted from 0 in the order of the list; None stands for a case of its own."""
    reference: str | None = None
    """How the mask was made, `manual` or `machine` say."""


def is_by_hand(reference: str | None) -> bool:
    """Whether a reference is marked as drawn by a person: "manual", alone or with a word, not "manual?"."""
    return reference is not None and reference.split()[:1] == ["manual"]


def read_cases(path: Path) -> list[Case]:
    """Read a list of cases; the paths in it are relative to it.

    Args:
        path: A JSON file: a list of objects with the fields of `Case`, of which `labels` is called `label`
            and `box_xyxy` is called `box`. `patient`, a text of one's own, says which cases belong to one
            person; without it those of one image do. `licence`, `slices_with_mask` and `note` may be there as
            well and are for people.

    Raises:
        InputError: The file cannot be read, is no such list, or a case lacks a field, has one that is not
            known, or one whose value cannot be.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: a list of cases is a JSON list with at least one entry")
    cases: dict[str, Case] = {}
    scans: dict[str, int] = {}
    for number, entry in enumerate(entries):
        case = _parse_case(entry, f"{path}: case {number}", path.parent)
        if case.name in cases:
            raise InputError(f"{path}: two cases are called {case.name!r}; names must differ")
        patient = entry.get("patient")
        owner = f"image {case.image}" if patient is None else f"patient {patient}"
        cases[case.name] = replace(case, scan=scans.setdefault(owner, len(scans)))
    return list(cases.values())


def _parse_case(entry: object, where: str, folder: Path) -> Case:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: a case is a JSON object, not {json.dumps(entry)}")
    if isinstance(entry.get("name"), str):
        where = f"{where} ({entry['name']})"
    missing = [field for field in _REQUIRED if field not in entry]
    unknown = [field for field in entry if field not in _FIELDS and field not in _FOR_PEOPLE]
    if missing:
        raise InputError(f"{where}: lacks {_listed(missing)}")
    if unknown:
        raise InputError(f"{where}: has the unknown field {_listed(unknown)}; known are {_listed(_FIELDS)}")
    for field, value in entry.items():
        if field in _FIELDS and not _FIELDS[field].accepts(value):
            raise InputError(
                f"{where}: {field} must be {_FIELDS[field].description}, not {json.dumps(value)}"
            )
    label, window = entry["label"], entry["window"]
    return Case(
        name=entry["name"],
        image=folder / entry["image"],
        mask=folder / entry["mask"],
        labels=tuple(label) if isinstance(label, list) else (label,),
        modality=entry["modality"],
        target=entry["target"],
        window=(float(window[0]), float(window[1])) if isinstance(window, list) else window,
        axis=entry["axis"],
        key_slice=entry["key_slice"],
        box_xyxy=Box.from_xyxy(entry["box"]).xyxy,
        spacing=tuple(entry["spacing"]) if entry.get("spacing") else None,
        shape=tuple(entry["shape"]) if entry.get("shape") else None,
        mask_voxels=entry.get("mask_voxels"),
        reference=entry.get("reference"),
    )


@dataclass(frozen=True)
class _Field:
    description: str
    accepts: Callable[[object], bool]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _are(check: Callable[[object], bool], value: object, lengths: tuple[int, ...] = ()) -> bool:
    has_length = isinstance(value, list) and (len(value) in lengths if lengths else len(value) > 0)
    return has_length and isinstance(value, list) and all(check(one) for one in value)


def _is_window(value: object) -> bool:
    return value is None or _is_text(value) or _are(_is_number, value, (2,))


def _is_spacing(value: object) -> bool:
    return _are(lambda one: _is_number(one) and isinstance(one, (int, float)) and one > 0, value, (2, 3))


_TEXT = _Field("a text that is not empty", _is_text)
_REQUIRED: Mapping[str, _Field] = MappingProxyType(
    {
        "name": _TEXT,
        "image": _TEXT,
        "mask": _TEXT,
        "label": _Field("an integer or a list of them", lambda value: _is_int(value) or _are(_is_int, value)),
        "modality": _Field(
            f"one of {', '.join((*MODALITIES, OTHER))}", lambda value: value in (*MODALITIES, OTHER)
        ),
        "target": _TEXT,
        "window": _Field("two numbers, the name of a window, or null", _is_window),
        "axis": _Field(
            "0, 1, 2 or null", lambda value: value is None or (_is_int(value) and value in (0, 1, 2))
        ),
        "key_slice": _Field("an integer", _is_int),
        "box": _Field("four numbers", lambda value: _are(_is_number, value, (4,))),
    }
)
_FIELDS: Mapping[str, _Field] = MappingProxyType(
    {
        **_REQUIRED,
        "spacing": _Field("two or three positive numbers, or null", lambda v: v is None or _is_spacing(v)),
        "shape": _Field("two or three integers, or null", lambda v: v is None or _are(_is_int, v, (2, 3))),
        "mask_voxels": _Field("an integer, or null", lambda value: value is None or _is_int(value)),
        "patient": _Field("a text that is not empty, or null", lambda v: v is None or _is_text(v)),
        "reference": _Field("a text, or null", lambda value: value is None or isinstance(value, str)),
    }
)
_FOR_PEOPLE = ("licence", "slices_with_mask", "note")


def _listed(values: Iterable[str]) -> str:
    return ", ".join(values)
