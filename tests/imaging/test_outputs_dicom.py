"""DICOM segmentations and structure sets of series made here, judged by highdicom, SimpleITK and dciodvfy."""

import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)
from skimage.draw import polygon

from medsam2.errors import GeometryError, InputError
from medsam2.imaging import io
from medsam2.imaging.dicom.read import read_dicom, series_files
from medsam2.imaging.outputs.segments import Code, Segment
from medsam2.imaging.outputs.write import write_labels
from medsam2.imaging.volume import Volume

LIVER = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ct_dcmqi_liver"

NUM_SLICES, ROWS, COLUMNS = 7, 22, 30
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)
UPRIGHT = {AXIAL: (0.0, 0.0, 2.5), CORONAL: (0.0, 2.5, 0.0), OBLIQUE: (0.0, 0.0, 2.5)}
KINDS = ("dicom-seg", "rtstruct")


def write_series(folder, *, orientation=AXIAL, step=None, series=None, changes=()):
    """Write a CT with all a scanner would say of its patient, its files in no order; give its volume."""
    step = np.array(UPRIGHT[orientation] if step is None else step)
    study, series, frame = generate_uid(), series or generate_uid(), generate_uid()
    for index in np.random.default_rng(1).permutation(NUM_SLICES):
        file = pydicom.Dataset()
        file.SpecificCharacterSet = "ISO_IR 100"
        file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, generate_uid()
        file.StudyInstanceUID, file.SeriesInstanceUID, file.FrameOfReferenceUID = study, series, frame
        file.PatientName, file.PatientID, file.PatientBirthDate = "Müller^Jörg", "P-77", "19500203"
        file.PatientSex, file.PatientAge, file.PatientAddress = "M", "060Y", "Secret Street 5"
        file.StudyDate, file.StudyTime, file.StudyID, file.AccessionNumber = "20200102", "101112", "S1", "A1"
        file.ReferringPhysicianName, file.OperatorsName = "House^Gregory", "Secret^Operator"
        file.ProtocolName, file.ImageComments = "secret protocol", "secret comment"
        file.Modality, file.Manufacturer, file.InstanceNumber = "CT", "Maker", int(index) + 1
        file.PositionReferenceIndicator = ""
        file.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        file.ImageOrientationPatient = list(orientation)
        file.ImagePositionPatient = [float(value) for value in (-50.25, 30.5, 100.0) + index * step]
        file.PixelSpacing, file.SliceThickness = [0.75, 0.5], 2.5
        file.Rows, file.Columns = ROWS, COLUMNS
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit, file.PixelRepresentation = 15, 1
        file.RescaleIntercept, file.RescaleSlope, file.KVP, file.AcquisitionNumber = 0, 1, 120, 1
        file.PixelData = np.full((ROWS, COLUMNS), index, np.int16).tobytes()
        file.file_meta = pydicom.dataset.FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for keyword, value in dict(changes).items():
            if value is None:
                delattr(file, keyword)
            else:
                setattr(file, keyword, value)
        file.save_as(folder / f"{file.SOPInstanceUID[-9:]}.dcm", enforce_file_format=True)
    return read_dicom(folder) if not changes else None


def as_one_file(folder):
    """The series of a folder as one file of several frames, which highdicom makes."""
    files = [pydicom.dcmread(file) for file in (folder / "series").iterdir()]
    converted = highdicom.legacy.LegacyConvertedEnhancedCTImage(files, generate_uid(), 1, generate_uid(), 1)
    converted.save_as(folder / "enhanced.dcm")
    return folder / "enhanced.dcm"


def drawn(volume):
    """Labels 1 and 4 on some of the slices, unlike in every axis, with a hole."""
    array = np.zeros(volume.shape, np.uint8)
    array[1:5, 3:15, 4:21] = 1
    array[2:4, 6:10, 7:13] = 0
    array[3:6, 16:20, 22:28] = 4
    array[2, 0, 0] = 4
    return volume.with_array(array)


