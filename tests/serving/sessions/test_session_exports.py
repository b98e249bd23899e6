"""Masks in every form that they leave a session in, read back by those who know the form."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
import trimesh
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

import medsam2
from medsam2.client.client import Client
from medsam2.client.session import RemoteSession
from medsam2.errors import InputError
from medsam2.imaging.outputs.write import SUFFIXES
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime

NUM_SLICES, ROWS, COLUMNS = 7, 24, 28
NAMES = {1: "liver", 4: "left Niere"}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT of 7 slices with a bright block, its files in no order, and one that is no image among them."""
    folder = tmp_path_factory.mktemp("series")
    study, uid, frame = generate_uid(), generate_uid(), generate_uid()
    random = np.random.default_rng(1)
    for index in random.permutation(NUM_SLICES):
        pixels = random.integers(-100, 0, (ROWS, COLUMNS)).astype(np.int16)
        pixels[6:18, 8:20] += 200
        file = pydicom.Dataset()
        file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, generate_uid()
        file.StudyInstanceUID, file.SeriesInstanceUID, file.FrameOfReferenceUID = study, uid, frame
        file.PatientName, file.PatientID, file.PatientBirthDate, file.PatientSex = "Roe^Jane", "P-77", "", ""
        file.StudyDate, file.StudyTime, file.StudyID, file.AccessionNumber = "20200102", "101112", "S1", "A1"
        file.ReferringPhysicianName, file.PositionReferenceIndicator = "", ""
        file.Modality, file.Manufacturer, file.InstanceNumber = "CT", "Maker", int(index) + 1
        file.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        file.ImagePositionPatient = [-50.25, 30.5, 100 + 2.5 * int(index)]
        file.PixelSpacing, file.SliceThickness = [0.75, 0.5], 2.5
        file.Rows, file.Columns, file.SamplesPerPixel = ROWS, COLUMNS, 1
        file.PhotometricInterpretation = "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit, file.PixelRepresentation = 15, 1
        file.RescaleIntercept, file.RescaleSlope, file.KVP, file.AcquisitionNumber = 0, 1, 120, 1
        file.WindowCenter, file.WindowWidth = 50, 300
        file.PixelData = pixels.tobytes()
        file.file_meta = pydicom.dataset.FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.save_as(folder / f"{file.SOPInstanceUID[-9:]}.dcm", enforce_file_format=True)
    (folder / "README").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def private_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server has its files."""
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def live(run_tiny, series: Path, private_folder: Path) -> Iterator[object]:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(tempfile, "tempdir", str(private_folder))
        server = stack.enter_context(run_tiny(folder=series.parent, weights="compact"))
        patch.undo()  # the client's own are elsewhere
        yield server
        assert server.figure("medsam2_reserved_bytes") == 0


@pytest.fixture(scope="module")
def client(live) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{live.port}") as one:
        yield one


def segmented(session: RemoteSession) -> RemoteSession:
    """Two objects, followed through the volume."""
    session.add(1, slice=3, points=[(13.0, 11.0)])
    drawn = np.zeros(session.shape[1:], bool)
    drawn[2:9, 15:26] = True
    session.add(4, slice=3, mask=drawn)
    assert len(list(session.propagate())) == NUM_SLICES
    return session


@pytest.fixture(scope="module")
def session(client: Client, series: Path) -> Iterator[RemoteSession]:
    """A session of the series, sent as a folder."""
    with client.session(series) as opened:
        yield segmented(opened)


@pytest.fixture(scope="module")
def labels(session: RemoteSession) -> Volume:
    found = session.result()
    assert set(np.unique(found.array)) == {0, 1, 4}
    return found


def test_a_series_is_sent_whole_and_opened_as_here(
    session: RemoteSession, labels: Volume, series: Path, runtime: Runtime
) -> None:
    here = Predictor(runtime).session(medsam2.read(series))
    segmented(here)  # type: ignore[arg-type]
    assert (
        (session.window.lower, session.window.upper) == (-100, 200) == (here.window.lower, here.window.upper)
    )
    assert np.array_equal(labels.array, here.result().array)
    assert np.array_equal(labels.affine, here.result().affine)


@pytest.mark.parametrize("kind", ["nifti", "nrrd", "mha", "seg.nrrd"])
def test_images_hold_the_labels_on_their_grid(
    kind: str, session: RemoteSession, labels: Volume, tmp_path: Path
) -> None:
    path = tmp_path / f"mask{SUFFIXES[kind][0]}"
    path.write_bytes(session.export(kind, names=NAMES))
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), labels.array)
    assert image.GetSpacing() == pytest.approx(labels.spacing, abs=1e-5)
    assert image.GetOrigin() == pytest.approx(labels.origin, abs=1e-4)
    assert image.GetDirection() == pytest.approx(labels.direction, abs=1e-6)
    if kind == "seg.nrrd":
        names = [image.GetMetaData(f"Segment{number}_Name") for number in range(2)]
        assert names == list(NAMES.values())


def test_npz_holds_the_labels(session: RemoteSession, labels: Volume) -> None:
    with np.load(io.BytesIO(session.export("npz")), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["segs"], labels.array)
        assert arrays["spacing"].tolist() == pytest.approx(labels.spacing)


def test_surfaces_come_in_an_archive_where_there_are_several(
    session: RemoteSession, labels: Volume, client: Client, series: Path
) -> None:
    with zipfile.ZipFile(io.BytesIO(session.export("stl"))) as packed:
        assert sorted(packed.namelist()) == ["mask_1.stl", "mask_4.stl"]
        for number in (1, 4):
            mesh = trimesh.load(io.BytesIO(packed.read(f"mask_{number}.stl")), file_type="stl")
            size = np.argwhere(labels.array == number)
            extent = (np.ptp(size, axis=0) + 1)[::-1] * labels.spacing
            assert np.all(mesh.extents <= extent + 0.01)
            assert np.all(mesh.extents > 0.4 * extent)
    with client.session(series) as single:
        single.add(1, slice=3, points=[(13.0, 11.0)])
        assert trimesh.load(io.BytesIO(single.export("stl")), file_type="stl").area > 0


def test_a_dicom_segmentation_refers_to_the_series(
    session: RemoteSession, labels: Volume, series: Path, tmp_path: Path
) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(session.export("dicom-seg", names=NAMES))
    found = highdicom.seg.segread(path)
    assert [one.SegmentLabel for one in found.SegmentSequence] == list(NAMES.values())
    assert found.PatientID == "P-77"
    (one, *_) = (pydicom.dcmread(file) for file in series.glob("*.dcm"))
    assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == one.SeriesInstanceUID
    theirs = found.get_volume(combine_segments=True).array
    assert {np.count_nonzero(theirs == 1), np.count_nonzero(theirs == 2)} == {
        np.count_nonzero(labels.array == 1),
        np.count_nonzero(labels.array == 4),
    }
    kept = labels.array[[z for z in range(NUM_SLICES) if labels.array[z].any()]]
    assert np.array_equal(np.sort(np.count_nonzero(theirs, (1, 2))), np.sort(np.count_nonzero(kept, (1, 2))))
    algorithm = found.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert "compact" in str(algorithm)


def test_a_structure_set_has_the_names_and_contours(session: RemoteSession, tmp_path: Path) -> None:
    path = tmp_path / "rtstruct.dcm"
    path.write_bytes(session.export("rtstruct", names=NAMES))
    found = pydicom.dcmread(path)
    assert found.Modality == "RTSTRUCT"
    assert [one.ROIName for one in found.StructureSetROISequence] == list(NAMES.values())
    assert all(len(one.ContourSequence) > 1 for one in found.ROIContourSequence)


def test_a_series_in_the_servers_folder_and_a_single_slice_can_be_referred_to(
    client: Client, series: Path
) -> None:
    with client.open(series.name) as opened:
        segmented(opened)
        assert highdicom.seg.segread(io.BytesIO(opened.export("dicom-seg"))).NumberOfFrames > 1
    one = next(series.glob("*.dcm"))
    for name in (one.name, "IM0001"):
        (one.parent.parent / name).write_bytes(one.read_bytes())
        with client.session(one.parent.parent / name) as opened:
            opened.add(1, slice=0, points=[(13.0, 11.0)])
            assert pydicom.dcmread(io.BytesIO(opened.export("rtstruct"))).Modality == "RTSTRUCT"


def test_what_cannot_be_exported_says_why(
    client: Client, session: RemoteSession, labels: Volume, private_folder: Path
) -> None:
    before = sorted(private_folder.rglob("*"))
    assert before
    with client.session(labels) as other:
        other.add(1, slice=3, points=[(13.0, 11.0)])
        for kind in ("dicom-seg", "rtstruct"):
            with pytest.raises(InputError, match="refers to a DICOM series"):
                other.export(kind)
    with pytest.raises(InputError, match="cannot hold a comma"):
        session.export("seg.nrrd", names={1: "kidney, left"})
    with pytest.raises(InputError, match="type is 'jpeg'; one of nifti"):
        session.export("jpeg")
    for kind in ("seg.nrrd", "dicom-seg"):
        with pytest.raises(InputError, match="names holds '1: '; NUMBER:NAME") as caught:
            session.export(kind, names={1: " "})
        assert "/" not in str(caught.value)
    assert sorted(private_folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scan.nii.gz", "scan"),
        ("Jane Roe 1950.NII", "Jane_Roe_1950"),
        ("../../etc/passwd", "passwd"),
        ('a";\r\nSet-Cookie: x=y', "a_Set-Cookie_x_y"),
        ("größe", "gr_e"),
        ("....", "scan"),
        ("", "scan"),
    ],
    ids=range(7),
)
def test_a_name_from_a_caller_is_a_safe_name_in_the_answer(
    live, labels: Volume, tmp_path: Path, name: str, expected: str
) -> None:
    medsam2.write(labels, tmp_path / "scan.nii.gz")
    content = (tmp_path / "scan.nii.gz").read_bytes()
    response = live.client.post("/v1/sessions", content=content, params={"name": name})
    path = f"/v1/sessions/{response.json()['id']}"
    for address, safe in (("export?type=nifti", f"{expected}_mask.nii.gz"), ("volume", f"{expected}.nii.gz")):
        headers = live.client.get(f"{path}/{address}").headers
        assert headers["content-disposition"] == f'attachment; filename="{safe}"'
    assert live.client.delete(path).status_code == 204
