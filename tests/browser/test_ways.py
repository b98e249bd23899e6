"""Other ways through the page: the keyboard alone, the brush, several objects, long scans, bad files."""

from __future__ import annotations

from pathlib import Path

from medsam2.imaging.labels import coco_counts, from_coco_counts

BOX = (22, 18, 41, 37)


def test_the_keyboard_is_enough(screen, folder: Path) -> None:
    screen.open()
    screen.drop(folder / "ball.nii.gz")
    press = screen.page.keyboard.press
    screen.page.locator(".pane.main canvas").focus()
    press("Home")
    for _ in range(5):
        press("ArrowUp")
    assert screen.state("crosshair.2") == 5
    for _ in range(10):
        press("Shift+ArrowLeft")
    for _ in range(10):
        press("Shift+ArrowUp")
    press("Space")
    for _ in range(20):
        press("Shift+ArrowRight")
    for _ in range(20):
        press("Shift+ArrowDown")
    press("Space")
    screen.page.wait_for_timeout(50)
    screen.rests()
    assert screen.slices() == [5]
    press("Enter")
    screen.page.wait_for_timeout(50)
    screen.rests()
    assert len(screen.slices()) > 3
    press("?")
    assert screen.page.locator("#sheet").is_visible()
    screen.shoot("shortcuts")
    press("Escape")
    assert screen.page.locator("#sheet").is_hidden()


def test_planes_are_the_same_as_on_the_command_line(screen, folder: Path, tmp_path: Path) -> None:
    import nibabel
    import numpy as np

    from medsam2.cli.main import run

    screen.open()
    screen.drop(folder / "ball.nii.gz")
    screen.page.locator(".pane[data-place='1']").hover()
    screen.page.locator(".pane[data-place='1'] .draw-here").click()
    screen.page.wait_for_timeout(50)
    screen.rests()
    assert screen.state("session.shape") == [56, 12, 64]
    screen.go_to(27)
    box = (22, 2, 41, 9)
    screen.draw_box(box)
    screen.propagate()
    exported = screen.export("NIfTI", tmp_path)
    window = [str(limit) for limit in screen.state("session.window")]
    arguments = ["segment", str(folder / "ball.nii.gz"), "--plane", "coronal", "--slice", "27"]
    arguments += ["--box", *map(str, box), "--window", *window, "-o", str(tmp_path / "cli.nii.gz")]
    assert run(arguments) == 0
    ours, theirs = (np.asarray(nibabel.load(path).dataobj) for path in (exported, tmp_path / "cli.nii.gz"))
    assert ours.sum() > 100
    assert np.array_equal(ours, theirs)
    screen.shoot("coronal-drawn")


def test_brush_and_eraser_change_the_mask(screen, folder: Path) -> None:
    screen.open()
    screen.drop(folder / "ball.nii.gz")
    screen.go_to(5)
    screen.page.keyboard.press("d")
    mouse = screen.page.mouse
    mouse.move(*screen.place(26, 28))
    mouse.down()
    mouse.move(*screen.place(38, 28), steps=6)
    mouse.up()
    screen.page.wait_for_timeout(50)
    screen.rests()
    painted = screen.num_voxels()
    assert painted > 60
    screen.page.keyboard.press("e")
    mouse.move(*screen.place(38, 28))
    mouse.down()
    mouse.up()
    screen.page.wait_for_timeout(50)
    screen.rests()
    assert 0 < screen.num_voxels() < painted
    assert [step["kind"] for step in screen.state("log")] == ["prompt", "prompt"]
    screen.shoot("brush")


def test_run_lengths_are_the_same_as_in_python(screen) -> None:
    import numpy as np

    screen.open()
    rng = np.random.default_rng(0)
    for shape, share in (((1, 1), 1.0), ((5, 7), 0.5), ((40, 33), 0.02), ((56, 64), 0.0), ((120, 90), 0.9)):
        mask = rng.random(shape) < share
        text, flat = screen.page.evaluate(
            """async ([flat, height, width, text]) => {
                const { encodeRle, decodeRle } = await import("/page/masks.js");
                return [encodeRle(Uint8Array.from(flat), height, width), [...decodeRle(text, height, width)]];
            }""",
            [mask.ravel().astype(int).tolist(), *shape, coco_counts(mask)],
        )
        assert np.array_equal(from_coco_counts(text, shape), mask)
        assert np.array_equal(np.array(flat, bool).reshape(shape), mask)


