"""Random solids as level functions, positive inside, in millimetres around their centre."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medsam2.synthesis.render import Floats

Level = Callable[[Floats, Floats, Floats], Floats]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A solid."""

    level: Level
    """Maps coordinates z, y, x in mm, broadcastable, to about the depth below the surface in mm."""
    extent_mm: tuple[float, float, float]
    """Half of the edges (z, y, x) of a box around the centre that holds the solid."""


def ellipsoid(rng: np.random.Generator, radius_mm: float) -> Shape:
    """Draw a bent ellipsoid whose axes differ by up to a factor of about two."""
    ratios = rng.uniform(0.65, 1.3, size=3)
    axes = _random_rotation(rng) / (radius_mm * ratios[:, None])
    bend = _waves(rng, radius_mm, strength=float(rng.uniform(0.0, 0.18)))
    shortest = radius_mm * float(ratios.min())

    def level(z: Floats, y: Floats, x: Floats) -> Floats:
        z, y, x = bend(z, y, x)
        squares = sum((float(a[0]) * z + float(a[1]) * y + float(a[2]) * x) ** 2 for a in axes)
        return np.asarray((1.0 - np.sqrt(squares)) * np.float32(shortest), dtype=np.float32)

    return Shape(level=level, extent_mm=(radius_mm * 1.5,) * 3)


def blob(rng: np.random.Generator, radius_mm: float, roughness: float | None = None) -> Shape:
    """Draw a star-convex solid whose radius varies with direction."""
    amplitude = float(rng.uniform(0.05, 0.3)) if roughness is None else roughness
    radius_factor = _angular_noise(rng, amplitude)
    squeeze = rng.uniform(0.8, 1.25, size=3).astype(np.float32)
    bend = _waves(rng, radius_mm, strength=float(rng.uniform(0.0, 0.12)))

    def level(z: Floats, y: Floats, x: Floats) -> Floats:
        z, y, x = bend(z * squeeze[0], y * squeeze[1], x * squeeze[2])
        distance = np.sqrt(z * z + y * y + x * x) + np.float32(1e-3)
        factor = radius_factor(z / distance, y / distance, x / distance)
        return np.asarray(radius_mm * factor - distance, dtype=np.float32)

    return Shape(level=level, extent_mm=(radius_mm * (1.45 + 1.6 * amplitude),) * 3)


def lobulated(rng: np.random.Generator, radius_mm: float) -> Shape:
    """Draw a union of two to five blobs that overlap."""
    count = int(rng.integers(2, 6))
    radii = radius_mm * rng.uniform(0.4, 0.75, size=count)
    parts = [blob(rng, float(r), roughness=0.06) for r in radii]
    centres = _directions(rng, count) * (radius_mm * rng.uniform(0.25, 0.6, size=(count, 1)))
    centres[0] = 0.0

    def level(z: Floats, y: Floats, x: Floats) -> Floats:
        levels = [
            part.level(z - float(c[0]), y - float(c[1]), x - float(c[2]))
            for part, c in zip(parts, centres, strict=True)
        ]
        return np.asarray(np.maximum.reduce(levels), dtype=np.float32)

    return Shape(level=level, extent_mm=(radius_mm * 1.5,) * 3)


def spiculated(rng: np.random.Generator, radius_mm: float) -> Shape:
    """Draw a rough ball with thin spikes."""
    base = _angular_noise(rng, float(rng.uniform(0.05, 0.15)))
    count = int(rng.integers(5, 14))
    tips = _directions(rng, count)
    heights = rng.uniform(0.15, 0.6, size=count)
    sharpness = float(rng.uniform(12.0, 45.0))
    core = radius_mm * 0.8

    def level(z: Floats, y: Floats, x: Floats) -> Floats:
        distance = np.sqrt(z * z + y * y + x * x) + np.float32(1e-3)
        uz, uy, ux = z / distance, y / distance, x / distance
        factor = base(uz, uy, ux)
        for tip, height in zip(tips, heights, strict=True):
            along = float(tip[0]) * uz + float(tip[1]) * uy + float(tip[2]) * ux
            factor = factor + float(height) * np.exp(sharpness * (along - 1.0))
        return np.asarray(core * factor - distance, dtype=np.float32)

    return Shape(level=level, extent_mm=(radius_mm * 1.6,) * 3)


