"""Multi-frame DICOM as video: frames as pydicom decodes them, one at a time, with rate and scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging.video import frames as video_facts
from medsam2.imaging.video.read import open_video

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
pytest.importorskip("av", reason="needs the extra video")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    MPEG4HP41,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "robustness" / "dicom" / "pydicom"


@pytest.fixture
def frames() -> np.ndarray:
    """uint8 (frame, y, x, 3), smooth enough for every codec."""
    k, y, x = np.mgrid[:5, :24, :32]
    return np.stack([(4 * x + 20 * k) % 256, (8 * y) % 256, (x + y + 40 * k) % 256], axis=-1).astype(np.uint8)


def _dataset(frames: np.ndarray, photometric: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Modality = "US"
    dataset.PatientName = "Somebody^Known"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape[:3]
    dataset.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    if frames.ndim == 4:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = frames.tobytes()
    return dataset


def _save(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def _region(millimetres: tuple[float, float], *, kind: int = 1, unit: int = 3) -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat = kind
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = unit
    region.PhysicalDeltaX, region.PhysicalDeltaY = (step / 10 for step in millimetres)
    return region


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_frames_come_one_by_one_from_plain_and_compressed_files(
    frames: np.ndarray, tmp_path: Path, syntax: str
) -> None:
    dataset = _dataset(frames, "RGB")
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax)
    path = _save(dataset, tmp_path / "cine.dcm")
    with open_video(path) as video:
        assert video.shape == (5, 24, 32, 3)
        for k in (4, 0, 2, 3, 1):
            np.testing.assert_array_equal(video[k], frames[k])


def test_a_file_without_a_suffix_is_known_by_its_preamble(frames: np.ndarray, tmp_path: Path) -> None:
    with open_video(_save(_dataset(frames, "RGB"), tmp_path / "IM_0001")) as video:
        np.testing.assert_array_equal(video[3], frames[3])


def test_greys_are_bright_where_they_should_be(frames: np.ndarray, tmp_path: Path) -> None:
    grey = frames[..., 0]
    for photometric, expected in (("MONOCHROME2", grey), ("MONOCHROME1", 255 - grey)):
        with open_video(_save(_dataset(grey, photometric), tmp_path / f"{photometric}.dcm")) as video:
            np.testing.assert_array_equal(video[2], np.repeat(expected[2][:, :, None], 3, axis=2))


def test_ybr_becomes_rgb(frames: np.ndarray, tmp_path: Path) -> None:
    from PIL import Image

    ybr = np.stack([np.asarray(Image.fromarray(frame).convert("YCbCr")) for frame in frames])
    with open_video(_save(_dataset(ybr, "YBR_FULL"), tmp_path / "cine.dcm")) as video:
        assert np.abs(video[4].astype(int) - frames[4]).max() <= 3  # rounding of the colours there and back


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    index = np.random.default_rng(0).integers(0, 256, (3, 6, 8)).astype(np.uint8)
    dataset = _dataset(index, "PALETTE COLOR")
    tables = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16)
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", (table * 257).tobytes())
    with open_video(_save(dataset, tmp_path / "cine.dcm")) as video:
        np.testing.assert_array_equal(video[1], tables.T[index[1]])


@pytest.mark.parametrize(
    ("tags", "fps", "last_s"),
    [
        ({"FrameTime": 20.0}, 50, 0.08),
        ({"CineRate": 40}, 40, 0.1),
        ({"RecommendedDisplayFrameRate": 10}, 10, 0.4),
        ({"FrameTime": 20.0, "CineRate": 40}, 50, 0.08),
        ({"FrameTimeVector": [0, 10, 30, 10, 50]}, 40, 0.1),
        ({}, None, 0.16),
    ],
)
def test_the_rate_is_what_the_header_says(
    frames: np.ndarray, tmp_path: Path, tags: dict[str, object], fps: float | None, last_s: float
) -> None:
    dataset = _dataset(frames, "RGB")
    for name, value in tags.items():
        setattr(dataset, name, value)
    with open_video(_save(dataset, tmp_path / "cine.dcm")) as video:
        assert video.fps == (fps if fps is None else pytest.approx(fps))
        assert video.times_s[-1] == pytest.approx(last_s)
        assert video.times_s[0] == 0


def test_the_scale_is_that_of_the_regions_of_tissue(frames: np.ndarray, tmp_path: Path) -> None:
    dataset = _dataset(frames, "RGB")
    dataset.PixelSpacing = [9.0, 9.0]
    doppler = _region((1.5, 2.5), kind=3, unit=4)
    dataset.SequenceOfUltrasoundRegions = [doppler, _region((0.4, -0.3))]
    with open_video(_save(dataset, tmp_path / "one.dcm")) as video:
        assert video.pixel_mm == pytest.approx((0.4, 0.3))
    dataset.SequenceOfUltrasoundRegions = [_region((0.4, 0.3)), _region((0.2, 0.2))]
    with open_video(_save(dataset, tmp_path / "two.dcm")) as video:
        assert video.pixel_mm is None, "two scales in one picture are not one"
    del dataset.SequenceOfUltrasoundRegions
    dataset.PixelSpacing = [0.5, 0.25]  # rows first
    with open_video(_save(dataset, tmp_path / "none.dcm")) as video:
        assert video.pixel_mm == (0.25, 0.5)


def test_an_mpeg_stream_in_a_dicom_file_is_played(
    write_video: Callable[..., Path], disc_frames: list[np.ndarray], tmp_path: Path
) -> None:
    content = write_video(tmp_path / "a.mp4", disc_frames).read_bytes()
    dataset = _dataset(np.stack(disc_frames), "YBR_PARTIAL_420")
    dataset.SequenceOfUltrasoundRegions = [_region((0.4, 0.3))]
    dataset.file_meta.TransferSyntaxUID = MPEG4HP41
    dataset.PixelData = encapsulate([content])
    dataset["PixelData"].VR = "OB"
    path = _save(dataset, tmp_path / "cine.dcm")
    with open_video(path) as ours, open_video(tmp_path / "a.mp4") as plain:
        assert ours.shape == plain.shape
        assert ours.fps == 20
        assert ours.pixel_mm == pytest.approx((0.4, 0.3))
        for k in (30, 2):
            np.testing.assert_array_equal(ours[k], plain[k])


def test_the_shared_cine_is_read_as_pydicom_reads_it_whole() -> None:
    path = SHARED / "examples_ybr_color.dcm"
    if not path.is_file():
        pytest.skip("the development videos (../shared/data/robustness) are not here")
    whole = pydicom.pixels.pixel_array(path)
    with open_video(path) as video:
        assert video.shape == whole.shape == (30, 240, 320, 3)
        assert video.fps == pytest.approx(30, abs=0.01)
        assert video.pixel_mm == pytest.approx((0.5105, 0.5105), abs=1e-4)
        for k in (29, 0, 12):
            np.testing.assert_array_equal(video[k], whole[k])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CT_small.dcm", "16 bits"),
        ("MR_truncated.dcm", "16 bits"),
        ("rtdose.dcm", "32 bits"),
        ("liver_1frame.dcm", "1 bits"),
    ],
)
def test_shared_files_that_are_no_video_are_refused(name: str, words: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the development videos (../shared/data/robustness) are not here")
    with pytest.raises(UnsupportedFormat, match=words):
        open_video(SHARED / name)


def test_bad_files_are_refused_in_one_sentence_without_names(frames: np.ndarray, tmp_path: Path) -> None:
    plain = _save(_dataset(frames, "RGB"), tmp_path / "plain.dcm").read_bytes()
    dataset = _dataset(frames, "RGB")
    dataset.compress(RLELossless)
    packed = _save(dataset, tmp_path / "packed.dcm").read_bytes()
    (tmp_path / "plain.dcm").write_bytes(plain[:-3000])
    (tmp_path / "packed.dcm").write_bytes(packed[:-1500])
    (tmp_path / "text.dcm").write_text("not DICOM")
    empty = _dataset(frames, "RGB")
    for name in ("Rows", "Columns", "NumberOfFrames", "PixelData"):
        delattr(empty, name)
    _save(empty, tmp_path / "empty.dcm")
    odd = _dataset(frames, "RGB")
    odd.PhotometricInterpretation = "CMYK"
    _save(odd, tmp_path / "odd.dcm")
    expected = {
        "plain.dcm": "too short for 5 frames",
        "packed.dcm": "frame 4 of 5 cannot be decoded",
        "text.dcm": "not a DICOM file",
        "empty.dcm": "Ultrasound Multi-frame Image Storage holds no frames",
        "odd.dcm": "its colours are 'CMYK'",
    }
    for name, words in expected.items():
        with pytest.raises(UnsupportedFormat) as caught:
            open_video(tmp_path / name)
        assert words in str(caught.value)
        assert "Somebody" not in str(caught.value)


def test_a_header_that_claims_too_much_is_not_believed(frames: np.ndarray, tmp_path: Path) -> None:
    dataset = _dataset(frames, "RGB")
    dataset.Rows = dataset.Columns = 60_000
    path = _save(dataset, tmp_path / "cine.dcm")
    with pytest.raises(InputError, match=f"60000 x 60000 pixels; at most {video_facts.MAX_FRAME_PIXELS:,}"):
        open_video(path)
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 24, 32, 2_000_000_000
    with pytest.raises(InputError, match="2,000,000,000 frames"):
        open_video(_save(dataset, path))
