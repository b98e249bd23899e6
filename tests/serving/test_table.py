"""Tables of any making: rows, or one sentence with a status of the caller's."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from medsam2.errors import MedSAM2Error, PromptError
from medsam2.serving.http_errors import (
    STATUSES,
    BadRequest,
    Busy,
    HttpError,
    TooLarge,
    error_answer,
    error_headers,
    reworded,
    status_of,
)
from medsam2.serving.rows import COLUMNS, WRAPPERS, read_row, read_table

MAX_ROWS = 5
LONGEST_SENTENCE = 700

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(-1e6, 1e6) | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_columns = st.dictionaries(st.sampled_from(COLUMNS), st.lists(_values, min_size=1, max_size=2), max_size=9)
_likely = st.fixed_dictionaries(
    {
        name: st.lists(_values, min_size=1, max_size=1)
        for name in ("nii_image", "key_slice_idx", "dicom_window")
    },
    optional={name: st.lists(_values, min_size=1, max_size=1) for name in COLUMNS[3:]},
)
_split = st.fixed_dictionaries({"columns": _values, "data": _values})
_requests = st.dictionaries(
    st.sampled_from(WRAPPERS), _values | _columns | _likely | _split, min_size=1, max_size=1
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(request=_requests | _values)
def test_any_request_is_rows_or_a_sentence(request: object) -> None:
    error = refusal(request)
    if error is not None:
        assert status_of(error) in (400, 413, 422)
        assert 10 < len(str(error)) < LONGEST_SENTENCE
        assert error_answer(error) == {"error": str(error), "status": status_of(error)}


def refusal(request: object) -> MedSAM2Error | None:
    """Read a request to its last value; whatever else is raised is a bug of ours."""
    try:
        rows = read_table(json.dumps(request).encode(), MAX_ROWS)
        assert 1 <= len(rows) <= MAX_ROWS
        for number, cells in enumerate(rows):
            read_row(number, cells)
    except MedSAM2Error as error:
        return error
    return None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(body=st.binary(max_size=60))
def test_any_bytes_are_refused_in_a_sentence(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_table(body, MAX_ROWS)


def test_rows_have_a_limit() -> None:
    table = {"nii_image": ["x"], "bbox": [[1, 2, 3, 4]], "key_slice_idx": [0], "dicom_window": [[0, 1]]}
    assert (
        len(read_table(json.dumps({"inputs": {k: v * 5 for k, v in table.items()}}).encode(), MAX_ROWS)) == 5
    )
    with pytest.raises(TooLarge, match="6 rows, at most 5"):
        read_table(json.dumps({"inputs": {k: v * 6 for k, v in table.items()}}).encode(), MAX_ROWS)


def test_a_scan_is_taken_as_it_is_and_not_copied() -> None:
    image = "A" * 1_000_000
    cells = {"nii_image": image, "bbox": [1, 2, 3, 4], "key_slice_idx": 0, "dicom_window": [0, 1]}
    assert read_row(0, cells).nii_image is image


def test_every_error_of_the_server_has_a_status() -> None:
    assert set(HttpError.__subclasses__()) <= STATUSES.keys()
    assert {400, 401, 403, 404, 408, 409, 413, 422, 500, 503, 504} <= set(STATUSES.values())
    assert status_of(PromptError("no")) == 422
    again = reworded(Busy("later", retry_after_s=3), "row 0: later")
    assert error_answer(again) == {"error": "row 0: later", "status": 503}
    assert error_headers(again) == {"Retry-After": "3"}
