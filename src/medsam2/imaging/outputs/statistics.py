"""Write measurements of objects as JSON or as a table for spreadsheets."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from medsam2.errors import UnsupportedFormat
from medsam2.imaging.measure import Axis, ObjectStatistics
from medsam2.imaging.replacing import replacing


def write_statistics(statistics: Sequence[ObjectStatistics], path: Path) -> None:
    """Write one entry, or one row, an object; what cannot be measured is null, or an empty cell.

    Args:
        statistics: What `measure_objects` gave.
        path: The file, .json or .csv.

    Raises:
        UnsupportedFormat: The suffix is neither.
        InputError: The file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        text = (
            json.dumps({"objects": [asdict(one) for one in statistics]}, indent=2, ensure_ascii=False) + "\n"
        )
    elif suffix == ".csv":
        text = _table(statistics)
    else:
        raise UnsupportedFormat(f"{path}: statistics are written as .json or .csv")
    with replacing(path, suffix) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _table(statistics: Sequence[ObjectStatistics]) -> str:
    rows = [dict(_cells(one)) for one in statistics]
    # An object without voxels lacks columns that the others have.
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cells(one: ObjectStatistics) -> Iterator[tuple[str, str | float | None]]:
    """Column and value; every number has a column of its own."""
    yield "label", one.label
    yield "name", one.name
    yield "num_voxels", one.num_voxels
    yield "volume_ml", one.volume_ml
    yield "surface_mm2", one.surface_mm2
    yield "num_slices", one.num_slices
    for bound, voxel in (("min", one.min_xyz), ("max", one.max_xyz)):
        for axis, index in zip("xyz", voxel or (None, None, None), strict=True):
            yield f"{axis}_{bound}", index
    if one.diameters is not None:
        yield "diameter_slice", one.diameters.slice_index
        yield from _axis_cells("long_axis", one.diameters.long)
        yield from _axis_cells("short_axis", one.diameters.short)
    if one.intensities is not None:
        yield from ((f"intensity_{key}", value) for key, value in asdict(one.intensities).items())


def _axis_cells(name: str, line: Axis) -> Iterator[tuple[str, float]]:
    yield f"{name}_mm", line.length_mm
    for number, (x, y) in enumerate((line.start_xy, line.end_xy)):
        yield f"{name}_x{number}", x
        yield f"{name}_y{number}", y
