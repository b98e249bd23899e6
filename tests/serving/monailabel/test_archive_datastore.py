"""A DICOMweb archive as a datastore, against a real Orthanc: fetched, segmented, stored back and found."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import generate_uid

import medsam2
from medsam2.errors import InputError
from medsam2.serving.monailabel.infer import VOLUME
from medsam2.serving.monailabel.state import check_studies

pytest.importorskip("dicomweb_client", reason="needs the extra dicomweb")
pytest.importorskip("highdicom", reason="needs the extra dicom")

from medsam2.serving.http_errors import NotFound
from medsam2.serving.monailabel.archive import ArchiveDatastore
from medsam2.serving.monailabel.dicomweb import Address, Archive

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PATIENCE_S = 60.0
CT = "1.2.840.10008.5.1.4.1.1.2"
PROMPT = {"foreground": [[24, 24, 4]], "label": "lesion"}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an Orthanc of our own, with a user and a password."""
    binary = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if binary is None or not PLUGIN.exists():
        pytest.skip("needs Orthanc: apt-get install orthanc orthanc-dicomweb")
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "StorageDirectory": str(folder / "files"),
        "IndexDirectory": str(folder / "files"),
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "DicomServerEnabled": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"reader": "p@ss"},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE_S
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, "Orthanc does not start"
            try:
                httpx.get(f"http://127.0.0.1:{port}/system", auth=("reader", "p@ss"))
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield f"http://reader:p%40ss@127.0.0.1:{port}/dicom-web"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT of 10 slices with a bright ball, which asks for a narrow window; its files name somebody."""
    folder = tmp_path_factory.mktemp("ct")
    z, y, x = np.mgrid[:10, :48, :56]
    hu = np.random.default_rng(0).normal(40, 8, z.shape)
    hu += 100 * ((x - 24) ** 2 + (y - 24) ** 2 + (2.5 * (z - 4)) ** 2 < 81)
    study, uid, frame = generate_uid(), generate_uid(), generate_uid()
    for k, plane in enumerate(hu):
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID = CT, generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, uid, frame
        one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = "Roe^Jane", "17", "", ""
        one.StudyDate, one.StudyTime, one.AccessionNumber = "20260101", "120000", ""
        one.StudyID, one.ReferringPhysicianName, one.SeriesNumber, one.Modality = "1", "", 3, "CT"
        one.InstanceNumber, one.Manufacturer, one.PatientPosition = 10 - k, "maker", "HFS"
        one.ImageOrientationPatient, one.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.8, 0.8]
        one.ImagePositionPatient, one.SliceThickness = [3, -4, 2.5 * k], 2.5
        one.Rows, one.Columns, one.SamplesPerPixel = 48, 56, 1
        one.PhotometricInterpretation, one.PixelRepresentation = "MONOCHROME2", 0
        one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
        one.RescaleIntercept, one.RescaleSlope, one.RescaleType = -1024, 1, "HU"
        one.WindowCenter, one.WindowWidth = 80, 200
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.PixelData = (plane + 1024).astype("<u2").tobytes()
        one.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture(scope="module")
def series_uid(orthanc: str, series: Path) -> str:
    """The series' UID, once Orthanc has it."""
    address = orthanc.removesuffix("/dicom-web")
    for path in series.iterdir():
        httpx.post(f"{address}/instances", content=path.read_bytes()).raise_for_status()
    return str(pydicom.dcmread(series / "0.dcm").SeriesInstanceUID)


@pytest.fixture(scope="module")
def archived(run_server, orthanc: str) -> Iterator[object]:
    """A server on the archive."""
    with run_server(studies=orthanc) as live:
        yield live


def inferred(live, uid: str, params: dict[str, object], output: str = "image") -> httpx.Response:
    form = {"params": (None, json.dumps(params))}
    return live.client.post(f"/infer/{VOLUME}?image={uid}&output={output}", files=form)


