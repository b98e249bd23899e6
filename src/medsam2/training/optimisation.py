"""Parameter groups, learning-rate schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from medsam2.model.hiera import Hiera
from medsam2.model.network import Network
from medsam2.training.config import PhaseConfig

BETAS = (0.9, 0.99)


def build_optimizer(network: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW without decay on biases, norms, tokens and learned positions."""
    learned_vectors = _learned_vectors(network)
    spared = [p for p in network.parameters() if p.ndim <= 1 or p in learned_vectors]
    decayed = [p for p in network.parameters() if p.ndim > 1 and p not in learned_vectors]
    groups: list[dict[str, object]] = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, weight_decay=weight_decay)


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
    """Give every group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


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
