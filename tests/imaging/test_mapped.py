"""Large volumes in a nameless file: the same values, and memory that can be given back."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging.formats import nifti, voxels
from medsam2.imaging.formats import voxels as mapped
from medsam2.imaging.formats.voxels import release, spill
from medsam2.imaging.intensity import check_intensities, resolve_window


def _resident_kib(kind: str) -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the system does not say how much memory is resident")
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(kind))


@pytest.fixture
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxels, "SPILL_BYTES", 0)


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4"])
@pytest.mark.parametrize("slope", [None, 0.5])
def test_a_mapped_volume_has_the_values_of_the_file(
    tmp_path: Path, suffix: str, dtype: str, slope: float | None
) -> None:
    stored = np.random.default_rng(0).integers(-900, 900, (7, 6, 5)).astype(dtype)
    image = nib.Nifti1Image(stored, np.eye(4))
    if dtype.startswith(">"):
        image = nib.Nifti1Image(stored, np.eye(4), nib.Nifti1Header(endianness=">"))
    image.header.set_slope_inter(slope or 1, 3 if slope else 0)
    path = tmp_path / f"image{suffix}"
    image.to_filename(path)
    volume = nifti.read(path)
    expected = nib.load(path).get_fdata().T
    np.testing.assert_allclose(volume.array, expected, rtol=1e-6)
    assert volume.array.dtype.isnative
    assert not volume.array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        volume.array[0, 0, 0] = 1


@pytest.mark.usefixtures("_everything_is_large")
def test_a_truncated_file_is_refused_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    nib.Nifti1Image(np.zeros((40, 40, 40), np.int16), np.eye(4)).to_filename(path)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content)[:-40])
    with pytest.raises(UnsupportedFormat, match="truncated"):
        nifti.read(path)


def test_window_and_checks_are_those_of_an_array_in_memory(tmp_path: Path, monkeypatch) -> None:
    grey = np.random.default_rng(1).gamma(2.0, 60.0, (30, 64, 600)).astype(np.int16)
    path = tmp_path / "image.nii"
    nib.Nifti1Image(grey.T, np.eye(4)).to_filename(path)
    in_memory = nifti.read(path)
    monkeypatch.setattr(voxels, "SPILL_BYTES", 0)
    on_disk = nifti.read(path)
    assert resolve_window(on_disk) == resolve_window(in_memory)
    check_intensities(on_disk.array)


def test_memory_is_given_back() -> None:
    slices = (np.full((1024, 1024), z, np.int16) for z in range(24))
    array = spill(slices, np.dtype(np.int16), (24, 1024, 1024))
    assert [int(part.mean()) for part in array] == list(range(24))
    before = _resident_kib("RssFile")
    release(array[3])
    assert before - _resident_kib("RssFile") > 40 * 1024, "all 48 MiB, whatever part of the array is named"
    assert int(array[23].max()) == 23
    release(np.zeros(3))  # an array in memory has nothing to give back


def test_no_room_for_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, _data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped.tempfile, "TemporaryFile", Full)
    with pytest.raises(InputError, match=r"does not fit into the folder for temporary files .*No space left"):
        spill([np.zeros((2, 2), np.int16)], np.dtype(np.int16), (1, 2, 2))
