"""Masks as other programs save them come back as labels on the scan's grid, with their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.drawings import read_drawing
from medsam2.imaging.io import read
from medsam2.imaging.outputs.segments import Segment
from medsam2.imaging.outputs.write import write_labels
from medsam2.imaging.volume import Volume

SPACING, OBLIQUE = (0.5, 0.75, 2.0), (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def scan() -> Volume:
    return Volume.from_array(np.zeros((7, 22, 30), np.int16), SPACING, (-10.0, 20.0, 30.0), OBLIQUE)


@pytest.fixture
def truth() -> np.ndarray:
    labels = np.zeros((7, 22, 30), np.uint8)
    labels[2:5, 5:15, 6:20] = 1
    labels[3, 8:11, 9:12] = 0  # a hole
    labels[3, 9, 10] = 1  # and something in it
    labels[1:4, 16:21, 22:29] = 2
    return labels


def save(array: np.ndarray, path: Path, *, offset=(0, 0, 0), texts=(), is_vector=False) -> None:
    """Write with SimpleITK, cut out at an offset (x, y, z) of the scan's grid."""
    image = SimpleITK.GetImageFromArray(array, isVector=is_vector)
    image.SetSpacing(SPACING)
    image.SetDirection(OBLIQUE)
    image.SetOrigin((-10.0, 20.0, 30.0))
    image.SetOrigin(image.TransformIndexToPhysicalPoint(offset))
    for key, value in dict(texts).items():
        image.SetMetaData(key, value)
    SimpleITK.WriteImage(image, str(path), useCompression=True)


def test_a_cropped_segmentation_is_put_in_its_place(scan, truth, tmp_path):
    crop = truth[1:5, 5:21, 6:29]
    names = {"Segment0_ID": "a", "Segment0_Name": "Leber", "Segment0_LabelValue": "1", "Segment0_Layer": "0"}
    names |= {"Segment1_ID": "b", "Segment1_Name": "cyst 2", "Segment1_LabelValue": "2"}
    save(crop, tmp_path / "m.seg.nrrd", offset=(6, 5, 1), texts=names)
    save(np.flip(crop, (0, 1)).copy(), tmp_path / "plain.nrrd", offset=(6, 5, 1))  # another drawing
    drawing = read_drawing(tmp_path / "m.seg.nrrd", scan)
    np.testing.assert_array_equal(drawing.stack(), truth)
    assert [label.title for label in drawing.labels] == ["1 (Leber)", "2 (cyst 2)"]
    assert [label.number for label in drawing.chosen(["cyst 2"])] == [2]
    assert [label.number for label in drawing.chosen(["2", "Leber"])] == [1, 2]
    with pytest.raises(InputError, match=r"no label 'Milz'; its labels are 1 \(Leber\), 2 \(cyst 2\)"):
        drawing.chosen(["Milz"])
    assert not np.array_equal(read_drawing(tmp_path / "plain.nrrd", scan).stack(), truth)


@pytest.mark.parametrize("offset", [(7, 5, 1), (6, -1, 1), (6, 5, 4)])
def test_a_part_that_reaches_beyond_the_scan_is_refused(scan, truth, tmp_path, offset):
    save(np.ones((4, 16, 24), np.uint8), tmp_path / "m.nrrd", offset=offset)
    with pytest.raises(GeometryError, match=r"m\.nrrd: the mask has .* reaches beyond the image"):
        read_drawing(tmp_path / "m.nrrd", scan)


def test_overlapping_segments_lie_in_layers(scan, tmp_path):
    layers = np.zeros((7, 22, 30, 2), np.uint8)
    layers[2:5, 5:15, 6:20, 0] = 1
    layers[3:6, 8:18, 9:25, 1] = 1
    texts = {
        f"Segment{index}_{key}": value
        for index, name in enumerate(("organ", "lesion"))
        for key, value in (("ID", name), ("Name", name), ("LabelValue", "1"), ("Layer", str(index)))
    }
    save(layers, tmp_path / "m.seg.nrrd", texts=texts, is_vector=True)
    drawing = read_drawing(tmp_path / "m.seg.nrrd", scan)
    for index, label in enumerate(drawing.labels):
        assert (label.number, label.name) == (index + 1, ("organ", "lesion")[index])
        np.testing.assert_array_equal(drawing.mask(label), layers[..., index] == 1)
    with pytest.raises(InputError, match="overlap, in 2 layers"):
        drawing.stack()


