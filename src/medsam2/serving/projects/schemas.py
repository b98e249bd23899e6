"""The JSON of a project: what the annotator's page sends, and what it is answered."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field

from medsam2.annotation.cases import Case, moment
from medsam2.annotation.journal import Entry
from medsam2.annotation.project import DONE
from medsam2.annotation.rounds import Round
from medsam2.annotation.versions import Version
from medsam2.serving.schemas import Answer, Expected, LongText, Message, OneOf, WholeNumber

Text = Annotated[str, Expected("a text is expected")]


class ProjectMessage(Message, extra="ignore"):
    """JSON of the page; a later page may send more than this server knows."""


class UserMessage(ProjectMessage):
    """Who asks."""

    user: Text


class StateMessage(UserMessage):
    """A verdict on a case."""

    state: Text
    comment: Text = ""


class DraftMessage(UserMessage):
    """A user's unsaved work on a case; any JSON."""

    draft: Any = None


class EventsMessage(UserMessage):
    """What a user did on a case."""

    case: Any = None
    events: Any = None
    """A list of {"kind", "at_ms"}, where they apply with "object", "voxels" and "baseline"."""


class VersionMessage(UserMessage):
    """A mask to be saved as a new version of a case."""

    mask: Annotated[LongText, Expected("a text is expected")]
    """Base64 of a .nii.gz file of labels on the scan's grid."""
    objects: Any = None
    """Label to name and colour."""
    prompts: Annotated[list[Any], Expected("a list is expected")] = Field(default_factory=list)
    """The prompts that the mask was made with."""
    state: Text = DONE
    session: Text = ""
    """The session that the mask was made in."""


class RoundMessage(ProjectMessage):
    """An order about rounds."""

    action: Annotated[str, OneOf(("start", "go on", "use", "back"))] = "start"
    user: Text | None = None
    """Who starts a round."""
    round: WholeNumber | None = None
    """The round to continue, or whose weights to use."""


class Lock(Answer):
    """Who has a case open, and until when."""

    user: str
    until: str

    @classmethod
    def of(cls, case: Case) -> Self | None:
        """The lock of a case; None if nobody has it open."""
        if case.holder is None or case.holder_until_ms is None:
            return None
        return cls(user=case.holder, until=moment(case.holder_until_ms))


class CaseInfo(Answer):
    """A case in the list."""

    id: str
    name: str
    state: str
    owner: str | None
    lock: Lock | None
    num_slices: int | None
    objects: tuple[str, ...]
    num_versions: int
    active_s: float
    updated: str

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Describe a case."""
        case = entry.case
        return cls(
            id=str(case.id),
            name=case.name,
            state=case.state,
            owner=case.owner,
            lock=Lock.of(case),
            num_slices=case.num_slices,
            objects=entry.objects,
            num_versions=entry.num_versions,
            active_s=round(entry.active_s, 1),
            updated=moment(case.updated_ms),
        )


class ProjectInfo(Answer):
    """The cases, and who has worked on them."""

    name: str
    cases: list[CaseInfo]
    users: list[str]


class VersionInfo(Answer):
    """The author of a version, and its content."""

    version: int
    author: str
    created: str
    is_proposal: bool
    is_done: bool
    objects: dict[str, Any]
    weights: str | None
    sha256: str

    @classmethod
    def of(cls, version: Version, **more: str) -> Self:
        """Describe a version."""
        return cls(
            version=version.number,
            author=version.author,
            created=moment(version.created_ms),
            is_proposal=version.is_proposal,
            is_done=version.is_done,
            objects=dict(version.objects),
            weights=version.weights,
            sha256=version.sha256,
            **more,
        )


class SavedVersion(VersionInfo):
    """A new version, and the state of its case."""

    state: str


class CaseState(Answer):
    """The state of a case."""

    state: str


class DraftAnswer(Answer):
    """A user's unsaved work on a case; None without any."""

    draft: Any = None


class LockAnswer(Answer):
    """Who has a case open now."""

    lock: Lock | None


class ReleasedCase(LockAnswer):
    """A case that was given back."""

    state: str


class OpenedCase(ReleasedCase):
    """A case that a user has taken."""

    path: str
    versions: list[VersionInfo]
    draft: Any = None


class RoundInfo(Answer):
    """A round, its progress and its results."""

    round: int
    state: str
    user: str
    num_cases: int
    started: str
    ended: str | None
    progress: float
    message: str
    before: dict[str, float] | None
    after: dict[str, float] | None
    in_use: bool

    @classmethod
    def of(cls, one: Round) -> Self:
        """Describe a round."""
        return cls(
            round=one.number,
            state=one.state,
            user=one.user,
            num_cases=one.num_cases,
            started=moment(one.started_ms),
            ended=None if one.ended_ms is None else moment(one.ended_ms),
            progress=one.progress,
            message=one.message,
            before=None if one.before is None else dict(one.before),
            after=None if one.after is None else dict(one.after),
            in_use=one.is_in_use,
        )


class RoundList(Answer):
    """The rounds, whose weights are in use, and why no other round can be started."""

    rounds: list[RoundInfo]
    current: int
    obstacle: str | None
