"""Forms that viewers send: what they hold, and the limits that no sender gets around."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medsam2.serving.http_errors import BadRequest, TooLarge
from medsam2.serving.monailabel.forms import MAX_PARTS, MAX_TEXT, read_form

KIND = "multipart/form-data; boundary=b"


def part(head: str, content: bytes = b"x") -> bytes:
    return f"--b\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"


def test_a_form_holds_fields_and_files() -> None:
    file = part('name="file"; filename="C:\\tmp\\a scan.nii.gz"', bytes(range(256)))
    form = read_form(KIND, part('name="params"', b'{"a": 1}') + file + b"--b--\r\n")
    assert form.json("params") == {"a": 1}
    upload = form.file("file")
    assert upload is not None
    assert upload.name == "a scan.nii.gz"
    assert upload.content == bytes(range(256))
    assert form.file("label") is None


def test_a_series_is_more_files_than_a_process_may_open() -> None:
    files = part('name="files"; filename="1.dcm"', bytes(2000)) * 2000
    num_open = len(list(Path("/dev/fd").iterdir())) if os.name == "posix" else 0
    form = read_form(KIND, files + b"--b--\r\n")
    assert len(form.files) == 2000
    assert all(len(upload.content) == 2000 for upload in form.files)
    if os.name == "posix":
        assert len(list(Path("/dev/fd").iterdir())) <= num_open + 1


@pytest.mark.parametrize("head", ['name="a"', 'name="a"; filename="b"'], ids=["fields", "files"])
def test_a_form_has_so_many_parts_and_no_more(head: str) -> None:
    with pytest.raises(TooLarge, match=str(MAX_PARTS)):
        read_form(KIND, part(head) * (MAX_PARTS + 1) + b"--b--\r\n")


def test_a_field_is_so_long_and_no_longer() -> None:
    assert len(read_form(KIND, part('name="a"', bytes(MAX_TEXT)) + b"--b--\r\n").fields["a"]) == MAX_TEXT
    with pytest.raises(TooLarge, match="4096KB"):
        read_form(KIND, part('name="a"', bytes(MAX_TEXT + 1)) + b"--b--\r\n")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (KIND, part('name="a"')),
        (KIND, part('name="a"') + b"--b"),
        (KIND, part('filename="a"') + b"--b--\r\n"),
        (KIND, b"nonsense"),
        ("multipart/form-data", part('name="a"') + b"--b--\r\n"),
        ("application/x-www-form-urlencoded", b"\xff=1"),
        ("application/json", b"{}"),
    ],
    ids=["no end", "half an end", "no name", "nonsense", "no boundary", "no text", "no form"],
)
def test_a_form_that_is_damaged_is_refused(kind: str, body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_form(kind, body)
