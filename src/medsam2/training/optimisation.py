"""Parameter groups, learning-rate schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from medsam2.model.hiera import Hiera
from medsam2.model.network import Network
from medsam2.training.config import PhaseConfig

BETA1, BETA2 = 0.9, 0.99

_ENCODER = "image_encoder."
_BLOCKS = "image_encoder.trunk.blocks."
_PATCHES = "image_encoder.trunk.patch_embed."


def build_optimizer(
    network: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    encoder_rate: float = 1.0,
    layer_decay: float = 1.0,
    beta2: float = BETA2,
) -> torch.optim.AdamW:
    """AdamW without decay on biases, norms, tokens and learned positions; frozen parameters are left out.

    Args:
        network: A network.
        learning_rate: Of all but the image encoder.
        weight_decay: Of what is decayed.
        encoder_rate: Rate of the image encoder, as a part of `learning_rate`.
        layer_decay: The trunk's last block has this part of the encoder's rate, the one before it this part
            of that, and so on to the patches; positions and pyramid have the encoder's own.
        beta2: AdamW's second decay.
    """
    learned_vectors = _learned_vectors(network)
    num_blocks = 1 + max((_block_of(name) for name, _ in network.named_parameters()), default=-1)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            scale = _rate_of(name, num_blocks, encoder_rate, layer_decay)
            is_spared = parameter.ndim <= 1 or parameter in learned_vectors
            groups.setdefault((scale, is_spared), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "scale": scale, "weight_decay": 0.0 if is_spared else weight_decay}
            for (scale, is_spared), parameters in sorted(groups.items(), key=lambda group: group[0])
        ],
        lr=learning_rate,
        betas=(BETA1, beta2),
    )


def freeze(network: nn.Module, parts: Sequence[str]) -> None:
    """Keep parts of a network, named as its attributes, as they are."""
    for part in parts:
        network.get_submodule(part).requires_grad_(False)


def _rate_of(name: str, num_blocks: int, encoder_rate: float, layer_decay: float) -> float:
    """Part of the learning rate that a parameter has."""
    if not name.startswith(_ENCODER):
        return 1.0
    block = _block_of(name)
    depth = num_blocks - block if block >= 0 else num_blocks + 1 if name.startswith(_PATCHES) else 0
    return encoder_rate * layer_decay**depth


def _block_of(name: str) -> int:
    """Number of the trunk's block that a parameter belongs to, -1 for none."""
    return int(name.removeprefix(_BLOCKS).split(".")[0]) if name.startswith(_BLOCKS) else -1


def _learned_vectors(network: nn.Module) -> set[Tensor]:
    """Tokens and positions: embedding tables, and what a network or a trunk holds itself."""
    tables = (module for module in network.modules() if isinstance(module, nn.Embedding))
    owners = (module for module in network.modules() if isinstance(module, (Network, Hiera)))
    own: set[Tensor] = {p for module in owners for p in module.parameters(recurse=False)}
    return own | {table.weight for table in tables}


def learning_rate_at(phase: PhaseConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to the phase's final fraction."""
    if step < phase.warmup_steps:
        return phase.learning_rate * (step + 1) / phase.warmup_steps
    progress = (step - phase.warmup_steps) / max(1, phase.steps - phase.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return phase.learning_rate * (phase.final_fraction + (1 - phase.final_fraction) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group its part of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("scale", 1.0)


class AveragedWeights:
    """Exponential moving average of a network's state."""

    def __init__(self, state: dict[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in state.items()}

    @torch.no_grad()
    def update(self, state: dict[str, Tensor], step: int) -> None:
        """Move towards `state`; early steps move further, so that chance beginnings fade."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, values = zip(*self._pairs(state), strict=True)
        torch._foreach_lerp_(list(averages), list(values), 1 - decay)

    def _pairs(self, state: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for name, average in self.state.items():
            yield average, state[name].detach()
