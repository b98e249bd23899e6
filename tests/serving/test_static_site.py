"""The folder that `medsam2 export web` writes, without a browser; tests/browser_site opens it in one."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medsam2.cli.main import run
from medsam2.errors import InputError
from medsam2.serving import npm_files
from medsam2.serving.npm_files import DCMJS, PACKAGES, Package, package_files
from medsam2.serving.static_site import MOST_PARTS_BYTES, POLICY, sizes, write_site

RUNTIME = {name: name.encode() for package in PACKAGES for name in package.files.values()}


def _parts(network: str = "compact", num_bytes: int = 10) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "chain.json").write_text(json.dumps({"format": 1, "network": network}))
        with (folder / "encoder.onnx").open("wb") as file:
            file.truncate(num_bytes)

    return write


def test_the_site_has_all_that_the_page_needs(tmp_path: Path) -> None:
    files = write_site(tmp_path / "site", _parts(), RUNTIME)
    paths = {file.path for file in files}
    site = tmp_path / "site"
    assert {"index.html", "service-worker.js", "page/main.js", "page/niivue.js", "parts/chain.json"} <= paths
    assert {"page/browser/worker.js", "page/engine/segmenter.js", "tour/scan.nii.gz"} <= paths
    assert {f"runtime/{name}" for name in RUNTIME} <= paths
    start = (site / "index.html").read_text("utf-8")
    assert '<html lang="en" data-engine="browser">' in start
    assert f'content="{POLICY}"' in start
    assert "python -m http.server" in start
    for path in re.findall(r'(?:href|src)="([^"#]+)"', start):
        assert path in paths
    assert b"export" in (site / "page/niivue.js").read_bytes()
    tour = json.loads((site / "tour/tour.json").read_text("utf-8"))
    assert tour["structure"] == "left ventricle"
    assert all(end > 0 for end in tour["box"])
    assert sizes(files)["total"] == sum(path.stat().st_size for path in site.rglob("*") if path.is_file())


def test_the_service_worker_keeps_every_file_and_changes_with_them(tmp_path: Path) -> None:
    texts = []
    for name, num_bytes in (("first", 10), ("again", 10), ("other", 11)):
        files = write_site(tmp_path / name, _parts(num_bytes=num_bytes), RUNTIME)
        text = (tmp_path / name / "service-worker.js").read_text("utf-8")
        (found,) = re.findall(r"const SITE = (\{.*\});", text)
        facts = json.loads(found)
        assert set(facts["files"]) == {file.path for file in files} - {"service-worker.js"}
        assert facts["policy"] == POLICY
        texts.append(text)
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_nothing_but_the_page_s_own_origin_is_allowed() -> None:
    directives = dict(part.split(" ", 1) for part in POLICY.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["connect-src"] == "'self' data:"
    assert not re.search(r"https?:|\*|'unsafe-inline'|'unsafe-eval'", POLICY)


def test_another_network_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="these parts are of `official`"):
        write_site(tmp_path / "site", _parts("official"), RUNTIME)
    with pytest.raises(InputError, match="store them as float16"):
        write_site(tmp_path / "site", _parts(num_bytes=MOST_PARTS_BYTES + 1), RUNTIME)
    with pytest.raises(InputError, match=r"dcmjs\.min\.js"):
        write_site(tmp_path / "site", _parts(), {"other": b""})
    assert list(tmp_path.iterdir()) == []


def _pack(folder: Path, package: Package) -> Package:
    """Write an archive as npm does, and return the package with its digest."""
    path = folder / package.archive
    with tarfile.open(path, "w:gz") as archive:
        for name in package.files:
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return replace(package, sha512=base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode())


def test_archives_are_read_only_if_they_are_the_expected_ones(tmp_path: Path) -> None:
    package = _pack(tmp_path, DCMJS)
    files = package_files(package, tmp_path)
    assert files == {name: path.encode() for path, name in DCMJS.files.items()}
    with pytest.raises(InputError, match=f"{re.escape(DCMJS.sha512)} is expected"):
        package_files(DCMJS, tmp_path)
    lacking = replace(package, files={"build/other.js": "other.js"})
    with pytest.raises(InputError, match=r"lacks the file build/other\.js"):
        package_files(lacking, tmp_path)
    with pytest.raises(InputError, match="npm pack dcmjs@"):
        package_files(DCMJS, tmp_path / "nowhere")


def test_without_npm_a_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["export", "web", str(tmp_path / "site")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "npm is not installed" in line
    assert "--runtime-files" in line
    assert list(tmp_path.iterdir()) == []


def test_an_npm_that_fails_is_quoted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A program called npm that can do nothing, as without a network."""
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'network is unreachable' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert run(["export", "web", str(tmp_path / "site")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"could not fetch {npm_files.ONNX_RUNTIME.name}@" in line
    assert "network is unreachable" in line
    assert [path.name for path in tmp_path.iterdir()] == ["npm"]


def test_a_folder_that_is_not_empty_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    assert run(["export", "web", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
