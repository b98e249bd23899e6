"""The processes and devices of a run, by Lightning Fabric."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from medsam2.errors import InputError

GPU_CLIP_WORKERS = 4


@dataclass(frozen=True, kw_only=True)
class Devices:
    """What a run computes on.

    Raises:
        InputError: A number is below 1.
    """

    device: str = "auto"
    """Lightning Fabric's accelerator name: auto, cpu or cuda."""
    processes: int = 1
    """On each machine, each with a device or an equal share of the processor's cores. They are started here,
    unless `torchrun` or SLURM has started them."""
    machines: int = 1
    clip_workers: int | None = None
    """Worker processes of each process that draw clips ahead of time; if not given, 4 beside a GPU and none
    on a CPU, where drawing and learning would share the same cores."""

    def __post_init__(self) -> None:
        if self.processes < 1 or self.machines < 1:
            raise InputError(
                f"processes and machines are at least 1, not {self.processes} and {self.machines}"
            )
        if self.clip_workers is not None and self.clip_workers < 0:
            raise InputError(f"workers that draw clips are 0 or more, not {self.clip_workers}")

    @property
    def is_shared(self) -> bool:
        """Whether several processes share a run."""
        return self.processes * self.machines > 1


def launch(devices: Devices, precision: str) -> Fabric:
    """Start the processes of a run and join them."""
    # Which parts of the network a step uses depends on its prompts.
    strategy: str | Strategy = DDPStrategy(find_unused_parameters=True) if devices.is_shared else "auto"
    fabric = Fabric(
        accelerator=devices.device,
        devices=devices.processes,
        num_nodes=devices.machines,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    if devices.processes > 1 and fabric.device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // devices.processes))
    return fabric


def clip_workers(devices: Devices, device: torch.device) -> int:
    """Return how many worker processes draw clips for this process."""
    if devices.clip_workers is not None:
        return devices.clip_workers
    return 0 if device.type == "cpu" else min(GPU_CLIP_WORKERS, os.cpu_count() or 1)


def average_gradients(fabric: Fabric, module: nn.Module) -> None:
    """Give every process the mean of all gradients; the backward passes of a step exchange none.

    Processes may make different numbers of backward passes, since these are drawn at random. A parameter that
    no process has used keeps no gradient, as on one process, and the optimiser does not change it.
    """
    if fabric.world_size == 1:
        return
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    is_used = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
    counts = fabric.all_reduce(is_used.to(fabric.device), reduce_op="sum")
    assert isinstance(counts, Tensor)
    used = [parameter for parameter, count in zip(parameters, counts.tolist(), strict=True) if count]
    for parameter in used:
        if parameter.grad is None:  # another process's clips have used it
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in used if parameter.grad is not None]
    flat = fabric.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduce_op="mean")
    assert isinstance(flat, Tensor)
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
        gradient.copy_(mean.view_as(gradient))


def mean_over_processes(fabric: Fabric, values: Tensor) -> Tensor:
    """Average a tensor that each process has; every process gets the mean."""
    if fabric.world_size == 1:
        return values
    mean = fabric.all_reduce(values, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean


def share_of_batch(batch: int, world_size: int, accumulate: int) -> int:
    """Return how many clips a process takes at a time.

    Raises:
        InputError: The batch cannot be shared equally.
    """
    if batch % (world_size * accumulate):
        raise InputError(
            f"a batch of {batch} clips cannot be shared equally by {world_size} processes in "
            f"{accumulate} parts each; it must be a multiple of {world_size * accumulate}"
        )
    return batch // (world_size * accumulate)


def attention_kernel(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU the plain kernel trains small windows a fifth faster than the fused one."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
