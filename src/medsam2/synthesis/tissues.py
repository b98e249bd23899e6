"""What tissues there are and how bright each is in a CT window or an MR sequence."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

Palette = dict["Tissue", float]
"""Grey of each tissue; 0 is black and 1 is white in the window shown, values beyond are cut off later."""

# Partial volume with air far below the window would eat into everything that touches it.
GREY_RANGE = (-0.3, 1.4)


class Tissue(IntEnum):
    """What fills a voxel of the background."""

    OUTSIDE = 0
    LUNG = 1
    FAT = 2
    MUSCLE = 3
    ORGAN = 4
    FLUID = 5
    BLOOD = 6
    BONE = 7
    MARROW = 8
    GAS = 9


def ct_window_hu(rng: np.random.Generator) -> tuple[float, float]:
    """Draw a window (lowest, highest) in Hounsfield units as radiologists set them."""
    centre, width = {
        "soft": (40.0, 400.0),
        "narrow": (70.0, 200.0),
        "lung": (-550.0, 1500.0),
        "wide": (0.0, 1600.0),
        "bone": (400.0, 1800.0),
    }[str(rng.choice(["soft", "narrow", "lung", "wide", "bone"], p=[0.52, 0.1, 0.24, 0.1, 0.04]))]
    width *= float(rng.uniform(0.8, 1.3))
    centre += float(rng.uniform(-0.08, 0.08)) * width
    low, high = centre - width / 2, centre + width / 2
    return low, max(high, 120.0)  # soft tissue stays below white


def ct_hounsfield(rng: np.random.Generator) -> dict[Tissue, float]:
    """Draw plausible mean Hounsfield units of each tissue, with or without contrast agent."""
    blood = float(rng.uniform(30.0, 60.0) if rng.random() < 0.35 else rng.uniform(90.0, 280.0))
    return {
        Tissue.OUTSIDE: -1000.0,
        Tissue.LUNG: float(rng.uniform(-900.0, -720.0)),
        Tissue.FAT: float(rng.uniform(-120.0, -80.0)),
        Tissue.MUSCLE: float(rng.uniform(40.0, 75.0)),
        Tissue.ORGAN: float(rng.uniform(40.0, 120.0)),
        Tissue.FLUID: float(rng.uniform(-5.0, 25.0)),
        Tissue.BLOOD: blood,
        Tissue.BONE: float(rng.uniform(400.0, 1100.0)),
        Tissue.MARROW: float(rng.uniform(80.0, 300.0)),
        Tissue.GAS: -950.0,
    }


def ct_palette(rng: np.random.Generator) -> Palette:
    """Draw the grey of each tissue in a random CT window."""
    low, high = ct_window_hu(rng)
    values = ct_hounsfield(rng)
    return {tissue: float(np.clip((hu - low) / (high - low), *GREY_RANGE)) for tissue, hu in values.items()}


def mr_palette(rng: np.random.Generator) -> Palette:
    """Draw the grey of each tissue in a random MR sequence."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    fat_bright = rng.random() < 0.6
    fluid_bright = rng.random() < 0.5
    return {
        Tissue.OUTSIDE: 0.0,
        Tissue.LUNG: between(0.02, 0.1),
        Tissue.FAT: between(0.65, 1.0) if fat_bright else between(0.08, 0.3),
        Tissue.MUSCLE: between(0.15, 0.5),
        Tissue.ORGAN: between(0.2, 0.75),
        Tissue.FLUID: between(0.7, 1.1) if fluid_bright else between(0.08, 0.3),
        Tissue.BLOOD: between(0.0, 0.15) if rng.random() < 0.4 else between(0.5, 1.1),
        Tissue.BONE: between(0.02, 0.15),
        Tissue.MARROW: between(0.4, 0.9) if fat_bright else between(0.2, 0.5),
        Tissue.GAS: between(0.0, 0.06),
    }
