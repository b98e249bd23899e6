"""`medsam2 bench`: measure speed and memory on this machine."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from medsam2.cli.options import (
    device_option,
    json_option,
    precision_option,
    runtime_option,
    weights_option,
)
from medsam2.errors import InputError

if TYPE_CHECKING:
    from medsam2.inference.session import Session

SIDE = 256
SEED = 900_000
WINDOW = (0.0, 255.0)
"""Of generated stacks."""


@click.group(invoke_without_command=True)
@weights_option
@device_option
@precision_option
@runtime_option
@click.option(
    "--slices", type=click.IntRange(min=2), default=40, show_default=True, metavar="N",
    help="Slices of the generated scan.",
)  # fmt: skip
@json_option
@click.pass_context
def bench(
    ctx: click.Context, weights: str, device: str, precision: str, runtime: str, slices: int, as_json: bool
) -> None:
    """Measure speed and memory on this machine.

    A generated object is followed through every slice of a generated scan, from one box, and then corrected
    with one click.

    Example: medsam2 bench --weights compact --slices 100
    """
    if ctx.invoked_subcommand is not None:
        return
    facts = _measure(weights, device, precision, runtime, slices)
    if as_json:
        click.echo(json.dumps(asdict(facts)))
        return
    click.echo(
        f"{weights} on {facts.device} in {facts.precision} by {facts.runtime}, {facts.threads} threads: "
        f"{slices} slices of {SIDE} x {SIDE} in {facts.seconds:.2f} s, {facts.seconds_a_slice:.3f} s a slice"
    )
    click.echo(
        f"The preview after a box takes {facts.box_seconds:.2f} s, after a click {facts.click_seconds:.2f} s."
    )
    if facts.precision_reason:
        click.echo(facts.precision_reason)
    if facts.peak_mib is not None:
        click.echo(f"The process used at most {facts.peak_mib:.0f} MiB, libraries and weights included.")


@bench.command(hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def memory() -> None:
    """Tell where the comparison of memory policies is."""
    raise InputError(
        "the comparison of memory policies is a script of the repository now: "
        "python benchmarks/memory_policies.py CASES.json"
    )


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What was measured."""

    weights: str
    device: str
    precision: str
    precision_reason: str
    """Why it is that precision."""
    runtime: str
    threads: int
    slices: int
    seconds: float
    """From opening the volume to the last mask."""
    seconds_a_slice: float
    box_seconds: float
    """From opening the volume to the mask on the prompted slice."""
    click_seconds: float
    """From a correcting click to the mask on its slice."""
    peak_mib: float | None


def _measure(weights: str, device: str, precision: str, runtime: str, num_slices: int) -> _Facts:
    import numpy as np
    import torch

    from medsam2.imaging.volume import Volume
    from medsam2.inference.predictor import load
    from medsam2.inference.record import watched_memory
    from medsam2.inference.runtime import InferenceOptions
    from medsam2.prompts.simulate import center_point, tight_box
    from medsam2.prompts.types import Prompt
    from medsam2.synthesis.stack import generate_stack

    def start() -> tuple[Session, float]:
        begun = time.perf_counter()
        session = predictor.session(volume, window=WINDOW, options=options)
        session.add(1, box)
        return session, time.perf_counter() - begun

    stack = generate_stack(SEED, shape=(num_slices, SIDE, SIDE))
    areas = (stack.labels > 0).sum(axis=(1, 2))
    key_slice = int(areas.argmax())
    labels, counts = np.unique(stack.labels[key_slice][stack.labels[key_slice] > 0], return_counts=True)
    inside = stack.labels[key_slice] == labels[counts.argmax()]
    predictor = load(weights, device=device, precision=precision, runtime=runtime)
    # No part is cut off and no direction ends early, so that the work is that of all slices.
    options = InferenceOptions(keep_component=False, stop_after=0)
    box = Prompt(slice_index=key_slice, box=tight_box(inside))
    click_inside = Prompt(slice_index=key_slice, points=(center_point(inside, is_positive=True),))
    volume = Volume.from_array(stack.image)
    with watched_memory() as peak:
        start()  # the first call allocates memory and chooses kernels
        session, box_seconds = start()
        started = time.perf_counter()
        session.finish()
        seconds = box_seconds + time.perf_counter() - started
        started = time.perf_counter()
        session.add(1, click_inside)
        click_seconds = time.perf_counter() - started
    used = predictor.runtime
    return _Facts(
        weights=weights,
        device=str(used.device),
        precision=str(used.precision).removeprefix("torch."),
        precision_reason=used.reason,
        runtime=used.name,
        threads=torch.get_num_threads(),
        slices=num_slices,
        seconds=seconds,
        seconds_a_slice=seconds / num_slices,
        box_seconds=box_seconds,
        click_seconds=click_seconds,
        peak_mib=peak.mib,
    )
