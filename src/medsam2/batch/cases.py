"""The cases of a table: each has one image and its prompts.

A table is CSV, JSON or Parquet. JSON is a list of rows, or `{"cases": [...]}`; a row may contain its objects,
as in prompt files:

    [{"case": "p1", "image": "p1.nii.gz", "window": "abdomen", "objects": [
        {"name": "liver", "slice": 42, "box": [120, 96, 180, 150]},
        {"name": "spleen", "prompts": [{"slice": 40, "points": [[31, 27, 1]]}]}]}]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from medsam2.batch.storage import is_url, shown
from medsam2.errors import InputError, PromptError, UnsupportedFormat, reading
from medsam2.prompts.files import parse_json
from medsam2.prompts.tables import named_file, table_rows, table_text
from medsam2.prompts.wire import Entry

SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".parquet")
MAX_BYTES = 1 << 30
"""Largest table, because its rows are kept in memory. Split a larger one, with a folder for each part."""
KEYS = ("case", "case_id", "key", "id")
"""Columns for the name of the case; the first one in the table is used, unless one is chosen."""
COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "image": ("image_path", "img", "scan", "volume", "path", "nii_image"),
        "plane": (),
        "frame": (),
        "series": (),
        "source": (),
    }
)
"""Other columns about the case -> other names of the column; all other columns are about an object."""
PLANES = ("axial", "coronal", "sagittal")
MAX_NAME_BYTES = 120  # file systems allow 255, including a suffix and the parts of a temporary name

_CANONICAL = {alias: key for key, aliases in COLUMNS.items() for alias in (key, *aliases)}
# Separators, drives and streams of any system, line breaks, and what shells and spreadsheets misread.
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]|^[.\-=+@]|^\s|[.\s]$|^$')
_LONG_SUFFIXES = (".nii.gz", ".seg.nrrd")


@dataclass(frozen=True)
class Row:
    """One row, without its empty cells."""

    where: str
    """File and row; every message about the row begins with it."""
    values: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image and what to segment in it."""

    name: str
    """Name of its files; safe as a file name, and unique even without regard to case."""
    image: str
    """Image as the table names it; a URL without its query, which may be a signature."""
    place: str
    """File or URL of the image."""
    rows: tuple[Row, ...]
    """Rows about objects, each with prompts; checked only when the case is segmented."""
    folder: Path
    """Folder that names of mask files in the rows are relative to."""
    plane: str | None = None
    frame: int | None = None
    series: str | None = None
    source: str | None = None
    """DICOM series that a DICOM mask refers to; the image if None."""

    @property
    def mask_places(self) -> tuple[str, ...]:
        """Files or URLs of the masks in its prompts, in their order."""
        rows = [row.values for row in self.rows]
        parts = [part for values in rows for part in _prompts(values)]
        named = [value for values in (*rows, *parts) for key, value in values.items() if is_mask(key)]
        return tuple(dict.fromkeys(place_of(name, self.folder) for name in named if isinstance(name, str)))


def is_mask(key: str) -> bool:
    """Return whether the value of a key is the name of a mask file."""
    return key.strip().lower() in ("mask", "mask_file")


def place_of(name: str, folder: Path) -> str:
    """Return the file or the URL for a name in a table."""
    name = name.strip()
    return name if is_url(name) else str(named_file(name, folder))


def cases_of(
    rows: Sequence[Row], *, folder: Path, key: str | None = None, images: Mapping[str, str] | None = None
) -> list[Case]:
    """Group the rows by case, in the order of the table.

    Args:
        rows: Rows from `table.read_rows`.
        folder: Folder that names in the rows are relative to.
        key: Column with the name of the case; if None the first of `KEYS`, or the image if there is none.
        images: Case to image, if the rows do not name images; images without rows are left out.

    Raises:
        InputError: A column is unknown, a row has no image, rows of one case differ in a value of the case,
            a name is not safe as a file name, or two cases have the same name.
    """
    key = _check_columns(rows, key)
    found: dict[str, list[tuple[Row, dict[str, object]]]] = {}
    for row in rows:
        own, about = _parted(row, key)
        found.setdefault(_group(row, own, key, images), []).append((Row(row.where, about), own))
    cases = [_case(group, parts, folder, images) for group, parts in found.items()]
    _check_names(cases)
    return cases


