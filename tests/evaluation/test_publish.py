"""The report: parsed again, figures opened, numbers beside it compared."""

import base64
import csv
import json
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from medsam2.errors import InputError
from medsam2.evaluation.cases import read_task
from medsam2.evaluation.experiment import Arm, Masks, conclude, describe_run, run_arms_of
from medsam2.evaluation.page import choose_cases, volume_agreement
from medsam2.evaluation.report import prepare_folder, publish
from medsam2.evaluation.simulated_user import RunOptions


class Page(HTMLParser):
    """What a page asks a browser for, its tables and its words."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.tables, self.words = [], [], [], []
        self.open = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += text

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def cases(lasting_cases):
    """Four balls of two patients, one with a hostile name, one that is not there, and a picture."""
    ball_case, disc_case = lasting_cases
    names = ["ball", '<script>alert(1)</script> & "co"', "third", "fourth"]
    balls = [replace(ball_case, name=name, scan=i // 2) for i, name in enumerate(names)]
    lost = replace(ball_case, name="lost", image=ball_case.image.with_name("none.nii.gz"), scan=2)
    return [*balls, lost, replace(disc_case, scan=3)]


@pytest.fixture(scope="module")
def experiment(cases, scripted, without_slices):
    """A perfect way against one that loses four slices of the ball and whose clicks bring them back."""
    options = RunOptions(protocol="interactive", clicks=2)
    lossy = [without_slices(9, 12), without_slices(12, 12)]
    arms = [Arm(name="lossy", segmenter=scripted(lossy), options=options)]
    arms.append(Arm(name="perfect", segmenter=scripted(), options=options))
    masks = Masks()
    results = list(run_arms_of(cases, arms, masks))
    facts = describe_run("medsam2 evaluate 'a list.json'", cases[0].image, ["compact"], "cpu")
    return conclude(cases, arms, results, masks, facts)


@pytest.fixture(scope="module")
def folder(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "new" / "report"
    prepare_folder(folder)
    publish(experiment, folder)
    return folder


def test_the_page_stands_alone(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert '<script>alert(1)</script> & "co"' in page.text


def test_figures_and_pictures_open(folder, experiment):
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    kinds = []
    for address in page.addresses:
        kind, _, data = address.partition(";base64,")
        kinds.append(kind)
        content = base64.b64decode(data, validate=True)
        if kind == "data:image/jpeg":
            picture = np.asarray(Image.open(BytesIO(content)))
            assert picture.ndim == 3
            assert picture.std() > 1
        else:
            root = ET.fromstring(content)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 20
            links = [value for part in root.iter() for name, value in part.items() if name.endswith("href")]
            assert all(link.startswith("#") for link in links)
    # Pairs, curves, box plots and volumes; best, median and worst with their references.
    assert kinds == ["data:image/svg+xml"] * 4 + ["data:image/jpeg"] * 6


def test_the_pages_tables_hold_the_numbers_of_the_study(folder, experiment):
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    means, pictures, second, _, primary, others = page.tables[:6]
    scans = next(row for row in means if row[0] == "scans")
    assert scans[1] == "4 / 2"
    dice = experiment.results[0][0].steps[0].dice
    assert dice < 0.8
    assert scans[means[0].index("Dice")] == "1.000"  # two patients have no interval
    assert "HD95, mm" in means[0]
    assert "HD95, px" in pictures[0]
    lossy = experiment.results[0][0].scores.dice_auc
    assert scans[means[0].index("Dice AUC")] == f"{lossy:.3f}"
    assert next(row for row in second if row[0] == "scans")[means[0].index("Dice AUC")].startswith("1.000")
    assert [row[:2] for row in primary[1:]] == [
        ["scans", "Dice"], ["scans", "NSD, 2 mm"], ["pictures", "Dice"], ["pictures", "NSD, 2 px"],
    ]  # fmt: skip
    row = next(row for row in others if row[:2] == ["scans", "Dice AUC"])
    assert row[2:6] == ["4 / 2", f"{lossy:.4f}", "1.0000", f"{1 - lossy:+.4f}"]
    assert "too few: with 2 patients" in row[-1]


def test_words_that_a_reviewer_looks_for(folder):
    text = Page((folder / "report.html").read_text(encoding="utf-8")).text
    for words in (
        "Research software, not a medical device",
        "medsam2 evaluate 'a list.json'",
        "This saving is simulated",
        "Papadopoulos",
        "are few. Bootstrap intervals",
        "Prompts are cut out of the reference mask and boxes are exactly tight",
        "measured in pixels",
        "2 of 12 runs failed",
        "5 scans (3 patients or images) and 1 pictures (1 patients or images)",
        "source of the program",
        "the same to the voxel in 5 of 5 runs",
        "lost: ",
        "SHA-256",
        "Holm",
    ):
        assert words in text, words


def test_the_weights_are_named_by_their_digest(experiment, folder):
    from hashlib import sha256

    from medsam2.hub import shipped_path

    digest = sha256(shipped_path().read_bytes()).hexdigest()
    assert experiment.provenance.weights == {"compact": digest}
    assert digest in (folder / "report.html").read_text(encoding="utf-8")


def test_the_numbers_beside_the_page(folder, experiment):
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert found["arms"] == ["lossy", "perfect"]
    assert {"cases", "means"} <= set(found)
    assert [case["name"] for case in found["cases"]] == [result.name for result in experiment.results[0]]
    assert len(found["cases"][0]["steps"]) == 3
    assert found["second"]["means"]["3d"]["dice_auc"] == 1.0
    assert len(found["differences"]) == len(experiment.differences)
    with (folder / "differences.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["difference"]) for row in rows] == [
        row.difference.mean for row in experiment.differences
    ]
    with (folder / "results.csv").open(newline="") as file:
        assert [row["scan"] for row in csv.DictReader(file)] == ["0", "0", "1", "1", "2", "3"]
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "report.html", "results.json", "results.csv", "steps.csv", "second-results.csv", "second-steps.csv",
        "differences.csv",
    }  # fmt: skip


def test_the_same_study_gives_the_same_page(experiment, folder):
    before = (folder / "report.html").read_bytes()
    publish(experiment, folder)
    assert (folder / "report.html").read_bytes() == before


def test_best_median_and_worst(experiment):
    lossy = [
        replace(one, scores=replace(one.scores, dice=dice))
        for one, dice in zip(experiment.results[0][:4], (0.4, 0.9, 0.1, 0.6), strict=True)
    ]
    assert [(rank, one.scores.dice) for rank, one in choose_cases(lossy)] == [
        ("best", 0.9), ("median", 0.4), ("worst", 0.1),
    ]  # fmt: skip
    assert [rank for rank, _ in choose_cases(lossy[:1])] == ["best and median and worst"]
    assert choose_cases([experiment.results[0][4]]) == []


def test_masks_come_back_as_they_were(experiment, cases):
    np.testing.assert_array_equal(experiment.masks.get(experiment.results[0][0]), read_task(cases[0]).truth)


def test_volumes_against_the_truth(experiment):
    one = experiment.results[0][0]
    half = replace(one, scores=replace(one.scores, volume_ml=1.0, true_volume_ml=3.0))
    assert volume_agreement([half, experiment.results[0][5]]) == ([2.0], [-100.0])


def test_a_folder_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made a folder"):
        prepare_folder(tmp_path / "file")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'medsam2\[evaluate\]'"):
        prepare_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()
