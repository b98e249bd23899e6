"""Use the real napari-nninteractive widget on a screen that nobody sees, and compare its masks.

    medsam2 serve --port 8765 &
    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/napari_walk.py http://127.0.0.1:8765 \
        --scan src/medsam2/shipped/demo.nii.gz --reference src/medsam2/shipped/demo-mask.nii.gz -o napari

Needs an environment of its own with napari[pyqt6] and napari-nninteractive; neither needs torch. The script
opens the scan as a user does, draws with each tool of the widget, and prints the Dice of what the label layer
shows. Into the folder it writes the scan and the masks as napari has them in memory, pictures of the window,
and the options with which `medsam2 segment shown.nii.gz` must find the mask of the box again, to the voxel.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("NO_PROXY", "127.0.0.1")
os.environ.setdefault("QT_QPA_PLATFORM", "xcb")
os.environ.setdefault("LIBGL_ALWAYS_SOFTWARE", "1")

import napari
import nibabel
import numpy as np
from napari_nninteractive.widget_main import nnInteractiveWidget
from qtpy.QtWidgets import QApplication

POINT, BOX, SCRIBBLE, LASSO = range(4)
"""The numbers of the widget's tools."""
PATIENCE_S = 120.0


def wait_for(is_done: Callable[[], bool]) -> None:
    """Let the window live until something has happened."""
    until = time.monotonic() + PATIENCE_S
    while not is_done():
        if time.monotonic() > until:
            raise TimeoutError("the widget does not go on")
        QApplication.processEvents()
        time.sleep(0.02)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two boolean masks."""
    return 2 * float((one & other).sum()) / max(1.0, float(one.sum() + other.sum()))


class Walk:
    """A person who draws in napari."""

    def __init__(self, address: str, scan: Path, reference: Path, folder: Path) -> None:
        self.viewer = napari.Viewer(show=True)
        self.viewer.open(str(scan), plugin="napari-nifti")
        self.image = self.viewer.layers[0]
        [layer] = napari.Viewer(show=False).open(str(reference), plugin="napari-nifti")
        self.truth = np.asarray(layer.data) != 0
        self.folder = folder
        self.widget = nnInteractiveWidget(self.viewer)
        self.viewer.window.add_dock_widget(self.widget, name="nnInteractive")
        self.viewer.window.resize(1280, 880)
        self.rows: list[dict[str, object]] = []
        if not self.widget._remote_mode:
            self.widget.mode_switch._on_button_pressed(1)
        self.widget.server_url_edit.setText(address)
        self.widget.on_init()
        wait_for(lambda: self.widget.session is not None and self.widget._upload_dialog is None)
        wait_for(lambda: self.widget.point_layer_name in self.viewer.layers or self._is_ready())
        self.spacing = np.asarray(self.image.scale, float)[::-1]
        self.save("shown", np.asarray(self.image.data))
        self.slice = int(self.truth.sum(axis=(1, 2)).argmax())
        self.show(self.slice)
        self.viewer.camera.zoom *= 1.3

    def _is_ready(self) -> bool:
        return self.widget.session.target_buffer is not None

    @property
    def mask(self) -> np.ndarray:
        """What the label layer shows."""
        return np.asarray(self.viewer.layers[self.widget.label_layer_name].data) != 0

    def show(self, z: int) -> None:
        """Go to a slice."""
        self.viewer.dims.set_point(0, self.image.data_to_world((z, 0, 0))[0])
        QApplication.processEvents()

    def save(self, name: str, array: np.ndarray) -> None:
        """Write an array of napari, `(z, y, x)`, as a file whose voxels lie in the same order."""
        image = nibabel.Nifti1Image(array.T, np.diag([*self.spacing, 1.0]))
        nibabel.save(image, self.folder / f"{name}.nii.gz")

    def choose(self, tool: int, *, is_positive: bool = True) -> object:
        """Press the button of a tool; its layer is the one to draw in."""
        self.widget.prompt_button._on_button_pressed(0 if is_positive else 1)
        self.widget.interaction_button._on_button_pressed(tool)
        QApplication.processEvents()
        return self.viewer.layers[self.widget.layer_dict[tool]]

    def note(self, name: str, seconds: float) -> None:
        """Keep the mask, and print its Dice."""
        QApplication.processEvents()
        mask = self.mask
        self.save(f"{len(self.rows):02d}-{name.replace(' ', '-')}", mask.astype(np.uint8))
        row = {"did": name, "voxels": int(mask.sum()), "dice": round(dice(mask, self.truth), 3)}
        self.rows.append({**row, "seconds": round(seconds, 2)})
        print(json.dumps(self.rows[-1]), flush=True)

    def do(self, name: str, action: Callable[[], object]) -> None:
        """Do something that ends when the mask is there: the widget waits for the server."""
        started = time.monotonic()
        action()
        self.note(name, time.monotonic() - started)

    def box(self) -> None:
        """Draw a rectangle around the structure on its largest slice."""
        rows, columns = np.nonzero(self.truth[self.slice])
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
        box = f"--slice {self.slice} --box {left} {top} {right - 1} {bottom - 1}"
        (self.folder / "box.txt").write_text(box + "\n")
        self.choose(BOX).add(np.array([(self.slice, *corner) for corner in corners], float))

    def click_inside(self) -> None:
        """Click on the middle of the structure, a slice above the box."""
        places = np.argwhere(self.truth[self.slice + 1])
        self.choose(POINT).add(np.array([self.slice + 1, *places[len(places) // 2]], float))

    def click_outside(self) -> None:
        """Click on a voxel that the mask should not have, where it has most of them."""
        extra = self.mask & ~self.truth
        z = int(extra.sum(axis=(1, 2)).argmax())
        places = np.argwhere(extra[z])
        self.choose(POINT, is_positive=False).add(np.array([z, *places[len(places) // 2]], float))

    def scribble(self) -> None:
        """Paint a line through the structure."""
        z = self.slice
        layer = self.choose(SCRIBBLE)
        rows, columns = np.nonzero(self.truth[z])
        row = int(np.median(rows))
        on = columns[rows == row]
        with layer.block_history():
            for column in range(int(on.min()) + 2, int(on.max()) - 1):
                layer.paint((z, row, column), 1)

    def lasso(self) -> None:
        """Draw around the structure."""
        z = self.slice
        layer = self.choose(LASSO)
        rows, columns = np.nonzero(self.truth[z])
        edges = [(z, row, columns[rows == row].min()) for row in np.unique(rows)]
        edges += [(z, row, columns[rows == row].max()) for row in np.unique(rows)[::-1]]
        layer.add(np.array(edges, float), shape_type="polygon")


def main() -> None:
    """Walk through the tools."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    walk = Walk(options.address, options.scan, options.reference, options.output)
    print(walk.widget.session.license, flush=True)
    walk.do("box", walk.box)
    walk.viewer.screenshot(str(options.output / "box.png"), canvas_only=False)
    walk.do("point", walk.click_inside)
    walk.do("undo", walk.widget.on_undo)
    walk.do("next", walk.widget.on_next)
    walk.do("scribble", walk.scribble)
    walk.do("next again", walk.widget.on_next)
    walk.do("lasso", walk.lasso)
    walk.do("point outside", walk.click_outside)
    walk.do("undo again", walk.widget.on_undo)
    walk.viewer.screenshot(str(options.output / "objects.png"), canvas_only=False)
    walk.widget._release_session()
    # To close Qt's window under Xvfb ends in a segmentation fault of the graphics driver.
    os._exit(0)


if __name__ == "__main__":
    main()
