"""MONAI Label's own Python client against a live server: masks are those of the Python API and the CLI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from medsam2.cli.main import run
from medsam2.inference.predictor import Predictor

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

ROI = [22, 41, 18, 37, 5, 5]
BOX = {"roi": ROI, "window": [0, 255], "result_extension": ".nrrd", "result_dtype": "uint8"}
CLICKS = {"foreground": [[31, 27, 5]], "background": [[5, 5, 5]], "window": [0, 255]}


@pytest.fixture(scope="module")
def true_server(run_server, shared_studies: Path):
    """A server with the shipped weights."""
    with run_server(studies=str(shared_studies)) as live:
        yield live


def voxels(path: str) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))


def test_info_has_what_the_plug_ins_read(connect, shared_server) -> None:
    client = connect(shared_server)
    assert client.auth_enabled() is False
    info = client.info()
    assert info["name"]
    assert info["version"]
    assert info["labels"] == ["object"]
    assert not info["config"]
    assert {name: model["dimension"] for name, model in info["models"].items()} == {
        "medsam2_3d": 3,
        "medsam2_2d": 2,
    }
    for model in info["models"].values():
        assert model["type"] == "deepgrow"
        assert len(model["labels"]) == 1
    assert info["datastore"] == {"total": 2, "completed": 0, "label_tags": {}}
    assert info["train_stats"] == {}
    assert set(info["strategies"]) == {"first", "random"}


def test_a_box_gets_the_mask_of_the_api_and_of_the_command_line(
    connect, true_server, predictor: Predictor, volume, scan_path: Path, tmp_path: Path
) -> None:
    client = connect(true_server)
    path, params = client.infer("medsam2_3d", "alpha", BOX)
    expected = predictor.segment(volume, slice=5, box=(22, 18, 41, 37), window=(0, 255)).array
    assert 500 < expected.sum() < 5000
    slices = np.flatnonzero(expected.any((1, 2)))
    assert slices[0] < 5 < slices[-1]
    assert np.array_equal(voxels(path), expected)
    assert params["label_names"] == {"object": 1}
    assert params["latencies"]["total"] > 0
    assert params["window"] == {"lower": 0, "upper": 255, "source": "caller"}
    found, scan = SimpleITK.ReadImage(path), SimpleITK.ReadImage(str(scan_path))
    np.testing.assert_allclose(found.GetSpacing(), scan.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(found.GetOrigin(), scan.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(found.GetDirection(), scan.GetDirection(), atol=1e-6)
    cli = tmp_path / "cli.nii.gz"
    arguments = ["segment", str(scan_path), "--slice", "5", "--box", "22", "18", "41", "37"]
    assert run([*arguments, "--window", "0", "255", "--device", "cpu", "-o", str(cli)]) == 0
    assert np.array_equal(voxels(path), voxels(str(cli)))


def test_clicks_get_the_mask_of_the_api(connect, true_server, predictor: Predictor, volume) -> None:
    click_mask = predictor.segment(
        volume, slice=5, points=[(31, 27), (5, 5)], labels=[1, 0], window=(0, 255)
    ).array
    assert click_mask.any()
    client = connect(true_server)
    path, _ = client.infer("medsam2_3d", "alpha", dict(CLICKS))
    assert path.endswith(".nii.gz")
    assert np.array_equal(voxels(path), click_mask)


def test_a_mask_has_its_images_format_and_a_name_of_its_own(connect, shared_server) -> None:
    client = connect(shared_server)
    first, _ = client.infer("medsam2_3d", "alpha", dict(CLICKS))
    second, _ = client.infer("medsam2_3d", "gamma", dict(CLICKS))
    assert first.endswith(".nii.gz")
    assert second.endswith(".nrrd")
    assert Path(first).name != Path(second).name
    assert np.array_equal(voxels(first), voxels(second))


def test_one_slice_lies_in_a_volume_of_full_size(connect, shared_server, tiny: Predictor, volume) -> None:
    session = tiny.session(volume, window=(0, 255))
    expected = session.add(1, slice=5, points=[(31, 27)])
    path, _ = connect(shared_server).infer(
        "medsam2_2d", "alpha", {"foreground": [[31, 27, 5]], "slice": 5, "window": "0 255", "label": "spleen"}
    )
    found = voxels(path)
    assert found.shape == volume.shape
    assert np.array_equal(found[5], expected)
    assert np.flatnonzero(found.any((1, 2))).tolist() == [5]


def test_an_image_of_ones_own_is_a_session(connect, viewed, scan_path: Path, box_mask: np.ndarray) -> None:
    client = connect(viewed)
    session = client.create_session(str(scan_path))
    assert session["session_info"]["name"] == scan_path.name
    session_id = session["session_id"]
    assert client.get_session(session_id)["expiry"] == 3600
    path, _ = client.infer("medsam2_3d", "whatever", dict(BOX), session_id=session_id)
    assert np.array_equal(voxels(path), box_mask)
    client.remove_session(session_id)
    with pytest.raises(Exception) as refused:  # noqa: PT011
        client.get_session(session_id)
    assert refused.value.status_code == 404
    with pytest.raises(Exception) as refused:  # noqa: PT011
        client.infer("medsam2_3d", "", dict(BOX), session_id=session_id)
    assert "expired" in refused.value.msg


def test_a_file_may_come_with_the_request(connect, viewed, scan_path: Path, box_mask: np.ndarray) -> None:
    path, _ = connect(viewed).infer("medsam2_3d", "", dict(BOX), file=str(scan_path))
    assert np.array_equal(voxels(path), box_mask)


def test_images_and_labels_are_stored_listed_and_given_back(
    connect, viewed, studies: Path, scan_path: Path, label_path: Path
) -> None:
    client = connect(viewed)
    assert client.upload_image(str(scan_path), "new one") == {"image": "new one"}
    assert (studies / "new one.nii.gz").read_bytes() == scan_path.read_bytes()
    labelled = {"label_info": [{"name": "liver", "idx": 1}]}
    saved = client.save_label("new one", str(label_path), params=dict(labelled))
    assert saved["image"] == saved["label"] == "new one"
    stored = studies / "labels" / "final" / "new one.nii.gz"
    assert stored.read_bytes() == label_path.read_bytes()
    known = client.datastore()["objects"]["new one"]
    assert known["image"]["ext"] == ".nii.gz"
    assert known["labels"]["final"]["info"]["label_info"] == labelled["label_info"]
    index = json.loads((studies / "datastore_v2.json").read_bytes())
    assert index["objects"]["new one"]["labels"]["final"]["ext"] == ".nii.gz"
    assert index["images_dir"] == "."
    given = client.download_label("new one", "final")
    assert given.endswith(".nii.gz")
    assert Path(given).read_bytes() == label_path.read_bytes()
    assert client.info()["datastore"] == {"total": 3, "completed": 1, "label_tags": {"final": 1}}


def test_a_result_may_be_stored_as_original(connect, viewed, studies: Path, box_mask: np.ndarray) -> None:
    client = connect(viewed)
    client.infer("medsam2_3d", "alpha", {**BOX, "save_label": True, "label": "spleen"})
    stored = nibabel.load(studies / "labels" / "original" / "alpha.nii.gz")
    assert np.array_equal(np.asarray(stored.dataobj).T, box_mask)
    info = client.datastore()["objects"]["alpha"]["labels"]["original"]["info"]
    assert info["label_info"] == [{"name": "spleen", "idx": 1}]
    assert info["params"]["roi"] == ROI


def test_the_next_sample_is_one_without_a_final_label(connect, viewed, label_path: Path) -> None:
    client = connect(viewed)
    sample = client.next_sample("first", {})
    assert sample["id"] == "alpha"
    assert sample["name"] == "alpha.nii.gz"
    assert not sample["path"]
    assert sample["checksum"].startswith("SHA256:")
    assert sample["strategy"]["first"]["client_id"] == "me"
    assert viewed.client.get(sample["url"]).status_code == 200
    client.save_label("alpha", str(label_path))
    assert client.next_sample("first", {})["id"] == "beta"
    assert client.next_sample("random", {})["id"] == "beta"
    client.save_label("beta", str(label_path))
    assert client.next_sample("random", {}) == {}
    with pytest.raises(Exception) as refused:  # noqa: PT011
        client.next_sample("entropy", {})
    assert refused.value.status_code == 404


def test_no_training_is_offered(connect, viewed) -> None:
    client = connect(viewed)
    assert client.info()["trainers"] == {}
    assert client.train_status(check_if_running=True) is False
    for ask in (client.train_status, client.train_stop):
        with pytest.raises(Exception, match=r".*") as refused:
            ask()
        assert "404" in refused.value.msg
    for model in ("", "medsam2"):
        with pytest.raises(Exception, match=r".*") as refused:
            client.train_start(model, {})
        assert "404" in refused.value.msg
        assert "does not train" in refused.value.msg


def test_the_servers_key_is_a_password_for_viewers(connect, serve_tiny, studies: Path) -> None:
    live = serve_tiny(studies=str(studies), api_key="k3y")
    client = connect(live)
    assert client.auth_enabled() is True
    with pytest.raises(Exception, match=r".*") as refused:
        client.info()
    assert "401" in refused.value.msg
    with pytest.raises(Exception, match=r".*") as refused:
        client.auth_token("anna", "key")
    assert "403" in refused.value.msg
    assert live.client.post("/auth/token", data={"password": "x" * 100_000}).status_code == 413
    assert live.client.get("/auth/token/valid").status_code == 401
    client.update_auth(client.auth_token("anna", "k3y"))
    assert client.auth_valid_token() is True
    assert client.next_sample("first", {})["id"] == "alpha"
    # From here on the client sends the length of that request with every other one.
    assert client.info()["datastore"]["total"] == 2
    path, _ = client.infer("medsam2_2d", "alpha", {**BOX})
    assert voxels(path).any()


@pytest.mark.parametrize(
    ("model", "image", "params", "words"),
    [
        ("nothing", "alpha", BOX, ("404", "nothing", "medsam2_3d")),
        ("medsam2_3d", "nobody", BOX, ("404", "nobody")),
        ("medsam2_3d", "../alpha", BOX, ("404",)),
        ("medsam2_3d", "alpha", {}, ("422", "foreground", "roi")),
        ("medsam2_3d", "alpha", {"background": [[5, 5, 5]]}, ("422", "foreground")),
        ("medsam2_3d", "alpha", {"foreground": [[31, 27, 12]]}, ("422", "slice 12", "0 to 11")),
        ("medsam2_3d", "alpha", {"foreground": [[64, 27, 5]]}, ("422", "(64, 27)", "0 to 63")),
        ("medsam2_3d", "alpha", {"roi": [1, 2, 3]}, ("422", "[1, 2, 3]", "six numbers")),
        ("medsam2_3d", "alpha", {"roi": [22, 41, 18, 37, 20, 30]}, ("422", "20 to 30", "0 to 11")),
        ("medsam2_3d", "alpha", {"roi": [70, 90, 18, 37, 5, 5]}, ("422", "outside")),
        ("medsam2_3d", "alpha", {**BOX, "window": "lungs"}, ("422", "lungs", "abdomen")),
        ("medsam2_3d", "alpha", {**BOX, "result_extension": ".exe"}, ("422", ".exe", ".nrrd")),
        ("medsam2_2d", "alpha", {"foreground": [[31, 27, 5], [31, 27, 6]]}, ("422", "5, 6")),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    connect, shared_server, model: str, image: str, params: dict[str, object], words: tuple[str, ...]
) -> None:
    with pytest.raises(Exception, match=r".*") as refused:
        connect(shared_server).infer(model, image, dict(params))
    for word in words:
        assert word in refused.value.msg
    assert "detail" in refused.value.msg


def test_a_file_that_is_no_image_is_refused(connect, viewed, studies: Path, tmp_path: Path) -> None:
    client = connect(viewed)
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"\x1f\x8bnothing")
    for send in (
        lambda: client.upload_image(str(bad), "bad"),
        lambda: client.save_label("alpha", str(bad)),
        lambda: client.infer("medsam2_3d", "", dict(BOX), file=str(bad)),
    ):
        with pytest.raises(Exception, match=r".*") as refused:
            send()
        assert "422" in refused.value.msg
        assert str(tmp_path) not in refused.value.msg
    assert sorted(path.name for path in studies.iterdir()) == ["alpha.nii.gz", "beta.nii.gz"]
    other = tmp_path / "other.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((64, 56, 12), np.uint8), np.eye(4)), other)
    with pytest.raises(Exception, match=r".*") as refused:
        client.save_label("alpha", str(other))
    assert "does not belong to the image" in refused.value.msg
    shutil.rmtree(studies)
    with pytest.raises(Exception, match=r".*") as refused:
        client.infer("medsam2_3d", "alpha", dict(BOX))
    assert "404" in refused.value.msg
