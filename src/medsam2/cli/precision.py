"""The choice of arithmetic, the same wherever a network runs; names as `inference.runtime.PRECISIONS`."""

from __future__ import annotations

import click

precision_option = click.option(
    "--precision", type=click.Choice(["auto", "float32", "float32-fast", "bfloat16"]), default="auto",
    show_default=True,
    help="auto is the fastest that keeps masks; float32 computes in the published order of operations.",
)  # fmt: skip