def place(volume, label):
    """LPS mm of the voxels of a label, sorted."""
    z, y, x = np.nonzero(volume.array == label)
    ras = np.stack((x, y, z, np.ones_like(x))).T @ volume.affine.T
    return np.unique(np.round(ras[:, :3] * (-1, -1, 1), 2) + 0.0, axis=0)


def frames_of(path):
    """The voxels of each segment in LPS mm, sorted, as SimpleITK unpacks them and the frames say."""
    segmentation = pydicom.dcmread(path)
    pixels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    row_mm, column_mm = shared.PixelMeasuresSequence[0].PixelSpacing
    turn = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    found = {}
    for frame, group in zip(pixels, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        rows, columns = np.nonzero(frame)
        assert rows.size  # empty frames are left out
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        places = corner + columns[:, None] * column_mm * turn[0] + rows[:, None] * row_mm * turn[1]
        found.setdefault(number, []).append(places)
    return {n: np.unique(np.round(np.concatenate(one), 2) + 0.0, axis=0) for n, one in found.items()}


@pytest.mark.parametrize("orientation", UPRIGHT, ids=["axial", "coronal", "oblique"])
def test_a_segmentation_is_the_mask_voxel_for_voxel(orientation, tmp_path):
    (tmp_path / "series").mkdir()
    labels = drawn(write_series(tmp_path / "series", orientation=orientation))
    (path,) = write_labels(labels, tmp_path / "seg.dcm", names={1: "liver"}, source=tmp_path / "series")

    segmentation = highdicom.seg.segread(path)
    assert segmentation.SegmentationType == "BINARY"
    assert segmentation.NumberOfFrames == 4 + 4
    assert [one.SegmentLabel for one in segmentation.SegmentSequence] == ["liver", "object 4"]
    # Through NIfTI the other way, compared where the patient is and not in any array's order.
    write_labels(labels, tmp_path / "mask.nii.gz")
    nifti = io.read(tmp_path / "mask.nii.gz")
    theirs = segmentation.get_volume(combine_segments=True)
    k, r, c = np.nonzero(theirs.array == 1)
    by_highdicom = np.stack((k, r, c, np.ones_like(k))).T @ theirs.affine.T
    by_highdicom = np.unique(np.round(by_highdicom[:, :3], 2) + 0.0, axis=0)
    np.testing.assert_allclose(by_highdicom, place(nifti, 1), atol=0.02)
    for number, label in ((1, 1), (2, 4)):
        np.testing.assert_allclose(frames_of(path)[number], place(nifti, label), atol=0.02)


def test_one_object_has_its_grid_in_simpleitk_too(tmp_path):
    (tmp_path / "series").mkdir()
    volume = write_series(tmp_path / "series")
    labels = volume.with_array(np.where(drawn(volume).array == 1, 1, 0))
    write_labels(labels, tmp_path / "seg.dcm", source=tmp_path / "series")
    image = SimpleITK.ReadImage(str(tmp_path / "seg.dcm"))
    array = SimpleITK.GetArrayFromImage(image)
    places = [image.TransformIndexToPhysicalPoint(index[::-1]) for index in np.argwhere(array).tolist()]
    np.testing.assert_allclose(np.unique(np.round(places, 2) + 0.0, axis=0), place(labels, 1), atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_may_be_mirrored_turned_and_of_a_few_slices(kind, tmp_path):
    (tmp_path / "series").mkdir()
    labels = drawn(write_series(tmp_path / "series"))
    affine = np.array(labels.affine)
    affine[:3, 3] += affine[:3, 2]  # begins at slice 1
    # Rows from below and the patient's left and right swapped, as converters to NIfTI like to do.
    turned = labels.array[1:6, ::-1, ::-1].transpose(2, 0, 1)  # now x is the row, y the slice, z the column
    flip = np.array([[0, 0, -1, COLUMNS - 1], [-1, 0, 0, ROWS - 1], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    other = Volume(np.ascontiguousarray(turned), affine @ flip)
    np.testing.assert_allclose(place(other, 4), place(labels, 4), atol=0.02)
    paths = [tmp_path / name for name in ("plain.dcm", "turned.dcm")]
    for path, volume in zip(paths, (labels, other), strict=True):
        write_labels(volume, path, kind=kind, source=tmp_path / "series")
    plain, again = (pydicom.dcmread(path) for path in paths)
    if kind == "rtstruct":
        assert [str(c.ContourData) for c in contours(plain)] == [str(c.ContourData) for c in contours(again)]
    else:
        assert plain.PixelData == again.PixelData
        assert [position(g) for g in plain.PerFrameFunctionalGroupsSequence] == [
            position(g) for g in again.PerFrameFunctionalGroupsSequence
        ]


def position(group):
    return list(group.PlanePositionSequence[0].ImagePositionPatient)


def contours(structures):
    return [contour for roi in structures.ROIContourSequence for contour in roi.ContourSequence]


def test_a_tilted_gantry_keeps_its_tilt(tmp_path):
    (tmp_path / "series").mkdir()
    with pytest.warns(UserWarning, match="the gantry was tilted by 14.0 degrees"):
        labels = drawn(write_series(tmp_path / "series", step=(0.0, 0.6, 2.4)))
    write_labels(labels, tmp_path / "seg.dcm", source=tmp_path / "series")
    np.testing.assert_allclose(frames_of(tmp_path / "seg.dcm")[1], place(labels, 1), atol=0.02)


def test_files_and_datasets_do_as_well_as_a_folder(tmp_path):
    (tmp_path / "series").mkdir()
    labels = drawn(write_series(tmp_path / "series"))
    files = sorted((tmp_path / "series").iterdir())
    results = []
    for source in (files, [pydicom.dcmread(file) for file in files]):
        write_labels(labels, tmp_path / "seg.dcm", source=source)
        results.append(frames_of(tmp_path / "seg.dcm")[2])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_of_several_frames_is_a_series_too(kind, tmp_path):
    (tmp_path / "series").mkdir()
    labels = drawn(write_series(tmp_path / "series"))
    source = as_one_file(tmp_path)
    write_labels(labels, tmp_path / "out.dcm", kind=kind, source=source)
    if kind == "dicom-seg":
        found = frames_of(tmp_path / "out.dcm")
        np.testing.assert_allclose(found[1], place(labels, 1), atol=0.02)
        np.testing.assert_allclose(found[2], place(labels, 4), atol=0.02)
        return
    write_labels(labels, tmp_path / "single.dcm", kind=kind, source=tmp_path / "series")
    ours, single = (pydicom.dcmread(tmp_path / name) for name in ("out.dcm", "single.dcm"))
    assert [str(c.ContourData) for c in contours(ours)] == [str(c.ContourData) for c in contours(single)]
    enhanced = pydicom.dcmread(source)
    frames = [group.PlanePositionSequence[0] for group in enhanced.PerFrameFunctionalGroupsSequence]
    for contour in contours(ours):
        reference = contour.ContourImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == enhanced.SOPInstanceUID
        height = frames[reference.ReferencedFrameNumber - 1].ImagePositionPatient[2]
        assert float(contour.ContourData[2]) == pytest.approx(height)


def test_a_scanner_may_write_the_grid_for_each_frame(tmp_path):
    (tmp_path / "series").mkdir()
    labels = drawn(write_series(tmp_path / "series"))
    enhanced = pydicom.dcmread(as_one_file(tmp_path))
    shared = enhanced.SharedFunctionalGroupsSequence[0]
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        for group in enhanced.PerFrameFunctionalGroupsSequence:
            group.add(shared[keyword])
        delattr(shared, keyword)
    write_labels(labels, tmp_path / "seg.dcm", source=[enhanced])
    np.testing.assert_allclose(frames_of(tmp_path / "seg.dcm")[1], place(labels, 1), atol=0.02)
    assert "PixelMeasuresSequence" not in shared  # the caller's data stay as they are


@pytest.mark.parametrize("wrong", ["5", "-2.5", None])
@pytest.mark.parametrize("is_one_file", [False, True], ids=["files", "frames"])
def test_the_distance_of_slices_is_that_of_their_places(wrong, is_one_file, tmp_path):
    (tmp_path / "series").mkdir()
    write_series(tmp_path / "series", changes={} if wrong is None else {"SpacingBetweenSlices": wrong})
    source = tmp_path / "series"
    if is_one_file:
        source = as_one_file(tmp_path)
        enhanced = pydicom.dcmread(source)
        if wrong is not None:
            shared = enhanced.SharedFunctionalGroupsSequence[0]
            shared.PixelMeasuresSequence[0].SpacingBetweenSlices = wrong
        enhanced.save_as(source)
    labels = drawn(read_dicom(source))
    affine = np.array(labels.affine)
    affine[:3, 3] += 2 * affine[:3, 2]
    for number, part in enumerate((labels, Volume(labels.array[2:3], affine))):
        path = tmp_path / f"{number}.dcm"
        write_labels(part, path, source=source)
        measures = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert float(measures.SpacingBetweenSlices) == pytest.approx(2.5)


def test_the_segmentation_names_its_algorithm_codes_and_sources(tmp_path):
    (tmp_path / "series").mkdir()
    labels = drawn(write_series(tmp_path / "series"))
    lesion = Segment(name="Läsion", category=Code("49755003", "SCT", "Morphologically Abnormal Structure"))
    write_labels(
        labels, tmp_path / "seg.dcm", names={4: lesion}, source=tmp_path / "series", weights="compact"
    )
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    first, last = segmentation.SegmentSequence
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Tissue"
    assert last.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert last.SegmentLabel == "Läsion"
    assert first.SegmentAlgorithmType == "SEMIAUTOMATIC"
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "medsam2"
    assert "compact" in algorithm.AlgorithmParameters
    instances = {pydicom.dcmread(file).SOPInstanceUID for file in (tmp_path / "series").iterdir()}
    referenced = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {one.ReferencedSOPInstanceUID for one in referenced} == instances


@pytest.mark.parametrize("kind", KINDS)
def test_patient_and_study_are_those_of_the_source_and_nothing_more(kind, tmp_path):
    (tmp_path / "series").mkdir()
    labels = drawn(write_series(tmp_path / "series"))
    write_labels(labels, tmp_path / "out.dcm", kind=kind, source=tmp_path / "series")
    result = pydicom.dcmread(tmp_path / "out.dcm")
    source = pydicom.dcmread(next((tmp_path / "series").iterdir()))
    assert str(result.PatientName) == "Müller^Jörg"
    for keyword in (
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
        "StudyID",
    ):
        assert result[keyword].value == source[keyword].value
    assert result.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert result.SeriesInstanceUID != source.SeriesInstanceUID
    assert b"ecret" not in (tmp_path / "out.dcm").read_bytes()


def test_directions_that_differ_in_their_last_digit_are_one_stack(tmp_path):
    (tmp_path / "series").mkdir()
    labels = drawn(write_series(tmp_path / "series"))
    files = [pydicom.dcmread(file) for file in (tmp_path / "series").iterdir()]
    for number, file in enumerate(files):
        file.ImageOrientationPatient = [1, 1e-6 * number, 0, 0, 1, 0]
    write_labels(labels, tmp_path / "seg.dcm", source=files)
    np.testing.assert_allclose(frames_of(tmp_path / "seg.dcm")[1], place(labels, 1), atol=0.02)
    assert files[3].ImageOrientationPatient[1] == pytest.approx(3e-6)  # the caller's data stay as they are


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_lacks_or_breaks_fields_does_not_spoil_the_result(kind, tmp_path):
    (tmp_path / "series").mkdir()
    changes = {
        "PatientName": None,
        "PatientID": None,
        "StudyID": None,
        "AccessionNumber": None,
        "ReferringPhysicianName": None,
        "PatientSex": "unknown",
        "PatientBirthDate": "1950",
        "StudyTime": "",
    }
    with pydicom.config.disable_value_validation():
        write_series(tmp_path / "series", changes=changes)
    labels = drawn(read_dicom(tmp_path / "series"))
    write_labels(labels, tmp_path / "out.dcm", kind=kind, source=tmp_path / "series")
    result = pydicom.dcmread(tmp_path / "out.dcm")
    for keyword in ("PatientName", "PatientID", "PatientSex", "PatientBirthDate", "StudyID"):
        assert not result[keyword].value


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_patient_is_logged(kind, tmp_path, caplog):
    (tmp_path / "series").mkdir()
    changes = {"PatientName": "NAMEWITHOUTCARET", "PatientComments": "odd\x07"}
    write_series(tmp_path / "series", changes=changes)
    labels = drawn(read_dicom(tmp_path / "series"))
    write_labels(labels, tmp_path / "out.dcm", kind=kind, source=tmp_path / "series")
    assert pydicom.dcmread(tmp_path / "out.dcm").PatientName == "NAMEWITHOUTCARET"
    assert caplog.records == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_one_file", [False, True], ids=["files", "frames"])
def test_the_validator_of_dicom3tools_finds_no_error(kind, is_one_file, tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy of dicom3tools is not installed")
    (tmp_path / "series").mkdir()
    labels = drawn(write_series(tmp_path / "series"))
    source = as_one_file(tmp_path) if is_one_file else tmp_path / "series"
    write_labels(labels, tmp_path / "out.dcm", kind=kind, names={1: "größe"}, source=source)
    verdict = subprocess.run(["dciodvfy", str(tmp_path / "out.dcm")], capture_output=True, text=True)
    assert "Error" not in verdict.stderr + verdict.stdout
    assert verdict.returncode == 0


@pytest.mark.parametrize("orientation", UPRIGHT, ids=["axial", "coronal", "oblique"])
def test_structures_fill_to_the_mask(orientation, tmp_path):
    (tmp_path / "series").mkdir()
    labels = drawn(write_series(tmp_path / "series", orientation=orientation))
    write_labels(labels, tmp_path / "rt.dcm", kind="rtstruct", source=tmp_path / "series", names={1: "liver"})
    structures = pydicom.dcmread(tmp_path / "rt.dcm")
    assert [roi.ROIName for roi in structures.StructureSetROISequence] == ["liver", "object 4"]
    headers = {
        header.SOPInstanceUID: header for header in map(pydicom.dcmread, (tmp_path / "series").iterdir())
    }
    to_voxels = np.linalg.inv(np.diag((-1, -1, 1, 1)) @ labels.affine)
    for roi, label in zip(structures.ROIContourSequence, (1, 4), strict=True):
        filled = np.zeros(labels.shape, bool)
        for contour in roi.ContourSequence:
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            points = np.reshape([float(value) for value in contour.ContourData], (-1, 3))
            assert len(points) == contour.NumberOfContourPoints
            x, y, z = (points @ to_voxels[:3, :3].T + to_voxels[:3, 3]).T
            assert np.ptp(z) < 1e-3
            plane = round(float(z.mean()))
            filled[plane][polygon(y, x, labels.shape[1:])] = True
            header = headers[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            corner = np.array([0, 0, plane, 1]) @ np.linalg.inv(to_voxels).T
            np.testing.assert_allclose(header.ImagePositionPatient, corner[:3], atol=1e-3)
        mask = labels.array == label
        assert 2 * np.sum(filled & mask) / (filled.sum() + mask.sum()) >= 0.98


@pytest.mark.skipif(
    not LIVER.is_dir(), reason="a development scan (../shared/data/ct_dcmqi_liver) is not here"
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_real_liver(kind, tmp_path):
    labels = io.read(LIVER / "mask.nrrd")
    write_labels(labels, tmp_path / "out.dcm", kind=kind, source=LIVER / "dicom", names={1: "liver"})
    if kind == "dicom-seg":
        found = frames_of(tmp_path / "out.dcm")
        np.testing.assert_allclose(found[1], place(labels, 1), atol=0.02)
        np.testing.assert_allclose(found[2], place(labels, 2), atol=0.02)
        return
    to_voxels = np.linalg.inv(np.diag((-1, -1, 1, 1)) @ labels.affine)
    filled = np.zeros(labels.shape, bool)
    for contour in pydicom.dcmread(tmp_path / "out.dcm").ROIContourSequence[0].ContourSequence:
        points = np.reshape([float(value) for value in contour.ContourData], (-1, 3))
        x, y, z = (points @ to_voxels[:3, :3].T + to_voxels[:3, 3]).T
        filled[round(float(z.mean()))][polygon(y, x, labels.shape[1:])] = True
    mask = labels.array == 1
    assert 2 * np.sum(filled & mask) / (filled.sum() + mask.sum()) >= 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_sources_that_do_not_fit_are_refused_in_words(kind, tmp_path):
    series, out = tmp_path / "series", tmp_path / "out.dcm"
    series.mkdir()
    labels = drawn(write_series(series))

    def refused(volume, match, source=series, error=GeometryError):
        with pytest.raises(error, match=match) as caught:
            write_labels(volume, out, kind=kind, source=source)
        assert "ller" not in str(caught.value)
        assert not out.exists()

    affine = np.array(labels.affine)
    affine[2, 3] += 1.2
    refused(Volume(labels.array, affine), "none of its slices lies where slice 0 of the labels does")
    affine = np.array(labels.affine)
    affine[0, 3] += 3
    refused(Volume(labels.array, affine), "slice 0 of the labels lies 3 mm beside its place there")
    refused(Volume(labels.array[:, :9], labels.affine), "its slices have 22 x 30 pixels, the labels' 9 x 30")
    affine = labels.affine @ np.diag((1.1, 1, 1, 1))
    refused(Volume(labels.array, affine), r"its pixels are 0\.5 x 0\.75 mm large, the labels' 0\.55 x 0\.75")
    tilted = np.array(labels.affine)
    tilted[:3, :3] = [[np.cos(0.1), 0, -np.sin(0.1)], [0, 1, 0], [np.sin(0.1), 0, np.cos(0.1)]] @ tilted[
        :3, :3
    ]
    refused(Volume(labels.array, tilted), "its slices are not parallel")
    refused(labels.with_array(np.zeros(labels.shape, bool)), "no voxel is labelled", error=InputError)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing")
    refused(labels, "no DICOM slice with a position", source=tmp_path / "empty", error=InputError)
    refused(labels, "not a DICOM file", source=tmp_path / "empty" / "readme.txt", error=InputError)
    refused(labels, "cannot be read: No such file", source=tmp_path / "missing.dcm", error=InputError)


def positions_of(path):
    """Where the frames of a segmentation, or the contours of structures, lie along z."""
    found = pydicom.dcmread(path)
    if found.Modality == "SEG":
        return sorted({float(position(group)[2]) for group in found.PerFrameFunctionalGroupsSequence})
    return sorted({float(contour.ContourData[2]) for contour in contours(found)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "heights", [[0, 5, 10, 15.4, 20.8, 26.2, 31.6], [0, 4, 8, 12, 19, 26, 33]], ids=["drift", "parts"]
)
def test_results_lie_where_the_slices_do(heights, kind, tmp_path):
    """However far from the even grid that the labels have."""
    series = tmp_path / "series"
    series.mkdir()
    write_series(series)
    for file in series.iterdir():
        header = pydicom.dcmread(file)
        header.ImagePositionPatient[2] = heights[header.InstanceNumber - 1]
        header.save_as(file)
    with pytest.warns(UserWarning, match="slices"):
        volume = read_dicom(series)
    array = np.zeros(volume.shape, np.uint8)
    array[:, 3:9, 4:9] = 1
    first = 0 if len(array) == NUM_SLICES else heights.index(volume.origin[2])
    write_labels(volume.with_array(array), tmp_path / "out.dcm", kind=kind, source=series)
    np.testing.assert_allclose(positions_of(tmp_path / "out.dcm"), heights[first : first + len(array)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_one_file", [False, True], ids=["files", "frames"])
def test_a_frame_of_several_refers_to_its_own_instances(is_one_file, kind, tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    write_series(series)
    for file in list(series.iterdir()):
        late = pydicom.dcmread(file)
        late.SOPInstanceUID, late.AcquisitionNumber = generate_uid(), 2
        late.InstanceNumber += NUM_SLICES
        late.save_as(series / f"late{file.name}")
    source = series
    if is_one_file:
        source = as_one_file(tmp_path)
        enhanced = pydicom.dcmread(source)
        for group in enhanced.PerFrameFunctionalGroupsSequence:
            converted = group.ConversionSourceAttributesSequence[0].ReferencedSOPInstanceUID
            header = next(
                one for one in map(pydicom.dcmread, series.iterdir()) if one.SOPInstanceUID == converted
            )
            content = pydicom.Dataset()
            content.TemporalPositionIndex = header.AcquisitionNumber
            group.FrameContentSequence = [content]
        enhanced.save_as(source)
    volume = read_dicom(source, frame=1)
    labels = drawn(volume)
    write_labels(labels, tmp_path / "out.dcm", kind=kind, source=series_files(source, frame=1))
    found = pydicom.dcmread(tmp_path / "out.dcm")
    if is_one_file:
        numbers = {one.ReferencedFrameNumber for one in references(found)}
        groups = pydicom.dcmread(source).PerFrameFunctionalGroupsSequence
        assert {groups[number - 1].FrameContentSequence[0].TemporalPositionIndex for number in numbers} == {2}
    else:
        wanted = {
            h.SOPInstanceUID for h in map(pydicom.dcmread, series.iterdir()) if h.AcquisitionNumber == 2
        }
        assert {one.ReferencedSOPInstanceUID for one in references(found)} <= wanted
    with pytest.raises(
        GeometryError, match="2 slices of it lie where slice 0 of the labels does, as in a series"
    ):
        write_labels(labels, tmp_path / "no.dcm", kind=kind, source=source)


def references(found):
    """The images that frames or contours were drawn on."""
    if found.Modality == "SEG":
        return [
            group.DerivationImageSequence[0].SourceImageSequence[0]
            for group in found.PerFrameFunctionalGroupsSequence
        ]
    return [contour.ContourImageSequence[0] for contour in contours(found)]


@pytest.mark.parametrize("kind", KINDS)
def test_pet_is_a_source(kind, tmp_path):
    (tmp_path / "series").mkdir()
    changes = {"Modality": "PT", "SOPClassUID": PositronEmissionTomographyImageStorage, "Units": "BQML"}
    write_series(tmp_path / "series", changes=changes)
    labels = drawn(read_dicom(tmp_path / "series"))
    write_labels(labels, tmp_path / "out.dcm", kind=kind, source=tmp_path / "series")
    assert len(positions_of(tmp_path / "out.dcm")) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_nuclear_medicine_is_a_source(kind, tmp_path):
    (tmp_path / "series").mkdir()
    write_series(tmp_path / "series")
    source = pydicom.dcmread(next((tmp_path / "series").iterdir()))
    source.SOPClassUID, source.Modality = NuclearMedicineImageStorage, "NM"
    source.NumberOfFrames, source.SliceVector = NUM_SLICES, list(range(1, NUM_SLICES + 1))
    source.SpacingBetweenSlices, source.PixelData = 2.5, source.PixelData * NUM_SLICES
    detector = pydicom.Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = [-50, 30, 100], list(AXIAL)
    source.DetectorInformationSequence = [detector]
    del source.ImagePositionPatient, source.ImageOrientationPatient
    source.save_as(tmp_path / "nm.dcm")
    labels = drawn(read_dicom(tmp_path / "nm.dcm"))
    write_labels(labels, tmp_path / "out.dcm", kind=kind, source=tmp_path / "nm.dcm")
    np.testing.assert_allclose(positions_of(tmp_path / "out.dcm"), 100 + 2.5 * np.arange(1, 6))
    assert {one.ReferencedFrameNumber for one in references(pydicom.dcmread(tmp_path / "out.dcm"))} == {
        2,
        3,
        4,
        5,
        6,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_with_decimal_commas_and_without_its_class(kind, tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    write_series(series, changes={"PixelSpacing": ["0.75", "0.50"], "SliceThickness": "2.5"})
    for file in series.iterdir():
        header = pydicom.dcmread(file)
        header.SOPClassUID = ""
        header.save_as(file)
        file.write_bytes(file.read_bytes().replace(b"0.75\\0.50", b"0,75\\0,50"))
    with pytest.warns(UserWarning, match="SOPClassUID"):
        labels = drawn(read_dicom(series))
    write_labels(labels, tmp_path / "out.dcm", kind=kind, source=series)
    assert len(positions_of(tmp_path / "out.dcm")) == 5
    assert references(pydicom.dcmread(tmp_path / "out.dcm"))[0].ReferencedSOPClassUID == CTImageStorage


def test_a_source_whose_slices_share_a_uid_or_lack_a_frame_of_reference_says_so(tmp_path):
    for keyword, value in (("SOPInstanceUID", "1.2.3"), ("FrameOfReferenceUID", "")):
        series = tmp_path / keyword
        series.mkdir()
        write_series(series)
        files = [pydicom.dcmread(file) for file in series.iterdir()]
        for file in files:
            setattr(file, keyword, value)
        labels = drawn(read_dicom(series))
        with pytest.raises(InputError, match=rf"{keyword} \(00\d\d,00\d\d\)"):
            write_labels(labels, tmp_path / "seg.dcm", source=files)


def test_other_files_beside_the_series_do_not_matter_but_a_second_series_does(tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    labels = drawn(write_series(series))
    (series / "notes.txt").write_text("nothing")
    (series / "torn.dcm").write_bytes(next(series.glob("*.dcm")).read_bytes()[:300])
    write_labels(labels, series / "rt.dcm", kind="rtstruct", source=series)
    write_labels(labels, series / "seg.dcm", source=series)
    write_labels(labels, series / "seg.dcm", source=series)
    twin = tmp_path / "twin"
    twin.mkdir()
    write_series(twin)
    for file in twin.iterdir():
        shutil.copy(file, series)
    with pytest.raises(InputError, match="2 series lie on the grid of the labels; give the files of one"):
        write_labels(labels, series / "seg.dcm", source=series)


def test_a_source_of_no_known_kind_is_refused_in_words(tmp_path):
    (tmp_path / "series").mkdir()
    labels = drawn(write_series(tmp_path / "series"))
    files = [pydicom.dcmread(file) for file in (tmp_path / "series").iterdir()]
    for file in files:
        file.SOPClassUID = "1.2.3.4"
    with pytest.raises(InputError, match=r"the source breaks DICOM's rules for 1\.2\.3\.4") as caught:
        write_labels(labels, tmp_path / "seg.dcm", source=files)
    assert "ller" not in str(caught.value)
    assert not (tmp_path / "seg.dcm").exists()


def test_missing_libraries_are_named_with_their_extra(monkeypatch, tmp_path):
    labels = Volume.from_array(np.ones((1, 2, 2), np.uint8))
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"pip install 'medsam2\[dicom\]'"):
        write_labels(labels, tmp_path / "seg.dcm", source=tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_dicom_cannot_hold_are_cut(kind, tmp_path):
    (tmp_path / "ct").mkdir()
    volume = write_series(tmp_path / "ct")
    array = np.zeros(volume.shape, np.uint8)
    array[2, 3:6, 4:9] = 1
    array[2, 10:15, 4:9] = 2
    long = "primary hepatocellular carcinoma segment VII arterial phase follow up 2"
    names = {1: long, 2: "left\\right\nside"}
    write_labels(volume.with_array(array), tmp_path / "m.dcm", kind=kind, source=tmp_path / "ct", names=names)
    file = pydicom.dcmread(tmp_path / "m.dcm")
    if kind == "dicom-seg":
        found = [segment.SegmentLabel for segment in file.SegmentSequence]
    else:
        found = [region.ROIName for region in file.StructureSetROISequence]
    assert found == [long[:64], "left/right side"]
