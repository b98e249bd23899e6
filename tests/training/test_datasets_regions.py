"""Objects that are made of several values of a mask: nnU-Net's regions, and the same in other lists."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsam2.errors import InputError
from medsam2.training.datasets.checking import CheckLimits, check_scan, check_scans
from medsam2.training.datasets.layouts import read_data_set
from medsam2.training.datasets.prepare import prepare
from medsam2.training.datasets.scan import DataSet, ReadOptions, label_table, layers_of
from medsam2.training.datasets.stacks import PrepareOptions, cut
from medsam2.training.datasets.summary import summarise

LABELS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 5}


def a_mask() -> np.ndarray:
    """Three nested blocks in voxels of 1 ml, (z, y, x): 360, 72 and 16 ml; and one that is not looked at."""
    mask = np.zeros((6, 20, 24), np.uint8)
    mask[:5, 2:14, 4:10] = 1
    mask[1:5, 4:10, 5:8] = 2
    mask[1:5, 5:7, 5:7] = 3
    mask[0, 16:, 16:] = 5
    return mask


def nnunet(root: Path, labels: object = LABELS, mask: np.ndarray | None = None) -> Path:
    """A data set of two cases."""
    mask = a_mask() if mask is None else mask
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for number, case in enumerate("ab"):
        image = np.random.default_rng(number).normal(0, 20, mask.shape) + 40 * mask - 1000 * (mask == 0)
        for voxels, name in ((image.astype(np.int16), f"imagesTr/{case}_0000"), (mask, f"labelsTr/{case}")):
            nib.save(nib.Nifti1Image(voxels.T.copy(), np.diag([10, 10, 10, 1])), root / f"{name}.nii.gz")
    table = {"channel_names": {"0": "CT"}, "labels": labels, "regions_class_order": [1, 2, 3]}
    (root / "dataset.json").write_text(json.dumps(table))
    return root


def test_a_region_is_a_union(tmp_path: Path) -> None:
    data = read_data_set(nnunet(tmp_path / "set"))
    report = summarise(data, list(check_scans(data.scans)))
    assert [(label.name, round(label.volume_ml[1], 6)) for label in report.labels] == [
        ("whole", 360.0), ("core", 72.0), ("enhancing", 16.0),
    ]  # fmt: skip
    assert report.num_errors == 0, report.findings
    stacks = list(cut(data.scans[0], PrepareOptions(smallest_area=1)))
    found = {
        name: int((stack.labels == n).sum()) for stack in stacks for n, name in enumerate(stack.names, 1)
    }
    assert found == {"whole": 360, "core": 72, "enhancing": 16}
    assert sorted(place for stack in stacks for place in stack.objects) == [0, 1, 2]
    assert {stack.num_found for stack in stacks} == {3}


def test_stacks_of_regions(tmp_path: Path) -> None:
    data = read_data_set(nnunet(tmp_path / "set"))
    splits = {"train": data.scans[:1], "validation": data.scans[1:]}
    cases = list(prepare(splits, tmp_path / "stacks", PrepareOptions(smallest_area=1)))
    assert [case.num_left_out for case in cases] == [0, 0]
    for case in cases:
        for file, names in zip(case.files, case.objects, strict=True):
            labels = np.load(tmp_path / "stacks" / file)["labels"]
            sizes = {name: int((labels == number).sum()) for number, name in enumerate(names, 1)}
            assert sizes.items() <= {"whole": 360, "core": 72, "enhancing": 16}.items()


def test_regions_that_do_not_overlap_share_a_stack(tmp_path: Path) -> None:
    data = read_data_set(nnunet(tmp_path, {"background": 0, "b": [2, 3], "a": 1, "ignore": 5}))
    (stack,) = cut(data.scans[0], PrepareOptions(smallest_area=1))
    assert stack.names == ("a", "b")
    assert [int((stack.labels == number).sum()) for number in (1, 2)] == [288, 72]


def test_a_value_of_no_region_is_named(tmp_path: Path) -> None:
    mask = a_mask()
    mask[5, :4, :4] = 7
    data = read_data_set(nnunet(tmp_path, mask=mask))
    (finding,) = (f for f in check_scan(data.scans[0], CheckLimits()).findings if f.code == "label-unknown")
    assert finding.text == ("the mask has 7, the table of labels 1+2+3 (whole), 2+3 (core), 3 (enhancing)")
    plain = read_data_set(tmp_path, options=ReadOptions(labels={1: "one", 2: "two"}))
    assert plain.scans[0].regions == {}, "a person's labels are values"
    assert plain.scans[0].labels == {1: "one", 2: "two"}


@pytest.mark.parametrize("kind", ["msd", "monai", "rows"])
def test_other_lists_have_regions_as_well(kind: str, tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    (root / "dataset.json").unlink()
    pair = {"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"}
    if kind == "rows":
        labels = json.dumps(LABELS).replace('"', '""')
        path = root / "scans.csv"
        path.write_text(
            f'image,mask,kind,patient,labels\n{pair["image"]},{pair["label"]},volume,a,"{labels}"\n'
        )
        data: DataSet = read_data_set(path)
    else:
        table = {"labels": LABELS, "training": [pair], "modality": {"0": "CT"}}
        (root / "dataset.json").write_text(json.dumps(table))
        data = read_data_set(root, layout=kind)
    assert dict(data.scans[0].regions) == {1: {1, 2, 3}, 2: {2, 3}, 3: {3}}
    assert data.scans[0].ignored == {5}


def test_numbers_of_regions_pass_what_is_ignored() -> None:
    table = label_table({"background": 0, "ignore": 2, "whole": [1, 3], "part": 3}, "t")
    assert table.names == {1: "whole", 3: "part"}
    assert table.regions == {1: {1, 3}, 3: {3}}
    first, second = layers_of(np.array([0, 1, 2, 3, 9]), table.regions)
    assert first.tolist() == [0, 1, 0, 1, 0]
    assert second.tolist() == [0, 0, 0, 3, 0]
    plain = label_table({"background": 0, "a": [2], "b": 1}, "t")
    assert (plain.names, plain.regions) == ({1: "b", 2: "a"}, {})
    for wrong, words in (({"a": [0, 1]}, "0 is the background"), ({"a": []}, "not whole numbers")):
        with pytest.raises(InputError, match=words):
            label_table(wrong, "t")
