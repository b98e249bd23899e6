"""The published contract against a live server: what goes in, and the masks that come out."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest

import medsam2
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import InferenceOptions

Table = dict[str, list[object]]


@pytest.fixture(scope="module")
def volume(scan_path: Path) -> Volume:
    return medsam2.read(scan_path)


@pytest.fixture(scope="module")
def mask(predictor: Predictor, volume: Volume) -> np.ndarray:
    """What the Python API makes of the sample."""
    found = predictor.segment(volume, slice=5, box=(22, 18, 41, 37), window=(0, 255)).array
    assert 500 < found.sum() < 5000
    return found


def test_the_sample_gets_the_mask_of_the_python_api(
    server, table: Table, scan_path: Path, volume: Volume, mask
) -> None:
    response = server.score(table)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer.keys() == {"mask", "metadata"}
    assert np.array_equal(np.array(answer["mask"]), mask)
    assert answer["metadata"] == {
        "shape": list(nibabel.load(scan_path).shape),
        "key_slice_index": 5,
        "adjusted_key_slice_index": 5,
        "bbox": [22.0, 18.0, 41.0, 37.0],
        "dicom_window": [0.0, 255.0],
        "spacing": list(volume.spacing),
        "origin": list(volume.origin),
        "mask_axes": "zyx",
        "direction": list(volume.direction),
    }


def read_answer(text: str) -> tuple[np.ndarray | None, dict[str, object]]:
    """Take an answer as the model's published client does: the first of a list, then a mask or an error."""
    answer = json.loads(text)
    first = answer[0] if isinstance(answer, list) else answer
    if "error" in first:
        return None, {"error": first["error"], "status": first.get("status")}
    return np.array(first["mask"], dtype=np.uint8), first["metadata"]


def test_the_published_client_reads_answers_unchanged(server, table: Table, mask) -> None:
    found, metadata = read_answer(server.score(table).text)
    assert found is not None
    assert found.shape == tuple(reversed(metadata["shape"]))
    assert np.count_nonzero(found) == mask.sum()
    two = {name: entries * 2 for name, entries in table.items()}
    found, _ = read_answer(server.score(two).text)
    assert np.array_equal(found, mask)
    nothing, told = read_answer(server.score({**table, "key_slice_idx": [12]}).text)
    assert nothing is None
    assert told["status"] == 422
    assert "0 to 11" in told["error"]


def wrappings(table: Table) -> dict[str, object]:
    columns, row = list(table), [entries[0] for entries in table.values()]
    split = {"columns": columns, "data": [row]}
    return {
        "columns": {"input_data": table},
        "split": {"input_data": split},
        "split with an index": {"input_data": {**split, "index": [0]}},
        "dataframe_split": {"dataframe_split": split},
        "dataframe_records": {"dataframe_records": [dict(zip(columns, row, strict=True))]},
        "inputs": {"inputs": table},
        "with params": {"input_data": table, "params": {}},
    }


@pytest.mark.parametrize("name", list(wrappings({})))
def test_every_wrapping_of_the_table_is_taken(server, table: Table, mask, name: str) -> None:
    response = server.client.post("/invocations", json=wrappings({**table, "mask_format": ["rle"]})[name])
    assert response.status_code == 200, response.text
    assert sum(map(len, response.json()["mask"])) > 0
    assert [entry["slice"] for entry in response.json()["mask"]] == list(np.flatnonzero(mask.any((1, 2))))


def test_numbers_come_as_data_frames_write_them(server, table: Table, mask) -> None:
    table |= {"key_slice_idx": [108.0], "slice_offset": [103.0], "bbox": [[22, 18, 41, 37]]}
    table |= {"dicom_window": [[0, 255]], "points": [None], "mask_format": [None], "memory": [None]}
    answer = server.score(table).json()
    assert np.array_equal(np.array(answer["mask"]), mask)
    assert answer["metadata"]["key_slice_index"] == 108
    assert answer["metadata"]["adjusted_key_slice_index"] == 5
    del table["slice_offset"]
    assert server.score({**table, "key_slice_idx": [5]}).status_code == 200


def test_rows_are_answered_in_their_order_and_one_may_fail(server, table: Table, mask) -> None:
    three = {name: entries * 3 for name, entries in table.items()}
    three["bbox"] = [*table["bbox"], [22, 18, 99, 37], [23, 18, 41, 37]]
    response = server.score(three)
    assert response.status_code == 200
    first, second, third = response.json()
    assert np.array_equal(np.array(first["mask"]), mask)
    assert second["status"] == 422
    for word in ("row 1", "bbox", "99", "0 to 63", "0 to 55"):
        assert word in second["error"]
    assert third["metadata"]["bbox"] == [23.0, 18.0, 41.0, 37.0]


