"""A model's masks for the cases that nobody has begun: from files, or made here from prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medsam2.annotation.cases import Case, list_cases
from medsam2.annotation.names import DEFAULT_COLOUR
from medsam2.annotation.project import NEW, PROPOSED, Project
from medsam2.annotation.versions import Weights, add_proposal
from medsam2.errors import Conflict, InputError, MedSAM2Error
from medsam2.imaging.io import READ_SUFFIXES, read
from medsam2.imaging.volume import Volume

if TYPE_CHECKING:
    from medsam2.inference.grid import SliceGrid
    from medsam2.inference.predictor import Predictor
    from medsam2.prompts.types import Prompt

_PROMPT_SUFFIXES = (".json", ".csv", ".tsv")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A mask that a model has made for a case."""

    mask: Volume
    """Labels (z, y, x) on the scan's grid."""
    objects: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Label -> name and colour, where they are known."""
    prompts: Sequence[object] = ()
    """The prompts that the model got, as JSON values."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The result for one case."""

    case: str
    left_out: str | None = None
    """Why the case was left out, None if it was not."""
    error: str | None = None
    """Why it failed, None if it did not."""


Draw = Callable[[Case], Drawn | None]
"""Returns the mask of a case, None if there is no file for it."""


def propose(
    project: Project, draw: Draw, *, model: str, weights: Weights | None = None
) -> Iterator[Proposal]:
    """Add a proposal to each case that nobody has begun; one that fails does not stop the rest.

    Args:
        project: The project.
        draw: `masks_in` or `prompted`.
        model: Name of the model; the rules for names of users apply.
        weights: Weights of the model, if known.
    """
    for case in list_cases(project):
        if case.holder is not None or case.state not in (NEW, PROPOSED):
            yield Proposal(case=case.name, left_out=f"is {'open' if case.holder else case.state}")
            continue
        try:
            drawn = draw(case)
            if drawn is None:
                yield Proposal(case=case.name, left_out="has no file")
                continue
            add_proposal(
                project, case.id, drawn.mask, model=model, objects=drawn.objects, prompts=drawn.prompts,
                weights=weights,
            )  # fmt: skip
        except Conflict as error:  # somebody was quicker
            yield Proposal(case=case.name, left_out=str(error))
        except (MedSAM2Error, MemoryError) as error:
            yield Proposal(case=case.name, error=str(error) or "took too much memory")
        else:
            yield Proposal(case=case.name)


def masks_in(folder: Path) -> Draw:
    """Take masks from a folder; each file has the name of its case.

    Raises:
        InputError: There is no such folder.
    """
    _check_folder(folder)

    def draw(case: Case) -> Drawn | None:
        path = _file_of(folder, case, READ_SUFFIXES)
        return None if path is None else Drawn(mask=read(path))

    return draw


def prompted(project: Project, predictor: Predictor, folder: Path) -> Draw:
    """Let the model segment from prompts in a folder; each file has the name of its case.

    Args:
        project: The project.
        predictor: The model.
        folder: Folder of files that `prompts.files.read_prompts` can read.

    Raises:
        InputError: There is no such folder.
    """
    from medsam2.inference.job import Job, run
    from medsam2.inference.prompting import Objects, objects_of
    from medsam2.prompts.files import read_prompts

    _check_folder(folder)

    def draw(case: Case) -> Drawn | None:
        path = _file_of(folder, case, _PROMPT_SUFFIXES)
        if path is None:
            return None
        scan = project.folder / case.path

        def objects(grid: SliceGrid) -> Objects:
            return objects_of(read_prompts(path, image=scan, num_slices=grid.shape[0]), path, grid)

        outcome = run(Job(image=scan, objects=objects), predictor)
        return Drawn(
            mask=outcome.labels,
            objects={
                str(number): {"name": name or f"object {number}", "colour": DEFAULT_COLOUR}
                for number, name in outcome.names.items()
            },
            prompts=[_plain(number, prompt) for number, part in outcome.prompts.items() for prompt in part],
        )

    return draw


def _plain(number: int, prompt: Prompt) -> dict[str, object]:
    return {
        "object": number,
        "slice": prompt.slice_index,
        "box": None if prompt.box is None else list(prompt.box.xyxy),
        "points": [[point.x, point.y] for point in prompt.points],
        "labels": [int(point.is_positive) for point in prompt.points],
        "has_mask": prompt.mask is not None,
    }


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")


def _file_of(folder: Path, case: Case, suffixes: Sequence[str]) -> Path | None:
    return next((path for suffix in suffixes if (path := folder / f"{case.name}{suffix}").is_file()), None)
