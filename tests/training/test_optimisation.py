"""Which parameters decay, how the learning rate moves, what the averages hold."""

from __future__ import annotations

import math

import pytest
import torch

from medsam2.model.compact.network import CompactNetwork
from medsam2.model.config import TINY_512
from medsam2.model.network import Network
from medsam2.training.config import PARTS, PhaseConfig
from medsam2.training.optimisation import (
    AveragedWeights,
    build_optimizer,
    freeze,
    learning_rate_at,
    set_learning_rate,
)

PHASE = PhaseConfig(
    name="p", steps=110, image_size=64, batch=1, clip_length=1, learning_rate=0.2, warmup_steps=10,
    final_fraction=0.1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.02),
        (4, 0.1),
        (9, 0.2),
        (10, 0.2),
        (60, 0.2 * (0.1 + 0.9 / 2)),
        (35, 0.2 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)),
        (110, 0.02),
        (500, 0.02),
    ],
)
def test_learning_rate(step: int, expected: float) -> None:
    assert learning_rate_at(PHASE, step) == pytest.approx(expected)


def test_every_parameter_is_in_one_group_and_few_do_not_decay(network: Network) -> None:
    optimizer = build_optimizer(network, learning_rate=0.1, weight_decay=0.05)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    names = {id(p): name for name, p in network.named_parameters()}
    decays, spared = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert sorted(decays + spared) == sorted(names.values())
    assert all(name.endswith("weight") for name in decays)
    kept = {name for name in names.values() if name.endswith(("bias", "gamma")) or "norm" in name}
    tokens = {
        "maskmem_tpos_enc",
        "no_mem_embed",
        "no_mem_pos_enc",
        "no_obj_ptr",
        "no_obj_embed_spatial",
        "image_encoder.trunk.pos_embed",
        "image_encoder.trunk.pos_embed_window",
        "sam_prompt_encoder.not_a_point_embed.weight",
        "sam_prompt_encoder.no_mask_embed.weight",
        "sam_mask_decoder.iou_token.weight",
        "sam_mask_decoder.obj_score_token.weight",
        *(f"sam_prompt_encoder.point_embeddings.{i}.weight" for i in range(4)),
    }
    assert kept | tokens <= set(spared)
    assert {"image_encoder.trunk.blocks.0.attn.qkv.weight", "obj_ptr_proj.layers.0.weight"} <= set(decays)
    # Told apart by what they are, not by their shape: these have a leading axis of 4, 1 and 1.
    assert "sam_mask_decoder.mask_tokens.weight" in spared
    assert {"mask_downsample.weight", "sam_mask_decoder.pred_obj_score_head.layers.2.weight"} <= set(decays)


def test_the_rate_is_set_in_all_groups(network: Network) -> None:
    optimizer = build_optimizer(network, learning_rate=0.1, weight_decay=0.05)
    set_learning_rate(optimizer, 0.003)
    assert [group["lr"] for group in optimizer.param_groups] == [0.003, 0.003]


def test_parts_have_rates_of_their_own() -> None:
    network = Network(TINY_512)
    optimizer = build_optimizer(
        network, learning_rate=5e-5, weight_decay=0.1, encoder_rate=0.6, layer_decay=0.9, beta2=0.999
    )
    set_learning_rate(optimizer, 5e-5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in network.named_parameters()}
    # The rates of MedSAM2's recipe.
    assert named["sam_mask_decoder.mask_tokens.weight"] == pytest.approx(5e-5)
    assert named["memory_attention.layers.0.norm1.weight"] == pytest.approx(5e-5)
    assert named["image_encoder.neck.convs.0.conv.weight"] == pytest.approx(3e-5)
    assert named["image_encoder.trunk.pos_embed"] == pytest.approx(3e-5)
    assert named["image_encoder.trunk.blocks.11.attn.qkv.weight"] == pytest.approx(2.7e-5)
    assert named["image_encoder.trunk.blocks.0.attn.qkv.weight"] == pytest.approx(8.47e-6, rel=1e-3)
    assert named["image_encoder.trunk.patch_embed.proj.weight"] == pytest.approx(7.63e-6, rel=1e-3)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}


def test_frozen_parts_are_not_the_optimisers_business(network: Network) -> None:
    freeze(network, ("image_encoder", "memory_encoder"))
    optimizer = build_optimizer(network, learning_rate=0.1, weight_decay=0.05)
    learning = {id(p) for group in optimizer.param_groups for p in group["params"]}
    left = {name.split(".")[0] for name, p in network.named_parameters() if id(p) not in learning}
    assert left == {"image_encoder", "memory_encoder"}


def test_every_part_that_can_be_frozen_is_a_part(network: Network) -> None:
    assert set(PARTS) <= {name for name, _ in network.named_children()}


def test_averages_follow_fast_at_first_and_slowly_later() -> None:
    average = AveragedWeights({"w": torch.zeros(2)}, decay=0.9)
    average.update({"w": torch.ones(2)}, step=0)  # decay 1/10
    assert average.state["w"].tolist() == pytest.approx([0.9, 0.9])
    average.update({"w": torch.full((2,), 2.0)}, step=10_000)
    assert average.state["w"].tolist() == pytest.approx([0.9 * 0.9 + 0.1 * 2.0] * 2)


def test_averages_are_copies() -> None:
    state = {"w": torch.zeros(2)}
    average = AveragedWeights(state, decay=0.9)
    state["w"].add_(5)
    assert average.state["w"].tolist() == [0.0, 0.0]


def test_the_compact_network_decays_its_weights_alone(compact_network: CompactNetwork) -> None:
    optimizer = build_optimizer(compact_network, learning_rate=0.1, weight_decay=0.02)
    names = {id(p): name for name, p in compact_network.named_parameters()}
    groups = {
        group["weight_decay"]: [names[id(p)] for p in group["params"]] for group in optimizer.param_groups
    }
    assert groups.keys() == {0.0, 0.02}
    assert sorted(groups[0.0] + groups[0.02]) == sorted(names.values())
    assert all(name.endswith("bias") or "norm" in name or name.endswith("absent") for name in groups[0.0])
    assert {group["scale"] for group in optimizer.param_groups} == {1.0}