@pytest.mark.slow
def test_a_series_is_fetched_segmented_stored_and_found(
    archived, orthanc: str, series: Path, series_uid: str, predictor, tmp_path: Path
) -> None:
    client: httpx.Client = archived.client
    volume = medsam2.read(series)
    assert client.get("/info/").json()["datastore"] == {"total": 1, "completed": 0, "label_tags": {}}
    sample = client.post("/activelearning/first", json={}).json()
    assert sample["id"] == sample["SeriesInstanceUID"] == series_uid
    expected = predictor.segment(volume, slice=4, points=[(24, 24)])

    answer = inferred(archived, series_uid, {**PROMPT, "result_extension": ".nrrd"})
    assert answer.status_code == 200, answer.text
    (tmp_path / "mask.nrrd").write_bytes(answer.content)
    mask = medsam2.read(tmp_path / "mask.nrrd")
    assert mask.array.any()
    assert np.array_equal(mask.array, expected.array)
    np.testing.assert_allclose(mask.affine, volume.affine, atol=1e-4)
    told = inferred(archived, series_uid, PROMPT, "json").json()
    assert told["window"] == {"lower": -20, "upper": 180, "source": "file"}

    params = {"label_info": [{"name": "lesion", "idx": 1}]}
    sent = {"params": (None, json.dumps(params)), "label": ("label.bin", mask.array.tobytes())}
    stored = client.put(f"/datastore/label?image={series_uid}", files=sent)
    assert stored.status_code == 200, stored.text
    assert client.get("/info/").json()["datastore"] == {
        "total": 1,
        "completed": 1,
        "label_tags": {"final": 1},
    }
    assert client.post("/activelearning/first", json={}).json() == {}

    # Found by somebody who knows nothing of this server.
    address = orthanc.removesuffix("/dicom-web")
    found = httpx.get(f"{orthanc}/series?Modality=SEG").json()
    assert len(found) == 1
    (instance,) = httpx.post(
        f"{address}/tools/find", json={"Level": "Instance", "Query": {"Modality": "SEG"}}
    ).json()
    (tmp_path / "seg.dcm").write_bytes(httpx.get(f"{address}/instances/{instance}/file").content)
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == series_uid
    assert segmentation.SegmentSequence[0].SegmentLabel == "lesion"
    assert segmentation.PatientID == "17"
    assert rebuilt(segmentation, volume).sum() == mask.array.sum()
    assert np.array_equal(rebuilt(segmentation, volume), mask.array)
    given = client.get(f"/datastore/label?label={series_uid}&tag=final")
    assert pydicom.dcmread(write(tmp_path / "again.dcm", given.content)) == segmentation


def rebuilt(segmentation: pydicom.Dataset, volume) -> np.ndarray:
    """A segmentation's voxels on the grid of its series, frame by frame by their positions."""
    found = np.zeros(volume.shape, np.uint8)
    frames = segmentation.pixel_array.reshape(-1, *volume.shape[1:])
    for frame, group in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        z_mm = float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        found[round((z_mm - volume.origin[2]) / volume.spacing[2])] = frame
    return found


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.slow
def test_an_answer_may_be_a_segmentation_itself(archived, series_uid: str, tmp_path: Path) -> None:
    params = {**PROMPT, "label_info": [{"name": "lesion", "idx": 1}]}
    answer = inferred(archived, series_uid, params, "dicom_seg")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom"
    segmentation = pydicom.dcmread(write(tmp_path / "seg.dcm", answer.content))
    assert segmentation.Modality == "SEG"
    assert inferred(archived, series_uid, PROMPT, "dicom_seg").status_code == 422


@pytest.mark.slow
def test_an_image_is_given_as_one_file(archived, series: Path, series_uid: str, tmp_path: Path) -> None:
    given = archived.client.get(f"/datastore/image?image={series_uid}")
    volume = medsam2.read(write(tmp_path / "image.nii.gz", given.content))
    expected = medsam2.read(series)
    assert np.array_equal(volume.array, expected.array)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    assert archived.client.head(f"/datastore/image?image={series_uid}").status_code == 200


@pytest.mark.slow
def test_labels_that_nobody_approved_stay_here(
    archived, orthanc: str, series_uid: str, tmp_path: Path
) -> None:
    client: httpx.Client = archived.client
    before = len(httpx.get(f"{orthanc}/series?Modality=SEG").json())
    answer = inferred(archived, series_uid, {**PROMPT, "save_label": "true"})
    assert answer.status_code == 200
    assert len(httpx.get(f"{orthanc}/series?Modality=SEG").json()) == before
    kept = client.get(f"/datastore/label?label={series_uid}&tag=original")
    path = write(tmp_path / "kept.nii.gz", kept.content)
    assert SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).any()
    assert client.delete(f"/datastore/label?id={series_uid}&tag=original").status_code == 200
    assert client.get(f"/datastore/label?label={series_uid}&tag=original").status_code == 404


