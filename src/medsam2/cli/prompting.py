"""The options that say what to segment: a prompt on one slice, a file of prompts, or a rough mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.options import grouped, heading
from medsam2.errors import PromptError

if TYPE_CHECKING:
    from medsam2.inference.grid import SliceGrid
    from medsam2.inference.prompting import Objects
    from medsam2.prompts.types import Prompt

DRAWINGS = ("mask", "box", "recist")


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """The options as they are given."""

    slice_index: int | None
    box: tuple[float, float, float, float] | None
    points: Sequence[tuple[float, float, int]]
    mask: Path | None
    recist: tuple[float, float, float, float] | None
    prompts: Path | None
    from_mask: Path | None
    from_mask_as: str | None
    mask_labels: Sequence[str]

    @property
    def files(self) -> list[Path]:
        """Files that are read."""
        return [path for path in (self.mask, self.prompts, self.from_mask) if path is not None]


prompt_options = grouped(
    "prompts",
    PromptOptions,
    heading("Prompt"),
    click.option("--slice", "slice_index", type=int, metavar="K", help="Slice of the prompt, from 0."),
    click.option("--box", type=float, nargs=4, metavar="X0 Y0 X1 Y1", help="Box in pixels of the slice."),
    click.option(
        "--point", "points", type=(float, float, int), multiple=True, metavar="X Y LABEL",
        help="Click; LABEL is 1 inside and 0 outside the object. May be repeated.",
    ),
    click.option("--mask", type=click.Path(path_type=Path), help="Mask file whose slice K is the prompt."),
    click.option(
        "--recist", type=float, nargs=4, metavar="X0 Y0 X1 Y1",
        help="Both ends of the longest diameter on slice K.",
    ),
    click.option(
        "--prompts", type=click.Path(path_type=Path), metavar="FILE",
        help="File with prompts for any number of objects: JSON, CSV or DeepLesion's table.",
    ),
    click.option(
        "--from-mask", type=click.Path(path_type=Path), metavar="FILE",
        help="Rough mask. Each label is an object, and its largest slice is the prompt.",
    ),
    click.option(
        "--from-mask-as", type=click.Choice(DRAWINGS),
        help="What a label of --from-mask shows: the outline of the object (default), a box around it, or "
        "its longest diameter.",
    ),
    click.option(
        "--mask-label", "mask_labels", multiple=True, metavar="N|NAME",
        help="Take only this label of --mask or --from-mask, by value or name. May be repeated with "
        "--from-mask.",
    ),
)  # fmt: skip


def check_prompts(options: PromptOptions) -> None:
    """Check that the options say what to segment, and only in one way, before any file is read.

    Raises:
        PromptError: They do not.
    """
    on_slice = {
        "--box": options.box is not None,
        "--point": bool(options.points),
        "--mask": options.mask is not None,
        "--recist": options.recist is not None,
    }
    parts = [name for name, is_given in on_slice.items() if is_given]
    whole_files = {"--prompts": options.prompts, "--from-mask": options.from_mask}
    files = [name for name, path in whole_files.items() if path is not None]
    if not parts and not files:
        raise PromptError(
            "say what to segment: --box X0 Y0 X1 Y1, --point X Y 1, --mask FILE or --recist X0 Y0 X1 Y1 "
            "on --slice K, or --prompts FILE, or --from-mask FILE"
        )
    if len(files) > 1 or (files and parts):
        raise PromptError(f"{' and '.join([*parts, *files])} say the same thing twice; give one of them")
    if files and options.slice_index is not None:
        raise PromptError(f"{files[0]} names its slices itself; leave out --slice")
    if parts and options.slice_index is None:
        raise PromptError(f"say on which slice the {parts[0]} lies: --slice K, counted from 0")
    if options.recist is not None and (options.box is not None or options.mask is not None):
        raise PromptError("--recist makes a box itself; give it alone or with --point")
    if options.mask_labels and options.mask is None and options.from_mask is None:
        raise PromptError("--mask-label chooses a label of a mask; give it with --mask or --from-mask FILE")
    if len(options.mask_labels) > 1 and options.mask is not None:
        raise PromptError("--mask is one object; give one --mask-label, or take several with --from-mask")
    if options.from_mask_as is not None and options.from_mask is None:
        raise PromptError("--from-mask-as says how to take a mask; give it with --from-mask FILE")


def find_objects(
    options: PromptOptions, image: Path, window: str | tuple[float, float] | None, grid: SliceGrid
) -> Objects:
    """Find the objects and their prompts.

    Args:
        options: As they are given.
        image: The volume's file.
        window: The value of --window.
        grid: The slices of the volume.

    Raises:
        InputError: A file cannot be read, or a prompt in it is wrong.
    """
    from medsam2.inference.prompting import Objects, objects_in_mask, objects_of
    from medsam2.prompts.files import read_prompts

    if options.prompts is not None:
        prompts = read_prompts(options.prompts, image=image, num_slices=grid.shape[0])
        objects = objects_of(prompts, options.prompts, grid)
        if window is None and len(objects.windows) > 1:
            try:
                objects.window()
            except PromptError as error:
                raise PromptError(f"{error}, or choose one with --window") from None
        return objects
    if options.from_mask is not None:
        drawn_as = options.from_mask_as or DRAWINGS[0]
        return objects_in_mask(options.from_mask, grid, drawn_as=drawn_as, wanted=options.mask_labels)
    return Objects(prompts={1: [_prompt_on_slice(options, grid)]})


def _prompt_on_slice(options: PromptOptions, grid: SliceGrid) -> Prompt:
    """Make a prompt of --slice with --box, --point, --mask and --recist."""
    from medsam2.inference.prompting import slice_of_mask
    from medsam2.prompts.statements import RecistLine, box_around
    from medsam2.prompts.types import check_slice, prompt_from

    assert options.slice_index is not None  # as `check_prompts` made sure
    check_slice(options.slice_index, grid.shape[0])
    box: Sequence[float] | None = options.box
    if options.recist is not None:
        line = RecistLine.from_numbers(options.recist)
        box = box_around(line, shape_yx=grid.shape[1:], pixel_mm=grid.in_plane_mm).xyxy
    mask = None
    if options.mask is not None:
        mask = slice_of_mask(options.mask, grid, options.slice_index, options.mask_labels).array
    return prompt_from(
        options.slice_index,
        box=box,
        points=[(x, y) for x, y, _ in options.points],
        labels=[label for _, _, label in options.points],
        mask=mask,
    )
