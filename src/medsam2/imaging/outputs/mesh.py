"""Write the surfaces of objects as STL files, for printers and 3D viewers."""

from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import numpy as np

from medsam2.errors import InputError
from medsam2.imaging.outputs.segments import LabelledObject
from medsam2.imaging.replacing import replacing
from medsam2.imaging.surface import Surface, surface_of
from medsam2.imaging.volume import Volume

_HEADER_SIZE = 80  # of a binary STL file, ours to fill
# 3D Slicer writes and reads the frame there; a file without it is taken for LPS as well.
_HEADER = b"medsam2 SPACE=LPS UNIT=mm"


def write(labels: Volume, objects: Sequence[LabelledObject], path: Path) -> tuple[Path, ...]:
    """Write each object that has voxels as a binary STL file in LPS mm, the frame 3D Slicer exports in.

    Returns:
        `path` for a single object; NAME_<label>.stl beside it for each of several.

    Raises:
        InputError: There is no object, a file cannot be written, or trimesh is not installed.
    """
    require_trimesh()
    from trimesh import Trimesh
    from trimesh.exchange.stl import export_stl

    present = [one for one in objects if one.box is not None]
    if not present:
        raise InputError(f"{path}: no voxel is labelled, and a surface needs at least one")
    is_single = len(present) == 1
    paths = [path if is_single else path.with_name(f"{path.stem}_{one.label}.stl") for one in present]
    with ExitStack() as stack:
        for one, target in zip(present, paths, strict=True):
            surface = _surface_in_box(labels, one)
            temporary = stack.enter_context(replacing(target, ".stl"))
            content = export_stl(Trimesh(surface.vertices_mm, surface.faces, process=False))
            temporary.write_bytes(_HEADER.ljust(_HEADER_SIZE) + content[_HEADER_SIZE:])
    return tuple(paths)


def require_trimesh() -> None:
    """Make sure that STL files can be written.

    Raises:
        InputError: trimesh is not installed.
    """
    try:
        import_module("trimesh")
    except ImportError as error:
        raise InputError("STL files need trimesh: pip install 'medsam2[mesh]'") from error


def _surface_in_box(labels: Volume, one: LabelledObject) -> Surface:
    assert one.box is not None
    affine = np.array(labels.affine)
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in reversed(one.box)]
    return surface_of(labels.array[one.box] == one.label, affine)
