"""Headers with something wrong in them: thousands by chance, and those that once got the wrong answer."""

from __future__ import annotations

import struct
from pathlib import Path

import fuzz
import numpy as np
import pytest
from small_files import VOXELS, SmallFile, small_files

from medsam2.errors import GeometryError, UnsupportedFormat
from medsam2.imaging import io

pytest.importorskip("resource", reason="the system cannot limit the memory of a process")
pytest.importorskip("pydicom.encoders", reason="needs the extra dicom")

NUM_CASES = 3000
SEED = 20
FILES = small_files()


@pytest.fixture(scope="module")
def tallies() -> dict[str, fuzz.Tally]:
    return fuzz.run(NUM_CASES, seed=SEED)


@pytest.mark.parametrize("name", FILES)
def test_every_mutated_file_gives_a_volume_or_a_sentence(name: str, tallies: dict[str, fuzz.Tally]) -> None:
    tally = tallies[name]
    assert [str(finding) for finding in tally.findings] == []
    assert tally.outcomes.total() == -(-NUM_CASES // len(FILES))
    # Changes are neither so wild that nothing is ever read nor so tame that all is.
    assert {fuzz.VOLUME, "UnsupportedFormat"} <= tally.outcomes.keys()


@pytest.mark.parametrize("name", FILES)
def test_without_a_change_every_file_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / fuzz.COMPANION).write_bytes(VOXELS.tobytes())
    path = written(FILES[name], FILES[name].content, tmp_path)
    assert fuzz.outcome_of(path) == (fuzz.VOLUME, None)


def test_a_case_is_the_same_each_time() -> None:
    for name, file in FILES.items():
        first, again, other = (fuzz.content_of(file, name, SEED, case) for case in (7, 7, 8))
        assert first == again
        assert first != other


def test_what_is_a_finding_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that ends its reader is told, and those after it are read by the next one."""
    monkeypatch.setattr(fuzz, "work", _work_until_case_two)
    tallies = fuzz.run(5, seed=SEED, formats=["nifti-1"])
    (finding,) = tallies["nifti-1"].findings
    assert str(finding) == "nifti-1 case 2: ends the process by SIGSEGV"
    assert tallies["nifti-1"].outcomes == {fuzz.VOLUME: 4}


def _work_until_case_two(folder: Path, connection: object, place: fuzz.Place) -> None:
    import os
    import signal

    while True:
        try:
            chunk = connection.recv()
        except EOFError:
            return
        for case in range(chunk.start, chunk.stop):
            place.value = case
            if case == 2:
                os.kill(os.getpid(), signal.SIGSEGV)
        tally = fuzz.Tally()
        tally.outcomes[fuzz.VOLUME] = chunk.stop - chunk.start
        connection.send(tally)


def written(file: SmallFile, content: bytes, folder: Path) -> Path:
    path = folder / f"scan{file.suffix}"
    path.write_bytes(file.pack(content))
    return path


def refused(name: str, content: bytes, folder: Path, error: type[Exception] = UnsupportedFormat) -> str:
    """Read what is no longer a file of this format, and return the sentence without the file's name."""
    path = written(FILES[name], content, folder)
    with pytest.raises(error) as caught:
        io.read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.isprintable()
    return text.removeprefix(f"{path}: ")


def changed_element(name: str, tag: tuple[int, int], *, value: bytes, vr: bytes | None = None) -> bytes:
    """Give an element of a DICOM file another value of the same length, or another kind."""
    file = FILES[name]
    start = struct.pack("<HH", *tag)
    element = next(one for one in file.elements if file.content[one.start : one.start + 4] == start)
    content = bytearray(file.content)
    content[element.start + 4 : element.start + 6] = vr or element.vr
    old = element.end - element.value
    content[element.value : element.end] = value.ljust(old)[:old]
    return bytes(content)


@pytest.mark.parametrize("name", ["npz image", "npz spacing"])
@pytest.mark.parametrize(("old", "new"), [(b"}", b" "), (b"'<", b"()")], ids=["no Python", "no type"])
def test_an_npy_header_that_cannot_be_parsed_is_damaged(
    name: str, old: bytes, new: bytes, tmp_path: Path
) -> None:
    content = FILES[name].content.replace(old, new, 1).replace(b"()i2'", b"()   ").replace(b"()f8'", b"()   ")
    assert "is damaged: " in refused(name, content, tmp_path)


