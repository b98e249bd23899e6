"""States, locks and drafts, in SQLite and in PostgreSQL; two processes that want the same case."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from medsam2.annotation.cases import (
    MAX_DRAFT_BYTES,
    change_state,
    find_case,
    find_draft,
    keep_draft,
    list_users,
    open_case,
    release,
    renew,
)
from medsam2.annotation.journal import Overview, list_events, log_events
from medsam2.annotation.project import LOCK_S, MAY_FOLLOW, STATES, Project, check_change
from medsam2.annotation.versions import save_version
from medsam2.errors import Conflict, InputError, UnknownCase

# Two processes, forked after the imports so that they start at the same moment.
TAKE_ALL = """
import os, sys
from pathlib import Path
from medsam2.annotation.cases import open_case
from medsam2.errors import Conflict
from medsam2.annotation.project import open_project

def race(user):
    project = open_project(Path(sys.argv[1]))
    os.read(gate, 1)  # until nobody can write there any more
    won = set()
    for case in (1, 2, 3) * 20:
        try:
            open_case(project, case, user)
            won.add(case)
        except Conflict as error:
            assert error.holder not in (None, user), error
    print(user, *sorted(won), flush=True)

gate, opener = os.pipe()
racers = []
for user in ("anna", "bob"):
    racers.append(os.fork())
    if not racers[-1]:
        os.close(opener)
        race(user)
        os._exit(0)