def tube(
    rng: np.random.Generator, radius_mm: float, half_length_mm: float, along: str = "z", slope: float = 0.3
) -> Shape:
    """Draw a curved tube of elliptic section that tapers towards its ends.

    Args:
        rng: Source of randomness.
        radius_mm: Mean radius in the middle.
        half_length_mm: Half of the length along the main axis.
        along: Main axis, "z", "y" or "x".
        slope: How far the centre line wanders sideways, as a multiple of the length.
    """
    wander = [_curve(rng, half_length_mm, slope) for _ in range(2)]
    flatten = float(rng.uniform(0.7, 1.0))
    angle = float(rng.uniform(0.0, np.pi))
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    taper = float(rng.choice([2.0, 4.0, 8.0]))
    swell, phase = float(rng.uniform(0.0, 0.25)), float(rng.uniform(0.0, 6.28))
    narrowing = float(rng.uniform(-0.4, 0.4))

    def level(z: Floats, y: Floats, x: Floats) -> Floats:
        main, first, second = {"z": (z, y, x), "y": (y, z, x), "x": (x, z, y)}[along]
        s = main / np.float32(half_length_mm)
        rest = np.maximum(1.0 - np.abs(s) ** taper, 0.0)
        radius = radius_mm * np.sqrt(rest) * (1.0 + swell * np.cos(3.0 * s + phase)) * (1.0 - narrowing * s)
        u, v = first - wander[0](main), second - wander[1](main)
        p, q = cos * u + sin * v, (cos * v - sin * u) / np.float32(flatten)
        # Beyond its ends the tube has no radius; the level must be negative there.
        return np.asarray(radius - np.sqrt(p * p + q * q) - 1e-3, dtype=np.float32)

    # Three waves of a third of the slope each.
    side = radius_mm * 2.0 + half_length_mm * slope
    sizes = {a: (half_length_mm if a == along else side) for a in ("z", "y", "x")}
    return Shape(level=level, extent_mm=(sizes["z"], sizes["y"], sizes["x"]))


def branching(rng: np.random.Generator, radius_mm: float, half_length_mm: float) -> Shape:
    """Draw two tubes along z that run together on one side and part on the other."""
    trunk = tube(rng, radius_mm, half_length_mm, slope=0.15)
    branch = tube(rng, radius_mm * float(rng.uniform(0.5, 0.95)), half_length_mm, slope=0.1)
    angle = float(rng.uniform(0.0, 2 * np.pi))
    side = float(rng.choice([-1.0, 1.0]))
    start = float(rng.uniform(-0.5, 0.2)) * half_length_mm
    rate = float(rng.uniform(0.4, 1.1))
    dy, dx = rate * float(np.sin(angle)), rate * float(np.cos(angle))

    def level(z: Floats, y: Floats, x: Floats) -> Floats:
        away = np.maximum(side * z - np.float32(start), 0.0)
        return np.maximum(trunk.level(z, y, x), branch.level(z, y - dy * away, x - dx * away))

    depth, height, width = trunk.extent_mm
    reach = rate * (half_length_mm - start)
    return Shape(level=level, extent_mm=(depth, height + reach, width + reach))


def wings(rng: np.random.Generator, radius_mm: float, thickness_mm: float, half_length_mm: float) -> Shape:
    """Draw two to four curved plates that meet in a line along z, as in the cord's grey matter or an adrenal.

    Args:
        rng: Source of randomness.
        radius_mm: How far the plates reach from that line.
        thickness_mm: Half of a plate's thickness where they meet.
        half_length_mm: Half of the length along z.
    """
    axis = float(rng.uniform(0.0, 2 * np.pi))
    spreads = rng.uniform(0.3, 1.4, size=int(rng.integers(1, 3)))
    angles = [
        axis + sign * float(spread) + (i * np.pi) for i, spread in enumerate(spreads) for sign in (-1, 1)
    ]
    reaches = radius_mm * rng.uniform(0.55, 1.0, size=len(angles))
    bends = rng.uniform(-0.5, 0.5, size=len(angles)) / radius_mm
    twist = float(rng.normal(0.0, 0.25)) / half_length_mm
    thinning = float(rng.uniform(0.2, 0.7))
    wander = [_curve(rng, half_length_mm, radius_mm * 0.3 / half_length_mm) for _ in range(2)]

    def level(z: Floats, y: Floats, x: Floats) -> Floats:
        v, u = y - wander[0](z), x - wander[1](z)
        depth = thickness_mm * 1.4 - np.sqrt(u * u + v * v)
        for angle, reach, bend in zip(angles, reaches, bends, strict=True):
            cos, sin = np.cos(angle + twist * z), np.sin(angle + twist * z)
            along, across = cos * u + sin * v, cos * v - sin * u
            aside = np.abs(across - float(bend) * along * along)
            thick = thickness_mm * (1.0 - thinning * np.clip(along / float(reach), 0.0, 1.0))
            depth = np.maximum(depth, np.minimum(thick - aside, np.minimum(along, float(reach) - along)))
        return np.asarray(np.minimum(depth, half_length_mm - np.abs(z)), dtype=np.float32)

    side = radius_mm * 1.4
    return Shape(level=level, extent_mm=(half_length_mm, side, side))


