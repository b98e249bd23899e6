"""The table of the contract: its forms in JSON, and each row of it as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from medsam2.errors import InputError
from medsam2.imaging.intensity import Window
from medsam2.prompts.types import Prompt, prompt_from
from medsam2.serving.http_errors import BadRequest, TooLarge, row_error, shown
from medsam2.serving.schemas import (
    Answer,
    BoxNumbers,
    Expected,
    LongText,
    Memory,
    Message,
    Number,
    OneOf,
    PointLabels,
    Points,
    WholeNumber,
    read_json,
    validated,
)

WRAPPERS = ("input_data", "dataframe_split", "dataframe_records", "inputs")
_BESIDE_TABLE = ("params",)  # platforms put it beside the table; masks do not depend on it
_EXPECTED = f"an object with one of the keys {', '.join(WRAPPERS)}, which holds the table, is expected"

Cells = Mapping[str, object]


def _check_window(limits: list[float]) -> list[float]:
    Window(limits[0], limits[1], source="caller")
    return limits


class ScoreRow(Message):
    """A row of the table: one image, one prompt. Only the image shows whether the prompt lies in it."""

    nii_image: Annotated[LongText, Expected("base64 of a .nii or .nii.gz file, or a URL of one, is expected")]
    """Base64 of a .nii or .nii.gz file, or a URL of one."""
    key_slice_idx: WholeNumber
    """The slice with the prompt, counted in the whole series."""
    dicom_window: Annotated[
        list[Number],
        Field(min_length=2, max_length=2),
        Expected("two numbers [lower, upper] are expected"),
        AfterValidator(_check_window),
    ]
    """Intensities shown as black and as white."""
    bbox: BoxNumbers | None = None
    """x_min, y_min, x_max, y_max in pixels of the key slice, both ends included."""
    slice_offset: WholeNumber = 0
    """The index of the file's first slice in the series."""
    points: Points = Field(default=[], validate_default=True)
    """x, y each, in pixels of the key slice."""
    point_labels: PointLabels | None = None
    """1 inside, 0 outside, one per point; all inside if not given."""
    mask_format: Annotated[str, OneOf(("nested", "nifti", "rle"))] = "nested"
    """How the mask is written."""
    memory: Memory = "recent"
    """Which slices the model looks back at."""
    frame: WholeNumber | None = None
    """Which volume of a 4D file, from 0."""

    @field_validator("points")
    @classmethod
    def _check_prompt(cls, points: list[list[float]], info: ValidationInfo) -> list[list[float]]:
        if not points and "bbox" in info.data and info.data["bbox"] is None:
            raise InputError("there is neither a box nor a point; say what to segment by bbox or points")
        return points

    @field_validator("point_labels")
    @classmethod
    def _check_number_of_labels(cls, labels: list[int] | None, info: ValidationInfo) -> list[int] | None:
        num_points = len(info.data.get("points", ()))
        if labels is not None and len(labels) != num_points:
            raise PydanticCustomError("expected", f"{num_points} labels, one per point, are expected")
        return labels

    @property
    def slice_index(self) -> int:
        """The key slice's index in the file."""
        return self.key_slice_idx - self.slice_offset

    @property
    def window(self) -> tuple[float, float]:
        """Intensities shown as black and as white."""
        return self.dicom_window[0], self.dicom_window[1]

    def prompt(self, number: int, shape_zyx: tuple[int, int, int]) -> Prompt:
        """The prompt, if it lies in the image.

        Args:
            number: The row's, for the message.
            shape_zyx: The image's.

        Raises:
            InputError: It does not; the message names the column, the value and the range.
        """
        depth, first = shape_zyx[0], self.slice_offset
        if not 0 <= self.slice_index < depth:
            wrong = InputError(
                f"slice {self.key_slice_idx} is not in the file, which has {depth} slices: "
                f"with slice_offset {first} it must be {first} to {first + depth - 1}"
            )
            raise row_error(number, "key_slice_idx", wrong)
        z, column = self.slice_index, "bbox"
        try:
            if self.bbox is not None:
                prompt_from(z, box=self.bbox).checked(shape_zyx)
            column = "points"
            return prompt_from(z, box=self.bbox, points=self.points, labels=self.point_labels).checked(
                shape_zyx
            )
        except InputError as error:
            raise row_error(number, column, error) from None


COLUMNS = tuple(ScoreRow.model_fields)
REQUIRED = tuple(name for name, field in ScoreRow.model_fields.items() if field.is_required())


