"""The routes of a project, asked over HTTP of a live server; two users, hostile names, a restart."""

from __future__ import annotations

import base64
import gzip
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest

from medsam2.annotation.improvement import Rounds
from medsam2.annotation.project import Project, add_scans, create_project, open_project
from medsam2.annotation.rounds import Improver, Outcome, Plan
from medsam2.imaging.io import read
from medsam2.inference.predictor import Predictor
from medsam2.serving.projects.routes import add_projects
from medsam2.serving.run import listen, server_for
from medsam2.serving.settings import load_settings

SHAPE = (6, 20, 24)
EVIL = "<img src=x onerror=alert(1)>"
PATIENCE_S = 60.0


def write_scan(path: Path, seed: int = 0) -> None:
    grey = np.random.default_rng(seed).normal(60, 8, SHAPE)
    grey[2:5, 6:14, 8:18] += 100
    nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.int16), np.diag([-0.8, 0.8, 2.5, 1.0])), path)


def packed_mask(shape: tuple[int, ...] = SHAPE, spacing: float = 0.8) -> str:
    mask = np.zeros(shape, np.uint8)
    mask[2:5, 6:14, 8:18] = 1
    image = nibabel.Nifti1Image(mask.T, np.diag([-spacing, spacing, 2.5, 1.0]))
    return base64.b64encode(gzip.compress(image.to_bytes())).decode()


