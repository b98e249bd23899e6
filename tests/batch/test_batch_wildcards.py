"""Images found by a pattern, and the cases that they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2.batch.storage import find_images
from medsam2.errors import InputError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("p1/s1/ct.nii.gz", "p1/s2/ct.nii.gz", "p2/s1/ct.nii.gz", "a.nii.gz", "b.nii.gz", "c1.nrrd"):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "cases"),
    [
        ("scans/*.nii.gz", ["a", "b"]),
        ("scans/*/*/ct.nii.gz", ["p1_s1", "p1_s2", "p2_s1"]),
        ("scans/p2/*/ct.nii.gz", ["s1"]),
        ("scans/**/*/s2/ct.*.gz", ["p1_nii"]),
        ("scans/[ab].nii.gz", ["a", "b"]),
        ("scans/**/?[0-9].nrrd", ["c1"]),
    ],
)
def test_what_stars_stand_for_is_the_case(tree: Path, pattern: str, cases: list[str]) -> None:
    for found in (find_images(pattern), find_images(f"{tree}/{pattern}")):
        assert sorted(found) == cases
        assert all(Path(path).is_file() for path in found.values())


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("scans/a.nii.gz", "needs a star"),
        ("scans/**/ct.nii.gz", "needs a star"),
        ("scans/*.mha", "matches no file"),
    ],
)
def test_patterns_that_do_not_tell_cases_apart(tree: Path, pattern: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        find_images(pattern)


def test_two_images_of_one_name(tree: Path) -> None:
    with pytest.raises(InputError, match=r"p1/s1/ct.nii.gz and .*p1/s2/ct.nii.gz are both called 'p1'"):
        find_images("scans/*/**/ct.nii.gz")