def test_an_npy_header_as_long_as_a_book_is_not_quoted(tmp_path: Path) -> None:
    content = FILES["npz image"].content
    header = content[:8] + struct.pack("<H", 60_000) + b"\n'" + b"9" * 60_000 + content[128:]
    assert len(refused("npz image", header, tmp_path)) < 300


def test_a_name_of_voxels_that_no_file_has(tmp_path: Path) -> None:
    content = FILES["mhd"].content.replace(fuzz.COMPANION.encode(), b"voxels\0.raw")
    assert "no file is called so" in refused("mhd", content, tmp_path)


def test_a_metaimage_of_minus_one_dimensions(tmp_path: Path) -> None:
    """ITK's reader ends the process over it."""
    content = FILES["mha"].content.replace(b"NDims = 3", b"NDims = -1")
    assert "the header claims b'-1' dimensions" in refused("mha", content, tmp_path)


def test_packed_pixels_that_claim_more_than_the_file_has(tmp_path: Path) -> None:
    content = bytearray(FILES["dicom rle"].content)
    offsets = content.index(b"\xfe\xff\x00\xe0", FILES["dicom rle"].header_size - 24)
    struct.pack_into("<I", content, offsets + 4, 0xFFFFFFF0)
    assert "damaged or truncated" in refused("dicom rle", bytes(content), tmp_path)


def test_a_dicom_window_that_has_no_width_so_far_from_zero(tmp_path: Path) -> None:
    content = changed_element("dicom", (0x0028, 0x1050), value=b"9e20")  # the centre
    assert io.read(written(FILES["dicom"], content, tmp_path)).window is None


def test_what_a_library_says_of_a_file_is_cut_short(tmp_path: Path) -> None:
    content = bytearray(FILES["dicom zip"].content)
    struct.pack_into("<H", content, 26, 600)  # how long the name is, as it stands before the member
    assert len(refused("dicom zip", bytes(content), tmp_path)) < 300


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"(4, 6, 8)", b"(True, 6)"), (b"'<i2'", b"'|V0'"), (b"'<i2'", b"('<i2', (2,))")],
    ids=["shape", "type without a size", "type with a shape"],
)
def test_an_npy_header_of_no_array(old: bytes, new: bytes, tmp_path: Path) -> None:
    content = FILES["npz image"].content
    header = content[10:128].replace(old, new).rstrip().ljust(117) + b"\n"
    assert "is damaged: no " in refused("npz image", content[:10] + header + content[128:], tmp_path)


def test_a_member_of_an_archive_without_a_name(tmp_path: Path) -> None:
    content = FILES["dicom zip"].content
    place = content.index(b"PK\x01\x02") + 28  # in the directory; what was the name becomes a comment
    nameless = content[:place] + struct.pack("<HHH", 0, 0, 5) + content[place + 6 :]
    assert "would lie outside of it" in refused("dicom zip", nameless, tmp_path)


def test_an_affine_that_becomes_infinite(tmp_path: Path) -> None:
    content = bytearray(FILES["mgh"].content)
    content[30:42] = np.full(3, 3e38, ">f4").tobytes()  # the size of voxels, in mm
    content[42:46] = np.array(3e38, ">f4").tobytes()
    assert "far too large" in refused("mgh", bytes(content), tmp_path, GeometryError)


def test_a_dicom_element_longer_than_the_file(tmp_path: Path) -> None:
    content = bytearray(FILES["dicom"].content)
    content[144 + 2 : 144 + 4] = b"OB"  # in the group that is read first, so that 4 GiB are asked for
    struct.pack_into("<I", content, 144 + 8, 0xFFFFFFF0)
    refused("dicom", bytes(content), tmp_path)


def test_a_dicom_element_of_another_kind(tmp_path: Path) -> None:
    content = changed_element("dicom", (0x0028, 0x0010), value=b"\x06\0", vr=b"FL")
    assert refused("dicom", content, tmp_path) == "Rows (0028,0010) is no whole number"


def test_damaged_texts_of_dicom_can_stand_in_a_sentence(tmp_path: Path) -> None:
    content = changed_element("dicom", (0x0028, 0x0004), value=b"MONO\0\r\n2")
    assert "?" in refused("dicom", content, tmp_path)


def test_a_position_of_four_numbers_is_none(tmp_path: Path) -> None:
    content = changed_element("dicom enhanced", (0x0020, 0x0032), value=b"1\\2\\3\\4")
    said = refused("dicom enhanced", content, tmp_path)
    assert said == "ImagePositionPatient (0020,0032) is '1\\2\\3\\4', where 3 numbers must be"
