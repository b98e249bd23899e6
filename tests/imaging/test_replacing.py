"""Replacing: a file is written whole or not at all."""

import pytest

from medsam2.errors import InputError
from medsam2.imaging.io import check_output
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


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "real.bin", tmp_path / "link.bin"
    target.write_bytes(b"old")
    for to in (target, "store/real.bin"):
        link.unlink(missing_ok=True)
        link.symlink_to(to)
        with replacing(link, ".bin") as temporary:
            temporary.write_bytes(b"new")
            assert temporary.parent == target.parent
        assert link.is_symlink()
        assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_link_to_nothing_makes_its_target_or_says_that_it_cannot(tmp_path):
    link = tmp_path / "link.bin"
    link.symlink_to(tmp_path / "new.bin")
    with replacing(link, ".bin") as temporary:
        temporary.write_bytes(b"new")
    assert (link.is_symlink(), (tmp_path / "new.bin").read_bytes()) == (True, b"new")
    lost = tmp_path / "lost.bin"
    lost.symlink_to(tmp_path / "missing" / "new.bin")
    with pytest.raises(InputError, match=r"there is no folder .*missing"):
        check_output(lost)
