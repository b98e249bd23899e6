"""Objects in one slice are decoded in one batch, and each is found as it is found alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medsam2.imaging.volume import Volume
from medsam2.inference.batching import MOST_TOGETHER
from medsam2.inference.options import InferenceOptions
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import start_runtime
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import Network
from medsam2.prompts.types import Prompt, prompt_from

KEY, NUM_SLICES = 4, 9
PROMPTS = {
    1: [prompt_from(KEY, box=(18, 12, 37, 25))],
    2: [prompt_from(KEY, box=(2, 4, 20, 30))],
    5: [prompt_from(KEY, points=[(40, 30)])],
}


def _batches(module: nn.Module) -> list[int]:
    """Fill with the batch size of each call of a module."""
    sizes: list[int] = []

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        tensor = output if isinstance(output, Tensor) else next(iter(vars(output).values()))
        sizes.append(len(tensor))

    module.register_forward_hook(note)
    return sizes


@pytest.mark.parametrize("zoom", [False, True])
def test_the_official_network_decodes_objects_together(network: Network, scan: Volume, zoom: bool) -> None:
    sizes = _batches(network.sam_mask_decoder)
    _check(Predictor(start_runtime(network, device="cpu", precision="float32")), scan, zoom=zoom)
    if not zoom:  # zoomed views are often one object's own; boxes and clicks are prompts of two shapes
        assert sizes[: NUM_SLICES + 1] == [2, 1] + [3] * (NUM_SLICES - 1)


def test_the_compact_network_finds_objects_together(compact_network: CompactNetwork, scan: Volume) -> None:
    sizes = _batches(compact_network.encoder.fine)
    _check(Predictor(start_runtime(compact_network, device="cpu", precision="float32")), scan, zoom=True)
    assert sizes[0] == 3
    assert 3 in sizes[2:], "tracked objects go together as well"


def _check(predictor: Predictor, scan: Volume, *, zoom: bool) -> None:
    options = InferenceOptions(zoom=zoom, keep_component=False, stop_after=0)
    together = predictor.session(scan, options=options)
    together.add_all(PROMPTS)
    together.finish()
    for number, prompts in PROMPTS.items():
        alone = predictor.session(scan, options=options)
        alone.add_all({number: prompts})
        alone.finish()
        for z in range(NUM_SLICES):
            first, second = (one.object(number).frame(z) for one in (together, alone))
            torch.testing.assert_close(first.low_res_logits, second.low_res_logits, rtol=1e-3, atol=1e-3)
        differing = np.count_nonzero(together.object(number).mask() != alone.object(number).mask())
        assert differing <= 2, "a voxel whose logit is 0 but for the last digits"


def test_more_objects_than_fit_in_a_batch(network: Network, scan: Volume) -> None:
    sizes = _batches(network.sam_mask_decoder)
    predictor = Predictor(start_runtime(network, device="cpu", precision="float32"))
    session = predictor.session(scan, options=InferenceOptions(zoom=False))
    many: dict[int, list[Prompt]] = {
        number: [prompt_from(KEY, box=(2, 2, 8 + number, 20))] for number in range(1, MOST_TOGETHER + 3)
    }
    session.add_all(many)
    assert sizes == [MOST_TOGETHER, 2]
    assert session.objects == list(many)