def test_three_hundred_slices(screen, tmp_path: Path, save_scan) -> None:
    screen.open()
    screen.drop(save_scan(tmp_path / "long.nii.gz", (300, 64, 64), half=148))
    screen.go_to(150)
    screen.draw_box((22, 22, 41, 41))
    screen.page.keyboard.press("Enter")
    screen.page.wait_for_function(
        "() => /slice ([5-9]|[0-9]{2,})/.test(document.querySelector('#progress-text').textContent)"
    )
    screen.page.keyboard.press("Escape")
    screen.page.wait_for_timeout(50)
    screen.rests()
    found = screen.slices()
    assert 3 < len(found) < 290  # the object has 296
    assert "Propagation stopped" in screen.notices()
    screen.page.keyboard.press("End")
    assert screen.state("crosshair.2") == 299
    screen.page.keyboard.press("Home")
    assert screen.state("crosshair.2") == 0
    screen.page.keyboard.press("k")
    assert screen.state("crosshair.2") == 150
    screen.shoot("long-scan")


def test_errors_are_shown_as_sentences(screen, tmp_path: Path) -> None:
    bad = tmp_path / "scan.nii.gz"
    bad.write_bytes(b"this is no scan")
    screen.open()
    screen.page.set_input_files("#file", bad)
    screen.page.wait_for_selector(".notice.error")
    assert "scan.nii.gz could not be opened. Not a NIfTI file." in screen.notices()
    screen.shoot("bad-file")
    assert screen.page.locator("#start").is_visible()


def test_several_objects(screen, folder: Path, tmp_path: Path) -> None:
    import nibabel
    import numpy as np

    screen.open()
    screen.drop(folder / "ball.nii.gz")
    screen.go_to(5)
    screen.draw_box(BOX)
    screen.page.keyboard.press("n")
    screen.draw_box((2, 2, 14, 14))
    screen.propagate()
    assert screen.slices(1)
    labels = set(np.unique(np.asarray(nibabel.load(screen.export("NIfTI", tmp_path)).dataobj)).tolist())
    assert labels >= {0, 1}
    screen.page.locator("[data-object='1'] [data-part=isLocked]").click()
    screen.page.locator("[data-object='1'] [data-part=choose]").check()
    screen.click(30, 20, is_inside=False)
    assert "locked" in screen.notices()
    screen.page.locator("[data-object='2'] [data-part=delete]").click()
    screen.page.wait_for_timeout(50)
    screen.rests()
    assert screen.page.locator("#objects li").count() == 1
    screen.shoot("objects")


def test_a_correction_is_propagated_before_it_is_saved(screen, folder: Path, tmp_path: Path) -> None:
    import nibabel
    import numpy as np

    screen.open()
    screen.drop(folder / "ball.nii.gz")
    screen.go_to(5)
    screen.draw_box(BOX)
    screen.propagate()
    shown = screen.slices()
    screen.page.wait_for_function(
        "n => document.querySelector('#measurements').innerText.includes('Slices\\t' + n)", arg=len(shown)
    )
    screen.click(30, 20, is_inside=False)
    screen.page.wait_for_timeout(1000)
    measured = screen.page.locator("#measurements").inner_text()
    assert f"Slices\t{len(shown)}" in measured
    assert "Measured again when" in measured
    saved = np.asarray(nibabel.load(screen.export("NIfTI", tmp_path)).dataobj)
    assert len(shown) > 3
    assert np.flatnonzero(saved.any(axis=(0, 1))).tolist() == screen.slices()
    assert len(screen.slices()) > 3
    assert [step["kind"] for step in screen.state("log")] == ["prompt", "propagate", "prompt", "propagate"]


def test_a_folder_is_sent_as_a_zip(screen) -> None:
    import base64
    import io
    import zipfile

    screen.open()
    packed = screen.page.evaluate(
        """async () => {
            const { zipFiles } = await import("/page/files.js");
            const second = new File([new Uint8Array(70000).fill(7)], "b");
            const blob = await zipFiles([new File(["first"], "a"), second]);
            const bytes = new Uint8Array(await blob.arrayBuffer());
            let text = "";
            for (const byte of bytes) text += String.fromCharCode(byte);
            return btoa(text);
        }"""
    )
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(packed))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["1.dcm", "2.dcm"]
        assert archive.read("1.dcm") == b"first"
        assert archive.read("2.dcm") == bytes([7]) * 70000