os.close(opener)
sys.exit(max(os.waitpid(racer, 0)[1] for racer in racers))
"""


def test_only_one_of_two_processes_gets_a_case(any_project: Project) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", TAKE_ALL, str(any_project.folder)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    won = {user: [int(case) for case in cases] for user, *cases in lines}
    assert sorted(won) == ["anna", "bob"]
    assert sorted(itertools.chain(*won.values())) == [1, 2, 3]
    # They went by the wall clock, far ahead of the one that stands still here.
    for user, cases in won.items():
        for case in cases:
            assert find_case(any_project, case).holder == user


def test_a_lock_expires_when_its_user_does_nothing(any_project: Project, clock) -> None:
    assert open_case(any_project, 1, "anna").state == "in work"
    clock.turn(LOCK_S - 1)
    with pytest.raises(Conflict, match="anna has this case open until 2026-09-21T") as refused:
        open_case(any_project, 1, "bob")
    assert refused.value.holder == "anna"
    assert renew(any_project, 1, "anna") == clock.ms + LOCK_S * 1000
    clock.turn(LOCK_S - 1)
    with pytest.raises(Conflict):
        renew(any_project, 1, "bob")
    keep_draft(any_project, 1, "anna", {"a": 1})  # a sign of life as well
    clock.turn(LOCK_S)
    assert find_case(any_project, 1).holder is None
    assert open_case(any_project, 1, "bob").holder == "bob"
    with pytest.raises(Conflict):
        keep_draft(any_project, 1, "anna", {"a": 2})
    assert find_draft(any_project, 1, "anna") == {"a": 1}  # not lost, though the case is another's
    assert find_draft(any_project, 1, "bob") is None


def test_a_case_that_was_only_viewed_keeps_its_state(any_project: Project) -> None:
    open_case(any_project, 1, "anna")
    closed = release(any_project, 1, "anna")
    assert (closed.state, closed.owner, closed.holder) == ("new", None, None)
    open_case(any_project, 1, "anna")
    keep_draft(any_project, 1, "anna", [1, 2])
    assert release(any_project, 1, "anna").state == "in work"
    assert release(any_project, 1, "bob").state == "in work"  # who has nothing gives nothing back


def test_a_draft_is_any_json_and_replaces_the_one_before(any_project: Project) -> None:
    open_case(any_project, 1, "anna")
    for content in ({"text": "\0 \U0001f600 <script>", "n": 2**60}, [], "x", 0, False, None):
        keep_draft(any_project, 1, "anna", content)
        assert find_draft(any_project, 1, "anna") == content
    with pytest.raises(InputError, match="at most 4194304 bytes"):
        keep_draft(any_project, 1, "anna", "x" * MAX_DRAFT_BYTES)
    with pytest.raises(InputError, match="JSON"):
        keep_draft(any_project, 1, "anna", float("nan"))


def test_the_way_from_proposal_to_review(any_project: Project, box_mask, clock) -> None:
    mask = box_mask(any_project.folder / "belly.nii.gz")
    open_case(any_project, 1, "anna")
    version, case = save_version(any_project, 1, "anna", mask, state="in work")
    assert (version.number, version.is_done, case.state) == (1, False, "in work")
    version, case = save_version(any_project, 1, "anna", mask, objects={"1": {"name": "liver"}})
    assert (version.number, version.is_done, case.state, case.owner) == (2, True, "done", "anna")
    assert version.objects == {"1": {"name": "liver", "colour": "#e63c3c", "voxels": 240}}
    with pytest.raises(Conflict, match="anna has"):
        change_state(any_project, 1, "bob", "reviewed")
    release(any_project, 1, "anna")
    assert change_state(any_project, 1, "bob", "rejected", "the lower end").state == "rejected"
    assert open_case(any_project, 1, "anna").state == "in work"
    _, case = save_version(any_project, 1, "anna", mask)
    release(any_project, 1, "anna")
    assert change_state(any_project, 1, "bob", "reviewed").state == "reviewed"
    open_case(any_project, 1, "anna")
    with pytest.raises(Conflict, match="reject it first"):
        save_version(any_project, 1, "anna", mask)
    assert find_case(any_project, 1).state == "reviewed"
    assert list_users(any_project) == ["anna", "bob"]


def test_only_a_single_user_may_review_their_own_mask(any_project: Project, box_mask) -> None:
    for case, name in ((1, "belly"), (2, "chest")):
        open_case(any_project, case, "anna")
        save_version(any_project, case, "anna", box_mask(any_project.folder / f"{name}.nii.gz"))
        release(any_project, case, "anna")
    assert change_state(any_project, 1, "anna", "reviewed").state == "reviewed"  # nobody else is known
    open_case(any_project, 3, "bob")
    with pytest.raises(Conflict, match="you drew this mask; another user has to review it"):
        change_state(any_project, 2, "anna", "reviewed")
    assert find_case(any_project, 2).state == "done"
    assert change_state(any_project, 2, "anna", "rejected").state == "rejected"  # to do it again


def test_no_case_is_done_without_a_mask(any_project: Project) -> None:
    open_case(any_project, 1, "anna")
    with pytest.raises(Conflict, match="this one has none"):
        change_state(any_project, 1, "anna", "done")
    with pytest.raises(Conflict, match="a user cannot make a case new"):
        change_state(any_project, 1, "anna", "new")


def test_an_event_that_is_sent_twice_is_stored_once(any_project: Project) -> None:
    at = any_project.now_ms()
    acts = [
        {"kind": "box", "at_ms": at + 0.4, "object": 2, "voxels": 9},
        {"kind": "save", "at_ms": at + 5000},
    ]
    for _ in range(2):
        log_events(any_project, 1, "anna", acts)
    log_events(any_project, 1, "bob", acts[:1])
    found = list_events(any_project)
    assert [(one.user, one.kind, one.object, one.voxels, one.at_ms - at) for one in found] == [
        ("anna", "box", 2, 9, 0),
        ("bob", "box", 2, 9, 0),
        ("anna", "save", 0, 0, 5000),
    ]
    with pytest.raises(InputError, match="event 1: at_ms"):
        log_events(any_project, 1, "anna", [acts[0], {"kind": "box", "at_ms": at + 10**9}])
    log_events(any_project, 1, "anna", [])
    assert len(list_events(any_project)) == 3
    assert [one.kind for one in list_events(any_project, "anna")] == ["box", "save"]


def test_the_list_counts_only_new_events(any_project: Project) -> None:
    overview = Overview(any_project)

    def seconds() -> list[float]:
        assert [entry.active_s for entry in overview.entries()] == [
            entry.active_s for entry in Overview(any_project).entries()
        ]
        return [entry.active_s for entry in overview.entries()]

    at = any_project.now_ms()
    assert seconds() == [0, 0, 0]
    log_events(any_project, 1, "anna", [{"kind": kind, "at_ms": at} for kind in ("open", "box")])
    log_events(any_project, 1, "anna", [{"kind": "save", "at_ms": at + 8000}])
    log_events(any_project, 2, "bob", [{"kind": "box", "at_ms": at}, {"kind": "save", "at_ms": at + 3000}])
    assert seconds() == [8, 3, 0]
    log_events(any_project, 1, "anna", [{"kind": "click", "at_ms": at + 40_000}])
    assert seconds() == [13, 3, 0]


@pytest.mark.parametrize("before", STATES)
def test_states_follow_each_other_as_the_table_says(before: str) -> None:
    for after in STATES:
        if after in MAY_FOLLOW[before]:
            check_change(before, after)
        else:
            with pytest.raises(Conflict, match=f"a case that is {before} cannot become {after}"):
                check_change(before, after)
    with pytest.raises(InputError, match="there is no state 'finished'"):
        check_change(before, "finished")


def test_reviews_come_after_done_and_work_after_rejection() -> None:
    assert [state for state in STATES if "reviewed" in MAY_FOLLOW[state]] == ["done"]
    assert set(MAY_FOLLOW["rejected"]) == {"in work"}
    assert set(MAY_FOLLOW["reviewed"]) == {"rejected"}


@pytest.mark.parametrize("act", [open_case, renew, release], ids=lambda act: act.__name__)
def test_a_case_of_another_project_is_unknown(project: Project, act) -> None:
    with pytest.raises(UnknownCase, match="no case 4"):
        act(project, 4, "anna")
    with pytest.raises(InputError, match="1 to 64 letters"):
        act(project, 1, "anna\n")


def test_two_projects_in_one_database_do_not_mix(
    postgresql, folder: Path, tmp_path: Path, write_scan
) -> None:
    from medsam2.annotation.cases import list_cases
    from medsam2.annotation.project import add_scans, create_project

    other = tmp_path / "other"
    other.mkdir()
    write_scan(other / "belly.nii.gz")
    url = postgresql()
    first, second = create_project(folder, database=url), create_project(other, database=url)
    try:
        add_scans(first)
        add_scans(second)
        assert [case.name for case in list_cases(first)] == ["belly", "chest", "head"]
        (alone,) = list_cases(second)
        with pytest.raises(UnknownCase):
            open_case(first, alone.id, "anna")
    finally:
        first.close()
        second.close()
    assert json.loads((other / "medsam2.json").read_text())["database"] == url
