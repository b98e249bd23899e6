"""Labels written by the file's name or by a kind's, read back by SimpleITK and numpy."""

import numpy as np
import pytest
import SimpleITK

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging.outputs.segments import Code, Segment, as_labels, find_objects
from medsam2.imaging.outputs.write import SUFFIXES, check_labels_output, kind_of, write_labels
from medsam2.imaging.volume import Volume

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
LIVER = Segment(
    name="Leber größe",
    color_rgb=(221, 130, 101),
    category=Code("123037004", "SCT", "Anatomical Structure"),
    type=Code("10200004", "SCT", "Liver"),
)


def labels(dtype=np.uint8):
    array = np.zeros((5, 6, 8), dtype)
    array[1:4, 2:5, 3:7] = 1
    array[4, 5, 0] = 3
    return Volume.from_array(array, (0.5, 0.75, 2.0), (-10.0, 20.0, 30.0), OBLIQUE)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.nii.gz", "nifti"),
        ("a.NII", "nifti"),
        ("a.seg.nrrd", "seg.nrrd"),
        ("a.nrrd", "nrrd"),
        ("a.mha", "mha"),
        ("a.dcm", "dicom-seg"),
        ("a.stl", "stl"),
        ("a.npz", "npz"),
    ],
)
def test_the_name_says_the_kind(name, kind):
    assert kind_of(name) == kind
    assert kind_of(name, kind) == kind


def test_names_and_kinds_that_do_not_fit():
    with pytest.raises(
        UnsupportedFormat, match=r"a\.png: labels are not written with this suffix; \.nii\.gz,"
    ):
        kind_of("a.png")
    with pytest.raises(InputError, match=r"labels are written as nifti, .* not as 'dicom'"):
        kind_of("a.dcm", "dicom")
    with pytest.raises(UnsupportedFormat, match=r"a\.dcm: a nifti file ends in \.nii\.gz or \.nii"):
        kind_of("a.dcm", "nifti")
    assert kind_of("a.dcm", "rtstruct") == "rtstruct"


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii", "mask.nrrd", "mask.mha", "mask.seg.nrrd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_images_lie_on_the_labels_grid(name, dtype, tmp_path):
    volume = labels(dtype)
    assert write_labels(volume, tmp_path / name) == (tmp_path / name,)
    image = SimpleITK.ReadImage(str(tmp_path / name))
    assert image.GetPixelID() == SimpleITK.sitkUInt8
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), volume.array)
    assert image.GetSpacing() == pytest.approx(volume.spacing, abs=1e-5)
    assert image.GetOrigin() == pytest.approx(volume.origin, abs=1e-5)
    assert image.GetDirection() == pytest.approx(volume.direction, abs=1e-6)


def test_many_objects_need_more_bits(tmp_path):
    volume = labels(np.int32)
    volume.array[0, 0, 0] = 300
    write_labels(volume, tmp_path / "mask.nrrd")
    image = SimpleITK.ReadImage(str(tmp_path / "mask.nrrd"))
    assert image.GetPixelID() == SimpleITK.sitkUInt16
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), volume.array)


def test_a_segmentation_says_what_3d_slicer_asks(tmp_path):
    path = tmp_path / "mask.seg.nrrd"
    write_labels(labels(), path, names={1: LIVER, 2: "not found"})
    image = SimpleITK.ReadImage(str(path))
    header = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert header["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert header["Segmentation_SourceRepresentation"] == "Binary labelmap"
    assert header["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    assert header["NRRD_space"] == "left-posterior-superior"
    expected = {
        "Segment0_ID": "Segment_1",
        "Segment0_Name": "Leber größe",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment0_Extent": "3 6 2 4 1 3",
        "Segment1_Name": "not found",
        "Segment1_LabelValue": "2",
        "Segment1_Extent": "0 -1 0 -1 0 -1",
        "Segment2_Name": "object 3",
        "Segment2_LabelValue": "3",
        "Segment2_Extent": "0 0 5 5 4 4",
    }
    assert {key: header[key] for key in expected} == expected
    assert "Segment3_ID" not in header
    color = [float(part) for part in header["Segment0_Color"].split()]
    assert color == pytest.approx([221 / 255, 130 / 255, 101 / 255], abs=1e-5)
    assert header["Segment1_Color"] != header["Segment2_Color"]
    assert "~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~" in header["Segment0_Tags"]
    assert "~SCT^85756007^Tissue~SCT^85756007^Tissue~" in header["Segment1_Tags"]


def test_segmentations_and_images_may_hold_nothing(tmp_path):
    empty = labels().with_array(np.zeros((5, 6, 8), bool))
    for name in ("mask.seg.nrrd", "mask.nii.gz", "mask.mha"):
        write_labels(empty, tmp_path / name)
        assert not SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / name))).any()


