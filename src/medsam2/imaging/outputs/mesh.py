"""Find the surfaces of objects as triangles in millimetres, and write them as STL files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from medsam2.errors import require
from medsam2.imaging.geometry import flip_ras_lps
from medsam2.imaging.outputs.segments import LabelledObject
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume

_HEADER_SIZE = 80  # of a binary STL file, ours to fill
# 3D Slicer writes and reads the frame there; a file without it is taken for LPS as well.
_HEADER = b"medsam2 SPACE=LPS UNIT=mm"


def write(labels: Volume, objects: Sequence[LabelledObject], path: Path) -> tuple[Path, ...]:
    """Write each object as a binary STL file in LPS mm, the frame 3D Slicer exports in.

    Args:
        labels: uint8 or uint16.
        objects: At least one, each with voxels.
        path: The file.

    Returns:
        `path` for a single object; NAME_<label>.stl beside it for each of several.

    Raises:
        InputError: A file cannot be written.
    """
    from trimesh import Trimesh
    from trimesh.exchange.stl import export_stl

    is_single = len(objects) == 1
    paths = [path if is_single else path.with_name(f"{path.stem}_{one.label}.stl") for one in objects]
    with ExitStack() as stack:
        for one, target in zip(objects, paths, strict=True):
            surface = _surface_in_box(labels, one)
            temporary = stack.enter_context(replacing(target, ".stl"))
            content = export_stl(Trimesh(surface.vertices_mm, surface.faces, process=False))
            temporary.write_bytes(_HEADER.ljust(_HEADER_SIZE) + content[_HEADER_SIZE:])
    return tuple(paths)


def _surface_in_box(labels: Volume, one: LabelledObject) -> Surface:
    assert one.box is not None
    affine = np.array(labels.affine)
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in reversed(one.box)]
    return surface_of(labels.array[one.box] == one.label, affine)


# At exactly 0.5 the surface is not defined where four voxels meet like a chessboard, and neighbouring cubes
# may differ. A little below, voxels that touch by an edge or a corner are always joined.
_LEVEL = 0.499

# Taubin's two factors and number of steps (SIGGRAPH 1995): every second step swells what the step before has
# shrunk. Twice as many steps gain little and round corners more: on slices three times as thick as pixels
# are wide, a ball is then 3 % too large instead of 4 %.
_SHRINK, _SWELL = 0.5, -0.52
_SMOOTHING_STEPS = 20


@dataclass(frozen=True, eq=False)
class Surface:
    """A closed surface."""

    vertices_mm: np.ndarray
    """(N, 3) float64, LPS mm."""
    faces: np.ndarray
    """(M, 3) int, corners of each triangle in `vertices_mm`, anticlockwise seen from outside."""

    @property
    def area_mm2(self) -> float:
        """Sum of its triangles, in mm2."""
        a, b, c = (self.vertices_mm[self.faces[:, corner]] for corner in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()) / 2


def surface_of(mask: np.ndarray, affine: np.ndarray) -> Surface:
    """Run marching cubes over a mask, the surface half-way between voxels inside and outside.

    It is closed, also where the mask touches the border of its array, and not smoothed.

    Args:
        mask: Boolean, (z, y, x), with at least one voxel.
        affine: (4, 4), voxel (x, y, z) to RAS+ mm.

    Raises:
        InputError: scikit-image is not installed.
    """
    require_skimage()
    from skimage.measure import marching_cubes

    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.uint8), _LEVEL)
    lps = flip_ras_lps(affine)
    placed = (vertices[:, ::-1].astype(np.float64) - 1) @ lps[:3, :3].T + lps[:3, 3]
    # Triangles are turned for a right-handed (x, y, z); a mirrored grid turns them inside out.
    return Surface(placed, faces if np.linalg.det(lps[:3, :3]) > 0 else faces[:, ::-1])


def require_skimage() -> None:
    """Make sure that surfaces and outlines can be found.

    Raises:
        InputError: scikit-image is not installed.
    """
    require("skimage.measure", "surfaces need", "mesh", "scikit-image")


def smooth(surface: Surface) -> Surface:
    """Smooth the steps of voxels without shrinking the surface (Taubin, SIGGRAPH 1995).

    Each vertex moves towards or away from the mean of its neighbours. The lengths of the edges have no
    influence, so smoothing in voxels and in millimetres gives the same.
    """
    vertices, faces = surface.vertices_mm, surface.faces
    count = len(vertices)
    # A closed surface has each of its edges twice, once in each direction.
    starts, ends = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    neighbours = sparse.csr_array((np.ones(len(starts)), (starts, ends)), shape=(count, count))
    mean = sparse.diags_array(1 / neighbours.sum(axis=1)) @ neighbours
    for step in range(_SMOOTHING_STEPS):
        vertices = vertices + (_SWELL if step % 2 else _SHRINK) * (mean @ vertices - vertices)
    return Surface(vertices, faces)
