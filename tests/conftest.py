"""A network small enough for every test, and a scan for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medsam2.imaging.volume import Volume
from medsam2.inference.runtime import Runtime, start_runtime
from medsam2.model.compact.config import CompactConfig
from medsam2.model.compact.network import PLANES, CompactNetwork
from medsam2.model.config import ModelConfig
from medsam2.model.network import Network

TINY = ModelConfig(
    image_size=64,
    embed_dim=16,
    num_heads=1,
    stages=(1, 1, 1, 1),
    global_attention_blocks=(),
    window_pos_embed_size=(7, 7),
    window_spec=(8, 4, 4, 2),
    hidden_dim=64,
    memory_attention_layers=1,
)
SMALL_COMPACT = CompactConfig(image_size=64, channels=(8, 8, 16, 16, 16), blocks=(1, 1, 1, 1, 1))


def _tiny_network() -> Network:
    """Weights of chance, larger than a fresh network's, so that nothing is nearly zero."""
    torch.manual_seed(0)
    network = Network(TINY)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        # Objects are there, whatever the slice: absence is tested where it is meant.
        nn.init.constant_(network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    return network.eval()


@pytest.fixture
def network() -> Network:
    """A tiny network with seeded weights, of one's own to change."""
    return _tiny_network()


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    """A tiny network, ready on the CPU; shared, so not to be changed."""
    return start_runtime(_tiny_network(), device="cpu", precision="float32")


@pytest.fixture
def compact_network() -> CompactNetwork:
    """A small compact network with seeded weights, of one's own to change; masks are parts of a slice."""
    torch.manual_seed(1)
    network = CompactNetwork(SMALL_COMPACT)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        network.decoder.last[2].weight.mul_(20)
        nn.init.constant_(network.decoder.last[2].bias, 2.0)
        nn.init.constant_(network.head[-1].bias, 3.0)  # objects are there, and the network is sure
    return network.eval()


@pytest.fixture
def bright_network() -> CompactNetwork:
    """A compact network whose weights are written by hand: a pixel brighter than half is the object's."""
    network = CompactNetwork(SMALL_COMPACT).eval()
    decoder = network.decoder
    with torch.no_grad():
        for layer in (network.encoder.fine, decoder.narrow, decoder.last[0], decoder.last[2]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        network.encoder.fine.weight[0, PLANES.index("slice"), 1, 1] = 100
        network.encoder.fine.bias[0] = -40  # 10 at a grey of one half
        decoder.last[0].weight[0, SMALL_COMPACT.fine_channels, 1, 1] = 1
        decoder.last[2].weight[0, 0, 1, 1] = 1
        decoder.last[2].bias[0] = -10
        network.head[-1].bias[1] = 9  # the object is there
    return network


@pytest.fixture
def scan() -> Volume:
    """A bright block in noise: 9 slices of 40 x 56 pixels, each axis of another length."""
    grey = np.random.default_rng(3).integers(0, 60, (9, 40, 56)).astype(np.int16)
    grey[2:7, 12:26, 18:38] += 150
    return Volume.from_array(grey, (0.7, 0.8, 2.5), (3.0, -4.0, 5.0), modality="MR")


@pytest.fixture
def disc_frames() -> list[np.ndarray]:
    """A pale disc on dark blue that grows and shrinks twice in 40 frames, uint8 (64, 96, 3) each."""
    y, x = np.mgrid[:64, :96]
    frames = []
    for k in range(40):
        frame = np.full((64, 96, 3), (16, 24, 80), dtype=np.uint8)
        radius = 16 + 6 * np.cos(2 * np.pi * k / 20)
        frame[(x - 50) ** 2 + (y - 30) ** 2 <= radius**2] = (200, 180, 160)
        frame[:4, : 2 * k + 2] = 255  # a bar that tells the frame's number
        frames.append(frame)
    return frames


@pytest.fixture
def write_video() -> Callable[..., Path]:
    """Encode frames with PyAV; stamps are in 1/1000 s."""
    av = pytest.importorskip("av", reason="needs the extra video")

    def write(
        path: Path,
        frames: Sequence[np.ndarray],
        *,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        options: dict[str, str] | None = None,
        rate: int = 20,
        stamps: Sequence[int] | None = None,
        rotation: int | None = None,
    ) -> Path:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pix_fmt
            stream.bit_rate = 4_000_000
            stream.thread_count = 1
            if stamps is not None:
                stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            if rotation is not None:
                stream.set_display_rotation(rotation)
            for k, array in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(array, format="rgb24")
                frame.pts = k if stamps is None else stamps[k]
                frame.time_base = Fraction(1, rate) if stamps is None else Fraction(1, 1000)
                container.mux(stream.encode(frame.reformat(format=pix_fmt)))
            container.mux(stream.encode(None))
        return path

    return write
