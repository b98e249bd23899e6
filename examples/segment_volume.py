"""Segment a structure of a volume from a box on one slice.

python examples/segment_volume.py demo/scan.nii.gz demo/lesion.nii.gz
"""

from __future__ import annotations

import sys

import medsam2

SLICE = 24
BOX = (65, 113, 82, 137)  # x_min, y_min, x_max, y_max in pixels of the slice, around a lesion in the liver


def main(scan: str, output: str) -> None:
    """Read a scan, segment it, and write the mask on exactly its grid."""
    volume = medsam2.read(scan)
    predictor = medsam2.load("compact")
    mask = predictor.segment(volume, slice=SLICE, box=BOX, window="abdomen")
    medsam2.write(mask, output)

    x_mm, y_mm, z_mm = mask.spacing
    print(f"{mask.array.sum() * x_mm * y_mm * z_mm / 1000:.1f} ml")


if __name__ == "__main__":
    main(*sys.argv[1:])