def _check_columns(rows: Iterable[Row], key: str | None) -> str | None:
    """Find the column with the names, and refuse an unknown column once for the whole table."""
    seen: dict[str, str] = {}
    for row in rows:
        for column in row.values:
            seen.setdefault(column, row.where)
    if key is not None and key not in seen:
        raise InputError(f"no row has the column {key!r}; the columns are {', '.join(seen)}")
    by_name = {column.strip().lower(): column for column in seen}
    if key is None:
        key = next((by_name[name] for name in KEYS if name in by_name), None)
    for column, where in seen.items():
        if column == key or _CANONICAL.get(column.strip().lower()) or column == "prompts":
            continue
        try:
            Entry.of(where, {column: None})
        except PromptError as error:
            raise InputError(f"{error}; for the case: {', '.join((KEYS[0], *COLUMNS))}") from None
    return key


def _parted(row: Row, key: str | None) -> tuple[dict[str, object], dict[str, object]]:
    """Split a row into the values of the case and those of an object."""
    own: dict[str, object] = {} if key is None or key not in row.values else {"case": row.values[key]}
    about: dict[str, object] = {}
    for column, value in row.values.items():
        if column == key:
            continue
        name = _CANONICAL.get(column.strip().lower())
        if name is None:
            about[column] = value
        elif name in own:
            raise InputError(
                f"{row.where}: has two columns for its {name}, one of them is {column!r}; remove one"
            )
        else:
            own[name] = value
    return own, about


def _group(row: Row, own: Mapping[str, object], key: str | None, images: Mapping[str, str] | None) -> str:
    """Return what all rows of one case have in common."""
    if "case" in own:
        return f"case {_text(own['case'])}"
    if key is not None or images is not None:
        raise InputError(f"{row.where}: has no {key or KEYS[0]!r}, which names the case")
    if "image" not in own:
        raise InputError(f"{row.where}: names no image")
    return f"image {_text(own['image'])}"


def _case(
    group: str,
    parts: Sequence[tuple[Row, Mapping[str, object]]],
    folder: Path,
    images: Mapping[str, str] | None,
) -> Case:
    where = parts[0][0].where
    own: dict[str, str] = {}
    for row, values in parts:
        for name, value in values.items():
            text = _text(value)
            if own.setdefault(name, text) != text:
                raise InputError(f"{row.where}: {group} has the {name} {own[name]!r} in another row")
    if images is not None:
        if "image" in own:
            raise InputError(f"{where}: names an image, but --glob finds the images; give one of the two")
        # A case without an image has no place; it fails when its turn comes.
        own["image"] = images.get(own["case"], "")
    elif "image" not in own:
        raise InputError(f"{where}: names no image")
    image = own["image"]
    if not image.isprintable():
        raise InputError(f"{where}: {image!r} cannot be an image's name")
    if own.get("plane", PLANES[0]) not in PLANES:
        raise InputError(f"{where}: plane is {', '.join(PLANES)}, not {own['plane']!r}")
    return Case(
        name=own["case"] if "case" in own else stem_of(image),
        image=shown(image),
        place=image if images is not None else place_of(image, folder),
        rows=tuple(row for row, _ in parts),
        folder=folder,
        plane=own.get("plane"),
        frame=_whole(own.get("frame"), where),
        series=own.get("series"),
        source=None if "source" not in own else place_of(own["source"], folder),
    )


