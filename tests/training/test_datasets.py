"""Data sets as people keep them: each written in its own form with another library, found and read back."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.training.datasets.contents import read_image, read_mask, whole_numbers
from medsam2.training.datasets.layouts import LAYOUTS, read_data_set, recognise
from medsam2.training.datasets.scan import DataSet, LabelledScan, ReadOptions
from medsam2.training.datasets.splits import split_by_patient

SHAPE = (6, 20, 24)  # (z, y, x)
AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])


def scan_and_mask(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A CT-like block with two labels, (z, y, x)."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-1000, 300, SHAPE).astype(np.int16)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:5, 4:12, 5:13] = 1
    mask[2:4, 14:18, 15:20] = 2
    return image, mask


def save_nifti(array: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.T, affine), path)
    return path


def save_json(table: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table), encoding="utf-8")


def nnunet_2(root: Path) -> Path:
    for number in range(3):
        image, mask = scan_and_mask(number)
        save_nifti(image, root / "imagesTr" / f"liver_{number:03d}_0000.nii.gz")
        save_nifti(image + 7, root / "imagesTr" / f"liver_{number:03d}_0001.nii.gz")
        save_nifti(mask, root / "labelsTr" / f"liver_{number:03d}.nii.gz")
    table = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "liver": [1, 2], "tumour": 2, "ignore": 3},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    save_json(table, root / "dataset.json")
    return root


def nnunet_1(root: Path) -> Path:
    image, mask = scan_and_mask()
    save_nifti(image, root / "imagesTr" / "la_003_0000.nii.gz")
    save_nifti(mask, root / "labelsTr" / "la_003.nii.gz")
    save_nifti(image, root / "imagesTs" / "la_009_0000.nii.gz")
    save_nifti(mask, root / "labelsTs" / "la_009.nii.gz")
    pair = {"image": "./imagesTr/la_003.nii.gz", "label": "./labelsTr/la_003.nii.gz"}
    labels = {"0": "background", "1": "atrium", "2": "wall"}
    save_json({"modality": {"0": "MRI"}, "labels": labels, "training": [pair]}, root / "dataset.json")
    return root


def decathlon(root: Path) -> Path:
    image, mask = scan_and_mask()
    save_nifti(np.stack([image, image + 7]), root / "imagesTr" / "BRATS_001.nii.gz")
    save_nifti(mask, root / "labelsTr" / "BRATS_001.nii.gz")
    (root / "imagesTr" / "._BRATS_001.nii.gz").write_bytes(b"a Mac was here")
    pairs = [
        {"image": f"./imagesTr/BRATS_{n}.nii.gz", "label": f"./labelsTr/BRATS_{n}.nii.gz"}
        for n in ("001", "002")
    ]
    table = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "enhancing"},
        "training": pairs,
        "test": ["./imagesTs/BRATS_003.nii.gz"],
    }
    save_json(table, root / "dataset.json")
    return root


def datalist(root: Path) -> Path:
    image, mask = scan_and_mask()
    for name in ("a", "b", "c"):
        save_nifti(image, root / "scans" / f"{name}.nii.gz")
        save_nifti(mask, root / "scans" / f"{name}_seg.nii.gz")
    entries = [{"image": f"scans/{n}.nii.gz", "label": f"scans/{n}_seg.nii.gz"} for n in ("a", "b")]
    entries[1]["patient"] = "P2"
    table = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen", "2": "cyst"},
        "training": [*entries, {"image": "scans/unlabelled.nii.gz"}],
        "validation": [{"image": "scans/c.nii.gz", "label": "scans/c_seg.nii.gz"}],
        "testing": [{"image": "scans/d.nii.gz"}],
    }
    save_json(table, root / "dataset_0.json")
    return root


def table(root: Path) -> Path:
    image, mask = scan_and_mask()
    for name in ("a", "b"):
        writer = SimpleITK.GetImageFromArray(image)
        writer.SetSpacing((0.8, 0.8, 2.5))
        mask_image = SimpleITK.GetImageFromArray(mask)
        mask_image.CopyInformation(writer)
        root.mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(writer, str(root / f"{name}.nrrd"))
        SimpleITK.WriteImage(mask_image, str(root / f"{name}.seg.nrrd"))
    with (root / "cases.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Image", "Label", "Patient_ID", "Split", "Modality"])
        writer.writerow(["a.nrrd", "a.seg.nrrd", "P1", "train", "CT"])
        writer.writerow(["b.nrrd", "b.seg.nrrd", "P2", "val", "ct"])
        writer.writerow(["c.nrrd", "", "P3", "", ""])
    return root / "cases.csv"


def pairs(root: Path) -> Path:
    image, mask = scan_and_mask()
    for name in ("p1_a", "p1_b", "p2_a"):
        save_nifti(image, root / "images" / f"{name}.nii.gz")
        save_nifti(mask, root / "labels" / f"{name}.nii")
    save_nifti(image, root / "images" / "p9.nii.gz")
    return root


def monailabel(root: Path) -> Path:
    image, mask = scan_and_mask()
    for name in ("a", "b", "c"):
        save_nifti(image, root / f"{name}.nii.gz")
    save_nifti(mask, root / "labels" / "final" / "a.nii.gz")
    save_nifti(mask, root / "labels" / "final" / "b.nii.gz")
    save_nifti(mask, root / "labels" / "original" / "c.nii.gz")
    return root


def npz(root: Path) -> Path:
    image, mask = scan_and_mask()
    grey = ((image + 1000) / 1300 * 255).astype(np.uint8)
    (root / "deep").mkdir(parents=True)
    np.savez_compressed(
        root / "deep" / "CT_Abd_1.npz", imgs=grey, gts=mask, spacing=np.array([0.8, 0.8, 2.5])
    )
    np.savez(root / "pred.npz", segs=mask)
    return root


def davis(root: Path) -> Path:
    _, mask = scan_and_mask()
    rng = np.random.default_rng(1)
    for video in ("bear", "cows"):
        frames, masks = root / "JPEGImages" / "480p" / video, root / "Annotations" / "480p" / video
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for z, plane in enumerate(mask):
            Image.fromarray(rng.integers(0, 256, (*plane.shape, 3), np.uint8)).save(frames / f"{z:05d}.jpg")
            if video == "bear" or z % 2 == 0:
                picture = Image.fromarray(plane)
                picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
                picture.save(masks / f"{z:05d}.png")
    return root


MAKERS: dict[str, tuple[str, Callable[[Path], Path], ReadOptions]] = {
    "nnU-Net 2": ("nnunet", nnunet_2, ReadOptions(channel="CT")),
    "nnU-Net 1": ("nnunet", nnunet_1, ReadOptions()),
    "decathlon": ("msd", decathlon, ReadOptions(channel="1")),
    "data list": ("monai", datalist, ReadOptions()),
    "table": ("table", table, ReadOptions()),
    "pairs": ("pairs", pairs, ReadOptions()),
    "MONAI Label": ("monailabel", monailabel, ReadOptions()),
    "npz": ("npz", npz, ReadOptions()),
    "DAVIS": ("frames", davis, ReadOptions()),
}


def made(kind: str, root: Path) -> DataSet:
    layout, maker, options = MAKERS[kind]
    path = maker(root)
    assert recognise(path) == layout
    found = read_data_set(path, options=options)
    assert found.layout == layout
    return found


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_is_recognised_and_every_scan_opens(kind: str, tmp_path: Path) -> None:
    found = made(kind, tmp_path / "set")
    _, mask = scan_and_mask()
    assert len({scan.name for scan in found.scans}) == len(found.scans) > 0
    for scan in found.scans:
        image, labels = read_image(scan), read_mask(scan)
        assert image.shape == labels.shape
        planes = slice(None, None, 2) if scan.name == "cows" else slice(None)
        assert np.array_equal(labels.array, mask[planes])
    assert {layout for layout, _, _ in MAKERS.values()} == set(LAYOUTS)


def test_nnunet_channels_labels_and_test_cases(tmp_path: Path) -> None:
    found = made("nnU-Net 2", tmp_path / "v2")
    assert [scan.name for scan in found.scans] == ["liver_000", "liver_001", "liver_002"]
    assert found.scans[0].labels == {1: "liver", 2: "tumour"}, "the smallest region names a value"
    assert found.scans[0].ignored == {3}
    assert found.scans[0].modality == "CT"
    image, _ = scan_and_mask()
    second = read_data_set(tmp_path / "v2", options=ReadOptions(channel="1")).scans[0]
    assert np.array_equal(read_image(second).array, image + 7)
    assert second.modality is None
    with pytest.raises(InputError, match=r"2 channels, 0 \(CT\), 1 \(PET\); choose one by --channel"):
        read_data_set(tmp_path / "v2")
    with pytest.raises(InputError, match="no channel is called 'MR'; there are 0"):
        read_data_set(tmp_path / "v2", options=ReadOptions(channel="MR"))
    first = made("nnU-Net 1", tmp_path / "v1")
    assert [(scan.name, scan.split) for scan in first.scans] == [("la_003", None), ("la_009", "test")]
    assert first.scans[0].modality == "MR"
    (tmp_path / "v1" / "labelsTr" / "la_003.nii.gz").rename(tmp_path / "v1" / "labelsTr" / "other.nii.gz")
    gaps = read_data_set(tmp_path / "v1").gaps
    assert gaps == (
        "other.nii.gz: the case other has no image of channel 0",
        "la_003: no mask in labelsTr",
    )


def test_decathlon_takes_a_frame_and_names_what_is_not_there(tmp_path: Path) -> None:
    found = made("decathlon", tmp_path)
    image, _ = scan_and_mask()
    assert np.array_equal(read_image(found.scans[0]).array, image + 7)
    assert found.scans[0].labels == {1: "edema", 2: "enhancing"}
    assert found.gaps == ("imagesTr/BRATS_002.nii.gz: is listed but not there",)


def test_a_data_list_has_splits_patients_and_folds(tmp_path: Path) -> None:
    found = made("data list", tmp_path)
    assert [(s.name, s.patient, s.split) for s in found.scans] == [
        ("a", "a", "train"), ("b", "P2", "train"), ("c", "c", "validation"),
    ]  # fmt: skip
    assert found.gaps == ("training[2] (scans/unlabelled.nii.gz): has no label",)
    listed = [{"image": f"{n}.nii", "label": f"{n}_seg.nii", "fold": n % 2} for n in range(4)]
    save_json({"training": listed}, tmp_path / "folds" / "list.json")
    path = tmp_path / "folds" / "list.json"
    assert {scan.split for scan in read_data_set(path).scans} == {None}
    folds = read_data_set(path, options=ReadOptions(fold=1, base=tmp_path / "elsewhere"))
    assert [scan.split for scan in folds.scans] == ["train", "validation"] * 2
    assert folds.scans[0].image == tmp_path / "elsewhere" / "0.nii"


def test_a_table_has_its_own_words(tmp_path: Path) -> None:
    found = made("table", tmp_path)
    assert [(s.patient, s.split, s.modality) for s in found.scans] == [
        ("P1", "train", "CT"), ("P2", "validation", "CT"),
    ]  # fmt: skip
    assert found.gaps == ("line 4 (c.nrrd): has no Label",)
    by_split = read_data_set(tmp_path / "cases.csv", options=ReadOptions(patient="Split"))
    assert [scan.patient for scan in by_split.scans] == ["train", "val"]
    by_name = read_data_set(tmp_path / "cases.csv", options=ReadOptions(patient="^(.)"))
    assert [scan.patient for scan in by_name.scans] == ["a", "b"]


def test_patterns_pair_what_their_stars_stand_for(tmp_path: Path) -> None:
    image, mask = scan_and_mask()
    for number in (1, 2):
        save_nifti(image, tmp_path / f"sub{number}" / "anat" / "t1_img.nii.gz")
        save_nifti(mask, tmp_path / f"sub{number}" / "seg" / "t1_lab.nii.gz")
    options = ReadOptions(images="*/anat/*_img.nii.gz", masks="*/seg/*_lab.nii.gz", patient=r"sub\d")
    found = read_data_set(tmp_path, options=options)
    assert found.layout == "pairs"
    assert [(scan.patient, scan.mask.parent.parent.name) for scan in found.scans] == [
        ("sub1", "sub1"), ("sub2", "sub2"),
    ]  # fmt: skip
    assert len({scan.name for scan in found.scans}) == 2
    default = made("pairs", tmp_path / "plain")
    assert default.gaps == ("images/p9.nii.gz: has no mask",)
    (tmp_path / "plain" / "images" / "p9.nii.gz").unlink()
    grouped = read_data_set(tmp_path / "plain", options=ReadOptions(patient=r"(p\d)_"))
    assert [scan.patient for scan in grouped.scans] == ["p1", "p1", "p2"]


def test_monai_label_videos_and_npz_say_what_is_left_out(tmp_path: Path) -> None:
    assert made("MONAI Label", tmp_path / "m").gaps == ("1 images have no mask in labels/final yet",)
    assert made("npz", tmp_path / "n").gaps == ("pred.npz: has no imgs and gts",)
    videos = made("DAVIS", tmp_path / "d")
    assert [scan.name for scan in videos.scans] == ["bear", "cows"]
    assert videos.gaps == ("cows: 3 of 6 frames have a mask, the others are left out",)
    assert read_image(videos.scans[1]).shape == (3, *SHAPE[1:])
    volume = read_image(read_data_set(tmp_path / "n").scans[0])
    assert volume.spacing == (0.8, 0.8, 2.5)
    assert volume.modality == "CT"


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda p: p / "none", ReadOptions(), "no such file or folder"),
        (lambda p: p, ReadOptions(images="*.nii"), "give --images and --masks"),
        (lambda p: p, ReadOptions(images="a.nii", masks="*.nii"), "'a.nii' has no star"),
        (lambda p: p, ReadOptions(images="[ab]*", masks="*.nii"), "has brackets"),
        (lambda p: p, ReadOptions(images="/*", masks="*.nii"), "cannot be used in"),
        (lambda p: p, ReadOptions(images="x*.nii", masks="y*.nii"), "no scan with a mask is here as pairs"),
        (lambda p: p, ReadOptions(patient="("), "the patient '(' is no regular expression"),
        (
            lambda p: p,
            ReadOptions(patient="Q"),
            "the patient 'Q' is not found in imagesTr/la_003_0000.nii.gz",
        ),
    ],
)
def test_refusals(change, options: ReadOptions, sentence: str, tmp_path: Path) -> None:
    root = nnunet_1(tmp_path / "set")
    with pytest.raises(InputError) as refused:
        read_data_set(change(root), options=options)
    assert sentence in str(refused.value)


def test_what_is_not_recognised_names_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UnsupportedFormat) as refused:
        read_data_set(tmp_path)
    assert all(f"{name}: {layout.looked_for}" in str(refused.value) for name, layout in LAYOUTS.items())
    with pytest.raises(InputError, match="no format is called 'coco'; formats are nnunet, msd, "):
        read_data_set(tmp_path, "coco")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("cases.csv", "picture,mask\na,b\n", "no column is called image or img"),
        (
            "cases.csv",
            "image,mask,split\na,b,rest\n",
            "line 2: a split is train, validation, test, not 'rest'",
        ),
        ("cases.csv", "image,mask,modality\na,b,XX\n", "a modality is CT, MR, US, PT, NM or empty, not 'XX'"),
        ("cases.csv", "image,mask\n,b\n", "line 2: has no image"),
        ("dataset.json", '{"channel_names": 3}', "channels are listed as"),
        ("dataset.json", '{"channel_names": {"0": "CT"}, "labels": [1]}', "labels are a JSON object"),
        ("dataset.json", '{"channel_names": {"0": "CT"}, "labels": {"a": 1.5}}', "not whole numbers"),
        (
            "dataset.json",
            '{"modality": "CT", "training": [{"image": 3}]}',
            "training[0] lacks image or label",
        ),
        ("dataset.json", "[1]", "by a JSON object, not by a list"),
        ("dataset.json", "{", "not JSON"),
    ],
)
def test_broken_lists(name: str, content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as refused:
        read_data_set(tmp_path / name if name.endswith("csv") else tmp_path)
    assert sentence in str(refused.value)


def test_files_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    shared = {"name": "a", "image": path, "mask": path, "labels": {}, "patient": "a", "storage": "npz"}
    np.savez(path, imgs=np.zeros((2, 4, 5, 3), np.uint8), gts=np.zeros((2, 4, 5), object))
    with pytest.raises(UnsupportedFormat, match=r"imgs is uint8 of shape \(2, 4, 5, 3\)"):
        read_image(LabelledScan(**shared))
    with pytest.raises(UnsupportedFormat, match="gts is object"):
        read_mask(LabelledScan(**shared))
    header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 1, 1), np.uint8))
    with zipfile.ZipFile(path, "w") as archive, archive.open("imgs.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, {**header, "shape": (900, 900, 900)})
        stream.write(b"few")
    with pytest.raises(
        UnsupportedFormat, match=r"imgs claims the shape \(900, 900, 900\), the file holds less"
    ):
        read_image(LabelledScan(**shared))
    shutil.copyfile(__file__, path)
    with pytest.raises(UnsupportedFormat, match="damaged"):
        read_image(LabelledScan(**shared))
    video = davis(tmp_path / "d")
    Image.new("L", (9, 9)).save(video / "JPEGImages" / "480p" / "bear" / "00003.jpg")
    with pytest.raises(GeometryError, match="frames have different sizes, 9 x 9 and 24 x 20 pixels"):
        read_image(read_data_set(video).scans[0])
    colours = tmp_path / "colours.png"
    Image.new("RGB", (4, 4), (9, 0, 0)).save(colours)
    coloured = LabelledScan(name="a", image=colours, mask=colours, labels={}, patient="a")
    with pytest.raises(UnsupportedFormat, match="the mask is in colour"):
        read_mask(coloured)


def test_whole_numbers() -> None:
    assert whole_numbers(np.full((1, 2, 2), 3.0)).dtype == np.uint16
    assert whole_numbers(np.ones((1, 2, 2), bool)).dtype == np.uint8
    for value, sentence in (
        (0.5, "fractions, for example 0.5"),
        (np.nan, "NaN"),
        (-1.0, "from -1"),
        (7e4, "to 70000"),
    ):
        with pytest.raises(InputError, match=sentence):
            whole_numbers(np.array([[[value]]]))


def scans_of(patients: dict[str, str | None], each: int = 2) -> list[LabelledScan]:
    return [
        LabelledScan(name=f"{p}-{n}", image=Path(p), mask=Path(p), labels={}, patient=p, split=split)
        for p, split in patients.items()
        for n in range(each)
    ]


def test_a_patient_is_never_in_two_splits() -> None:
    scans = scans_of({f"p{number}": None for number in range(10)})
    splits = split_by_patient(scans, (0.6, 0.2, 0.2), seed=4)
    patients = {name: {scan.patient for scan in part} for name, part in splits.items()}
    assert {name: len(part) for name, part in patients.items()} == {"train": 6, "validation": 2, "test": 2}
    assert set.union(*patients.values()) == {f"p{number}" for number in range(10)}
    assert sum(len(part) for part in splits.values()) == len(scans)
    again = split_by_patient(scans[::-1], (0.6, 0.2, 0.2), seed=4)
    assert {name: {s.patient for s in part} for name, part in again.items()} == patients
    others = [split_by_patient(scans, (0.6, 0.2, 0.2), seed=seed) for seed in range(5, 9)]
    assert any({s.patient for s in other["test"]} != patients["test"] for other in others)


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_every_share_gets_a_patient(count: int) -> None:
    splits = split_by_patient(scans_of({f"p{number}": None for number in range(count)}), (0.98, 0.02, 0.0))
    assert [len(part) for part in splits.values()] == [2 * count - 2, 2, 0]


def test_what_the_data_set_says_stays() -> None:
    fixed = scans_of({"a": "test", "b": "validation", "c": None, "d": None})
    splits = split_by_patient(fixed)
    assert {name: sorted({s.patient for s in part}) for name, part in splits.items()} == {
        "train": ["c", "d"], "validation": ["b"], "test": ["a"],
    }  # fmt: skip
    tests_only = split_by_patient(scans_of({"a": "test", "b": None, "c": None}), (0.5, 0.25, 0.25))
    assert [len({s.patient for s in part}) for part in tests_only.values()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("patients", "shares", "sentence"),
    [
        ({"a": None, "b": None}, (0.5, 0.6, 0.0), "sum to 1"),
        ({"a": None, "b": None}, (0.0, 1.0, 0.0), "some to train"),
        ({"a": None, "b": None}, (1.1, -0.1, 0.0), "at least 0"),
        ({"a": None}, (0.8, 0.2, 0.0), "1 patients cannot be shared among 2 splits"),
    ],
)
def test_impossible_splits(
    patients: dict[str, str | None], shares: tuple[float, float, float], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        split_by_patient(scans_of(patients), shares)


def test_a_patient_whom_the_data_set_has_twice_is_named() -> None:
    scans = [*scans_of({"a": "train"}), *scans_of({"a": "test"})]
    with pytest.raises(InputError, match="has the patient 'a' in train and test"):
        split_by_patient(scans)
