"""Replacing: a file is written whole or not at all."""

import pytest

from medsam2.errors import InputError
from medsam2.imaging.replacing import replacing


def test_the_file_appears_at_the_end_only(tmp_path):
    path = tmp_path / "mask.bin"
    with replacing(path, ".bin") as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path
        assert "mask" not in temporary.name
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "mask.bin"
    path.write_bytes(b"old")

    def write_half():
        with replacing(path, ".bin") as temporary:
            temporary.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "mask.bin", tmp_path / "missing" / "mask.bin", tmp_path / "folder"):
        with (
            pytest.raises(InputError, match="cannot be written") as caught,
            replacing(path, ".x") as temporary,
        ):
            temporary.write_bytes(b"new")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder"]
