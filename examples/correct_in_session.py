"""Segment a lesion and a kidney in one session, and correct a slice where the network is unsure.

python examples/correct_in_session.py demo/scan.nii.gz demo/labels.nii.gz
"""

from __future__ import annotations

import sys

import numpy as np

import medsam2

LESION, KIDNEY = 1, 2  # numbers of the objects, and their labels in the file
OUTSIDE = 0  # label of a click outside the object


def main(scan: str, output: str) -> None:
    """Prompt, propagate, correct, propagate again, write both objects as labels of one file."""
    session = medsam2.load("compact").session(medsam2.read(scan), window="abdomen")
    session.add(LESION, slice=24, box=(65, 113, 82, 137))
    session.add(KIDNEY, slice=16, box=(150, 145, 188, 178))
    for z, masks in session.propagate():  # each slice as soon as it is done
        found = ", ".join(f"object {number}: {mask.sum()} pixels" for number, mask in masks.items())
        print(f"slice {z}: {found}")
    before = session.measurements(LESION)["volume_ml"]

    # The scores tell where to look first.
    scores, mask = session.scores(LESION), session.mask(LESION)
    unsure = min((z for z in scores if mask[z].any()), key=scores.__getitem__)
    print(f"the lesion is least sure on slice {unsure} ({scores[unsure]:.2f})")

    # The lesion has ended before this slice, so a click removes it. Only slices that this can change are
    # segmented again.
    y, x = np.argwhere(mask[unsure]).mean(axis=0)
    session.add(LESION, slice=unsure, points=[(x, y)], labels=[OUTSIDE])
    for _ in session.propagate():
        pass
    print(f"lesion {before:.1f} ml, after a click {session.measurements(LESION)['volume_ml']:.1f} ml")

    medsam2.write(session.result(), output)
    session.undo()
    print(f"undone: {session.measurements(LESION)['volume_ml']:.1f} ml")


if __name__ == "__main__":
    main(*sys.argv[1:])