def _check_names(cases: Iterable[Case]) -> None:
    """Refuse names that cannot be file names, or that are the same on some file system."""
    taken: dict[str, Case] = {}
    for case in cases:
        where = case.rows[0].where
        if _UNSAFE.search(case.name) or len(case.name.encode()) > MAX_NAME_BYTES:
            raise InputError(
                f"{where}: the case {case.name!r} cannot be a file's name; give its column `case` a name of "
                f"letters, digits, point, hyphen and underscore, of at most {MAX_NAME_BYTES} bytes"
            )
        other = taken.setdefault(case.name.casefold(), case)
        if other is not case:
            raise InputError(
                f"{where}: there is another case {case.name!r}, {other.rows[0].where}; "
                "give each image a name of its own in a column `case`"
            )


def check_meshes(cases: Iterable[Case]) -> None:
    """Refuse names that equal the name of another case's mesh, which ends in the object's number.

    Raises:
        InputError: There is such a name.
    """
    names = {case.name.casefold() for case in cases}
    for name in names:
        owner, mark, number = name.rpartition("_")
        if mark and number.isdecimal() and owner in names:
            raise InputError(
                f"as STL, object {number} of the case {owner!r} has the file name of the case {name!r}; "
                "rename one of them"
            )


def stem_of(image: str) -> str:
    """Return an image's name without its suffix."""
    name = PurePosixPath(image.partition("?")[0].replace("\\", "/")).name
    long = next((suffix for suffix in _LONG_SUFFIXES if name.lower().endswith(suffix)), None)
    return name[: -len(long)] if long else (PurePosixPath(name).stem or name)


def _text(value: object) -> str:
    """A cell as text; in data frames with empty cells, whole numbers have become 7.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _whole(text: str | None, where: str) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal():
        raise InputError(f"{where}: frame is a whole number from 0, not {text!r}")
    return int(text)


def _prompts(values: Mapping[str, object]) -> list[Mapping[str, object]]:
    parts = values.get("prompts")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def read_rows(path: Path) -> list[Row]:
    """Read a table.

    Args:
        path: A .csv, .tsv, .txt, .json or .parquet file.

    Raises:
        InputError: The file cannot be read, is too large or has no row.
        UnsupportedFormat: It is not such a table.
        ModuleNotFoundError: It is Parquet, and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UnsupportedFormat(f"{path}: a table of cases ends in {', '.join(SUFFIXES)}")
    with reading(path):
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: has {size} bytes, a table has at most {MAX_BYTES}; split it")
        try:
            if suffix == ".parquet":
                found = _parquet_rows(path)
            elif suffix == ".json":
                found = _json_rows(path.read_text(encoding="utf-8-sig"), path)
            else:
                found = table_rows(table_text(path), path)
            rows = [Row(where, _filled(values)) for where, values in found]
        except UnicodeDecodeError as error:
            raise UnsupportedFormat(f"{path}: is not text in UTF-8") from error
    if not rows:
        raise InputError(f"{path}: has no case")
    return rows


def _json_rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    content = parse_json(text, path)
    if isinstance(content, dict) and content.keys() == {"cases"}:
        content = content["cases"]
    if not isinstance(content, list) or not all(isinstance(case, dict) for case in content):
        raise UnsupportedFormat(f'{path}: cases are a list of {{...}}, or {{"cases": [...]}}')
    for number, case in enumerate(content, start=1):
        where = f"{path}: case {number}"
        if "objects" not in case:
            yield where, case
            continue
        objects = case["objects"]
        if not isinstance(objects, list) or not objects or not all(isinstance(one, dict) for one in objects):
            raise PromptError(f"{where}, objects: give a list of objects, {{...}} each")
        head = {key: value for key, value in case.items() if key != "objects"}
        for index, one in enumerate(objects, start=1):
            # The values of the case hold for each of its objects, unless the object has its own.
            yield f"{where}, object {index}", {**head, **one}


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", values
    except ArrowException as error:
        raise UnsupportedFormat(f"{path}: is not Parquet, or is damaged: {error}") from error


def _filled(values: Mapping[str, object]) -> dict[str, object]:
    """Leave out empty cells, which are NaN in tables from data frames."""
    return {
        key: value
        for key, value in values.items()
        if not (
            value is None
            or (isinstance(value, float) and value != value)
            or (isinstance(value, str) and not value.strip())
        )
    }
