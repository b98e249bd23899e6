"""Read a list of cases, and open each: scan, truth and first prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from medsam2.errors import GeometryError, InputError
from medsam2.imaging import io
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.volume import MODALITIES, Volume, match_order
from medsam2.prompts.simulate import jitter_box
from medsam2.prompts.types import Box, prompt_from

XYXY = tuple[float, float, float, float]

OTHER = "other"
"""The modality of a case where nobody knows it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One entry of a list; its files have not been opened."""

    name: str
    """Unique in its list; the noise on the box follows from it."""
    image: Path
    mask: Path
    labels: tuple[int, ...]
    """Values of the mask that are the object."""
    modality: str
    """"CT", "MR", "US" or "other", for the means by modality. The predictor gets the modality of the file."""
    target: str
    """Name of the object, for people."""
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
    """How the mask was made, for example `manual` or `machine`."""


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


STILL_AXIS = 2  # a picture is read as a volume of one slice along the third axis


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A case with its files read."""

    case: Case
    volume: Volume
    truth: np.ndarray
    """Boolean, (z, y, x), in the volume's voxel order."""

    @property
    def axis(self) -> int:
        """File axis to slice along."""
        return STILL_AXIS if self.case.axis is None else self.case.axis

    @property
    def has_mm(self) -> bool:
        """Whether distances are in mm; else they are in pixels."""
        return self.case.axis is not None or self.case.spacing is not None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres, (x, y, z), in mm, or 1 to measure in pixels."""
        if self.case.axis is not None:
            return self.volume.spacing
        x, y = (1.0, 1.0) if self.case.spacing is None else self.case.spacing[:2]
        return x, y, 1.0


def read_task(case: Case) -> Task:
    """Read a case's image and mask and make sure that they belong together.

    Raises:
        InputError: A file cannot be read, or is not what the list says. Its subclasses:
        GeometryError: The mask does not lie on the image's grid.
        PromptError: The key slice or the box does not lie in the image.
    """
    volume, labelled = io.read(case.image), io.read(case.mask)
    try:
        ordered = match_order(labelled, volume)
    except GeometryError as error:
        raise GeometryError(f"{case.name}: {error}") from error
    task = Task(case=case, volume=volume, truth=np.isin(ordered, case.labels))
    _check_task(task)
    return task


def choose_box(task: Task, *, noise: float, seed: int, repeat: int) -> XYXY:
    """Return the box to prompt with: the case's own, or one with some noise on it.

    The noise depends on the seed, the case's name and the number of the repeat, and so not on the other cases
    or their order. Unlike in training it is not limited in pixels: 0.1 is 10 % of any box.

    Args:
        task: Where the box must lie.
        noise: Largest shift of each end, as a fraction of the box's width or height.
        seed: Not negative.
        repeat: Not negative.
    """
    if noise == 0:
        return task.case.box_xyxy
    rng = np.random.default_rng([seed, repeat, *task.case.name.encode("utf-8", "surrogatepass")])
    height, width = slices_along(task.truth, task.axis).shape[1:]
    box = Box.from_xyxy(task.case.box_xyxy)
    return jitter_box(box, rng, fraction=noise, shape_yx=(height, width), limit_px=math.inf).xyxy


def _check_task(task: Task) -> None:
    """Make sure that the files are what the list says and that the prompt lies on the object's slice."""
    case, shape_xyz = task.case, task.volume.shape[::-1]
    if case.axis is None and shape_xyz[STILL_AXIS] != 1:
        raise InputError(f"{case.name}: axis null means a picture, the image has {shape_xyz[2]} slices")
    if case.shape is not None and case.shape != shape_xyz[: len(case.shape)]:
        raise InputError(f"{case.name}: the image has the shape {shape_xyz}, the list says {case.shape}")
    num_voxels = int(np.count_nonzero(task.truth))
    if num_voxels == 0:
        raise InputError(f"{case.name}: the mask has no voxel of the label {_listed(case.labels)}")
    if case.mask_voxels not in (None, num_voxels):
        raise InputError(
            f"{case.name}: the mask has {num_voxels} voxels of the label {_listed(case.labels)}, "
            f"the list says {case.mask_voxels}"
        )
    slices = slices_along(task.truth, task.axis)
    num_slices, height, width = slices.shape
    prompt_from(case.key_slice, box=case.box_xyxy).checked((num_slices, height, width))
    if not slices[case.key_slice].any():
        raise InputError(f"{case.name}: the object is not in the key slice, {case.key_slice}")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
