"""Position encodings against their formulas, written again in numpy with float64 and complex numbers."""

from __future__ import annotations

import numpy as np
import torch

from medsam2.model.layers import (
    RandomFourierEncoding,
    axial_rotation,
    distance_encoding,
    rotate,
    sine_map,
)


def test_sine_map_is_rows_then_columns_sine_and_cosine_by_turns() -> None:
    channels, size = 16, 5
    half = channels // 2
    expected = np.empty((channels, size, size))
    for i in range(half):
        wave = 10000 ** (2 * (i // 2) / half)
        turn = np.sin if i % 2 == 0 else np.cos
        for place in range(size):
            value = turn(2 * np.pi * (place + 1) / (size + 1e-6) / wave)
            expected[i, place, :] = value
            expected[half + i, :, place] = value
    np.testing.assert_allclose(sine_map(channels, size).numpy(), expected, atol=1e-5)


def test_distances_are_sines_first_then_cosines() -> None:
    channels, distances = 12, np.array([0.0, 1 / 15, 1.0, 2.4])
    half = channels // 2
    waves = 10000.0 ** (2 * (np.arange(half) // 2) / half)
    phase = distances[:, None] / waves
    expected = np.concatenate((np.sin(phase), np.cos(phase)), axis=1)
    encoded = distance_encoding(torch.tensor(distances, dtype=torch.float32), channels)
    np.testing.assert_allclose(encoded.numpy(), expected, atol=1e-6)


def test_fourier_encoding_of_points_and_of_pixel_centres() -> None:
    torch.manual_seed(0)
    encoding = RandomFourierEncoding(8)
    frequencies = encoding.positional_encoding_gaussian_matrix.double().numpy()
    size = 3
    grid = encoding.grid(size).numpy()
    for row in range(size):
        for column in range(size):
            xy = np.array([(column + 0.5) / size, (row + 0.5) / size])
            phase = 2 * np.pi * ((2 * xy - 1) @ frequencies)
            expected = np.concatenate((np.sin(phase), np.cos(phase)))
            np.testing.assert_allclose(grid[:, row, column], expected, atol=1e-5)
            point = encoding(torch.tensor(xy, dtype=torch.float32)).numpy()
            np.testing.assert_allclose(point, expected, atol=1e-5)


def test_fourier_encoding_keeps_float32_under_autocast() -> None:
    encoding = RandomFourierEncoding(8)
    xy = torch.rand(5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = encoding(xy)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, encoding(xy))


def test_rotation_is_multiplication_by_unit_complex_numbers() -> None:
    channels, size, memories = 16, 3, 2
    x = np.random.default_rng(0).normal(size=(2, memories * size * size, channels)).astype(np.float32)
    turned = rotate(torch.from_numpy(x), *axial_rotation(channels, size)).numpy()

    quarter = channels // 4
    frequency = 10000.0 ** (-4 * np.arange(quarter) / channels)
    token = np.tile(np.arange(size * size), memories)
    angle = np.concatenate(
        ((token % size)[:, None] * frequency, (token // size)[:, None] * frequency), axis=1
    )
    expected = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
    np.testing.assert_allclose(turned[..., 0::2], expected.real, atol=1e-5)
    np.testing.assert_allclose(turned[..., 1::2], expected.imag, atol=1e-5)