def decoded(counts: str, size: list[int]) -> np.ndarray:
    """Take COCO's run lengths apart letter by letter, down the columns."""
    runs: list[int] = []
    letters = [ord(letter) - 48 for letter in counts]
    while letters:
        value, bits = 0, 0
        while True:
            letter = letters.pop(0)
            value += (letter & 31) * 2**bits
            bits += 5
            if letter < 32:
                break
        if letter & 16:
            value -= 2**bits
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    pixels = [number % 2 for number, run in enumerate(runs) for _ in range(run)]
    return np.array(pixels).reshape(size[1], size[0]).T


def test_run_lengths_are_those_of_coco(server, table: Table, mask) -> None:
    entries = server.score({**table, "mask_format": ["rle"]}).json()["mask"]
    found = np.zeros_like(mask)
    for entry in entries:
        assert entry["size"] == [56, 64]
        found[entry["slice"]] = decoded(entry["counts"], entry["size"])
        assert found[entry["slice"]].any()
    assert np.array_equal(found, mask)


def test_a_nifti_mask_lies_on_the_grid_of_the_input(
    server, table: Table, scan_path: Path, mask, tmp_path: Path
) -> None:
    answer = server.score({**table, "mask_format": ["nifti"]}).json()
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(base64.b64decode(answer["mask"], validate=True))
    ours, theirs = nibabel.load(path), nibabel.load(scan_path)
    assert np.array_equal(np.asarray(ours.dataobj).T, mask)
    assert ours.get_data_dtype() == np.uint8
    for field in (
        "qform_code",
        "sform_code",
        "pixdim",
        "srow_x",
        "srow_y",
        "srow_z",
        "quatern_b",
        "qoffset_x",
    ):
        np.testing.assert_array_equal(ours.header[field], theirs.header[field])
    assert b"Roe" not in gzip.decompress(path.read_bytes())


def test_points_and_memory_do_what_they_do_in_python(server, table: Table, volume: Volume, predictor) -> None:
    points, labels = [[31, 27], [5, 5]], [1, 0]
    session = predictor.session(volume, window=(0, 255), options=InferenceOptions(memory="self-sorting"))
    session.add(1, slice=5, points=points, labels=labels)
    for _ in session.propagate():
        pass
    del table["bbox"]
    answer = server.score({**table, "points": [points], "point_labels": [labels], "memory": ["self-sorting"]})
    assert np.array_equal(np.array(answer.json()["mask"]), session.result().array)
    assert answer.json()["metadata"]["bbox"] is None