def hollow(shape: Shape, wall_mm: float) -> Shape:
    """Keep the outer wall of a solid."""

    def level(z: Floats, y: Floats, x: Floats) -> Floats:
        outer = shape.level(z, y, x)
        return np.minimum(outer, np.float32(wall_mm) - outer)

    return Shape(level=level, extent_mm=shape.extent_mm)


def crescent(rng: np.random.Generator, radius_mm: float) -> Shape:
    """Draw a ball with a bite taken out of one side."""
    whole = blob(rng, radius_mm, roughness=0.08)
    bite = blob(rng, radius_mm * float(rng.uniform(0.6, 1.0)), roughness=0.08)
    angle = float(rng.uniform(0.0, 2 * np.pi))
    shift = radius_mm * float(rng.uniform(0.5, 0.9))
    dy, dx = shift * float(np.sin(angle)), shift * float(np.cos(angle))

    def level(z: Floats, y: Floats, x: Floats) -> Floats:
        return np.minimum(whole.level(z, y, x), -bite.level(z, y - dy, x - dx))

    return Shape(level=level, extent_mm=whole.extent_mm)


def stretch(shape: Shape, factor_z: float) -> Shape:
    """Scale a solid along z."""

    def level(z: Floats, y: Floats, x: Floats) -> Floats:
        return shape.level(z / np.float32(factor_z), y, x)

    depth, height, width = shape.extent_mm
    return Shape(level=level, extent_mm=(depth * factor_z, height, width))


def _directions(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw unit vectors, (count, 3)."""
    vectors = rng.standard_normal((count, 3))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Return an orthogonal 3 x 3 matrix."""
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.asarray(q)


def _angular_noise(rng: np.random.Generator, amplitude: float) -> Level:
    """Return a smooth function of the direction with mean about 1."""
    waves = rng.standard_normal((5, 3)) * rng.uniform(1.0, 3.5, size=(5, 1))
    phases = rng.uniform(0.0, 2 * np.pi, size=5)
    strength = amplitude * 0.6

    def factor(uz: Floats, uy: Floats, ux: Floats) -> Floats:
        total = np.float32(0.0) * ux
        for k, phase in zip(waves, phases, strict=True):
            total = total + np.cos(float(k[0]) * uz + float(k[1]) * uy + float(k[2]) * ux + float(phase))
        return np.asarray(1.0 + strength * total, dtype=np.float32)

    return factor


def _waves(
    rng: np.random.Generator, radius_mm: float, strength: float
) -> Callable[[Floats, Floats, Floats], tuple[Floats, Floats, Floats]]:
    """Return a smooth displacement of coordinates by about strength times the radius."""
    waves = rng.standard_normal((3, 3)) * (1.6 / radius_mm)
    phases = rng.uniform(0.0, 2 * np.pi, size=3)
    reach = np.float32(strength * radius_mm)

    def bend(z: Floats, y: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
        if strength < 0.01:
            return z, y, x
        shifts = [
            reach * np.cos(float(k[0]) * z + float(k[1]) * y + float(k[2]) * x + float(phase))
            for k, phase in zip(waves, phases, strict=True)
        ]
        return z + shifts[0], y + shifts[1], x + shifts[2]

    return bend


def _curve(rng: np.random.Generator, half_length_mm: float, slope: float) -> Callable[[Floats], Floats]:
    """Return a smooth function of the position along a tube that is 0 in the middle."""
    tilt = float(rng.uniform(-0.5, 0.5)) * slope
    reach = float(rng.uniform(0.0, 0.25)) * slope * half_length_mm
    rate, phase = float(rng.uniform(1.0, 4.0)) / half_length_mm, float(rng.uniform(0.0, 2 * np.pi))

    def offset(main: Floats) -> Floats:
        wave = np.cos(np.float32(rate) * main + np.float32(phase)) - np.float32(np.cos(phase))
        return np.asarray(tilt * main + reach * wave, dtype=np.float32)

    return offset
