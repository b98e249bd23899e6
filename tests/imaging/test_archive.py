"""Zips: one volume inside, and everything that a zip should not do."""

import stat
import tempfile
import zipfile

import numpy as np
import pytest
import SimpleITK

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging import io
from medsam2.imaging.formats import archive
from medsam2.imaging.volume import Volume

ARRAY = np.random.default_rng(5).integers(-500, 500, (4, 5, 6)).astype(np.int16)


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory, monkeypatch):
    """A folder for temporary files of one's own, which must be empty in the end."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.fixture
def scan(tmp_path):
    """The bytes of a NIfTI file."""
    io.write(Volume.from_array(ARRAY, (0.5, 0.75, 3.0)), tmp_path / "scan.nii.gz")
    return (tmp_path / "scan.nii.gz").read_bytes()


def test_the_one_volume_in_a_zip(scan, tmp_path):
    path = zipped(
        tmp_path / "a.ZIP",
        **{"case/ct.nii.gz": scan, "case/notes.txt": "-", "__MACOSX/case/._ct.nii.gz": "\0"},
    )
    volume = io.read(path)
    assert np.array_equal(volume.array, ARRAY)
    assert volume.spacing == (0.5, 0.75, 3.0)


def test_a_header_with_its_voxels_beside_it(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ARRAY), tmp_path / "scan.mhd")
    members = {f"b\\{name}": (tmp_path / name).read_bytes() for name in ("scan.mhd", "scan.raw")}
    assert np.array_equal(io.read(zipped(tmp_path / "a.zip", **members)).array, ARRAY)


def test_several_volumes_are_listed(scan, tmp_path):
    path = zipped(tmp_path / "a.zip", **{"ct.nii.gz": scan, "mask.nii.gz": scan})
    with pytest.raises(InputError, match=r"a\.zip: holds 2 volumes, ct\.nii\.gz, mask\.nii\.gz; one is read"):
        io.read(path)


def test_nothing_to_read(tmp_path):
    path = zipped(tmp_path / "a.zip", **{"readme.txt": "nothing"})
    with pytest.raises(UnsupportedFormat) as caught:
        io.read(path)
    assert str(caught.value) == f"{path}: no DICOM image is in this folder"


def test_errors_name_the_archive_and_not_the_folder(temporary, tmp_path):
    path = zipped(tmp_path / "a.zip", **{"x/ct.nii": b"This is no NIfTI."})
    with pytest.raises(UnsupportedFormat) as caught:
        io.read(path)
    assert str(caught.value) == f"{path}/x/ct.nii: not a NIfTI file"
    assert str(temporary) not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../evil.nii", "/evil.nii", "a/../../evil.nii", "..\\evil.nii", "C:\\evil.nii", "\\evil.nii"]
)
def test_paths_that_lead_out_are_refused(name, scan, tmp_path):
    (tmp_path / "in").mkdir()
    path = zipped(tmp_path / "in" / "a.zip", **{name: scan})
    with pytest.raises(UnsupportedFormat, match="which would lie outside of it"):
        io.read(path)
    assert {one.name for one in tmp_path.iterdir()} == {"in", "scan.nii.gz"}


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("ct.nii")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(UnsupportedFormat, match=r"a link, 'ct\.nii'"):
        io.read(tmp_path / "a.zip")


def test_bounds(tmp_path):
    path = zipped(tmp_path / "a.zip", **{f"{i}.dcm": bytes(1000) for i in range(5)})
    with archive.unpacked(path, max_members=5, max_bytes=5000) as folder:
        assert len(list(folder.iterdir())) == 5
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    refuse(path, "holds 5 files; at most 4", max_members=4)
    refuse(path, "unpacks to 5000 bytes; at most 4999", max_bytes=4999)


def refuse(path, match, **bounds):
    with pytest.raises(InputError, match=match), archive.unpacked(path, **bounds):
        pass
    with (
        pytest.raises(InputError, match="unpacks to 5000 bytes; at most 4999"),
        archive.unpacked(path, max_bytes=4999),
    ):
        pass


def test_a_zip_that_grows_a_thousandfold(tmp_path):
    path = zipped(tmp_path / "a.zip", **{"ct.dcm": bytes(20_000_000)})
    assert path.stat().st_size * 900 < 20_000_000
    with (
        pytest.raises(InputError, match="unpacks to 20000000 bytes"),
        archive.unpacked(path, max_bytes=10_000_000),
    ):
        pass


def test_a_directory_that_lies_about_sizes(scan, tmp_path):
    path = zipped(tmp_path / "a.zip", **{"ct.nii.gz": scan})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (10).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(UnsupportedFormat, match=r"a\.zip"):
        io.read(path)


@pytest.mark.parametrize("keep", [0, 10, -10])
def test_truncated(keep, scan, tmp_path):
    path = zipped(tmp_path / "a.zip", **{"ct.nii.gz": scan})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UnsupportedFormat, match=r"a\.zip: cannot be read as \.zip"):
        io.read(path)


def test_encrypted(scan, tmp_path):
    path = zipped(tmp_path / "a.zip", **{"ct.nii.gz": scan})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UnsupportedFormat, match="is encrypted; unpack it first"):
        io.read(path)


def test_a_name_twice_is_refused(scan, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("ct.nii.gz", scan)
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("ct.nii.gz", scan)
    with pytest.raises(InputError, match="cannot be unpacked: File exists"):
        io.read(tmp_path / "a.zip")