def test_npz_has_the_keys_of_the_challenges_and_no_pickles(tmp_path):
    volume = labels(np.int64)
    write_labels(volume, tmp_path / "mask.npz")
    with np.load(tmp_path / "mask.npz", allow_pickle=False) as content:
        assert set(content) == {"segs", "spacing"}
        assert content["segs"].dtype == np.uint8
        assert np.array_equal(content["segs"], volume.array)
        assert content["spacing"].tolist() == list(volume.spacing)
    write_labels(volume, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "mask.npz").read_bytes()


def test_what_is_no_label(tmp_path):
    with pytest.raises(InputError, match="labels are whole numbers, this volume holds float32"):
        write_labels(labels(np.float32), tmp_path / "mask.nii.gz")
    volume = labels(np.int32)
    for value in (-1, 65536):
        volume.array[0, 0, 0] = value
        with pytest.raises(InputError, match=f"labels are 0 to 65535, this volume has .*{value}"):
            write_labels(volume, tmp_path / "mask.nii.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("", "object 1"),
        ("  ", "object 1"),
        ("\0", "object 1"),
        ("a\\b", "a\\b"),
        ("two\nlines", "two lines"),
        ("tab\t", "tab"),
        ("x" * 400, "x" * 400),
        ("größe 大", "größe 大"),
    ],
)
def test_no_name_costs_the_mask(name, line, tmp_path):
    write_labels(labels(), tmp_path / "mask.seg.nrrd", names={1: name})
    image = SimpleITK.ReadImage(tmp_path / "mask.seg.nrrd")
    assert image.GetMetaData("Segment0_Name") == line
    assert image.GetMetaData("Segment1_Name") == "object 3"
    write_labels(labels(), tmp_path / "mask.nii.gz", names={1: name})
    assert np.array_equal(
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "mask.nii.gz")), labels().array
    )


def test_numbers_and_colours_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="objects are numbered 1 to 65535, none can be 0, named 'nothing'"):
        write_labels(labels(), tmp_path / "mask.seg.nrrd", names={0: "nothing"})
    with pytest.raises(InputError, match="a colour is three numbers from 0 to 255"):
        Segment(name="liver", color_rgb=(0, 0, 256))


@pytest.mark.parametrize("parts", [("", "SCT", "x"), ("1" * 17, "SCT", "x"), ("1", "SCT", "two\nlines")])
def test_codes_that_dicom_cannot_hold(parts):
    with pytest.raises(InputError, match="a code's value and scheme are 1 to 16 and its meaning 1 to 64"):
        Code(*parts)


def test_places_and_sources_are_refused_before_the_work(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        check_labels_output(tmp_path / "missing" / "mask.stl", None, None)
    for kind in ("dicom-seg", "rtstruct"):
        with pytest.raises(InputError, match=f"{kind} refers to the DICOM series .* give it as source"):
            write_labels(labels(), tmp_path / "mask.dcm", kind=kind)
    check_labels_output(tmp_path / "mask.dcm", "rtstruct", tmp_path)


def test_every_kind_is_known_by_its_usual_ending():
    for kind, suffixes in SUFFIXES.items():
        assert kind_of(f"a{suffixes[0]}", kind) == kind


def test_objects_are_listed_with_their_boxes():
    first, named, last = find_objects(as_labels(labels(np.int16)), {2: "named"})
    assert (first.label, first.name, first.box) == (1, "object 1", (slice(1, 4), slice(2, 5), slice(3, 7)))
    assert (named.label, named.name, named.box) == (2, "named", None)
    assert (last.label, last.box) == (3, (slice(4, 5), slice(5, 6), slice(0, 1)))
