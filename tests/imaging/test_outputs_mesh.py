"""STL files, opened by trimesh: closed, as large as the voxels, where the voxels are."""

import sys

import numpy as np
import pytest
import trimesh

from medsam2.errors import InputError
from medsam2.imaging.geometry import flip_ras_lps
from medsam2.imaging.outputs.mesh import smooth, surface_of
from medsam2.imaging.outputs.write import write_labels
from medsam2.imaging.volume import Volume

SPACING = (0.8, 1.0, 2.0)
ORIGIN = (-30.0, 12.0, 100.0)


def ball(radius_mm=12.0, shape=(20, 40, 48), center=(10, 20, 24)):
    z, y, x = np.ogrid[tuple(slice(size) for size in shape)]
    x_mm, y_mm, z_mm = SPACING
    squares = ((x - center[2]) * x_mm) ** 2 + ((y - center[1]) * y_mm) ** 2 + ((z - center[0]) * z_mm) ** 2
    return squares < radius_mm**2


def test_a_ball_is_closed_as_large_and_in_its_place(tmp_path):
    mask = ball()
    volume = Volume.from_array(mask, SPACING, ORIGIN)
    assert write_labels(volume, tmp_path / "ball.stl") == (tmp_path / "ball.stl",)
    mesh = trimesh.load(tmp_path / "ball.stl")
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(np.count_nonzero(mask) * np.prod(SPACING), rel=0.02)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.03)
    z, y, x = np.nonzero(mask)
    for axis, indices in enumerate((x, y, z)):
        low, high = ORIGIN[axis] + np.array([indices.min(), indices.max()]) * SPACING[axis]
        half = SPACING[axis] / 2
        assert mesh.bounds[:, axis] == pytest.approx([low - half, high + half], abs=0.01)
    assert mesh.center_mass == pytest.approx(np.array(ORIGIN) + np.array((24, 20, 10)) * SPACING, abs=0.05)


def test_the_header_tells_the_frame(tmp_path):
    write_labels(Volume.from_array(ball()), tmp_path / "ball.stl")
    header = (tmp_path / "ball.stl").read_bytes()[:80]
    assert b"SPACE=LPS" in header
    assert not header.startswith(b"solid")  # which would make it a text file


def test_several_objects_are_several_files(tmp_path):
    array = np.zeros((8, 8, 8), np.uint8)
    array[1:3, 1:3, 1:3] = 2
    array[5:7, 5:7, 5:7] = 5
    paths = write_labels(Volume.from_array(array), tmp_path / "organs.stl", names={3: "not found"})
    assert paths == (tmp_path / "organs_2.stl", tmp_path / "organs_5.stl")
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for path, middle in zip(paths, (1.5, 5.5), strict=True):
        assert trimesh.load(path).center_mass == pytest.approx([middle] * 3, abs=1e-3)


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.0, 2.0, 3.0, 1.0]),
        np.diag([-1.0, 2.0, 3.0, 1.0]),
        np.array([[0, 2.0, 0, 5], [1.0, 0, 0.4, 6], [0, 0, -3.0, 7], [0, 0, 0, 1]]),  # sheared, turned
    ],
)
def test_surfaces_look_outwards_on_every_grid(affine):
    mask = np.zeros((6, 7, 8), bool)
    mask[0:4, 1:6, 2:8] = True  # touches the border
    surface = surface_of(mask, affine)
    mesh = trimesh.Trimesh(surface.vertices_mm, surface.faces, process=False)
    assert mesh.is_volume  # closed, and all triangles turned outwards
    voxel = abs(np.linalg.det(affine[:3, :3]))
    assert mesh.volume == pytest.approx(mask.sum() * voxel, rel=0.06)  # edges are cut off
    assert surface.area_mm2 == pytest.approx(mesh.area)
    middle = flip_ras_lps(affine) @ (4.5, 3.0, 1.5, 1.0)
    assert mesh.center_mass == pytest.approx(middle[:3], abs=1e-3)


def test_smoothing_turns_steps_into_a_slope_and_moves_with_the_grid():
    affine = np.array([[0, 2.0, 0, 5], [1.0, 0, 0.4, 6], [0, 0, -3.0, 7], [0, 0, 0, 1]])
    rough = surface_of(ball(), affine)
    found = smooth(rough)
    assert np.array_equal(found.faces, rough.faces)
    inside = smooth(surface_of(ball(), np.eye(4))).vertices_mm
    to_lps = flip_ras_lps(affine) @ np.linalg.inv(flip_ras_lps(np.eye(4)))
    assert found.vertices_mm == pytest.approx(inside @ to_lps[:3, :3].T + to_lps[:3, 3])
    mesh = trimesh.Trimesh(found.vertices_mm, found.faces, process=False)
    before = trimesh.Trimesh(rough.vertices_mm, rough.faces, process=False)
    assert mesh.volume == pytest.approx(before.volume, rel=0.03)
    assert mesh.area < 0.95 * before.area


def test_noise_is_closed_as_well():
    # Voxels that touch by an edge or a corner are what tears surfaces open.
    for seed in range(5):
        mask = np.random.default_rng(seed).random((12, 12, 12)) > 0.6
        surface = surface_of(mask, np.eye(4))
        assert trimesh.Trimesh(surface.vertices_mm, surface.faces, process=False).is_watertight


def test_nothing_has_no_surface(tmp_path):
    empty = Volume.from_array(np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(InputError, match="no voxel is labelled, and a surface needs at least one"):
        write_labels(empty, tmp_path / "mask.stl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("package", "what"), [("trimesh", "STL files"), ("skimage.measure", "surfaces")])
def test_a_missing_library_is_named_with_its_extra(package, what, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{what} need .*pip install 'medsam2\[mesh\]'"):
        write_labels(Volume.from_array(ball()), tmp_path / "ball.stl")
    assert list(tmp_path.iterdir()) == []
