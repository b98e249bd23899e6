/** The three planes side by side, and the voxel under the pointer. */

import { listenTo } from "./gestures.js";
import { drawOnPlane } from "./opening.js";
import { all, byId } from "./page.js";
import { PlaneView } from "./plane_view.js";
import { toVoxel } from "./planes.js";
import { state, watch } from "./state.js";
import { valueAt } from "./volume.js";

/** @type {PlaneView[]} */
const views = [];

/** Show the planes. */
export function showPlanes() {
  for (const pane of all("#views .pane[data-place]")) {
    const view = new PlaneView(pane, Number(pane.dataset.place));
    views.push(view);
    listenTo(view);
    view.canvas.addEventListener("pointermove", (event) => showVoxel(view, event));
    pane.querySelector(".draw-here")?.addEventListener("click", () => drawOnPlane(view.plane));
  }
  const shown = ["volume", "planes", "crosshair", "window", "masksAt", "objects", "current", "log", "areMasksShown", "target"];
  let isPending = false;
  watch(shown, () => {
    if (isPending) return;
    isPending = true;
    requestAnimationFrame(() => {
      isPending = false;
      for (const view of views) view.draw();
    });
  });
  watch(["volume"], fitAll);
  byId("layout").addEventListener("click", changeLayout);
}

/** Show whole slices everywhere. */
export function fitAll() {
  for (const view of views) view.fit();
}

/** Zoom all planes about their middle. */
export function zoomAll(factor) {
  for (const view of views) view.zoomAt(factor, view.canvas.clientWidth / 2, view.canvas.clientHeight / 2);
}

/** One large view and three small ones, or four of one size. */
export function changeLayout() {
  const isQuad = byId("views").classList.toggle("quad");
  byId("layout").setAttribute("aria-pressed", String(isQuad));
}

/** The view that has the keyboard, else the one to draw on. */
export function activeView() {
  return views.find((view) => view.canvas === document.activeElement) ?? drawingView();
}

/** The view to draw on. */
export function drawingView() {
  return views.find((view) => view.isDrawing);
}

function showVoxel(view, event) {
  if (!state.volume) return;
  const [u, v] = view.toSlice(...view.pointOf(event)).map(Math.round);
  const isInside = u >= 0 && v >= 0 && u < view.plane.width && v < view.plane.height;
  const [x, y, z] = toVoxel(view.plane, u, v, view.slice);
  byId("probe").textContent = isInside
    ? `x ${x}  y ${y}  z ${z}   value ${Number(valueAt(state.volume, [x, y, z]).toFixed(2))}`
    : "";
}