class MaskMetadata(Answer):
    """What the contract says about a mask, and `mask_axes` and `direction`, which we add."""

    shape: list[int]
    """x, y, z: the file's own order."""
    key_slice_index: int
    adjusted_key_slice_index: int
    """The key slice's index in the file."""
    bbox: list[float] | None
    dicom_window: list[float]
    spacing: list[float]
    origin: list[float]
    mask_axes: str
    direction: list[float]


def read_table(body: bytes | bytearray, max_rows: int) -> list[Cells]:
    """Take a request apart.

    Args:
        body: JSON.
        max_rows: How many rows are taken at once.

    Returns:
        A row's columns, by name; a column that it lacks is not there.

    Raises:
        BadRequest: This is not JSON or not the table.
        TooLarge: It has too many rows.
    """
    request = read_json(body)
    if not isinstance(request, dict):
        raise BadRequest(f"the request is {shown(request)}; {_EXPECTED}")
    names = [name for name in request if name not in _BESIDE_TABLE]
    if len(names) != 1 or names[0] not in WRAPPERS:
        raise BadRequest(f"the request has the keys {shown(names)}; {_EXPECTED}")
    rows = _rows(request[names[0]], max_rows)
    for number, cells in enumerate(rows):
        _check_columns(number, cells)
    return rows


def read_row(number: int, cells: Cells) -> ScoreRow:
    """Turn a row's cells into values.

    Raises:
        InputError: A value is not usable; the message names row, column, value and what is expected.
    """
    return validated(ScoreRow, cells, where=f"row {number}, column ")


def _rows(table: object, max_rows: int) -> list[Cells]:
    if isinstance(table, list):
        _check_count(len(table), max_rows)
        return [_record(number, row) for number, row in enumerate(table)]
    if not isinstance(table, dict):
        raise BadRequest(f"the table is {shown(table)}; an object of columns or a list of rows is expected")
    if "columns" in table and "data" in table:
        return _split_rows(table["columns"], table["data"], max_rows)
    for name, entries in table.items():
        if not isinstance(entries, list):
            raise BadRequest(
                f"column {shown(name)} is {shown(entries)}; a list with an entry per row is expected"
            )
    lengths = {name: len(entries) for name, entries in table.items()}
    if len(set(lengths.values())) > 1:
        raise BadRequest(f"the columns have {shown(lengths)} entries; each has one per row")
    _check_count(max(lengths.values(), default=0), max_rows)
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def _check_count(num_rows: int, max_rows: int) -> None:
    """Check before rows are made: a small body may contain very many."""
    if not num_rows:
        raise BadRequest("the table has no rows; give one entry per row in every column")
    if num_rows > max_rows:
        raise TooLarge(f"the table has {num_rows} rows, at most {max_rows} are taken at once")


def _record(number: int, row: object) -> Cells:
    if not isinstance(row, dict):
        raise BadRequest(f"row {number} is {shown(row)}; an object with a value per column is expected")
    return row


def _split_rows(columns: object, data: object, max_rows: int) -> list[Cells]:
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise BadRequest(f"columns is {shown(columns)}; a list of names is expected")
    if len(set(columns)) != len(columns):
        raise BadRequest(f"columns is {shown(columns)}; a name can stand there once")
    if not isinstance(data, list):
        raise BadRequest(f"data is {shown(data)}; a list of rows is expected")
    _check_count(len(data), max_rows)
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            expected = f"a list of {len(columns)} values, as columns, is expected"
            raise BadRequest(f"row {number} is {shown(row)}; {expected}")
    return [dict(zip(columns, row, strict=True)) for row in data]


def _check_columns(number: int, cells: Cells) -> None:
    for name in cells:
        if name not in COLUMNS:
            raise BadRequest(f"row {number} has a column {shown(name)}; columns are {', '.join(COLUMNS)}")
    for name in REQUIRED:
        if name not in cells:
            raise BadRequest(f"row {number} has no column {name}")
    if "bbox" not in cells and "points" not in cells:
        raise BadRequest(f"row {number} has neither a column bbox nor points: say what to segment")


def score_schema() -> dict[str, Any]:
    """The request's schema: every wrapping, and in each of them columns, a split table or records."""
    row = ScoreRow.model_json_schema()
    columns = {
        **row,
        "properties": {
            name: {"type": "array", "items": column, "description": column.get("description", "")}
            for name, column in row["properties"].items()
        },
    }
    split = {
        "type": "object",
        "required": ["columns", "data"],
        "properties": {
            "columns": {"type": "array", "items": {"enum": list(COLUMNS)}},
            "data": {"type": "array", "items": {"type": "array", "items": {}}},
        },
    }
    table = {"anyOf": [columns, split, {"type": "array", "items": row}]}
    return {"type": "object", "minProperties": 1, "properties": dict.fromkeys(WRAPPERS, table)}
