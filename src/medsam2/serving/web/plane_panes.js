/** The three planes side by side, and what is under the pointer. */

import { listenTo } from "./gestures.js";
import { valueAt } from "./greys.js";
import { drawIn } from "./opening.js";
import { all, by } from "./page_parts.js";
import { PlaneView } from "./plane_view.js";
import { toVoxel } from "./planes.js";
import { state, watch } from "./state.js";

/** @type {PlaneView[]} */
const views = [];

/** Show the planes. */
export function showPlanes() {
  for (const pane of all("#views .pane[data-place]")) {
    const view = new PlaneView(pane, Number(pane.dataset.place));
    views.push(view);
    listenTo(view);
    view.canvas.addEventListener("pointermove", (event) => probe(view, event));
    pane.querySelector(".draw-here")?.addEventListener("click", () => drawIn(view.plane));
  }
  const shown = ["volume", "planes", "crosshair", "window", "masksAt", "objects", "current", "log", "areMasksShown", "target"];
  let isAsked = false;
  watch(shown, () => {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => {
      isAsked = false;
      for (const view of views) view.draw();
    });
  });
  watch(["volume"], fitAll);
  const layout = by("layout");
  layout.addEventListener("click", changeLayout);
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
  const isQuad = by("views").classList.toggle("quad");
  by("layout").setAttribute("aria-pressed", String(isQuad));
}

/** The view that has the keyboard, else the one to draw on. */
export function activeView() {
  return views.find((view) => view.canvas === document.activeElement) ?? drawingView();
}

/** The view to draw on. */
export function drawingView() {
  return views.find((view) => view.isDrawing);
}

function probe(view, event) {
  if (!state.volume) return;
  const frame = view.canvas.getBoundingClientRect();
  const [u, v] = view.toSlice(event.clientX - frame.left, event.clientY - frame.top).map(Math.round);
  const isInside = u >= 0 && v >= 0 && u < view.plane.width && v < view.plane.height;
  const voxel = toVoxel(view.plane, u, v, view.slice);
  const value = isInside ? valueAt(state.volume, voxel) : NaN;
  by("probe").textContent = isInside
    ? `x ${voxel[0]}  y ${voxel[1]}  z ${voxel[2]}   value ${Number(value.toFixed(2))}`
    : "";
}