def test_labels_that_are_nearly_whole_are(scan, truth, tmp_path):
    save(truth.astype(np.float32) * np.float32(1.0004), tmp_path / "m.nrrd")
    np.testing.assert_array_equal(read_drawing(tmp_path / "m.nrrd", scan).stack(), truth)
    for odd in (1.2, np.nan):
        wrong = truth.astype(np.float32)
        wrong[0, 0, 0] = odd
        save(wrong, tmp_path / "m.nrrd")
        with pytest.raises(InputError, match=r"holds the value (1\.2|nan); labels are whole numbers"):
            read_drawing(tmp_path / "m.nrrd", scan)


def test_our_own_names_come_back(scan, truth, tmp_path):
    labels = scan.with_array(truth)
    write_labels(labels, tmp_path / "m.seg.nrrd", names={1: "liver lesion", 2: Segment(name="größe")})
    drawing = read_drawing(tmp_path / "m.seg.nrrd", scan)
    assert [label.name for label in drawing.labels] == ["liver lesion", "größe"]
    np.testing.assert_array_equal(drawing.stack(), truth)


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_what_is_written_as_dicom_comes_back(dicom_series, truth, tmp_path, kind, order):
    pytest.importorskip("highdicom")
    place = {
        "FrameOfReferenceUID": "1.2.9", "StudyInstanceUID": "1.2.8", "StudyDate": "", "StudyTime": "",
        "StudyID": "", "AccessionNumber": "", "ReferringPhysicianName": "", "PatientBirthDate": "",
        "PatientSex": "", "Manufacturer": "", "PositionReferenceIndicator": "",
    }  # fmt: skip
    dicom_series(tmp_path / "ct", np.arange(truth.size).reshape(truth.shape).astype(np.int16), **place)
    scan = read(tmp_path / "ct")
    names = {1: "liver", 2: "größe"}
    write_labels(scan.with_array(truth), tmp_path / "m.dcm", kind=kind, source=tmp_path / "ct", names=names)
    turn = np.eye(4)
    turn[:3, :3] = np.eye(3)[:, order]
    turned = Volume(scan.array.T.transpose(order).T, scan.affine @ turn)
    drawing = read_drawing(tmp_path / "m.dcm", turned)
    np.testing.assert_array_equal(drawing.stack(), truth.T.transpose(order).T)
    assert [label.name for label in drawing.labels] == ["liver", "größe"]
    elsewhere = np.array(scan.affine)
    elsewhere[:3, 3] += (0, 0, 1.1)
    with pytest.raises(GeometryError, match=r"m\.dcm: its .* do not lie on slices of the image"):
        read_drawing(tmp_path / "m.dcm", Volume(scan.array, elsewhere))


def test_overlapping_segments_of_another_program(dicom_series, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    from pydicom import dcmread
    from pydicom.sr.codedict import codes

    blank = dict.fromkeys(
        ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "PatientBirthDate", "PatientSex"), ""
    )
    uids = {"FrameOfReferenceUID": "1.2.9", "StudyInstanceUID": "1.2.8"}
    files = dicom_series(tmp_path / "ct", np.zeros((5, 12, 14), np.int16), **blank, **uids)
    scan = read(tmp_path / "ct")
    sources = sorted((dcmread(file) for file in files), key=lambda one: one.ImagePositionPatient[2])
    masks = np.zeros((5, 12, 14, 2), np.uint8)
    masks[1:4, 3:9, 2:8, 0] = 1
    masks[2:4, 5:11, 5:12, 1] = 1
    described = [
        highdicom.seg.SegmentDescription(number, name, codes.SCT.Organ, codes.SCT.Liver, "MANUAL")
        for number, name in ((1, "organ"), (2, "lesion"))
    ]
    highdicom.seg.Segmentation(
        sources, masks, "BINARY", described, highdicom.UID(), 1, highdicom.UID(), 1, "m", "m", "1", "1"
    ).save_as(tmp_path / "seg.dcm")
    drawing = read_drawing(tmp_path / "seg.dcm", scan)
    assert [label.title for label in drawing.labels] == ["1 (organ)", "2 (lesion)"]
    for index, label in enumerate(drawing.labels):
        np.testing.assert_array_equal(drawing.mask(label), masks[..., index] == 1)