@pytest.mark.slow
def test_what_an_archive_does_not_do_is_said(
    archived, orthanc: str, series_uid: str, scan_path: Path
) -> None:
    client: httpx.Client = archived.client
    for uid in ("1.2.3", "nobody", "../x", "", "1.2*"):
        assert inferred(archived, uid, PROMPT).status_code in (404, 422)
    sent = {"file": ("scan.nii.gz", scan_path.read_bytes())}
    assert client.put("/datastore/?image=x", files=sent).status_code == 501
    assert client.delete(f"/datastore/?id={series_uid}").status_code == 501
    label = {"label": ("x.nii.gz", scan_path.read_bytes())}
    assert client.put(f"/datastore/label?image={series_uid}", files=label).status_code == 422
    wrong = Archive(Address.of(orthanc.replace("p%40ss", "wrong")), timeout_s=10)
    with pytest.raises(Exception, match="401"):
        wrong.list_series("CT")


@pytest.mark.slow
def test_ohif_looks_through_the_server(archived, series: Path, series_uid: str) -> None:
    client: httpx.Client = archived.client
    first = pydicom.dcmread(series / "0.dcm")
    found = client.get("/proxy/dicom/qido/series", params={"SeriesInstanceUID": series_uid}).json()
    assert found[0]["0020000D"]["Value"] == [first.StudyInstanceUID]
    place = f"/proxy/dicom/wado/studies/{first.StudyInstanceUID}/series/{series_uid}"
    assert len(client.get(f"{place}/metadata").json()) == 10
    headers = {"Accept": 'multipart/related; type="application/octet-stream"'}
    frame = client.get(f"{place}/instances/{first.SOPInstanceUID}/frames/1", headers=headers)
    assert frame.headers["content-type"].startswith("multipart/related")
    assert first.PixelData in frame.content
    for path in ("stow/studies", "qido/../system", "qido/%2e%2e/system", "qido/patients", "wado/studies?x"):
        assert client.get(f"/proxy/dicom/{path}").status_code in (200, 307, 404)
        assert b"DatabaseVersion" not in client.get(f"/proxy/dicom/{path}").content
    assert client.post("/proxy/dicom/stow/studies", content=b"x").status_code in (404, 405)
    assert archived.figure("medsam2_reserved_bytes") == 0


def test_an_archive_that_is_away_is_said_so(run_tiny) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with run_tiny(studies=f"http://reader:secret@127.0.0.1:{port}/dicom-web") as live:
        answer = live.client.get("/info/")
        assert answer.status_code == 502
        assert "secret" not in answer.text
        assert live.client.get("/proxy/dicom/qido/studies").status_code == 502
        assert "archive" in answer.json()["detail"]


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://u:secret@/x", "http://host:port/x"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="DICOMweb") as refused:
        check_studies(url)
    assert "secret" not in str(refused.value)


LISTED = {"1.1": ("CT", 90), "1.2": ("MR", 20), "1.3": ("PT", 40), "1.4": ("NM", 1), "1.5": ("US", 1),
          "1.6": ("US", 30), "1.7": ("DX", 1), "1.8": ("SR", 1)}  # fmt: skip


class Listing(BaseHTTPRequestHandler):
    """Answers searches for series as an archive does."""

    def do_GET(self) -> None:
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        found = [
            {
                "0020000D": {"vr": "UI", "Value": ["1"]},
                "0020000E": {"vr": "UI", "Value": [uid]},
                "00080060": {"vr": "CS", "Value": [modality]},
                "00201209": {"vr": "IS", "Value": [count]},
            }
            for uid, (modality, count) in LISTED.items()
            if query.get("Modality", modality) == modality and query.get("SeriesInstanceUID", uid) == uid
        ]
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_all_series_that_are_read_are_offered(tmp_path: Path) -> None:
    """Slices of CT, MR, PET and nuclear medicine; of other modalities a single file."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Listing) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            service = SimpleNamespace(settings=SimpleNamespace(fetch_timeout_s=10.0), folder=tmp_path)
            datastore = ArchiveDatastore(f"http://127.0.0.1:{server.server_port}/dicom-web", service)
            assert set(datastore.entries()) == {"1.1", "1.2", "1.3", "1.4", "1.5", "1.7"}
            # A viewer that names a series of several ultrasound files hears from the reader what it takes.
            assert datastore.find("1.6").info["Modality"] == "US"
            with pytest.raises(NotFound, match="series of images"):
                datastore.find("1.8")
        finally:
            server.shutdown()