class Improving:
    """A training that waits for the test, then leaves a file."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.plan: Plan | None = None
        self.used: list[str] = []

    def train(self, plan: Plan, report: Callable[[float, str], None]) -> Outcome:
        self.plan = plan
        report(0.25, "step 1 of 4")
        while not self.go.wait(0.05):
            report(0.5, "step 2 of 4")
        weights = plan.folder / "tuned.safetensors"
        weights.write_bytes(b"weights")
        return Outcome(weights=weights, before={"Dice": 0.7}, after={"Dice": 0.75})

    def use(self, weights: str) -> None:
        self.used.append(weights)


@contextmanager
def serving(
    predictor: Predictor, project: Project, improver: Improver | None = None, **given: object
) -> Iterator[httpx.Client]:
    """A live server with the project's routes."""
    settings = load_settings({"port": 0, "readers": 1, **given})
    rounds: list[Rounds] = []
    with listen(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
        add = lambda app, service: rounds.append(add_projects(app, service, project, improver))  # noqa: E731
        server = server_for(predictor, settings, [add])
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=PATIENCE_S) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            rounds[0].close()


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def said(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert found["status"] == status
    return str(found["error"])


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "scans"
    folder.mkdir()
    for number, name in enumerate(("a", "b", "c", EVIL.replace("/", ""))):
        write_scan(folder / f"{name}.nii.gz", number)
    return folder


@pytest.fixture(scope="module")
def project(scans: Path) -> Iterator[Project]:
    made = create_project(scans, name=f"study {EVIL}")
    add_scans(made)
    yield made
    made.close()


@pytest.fixture(scope="module")
def improver() -> Improving:
    return Improving()


@pytest.fixture(scope="module")
def client(predictor: Predictor, project: Project, improver: Improving) -> Iterator[httpx.Client]:
    with serving(predictor, project, improver) as found:
        yield found


@pytest.fixture(scope="module")
def ids(client: httpx.Client) -> Mapping[str, str]:
    return {case["name"]: case["id"] for case in client.get("/project").json()["cases"]}


def events(case: str, *acts: tuple[str, float], baseline: bool = False) -> dict[str, object]:
    start = time.time() * 1000 - 600_000
    return {
        "user": "anna",
        "case": case,
        "events": [
            {"kind": kind, "object": 1, "at_ms": start + 1000 * second, "voxels": 5, "baseline": baseline}
            for kind, second in acts
        ],
    }


def test_the_list_has_what_the_page_shows(client: httpx.Client, ids: Mapping[str, str]) -> None:
    found = client.get("/project").json()
    assert found["name"] == f"study {EVIL}"
    assert [case["name"] for case in found["cases"]] == sorted(ids)
    case = next(case for case in found["cases"] if case["name"] == "b")
    assert case["state"] == "new"
    assert case["owner"] is None
    assert case["lock"] is None
    assert (case["num_slices"], case["objects"], case["active_s"]) == (6, [], 0)
    assert case["updated"].endswith("Z")


def test_a_thumbnail_is_a_small_picture(client: httpx.Client, ids: Mapping[str, str]) -> None:
    for name in ("a", EVIL):
        answer = client.get(f"/project/cases/{ids[name]}/thumbnail")
        assert answer.headers["content-type"] == "image/png"
        assert answer.content.startswith(b"\x89PNG")
        assert len(answer.content) < 60_000


def test_a_case_goes_from_opening_to_review(
    client: httpx.Client, ids: Mapping[str, str], scans: Path, project: Project
) -> None:
    case = f"/project/cases/{ids['a']}"
    opened = client.post(f"{case}/open", json={"user": "anna"}).json()
    assert opened["lock"]["user"] == "anna"
    assert opened["path"] == "a.nii.gz"
    assert (opened["state"], opened["draft"], opened["versions"]) == ("in work", None, [])

    refused = client.post(f"{case}/open", json={"user": "bob"})
    assert "anna has this case open" in said(refused, 409)
    assert refused.json()["holder"]["user"] == "anna"
    for path, body in (("renew", {}), ("release", {}), ("state", {"state": "done"})):
        said(client.post(f"{case}/{path}", json={"user": "bob", **body}), 409)
    said(client.put(f"{case}/draft", json={"user": "bob", "draft": {}}), 409)

    until_first = opened["lock"]["until"]
    assert client.post(f"{case}/renew", json={"user": "anna"}).json()["lock"]["until"] >= until_first
    draft = {"prompts": [{"box": [8, 6, 17, 13]}], "text": EVIL, "empty": None}
    assert client.put(f"{case}/draft", json={"user": "anna", "draft": draft}).status_code == 204
    assert client.get(f"{case}/draft", params={"user": "anna"}).json() == {"draft": draft}
    assert client.get(f"{case}/draft", params={"user": "bob"}).json() == {"draft": None}

    acts = events(ids["a"], ("box", 0), ("click", 4), ("propagate", 10), ("save", 12))
    assert client.post("/project/events", json=acts).status_code == 204
    assert client.post("/project/events", json=acts).status_code == 204  # sent again, counted once

    saved = client.post(
        f"{case}/versions",
        json={
            "user": "anna", "objects": {"1": {"name": "liver", "colour": "#00ff00"}}, "mask": packed_mask(),
            "prompts": [{"box": [8, 6, 17, 13]}], "state": "done",
        },
    )  # fmt: skip
    assert saved.status_code == 201, saved.text
    assert (saved.json()["version"], saved.json()["state"]) == (1, "done")
    assert saved.json()["weights"] == "compact"
    final = read(scans / "labels" / "final" / "a.nii.gz")
    assert np.array_equal(final.affine, read(scans / "a.nii.gz").affine)
    assert int(final.array.sum()) == 3 * 8 * 10
    assert client.get(f"{case}/draft", params={"user": "anna"}).json() == {"draft": None}

    client.post(f"{case}/release", json={"user": "anna"})
    verdict = {"user": "bob", "state": "reviewed", "comment": "the lower end\nis right"}
    assert client.post(f"{case}/state", json=verdict).json() == {"state": "reviewed"}
    assert "can become rejected" in said(client.post(f"{case}/state", json={**verdict, "state": "done"}), 409)

    listed = client.get("/project").json()
    shown = next(one for one in listed["cases"] if one["name"] == "a")
    assert (shown["state"], shown["owner"], shown["objects"]) == ("reviewed", "anna", ["liver"])
    assert shown["active_s"] == 12
    assert listed["users"] == ["anna", "bob"]
    mask = client.get(f"{case}/versions/1/mask")
    assert mask.content == (scans / "labels" / "final" / "a.nii.gz").read_bytes()
    assert client.get(f"{case}/versions/2/mask").status_code == 404


def test_drafts_and_locks_survive_a_restart(
    predictor: Predictor, scans: Path, client: httpx.Client, ids: Mapping[str, str]
) -> None:
    case = f"/project/cases/{ids['b']}"
    client.post(f"{case}/open", json={"user": "carl"})
    client.put(f"{case}/draft", json={"user": "carl", "draft": {"at": 3}})
    again = open_project(scans)  # as another process would
    try:
        with serving(predictor, again) as other:
            said(other.post(f"{case}/open", json={"user": "anna"}), 409)
            assert other.post(f"{case}/open", json={"user": "carl"}).json()["draft"] == {"at": 3}
    finally:
        again.close()


@pytest.mark.parametrize(
    "user",
    [
        "",
        " ",
        "a" * 65,
        "a/b",
        "../x",
        "a\nb",
        "a\0b",
        "<b>",
        "a'; DROP TABLE cases",
        "a\u202eb",
        None,
        7,
        ["a"],
    ],
    ids=range(13),
)
def test_users_are_called_by_letters(client: httpx.Client, ids: Mapping[str, str], user: object) -> None:
    answer = client.post(f"/project/cases/{ids['c']}/open", json={"user": user})
    assert "user" in said(answer, 422)


def test_names_with_accents_are_one_user(client: httpx.Client, ids: Mapping[str, str]) -> None:
    one = client.post(f"/project/cases/{ids['c']}/open", json={"user": "Zo\u00eb M."}).json()
    other = client.post(f"/project/cases/{ids['c']}/open", json={"user": "Zoe\u0308 M."}).json()
    assert one["lock"]["user"] == other["lock"]["user"]
    client.post(f"/project/cases/{ids['c']}/release", json={"user": "Zo\u00eb M."})


@pytest.mark.parametrize("case", ["0", "99", "-1", "1.0", "a", "%2e%2e", "1%00", "9" * 40, "\u0663"])
def test_a_case_that_is_not_there_is_not_found(client: httpx.Client, case: str) -> None:
    for answer in (
        client.get(f"/project/cases/{case}/thumbnail"),
        client.post(f"/project/cases/{case}/open", json={"user": "anna"}),
        client.get(f"/project/cases/{case}/draft", params={"user": "anna"}),
    ):
        said(answer, 404)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mask": "no base64!"}, "base64"),
        ({"mask": base64.b64encode(b"no scan").decode()}, "mask"),
        ({"mask": packed_mask((6, 20, 25))}, "voxels"),
        ({"mask": packed_mask(spacing=0.9)}, "voxels away"),
        ({"mask": None}, "mask is None; a text"),
        ({"objects": {"x": {}}}, "number"),
        ({"objects": {"1": {"name": "a\nb"}}}, "name"),
        ({"objects": {"1": {"colour": "url(x)"}}}, "colour"),
        ({"objects": [1]}, "objects"),
        ({"prompts": "box"}, "prompts is 'box'; a list"),
        ({"state": "reviewed"}, "saved as"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mask_that_cannot_be_is_refused(
    client: httpx.Client, ids: Mapping[str, str], scans: Path, change: dict[str, object], word: str
) -> None:
    case = f"/project/cases/{ids['c']}"
    client.post(f"{case}/open", json={"user": "anna"})
    body = {"user": "anna", "mask": packed_mask(), "objects": {}, "prompts": [], "state": "done", **change}
    sentence = said(client.post(f"{case}/versions", json=body), 422)
    assert word in sentence
    assert str(scans) not in sentence
    assert not (scans / "labels" / "final" / "c.nii.gz").exists()


@pytest.mark.parametrize(
    ("acts", "word"),
    [
        ("box", "list"),
        ([1], "event 0"),
        ([{"kind": "<b>", "at_ms": 1.7e12}], "kind"),
        ([{"kind": "box"}], "at_ms"),
        ([{"kind": "box", "at_ms": -1}], "at_ms"),
        ([{"kind": "box", "at_ms": 10**19}], "at_ms"),
        ([{"kind": "box", "at_ms": 1.7e12, "object": 256}], "object"),
        ([{"kind": "box", "at_ms": 1.7e12, "voxels": -1}], "voxels"),
        ([{"kind": "box", "at_ms": 1.7e12, "baseline": 1}], "baseline"),
        ([{"kind": "box", "at_ms": 1.7e12}] * 1001, "at most 1000"),
    ],
)
def test_events_that_cannot_be_are_refused(
    client: httpx.Client, ids: Mapping[str, str], acts: object, word: str
) -> None:
    body = {"user": "anna", "case": ids["c"], "events": acts}
    assert word in said(client.post("/project/events", json=body), 422)


def test_bodies_have_a_size_and_a_form(client: httpx.Client, ids: Mapping[str, str]) -> None:
    case = f"/project/cases/{ids['c']}"
    client.post(f"{case}/open", json={"user": "anna"})
    fits = {"user": "anna", "draft": "x" * (4 * 2**20 - 100)}
    assert client.put(f"{case}/draft", json=fits).status_code == 204
    too_large = {"user": "anna", "draft": "x" * (4 * 2**20 + 1)}
    assert "a draft can be at most" in said(client.put(f"{case}/draft", json=too_large), 422)
    assert "larger than the 5 MiB" in said(client.put(f"{case}/draft", content=b"x" * 6 * 2**20), 413)
    assert "not JSON" in said(client.post(f"{case}/open", content=b"{"), 400)
    assert "an object with" in said(client.post(f"{case}/open", content=b"[]"), 400)
    assert "cannot become" in said(
        client.post(f"{case}/state", json={"user": "anna", "state": "reviewed"}), 409
    )
    assert "there is no state" in said(client.post(f"{case}/state", json={"user": "anna", "state": "x"}), 422)
    assert client.put(f"{case}/draft", json={"user": "anna", "draft": None}).status_code == 204
    client.post(f"{case}/release", json={"user": "anna"})


def test_the_report_is_one_page_that_runs_nothing(client: httpx.Client) -> None:
    answer = client.get("/project/report")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<img src=x" not in answer.text
    assert "&lt;img src=x" in answer.text
    assert "No saving is stated" in answer.text


def test_a_key_guards_the_project(predictor: Predictor, project: Project) -> None:
    with serving(predictor, project, api_key="secret") as client:
        said(client.get("/project"), 401)
        assert client.get("/project", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_a_round_trains_in_the_background(
    client: httpx.Client, ids: Mapping[str, str], improver: Improving
) -> None:
    refused = said(client.post("/project/rounds", json={"user": "anna"}), 409)
    assert refused == (
        "a round needs 3 finished cases with a mask, to learn from and to measure on; there is 1"
    )
    for user, name in (("anna", EVIL), ("carl", "b")):
        case = f"/project/cases/{ids[name]}"
        client.post(f"{case}/open", json={"user": user})
        body = {"user": user, "mask": packed_mask(), "prompts": [], "state": "done"}
        saved = client.post(f"{case}/versions", json=body)
        assert saved.json()["weights"] is None  # no prompt, no model
    assert client.get("/project/rounds").json() == {"rounds": [], "current": 1, "obstacle": None}

    started = client.post("/project/rounds", json={"user": "anna", "action": "start"})
    assert started.status_code == 202
    until(lambda: client.get("/project/rounds").json()["rounds"][0]["progress"] >= 0.25)
    assert "is running" in said(client.post("/project/rounds", json={"user": "bob"}), 409)
    assert "is running" in said(client.post("/project/rounds", json={"action": "use", "round": 2}), 409)
    improver.go.set()
    until(lambda: client.get("/project/rounds").json()["rounds"][0]["state"] == "ready")
    one = client.get("/project/rounds").json()["rounds"][0]
    assert (one["before"], one["after"], one["in_use"]) == ({"Dice": 0.7}, {"Dice": 0.75}, False)
    assert improver.plan is not None
    assert (len(improver.plan.training), len(improver.plan.held_out)) == (2, 1)

    assert client.post("/project/rounds", json={"action": "use", "round": 2}).json()["current"] == 2
    assert client.post("/project/rounds", json={"action": "back"}).json()["current"] == 1
    assert [Path(name).name for name in improver.used] == ["tuned.safetensors", "compact"]
    said(client.post("/project/rounds", json={"action": "back"}), 409)
    said(client.post("/project/rounds", json={"action": "fly"}), 422)
    said(client.post("/project/rounds", json={"action": "use", "round": 9}), 409)
    assert "only a stopped round can be resumed" in said(
        client.post("/project/rounds", json={"action": "go on", "round": 2}), 409
    )


def test_without_training_no_round_is_started(predictor: Predictor, project: Project) -> None:
    with serving(predictor, project) as client:
        assert client.get("/project/rounds").json()["obstacle"] == "this server was started without training"
        said(client.post("/project/rounds", json={"user": "anna"}), 409)


def test_a_database_that_is_away_is_no_failure_of_the_server(predictor: Predictor, tmp_path: Path) -> None:
    write_scan(tmp_path / "a.nii.gz")
    project = create_project(tmp_path)
    add_scans(project)
    with serving(predictor, project) as client:
        assert client.get("/project").status_code == 200
        project.engine.dispose()
        (tmp_path / "medsam2.db").write_bytes(b"no database any more " * 500)
        answer = client.get("/project")
        assert said(answer, 503) == "the project's database does not answer; try again"
        assert answer.headers["retry-after"] == "5"
    project.close()
