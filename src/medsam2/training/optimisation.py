"""Parameter groups, learning-rate schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from medsam2.training.config import PhaseConfig

BETAS = (0.9, 0.99)


def build_optimizer(network: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW without decay on biases, norms, tokens and learned positions."""
    groups: list[dict[str, object]] = [
        {"params": [p for p in network.parameters() if p.ndim > 1 and not _is_embedding(p)]},
        {
            "params": [p for p in network.parameters() if p.ndim <= 1 or _is_embedding(p)],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, weight_decay=weight_decay)


def _is_embedding(parameter: Tensor) -> bool:
    """Tokens and learned positions have a leading axis of 1 (or of the seven memory codes)."""
    return parameter.shape[0] == 1 or (parameter.ndim == 4 and parameter.shape[1:3] == (1, 1))


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
