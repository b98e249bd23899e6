"""Tables of cases in every form, and what is refused before anything runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from medsam2.batch.cases import Case, Row, cases_of, check_meshes, read_rows, stem_of
from medsam2.errors import InputError

ROWS = [
    {"case": "a", "image": "x/a.nii.gz", "name": "liver", "slice": 3, "box": [1, 2, 3, 4], "plane": "axial"},
    {"case": "a", "image": "x/a.nii.gz", "name": "spleen", "slice": 5, "points": [[7, 8, 1], [9, 9, 0]]},
    {"case": "b", "image": "x/b.nrrd", "slice": 2, "mask": "m.nii.gz", "mask_label": 2, "window": [0, 9]},
]
CSV = """case,image,name,slice,box,points,mask,mask_label,window,plane
a,x/a.nii.gz,liver,3,1 2 3 4,,,,,axial
a,x/a.nii.gz,spleen,5,,7 8 1; 9 9 0,,,,
b,x/b.nrrd,,2,,,m.nii.gz,2,0 9,
"""


def write_table(folder: Path, form: str) -> Path:
    path = folder / f"table.{form.partition('-')[0]}"
    if form == "csv":
        path.write_text(CSV, encoding="utf-8")
    elif form == "tsv":
        path.write_text("\n".join("\t".join(line.split(",")) for line in CSV.splitlines()))
    elif form == "json":
        path.write_text(json.dumps(ROWS))
    elif form == "json-cases":
        first, second, third = ROWS
        head = {key: first[key] for key in ("case", "image", "plane")}
        objects = [
            {key: one[key] for key in one if key not in ("case", "image", "plane")} for one in (first, second)
        ]
        path.write_text(json.dumps({"cases": [{**head, "objects": objects}, third]}))
    else:
        pyarrow = pytest.importorskip("pyarrow", reason="needs the extra batch")
        from pyarrow import parquet

        parquet.write_table(
            pyarrow.Table.from_pylist([{**dict.fromkeys(names()), **row} for row in ROWS]), path
        )
    return path


def names() -> list[str]:
    return list(dict.fromkeys(key for row in ROWS for key in row))


def of(*rows: dict[str, object], **options: object) -> list[Case]:
    return cases_of(
        [Row(f"t.csv: row {number}", row) for number, row in enumerate(rows, start=2)],
        folder=Path("data"),
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "json-cases", "parquet"])
def test_every_form_says_the_same(tmp_path: Path, form: str) -> None:
    from medsam2.prompts.files import claim_of

    first, second = cases_of(read_rows(write_table(tmp_path, form)), folder=tmp_path)
    assert (first.name, first.place, first.plane) == ("a", str(tmp_path / "x/a.nii.gz"), "axial")
    assert (second.name, second.image, second.plane) == ("b", "x/b.nrrd", None)
    assert second.mask_places == (str(tmp_path / "m.nii.gz"),)
    claims = [claim_of(row.values, row.where, folder=tmp_path) for row in (*first.rows, *second.rows)]
    assert [claim.name for claim, _ in claims] == ["liver", "spleen", None]
    said = [claim.statements[0] for claim, _ in claims]
    assert said[0].box is not None
    assert said[0].box.xyxy == (1, 2, 3, 4)
    assert [point.is_positive for point in said[1].points] == [True, False]
    assert said[2].mask is not None
    assert (said[2].mask.label, claims[2][1]) == (2, (0, 9))


def test_without_a_key_an_image_is_a_case() -> None:
    box = {"slice": 1, "box": "1 2 3 4"}
    found = of(
        {"image": "p/one.nii.gz", **box}, {"image": "two.nii", **box}, {"image": "p/one.nii.gz", **box}
    )
    assert [(case.name, len(case.rows)) for case in found] == [("one", 2), ("two", 1)]


def test_a_key_of_ones_own_leaves_id_to_objects() -> None:
    rows = [{"patient": 7.0, "image": "a.nii", "id": 3}, {"patient": 7.0, "image": "a.nii", "id": 4}]
    (found,) = of(*rows, key="patient")
    assert found.name == "7"
    assert [row.values for row in found.rows] == [{"id": 3}, {"id": 4}]


def test_urls_and_absolute_names_stay_as_they_are() -> None:
    rows = [{"image": name} for name in ("https://h/a.nii.gz?sig=x/y", "s3://b/b.nii", "/abs/c.nii", "d.nii")]
    found = of(*rows)
    assert [case.place for case in found] == [*(row["image"] for row in rows[:3]), "data/d.nii"]
    assert [case.name for case in found] == ["a", "b", "c", "d"]
    assert found[0].image == "https://h/a.nii.gz"  # a signature is in no result


@pytest.mark.parametrize(
    "name",
    [
        "../up",
        "a/b",
        "a\\b",
        "..",
        ".hidden",
        "",
        "nul\0",
        "C:x",
        "a*",
        "-rf",
        "=1+1",
        "end.",
        "x" * 121,
        "two\nlines",
    ],
    ids=lambda name: ascii(name)[:20],
)
def test_names_that_could_leave_the_folder(name: str) -> None:
    with pytest.raises(InputError, match=r"row 2: the case .* cannot be a file's name"):
        of({"case": name, "image": "a.nii"})


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"case": "A", "image": "1"}, {"case": "a", "image": "2"}],
            ("row 3", "there is another case 'a'", "row 2"),
        ),
        ([{"image": "p/ct.nii"}, {"image": "q/ct.nii"}], ("there is another case 'ct'", "column `case`")),
        ([{"case": "a", "image": "1"}, {"case": "a", "image": "2"}], ("row 3", "image '1' in another row")),
        (
            [{"image": "1", "bax": 3}],
            ("row 2", "no key is called 'bax'", "did you mean 'box'", "for the case"),
        ),
        ([{"image": "1"}, {"slice": 3}], ("row 3: names no image",)),
        ([{"case": "a", "slice": 3}], ("row 2: names no image",)),
        ([{"image": "1", "img": "1"}], ("two columns for its image", "'img'")),
        ([{"image": "1", "plane": "oblique"}], ("axial, coronal, sagittal", "'oblique'")),
        ([{"image": "nul\0"}], ("'nul\\x00' cannot be an image's name",)),
        ([{"image": "1", "frame": "-1"}], ("whole number from 0", "'-1'")),
    ],
)
def test_tables_that_are_refused(rows: list[dict[str, object]], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        of(*rows)
    for word in words:
        assert word in str(caught.value)


def test_a_key_that_is_no_column() -> None:
    with pytest.raises(InputError, match="no row has the column 'patient'; the columns are image, slice"):
        of({"image": "a", "slice": 1}, key="patient")


def test_meshes_do_not_meet() -> None:
    check_meshes(of({"case": "a", "image": "1"}, {"case": "a_b", "image": "2"}))
    with pytest.raises(InputError, match="object 2 of the case 'a' has the file name of the case 'a_2'"):
        check_meshes(of({"case": "a", "image": "1"}, {"case": "a_2", "image": "2"}))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.xlsx", b"PK", "ends in .csv"),
        ("t.json", b"{", "is not JSON"),
        ("t.json", b'{"image": "a"}', "cases are a list"),
        ("t.json", b'[{"image": "a", "image": "b"}]', "stands twice"),
        ("t.json", b"[" * 100_000, "nested too deeply"),
        ("t.json", b"[]", "has no case"),
        ("t.json", b'[{"image": "a", "objects": []}]', "list of objects"),
        ("t.csv", b"", "holds no row"),
        ("t.csv", b"\xff\xfe\x00", "not text in UTF-8"),
        ("t.csv", b"image,image\na,b\n", "same name"),
        ("t.parquet", b"PAR1 not really PAR1", "is not Parquet"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_files_that_are_no_tables(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_rows(tmp_path / name)
    assert words in str(caught.value)
    assert name in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path / "gone.csv")


def test_gaps_of_data_frames_say_nothing(tmp_path: Path) -> None:
    path = write_table(tmp_path, "json")
    path.write_text(json.dumps([{"image": "a", "frame": math.nan, "name": None, "slice": 1}]))
    assert read_rows(path)[0].values == {"image": "a", "slice": 1}


@pytest.mark.parametrize(
    ("image", "stem"),
    [
        ("p/ct.nii.gz", "ct"),
        ("CT.NII.GZ", "CT"),
        ("s.v2.mha", "s.v2"),
        ("series", "series"),
        ("c:\\x\\y.nrrd", "y"),
    ],
)
def test_stems(image: str, stem: str) -> None:
    assert stem_of(image) == stem