def test_gzip_is_spoken_both_ways(server, table: Table, mask) -> None:
    body = json.dumps({"input_data": table}).encode()
    plain = server.client.post("/score", content=body, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == "Accept-Encoding"
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip", "Content-Type": "application/json"}
    with server.client.stream("POST", "/score", content=gzip.compress(body), headers=headers) as response:
        assert response.headers["content-encoding"] == "gzip"
        packed = b"".join(response.iter_raw())
    assert len(packed) < len(plain.content) / 10
    assert gzip.decompress(packed) == plain.content


def test_base64_may_have_line_breaks_and_files_may_be_plain(server, table: Table, mask) -> None:
    raw = gzip.decompress(base64.b64decode(table["nii_image"][0]))
    answer = server.score({**table, "nii_image": [base64.encodebytes(raw).decode()]})
    assert np.array_equal(np.array(answer.json()["mask"]), mask)


def test_probes_answer(server) -> None:
    for path in ("/ping", "/healthz", "/readyz"):
        assert server.client.get(path).status_code == 200
    description = server.client.get("/openapi.json").json()
    assert {"/score", "/invocations", "/ping", "/healthz", "/readyz", "/metrics"} <= description[
        "paths"
    ].keys()
    assert server.client.get("/docs").status_code == 404


def test_what_is_not_there_is_said_in_the_contract_form(server) -> None:
    for response, status in (
        (server.client.get("/nothing"), 404),
        (server.client.get("/score"), 405),
        (server.client.post("/score/Roe^Jane", content=b"x"), 404),
    ):
        assert response.status_code == status
        assert response.json()["status"] == status
        assert "/score" in response.json()["error"]


def refused(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    answer = response.json()
    assert answer.keys() == {"error", "status"}
    assert answer["status"] == status
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 400
    return answer["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ("not JSON",)),
        (b"\xff\x00", ("not JSON",)),
        (b'{"input_data": {', ("not JSON",)),
        (b"[" * 5000, ("not JSON",)),
        (b'{"input_data": {"bbox": [[NaN]]}}', ("not JSON",)),
        (b"3", ("3", "input_data")),
        (b"[]", ("input_data", "inputs")),
        (b"{}", ("input_data",)),
        (b'{"data": {}}', ("'data'", "input_data")),
        (b'{"input_data": {}, "inputs": {}}', ("inputs",)),
        (b'{"input_data": 4}', ("4", "columns")),
        (b'{"input_data": {}}', ("no rows",)),
        (b'{"input_data": []}', ("no rows",)),
        (b'{"input_data": {"nii_image": "x"}}', ("nii_image", "list")),
        (b'{"input_data": {"nii_image": ["x"], "bbox": []}}', ("entries", "1")),
        (b'{"input_data": {"columns": "a", "data": []}}', ("columns", "names")),
        (b'{"input_data": {"columns": ["a", "a"], "data": []}}', ("once",)),
        (b'{"input_data": {"columns": ["a"], "data": 1}}', ("data", "rows")),
        (b'{"input_data": {"columns": ["a"], "data": [[]]}}', ("row 0", "1 values")),
        (b'{"dataframe_records": [3]}', ("row 0", "3")),
    ],
)
def test_what_is_not_the_table_is_a_400(server, body: bytes, words: tuple[str, ...]) -> None:
    sentence = refused(server.client.post("/score", content=body), 400)
    for word in words:
        assert word in sentence


@pytest.mark.parametrize("column", ["nii_image", "key_slice_idx", "dicom_window", "bbox"])
def test_a_column_that_is_missing_is_named(server, table: Table, column: str) -> None:
    del table[column]
    sentence = refused(server.score(table), 400)
    assert "row 0" in sentence
    assert column in sentence


def test_a_column_that_nobody_knows_is_named(server, table: Table) -> None:
    sentence = refused(server.score({**table, "slice_ofset": [3]}), 400)
    for word in ("slice_ofset", "slice_offset", "row 0"):
        assert word in sentence


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("nii_image", 3, ("3", "base64", "URL")),
        ("nii_image", "", ("''", "base64")),
        ("nii_image", "no base64!", ("base64", "NIfTI")),
        ("nii_image", "QUJD" * 50_000, ("not a NIfTI file",)),
        ("nii_image", "https://example.org/a.nii", ("--allow-urls", "base64")),
        ("bbox", None, ("bbox", "points")),
        ("bbox", [1, 2, 3], ("[1, 2, 3]", "x_min")),
        ("bbox", [1, 2, 3, "4"], ("'4'", "x_min")),
        ("bbox", [True, 2, 3, 4], ("True", "x_min")),
        ("bbox", [[1, 2, 3, 4]], ("x_min",)),
        ("bbox", [30, 10, 20, 20], ("30", "reversed")),
        ("bbox", [10, 10, 10, 20], ("no area",)),
        ("bbox", [10, 10, 64, 20], ("64", "0 to 63", "0 to 55")),
        ("key_slice_idx", 12, ("12", "0 to 11")),
        ("key_slice_idx", -1, ("-1", "0 or more")),
        ("key_slice_idx", 1.5, ("1.5", "whole")),
        ("key_slice_idx", "5", ("'5'", "whole")),
        ("key_slice_idx", 10**25, ("0 to 11",)),
        ("slice_offset", 7, ("5", "7 to 18")),
        ("slice_offset", [0], ("[0]", "whole")),
        ("dicom_window", None, ("None", "lower")),
        ("dicom_window", [255, 0], ("255", "lower < upper")),
        ("dicom_window", [3, 3], ("3", "lower < upper")),
        ("dicom_window", "lung", ("lung", "lower")),
        ("mask_format", "png", ("png", "nested, nifti, rle")),
        ("mask_format", ["rle"], ("rle",)),
        ("memory", "good", ("good", "recent, self-sorting")),
        ("points", [[1]], ("[[1]]", "[x, y]")),
        ("points", [[64, 1]], ("64", "0 to 63")),
        ("points", [[1, 1]] * 2000, ("2000", "1000")),
        ("point_labels", [1], ("[1]", "0 labels")),
    ],
)
def test_a_value_that_cannot_be_is_a_422(
    server, table: Table, column: str, value: object, words: tuple[str, ...]
) -> None:
    sentence = refused(server.score({**table, column: [value]}), 422)
    assert sentence.startswith("row 0, column ")
    for word in words:
        assert word in sentence


def test_labels_that_are_neither_are_named(server, table: Table) -> None:
    sentence = refused(server.score({**table, "points": [[[3, 3]]], "point_labels": [[2]]}), 422)
    for word in ("point_labels", "[2]", "1 (inside)", "0 (outside)"):
        assert word in sentence


def test_images_in_which_nothing_is_seen_are_named(server, table: Table, tmp_path: Path) -> None:
    for array, word in ((np.full((64, 56, 12), 3.0), "3.0"), (np.full((64, 56, 12), np.nan), "NaN")):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "bad.nii")
        encoded = base64.b64encode((tmp_path / "bad.nii").read_bytes()).decode()
        sentence = refused(server.score({**table, "nii_image": [encoded]}), 422)
        assert "row 0, column nii_image" in sentence
        assert word in sentence


def test_the_way_of_a_request_leaves_nothing_behind(server, table: Table) -> None:
    server.score(table)
    assert server.figure("medsam2_reserved_bytes") == 0
    assert server.figure("medsam2_requests_in_flight") == 0
    assert server.figure("medsam2_slices_total") > 0
    assert server.figure("medsam2_reader_starts") == 1
