"""What a project's record amounts to: time by round, saving, agreement, pictures; all that a report shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medsam2.annotation.agreement import Agreement, between_authors, with_proposals
from medsam2.annotation.attempts import Attempt, Record, gather
from medsam2.annotation.clock import LOOKING
from medsam2.annotation.project import Project
from medsam2.annotation.saving import Mean, Saving, compare, mean_of, seconds_by_case
from medsam2.annotation.stored import find_picture, keep_picture
from medsam2.annotation.thumbnails import outlined
from medsam2.annotation.versions import Version, latest_done, read_version
from medsam2.errors import MedSAM2Error
from medsam2.imaging.io import read

MAX_PICTURES = 12


@dataclass(frozen=True, kw_only=True)
class Group:
    """The finished attempts of one round in one mode."""

    round: int
    baseline: bool
    seconds: Mapping[str, float]
    """Case -> active seconds."""
    mean_s: Mean
    median_s: float
    acts: Mapping[str, float]
    """Kind -> mean number a case, looking left out."""
    hand_voxels: float
    """Mean number of voxels a case that were changed by hand."""

    @property
    def title(self) -> str:
        """What it is called in tables and figures."""
        return "without the model" if self.baseline else f"round {self.round}, with the model"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished mask on its scan."""

    case: str
    author: str
    objects: tuple[str, ...]
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a report shows."""

    record: Record
    groups: Sequence[Group]
    saving: Saving | None
    savings_by_round: Sequence[tuple[int, Saving]]
    authors: Sequence[Agreement]
    proposals: Sequence[Agreement]
    pictures: Sequence[Picture]

    @property
    def finished(self) -> list[Attempt]:
        """Attempts that count for means."""
        return [one for one in self.record.attempts if one.is_finished]


def find(project: Project) -> Findings:
    """Read a project's record and work out what it says."""
    record = gather(project)
    finished = [one for one in record.attempts if one.is_finished]
    baseline = [one for one in finished if one.baseline]
    savings = []
    for number in sorted({one.round for one in finished if not one.baseline}):
        of_round = [one for one in finished if not one.baseline and one.round == number]
        saving = compare([*of_round, *baseline])
        if saving is not None:
            savings.append((number, saving))
    return Findings(
        record=record,
        groups=list(_groups(finished)),
        saving=compare(finished),
        savings_by_round=savings,
        authors=between_authors(project, record),
        proposals=with_proposals(project, record),
        pictures=list(_pictures(project, record)),
    )


def _groups(finished: Sequence[Attempt]) -> Iterator[Group]:
    """Put attempts into groups: those without the model together, as no weights take part in them."""
    keys = sorted({(not one.baseline, 0 if one.baseline else one.round) for one in finished})
    for has_model, number in keys:
        chosen = [
            one
            for one in finished
            if one.baseline is not has_model and (not has_model or one.round == number)
        ]
        seconds = seconds_by_case(chosen)
        mean = mean_of(list(seconds.values()))
        assert mean is not None
        kinds = sorted({kind for one in chosen for kind in one.acts if kind not in LOOKING})
        yield Group(
            round=number,
            baseline=not has_model,
            seconds=seconds,
            mean_s=mean,
            median_s=float(np.median(list(seconds.values()))),
            acts={kind: float(np.mean([one.acts.get(kind, 0) for one in chosen])) for kind in kinds},
            hand_voxels=float(np.mean([one.hand_voxels for one in chosen])),
        )


def _pictures(project: Project, record: Record) -> Iterator[Picture]:
    """Draw the newest finished masks; of cases whose files cannot be read there is none."""
    shown = 0
    for case in record.cases:
        version = latest_done([one for one in record.versions if one.case == case.id])
        if version is None or shown == MAX_PICTURES:
            continue
        png = find_picture(project.folder, f"outlined {version.sha256}") or _draw(project, case.path, version)
        if png is not None:
            shown += 1
            names = tuple(str(facts["name"]) for facts in version.objects.values())
            yield Picture(case=case.name, author=version.author, objects=names, png=png)


def _draw(project: Project, path: str, version: Version) -> bytes | None:
    colours = {int(label): str(facts["colour"]) for label, facts in version.objects.items()}
    try:
        labels = read_version(project, version).array
        png = outlined(read(project.folder / path), labels, colours)
    except MedSAM2Error:
        return None
    keep_picture(project.folder, f"outlined {version.sha256}", png)
    return png
