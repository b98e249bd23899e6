/** What mouse, pen and fingers do on a plane: boxes, points, brush strokes, crosshair, window, zoom. */

import { recordEvent } from "./background.js";
import { scroll } from "./navigation.js";
import { showNotice } from "./page.js";
import { nearestPixel, sliceBox, slicePoint, toVoxel } from "./planes.js";
import { change, drawingPlane, shownSlice, state } from "./state.js";
import { rangeOf } from "./volume.js";
import { addPrompt, canChange } from "./work.js";

const CLICK_PX = 4;
/** A finger or a pen that stays for so long clicks outside: it has no right button. */
const HOLD_MS = 500;
const WHEEL_STEP = 50;

/**
 * Listen to the pointer and the wheel on a view.
 * @param {import("./plane_view.js").PlaneView} view
 */
export function listenTo(view) {
  const { canvas } = view;
  /** @type {{move?: (x: number, y: number) => void, end?: (x: number, y: number) => void, cancel?: () => void}|null} */
  let gesture = null;
  let wheel = 0;
  canvas.addEventListener("pointerdown", (event) => {
    if (!state.volume || gesture) return;
    canvas.setPointerCapture(event.pointerId);
    gesture = gestureFor(view, event, ...view.pointOf(event));
    gesture?.move?.(...view.pointOf(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!state.volume) return;
    showRing(view, view.pointOf(event));
    gesture?.move?.(...view.pointOf(event));
  });
  canvas.addEventListener("pointerup", (event) => {
    const ended = gesture;
    gesture = null;
    ended?.end?.(...view.pointOf(event));
  });
  canvas.addEventListener("pointercancel", () => {
    gesture?.cancel?.();
    gesture = null;
  });
  canvas.addEventListener("pointerleave", () => {
    if (view.sketch?.ring) view.setSketch(null);
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => state.tool === "pan" && view.fit());
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (!state.volume) return;
      if (event.ctrlKey || event.metaKey) {
        view.zoomAt(Math.exp(-event.deltaY / 300), ...view.pointOf(event));
        return;
      }
      wheel += event.deltaY;
      const steps = Math.trunc(wheel / WHEEL_STEP);
      wheel -= steps * WHEEL_STEP;
      if (steps) scroll(view.plane, Math.sign(steps));
    },
    { passive: false },
  );
}

function gestureFor(view, event, x, y) {
  if (event.button === 1 || state.tool === "pan") return panGesture(view, x, y);
  if (event.button === 2) return windowGesture(view, x, y);
  if (!view.isDrawing || event.shiftKey && state.tool !== "point" || state.tool === "crosshair") return crosshairGesture(view);
  if (!canChange()) return null;
  if (state.tool === "brush" || state.tool === "erase") return brushGesture(view, state.tool === "erase");
  if (state.isBaseline) {
    showNotice("The baseline measures the time without the model. Use the brush and the eraser only.");
    return null;
  }
  if (state.tool === "point") return pointGesture(view, x, y, event);
  return boxGesture(view, x, y);
}

/** Draw a box from corner to corner. */
function boxGesture(view, x, y) {
  const from = nearestPixel(view.plane, ...view.toSlice(x, y));
  let to = from;
  return {
    move: (nx, ny) => {
      to = nearestPixel(view.plane, ...view.toSlice(nx, ny));
      view.setSketch({ box: [from, to] });
    },
    end: (nx, ny) => {
      view.setSketch(null);
      if (Math.hypot(nx - x, ny - y) < CLICK_PX) {
        showNotice("Press at one corner of the structure, and release at the opposite corner.");
        return;
      }
      addPrompt({ slice: view.slice, box: sliceBox(view.plane, from, to) }, "box");
    },
    cancel: () => view.setSketch(null),
  };
}

/** Click a point inside or outside. */
function pointGesture(view, x, y, { shiftKey, altKey, pointerType, timeStamp }) {
  return {
    end: (nx, ny) => {
      const isHeld = pointerType !== "mouse" && performance.now() - timeStamp >= HOLD_MS;
      const label = shiftKey || altKey || isHeld ? 0 : 1;
      if (Math.hypot(nx - x, ny - y) <= 4 * CLICK_PX) addPoint(view, view.toSlice(x, y), label);
    },
  };
}

/** Add a point (u, v) of the shown slice, inside (1) or outside (0). */
export function addPoint(view, [u, v], label) {
  const { width, height } = view.plane;
  if (u < -0.5 || v < -0.5 || u > width - 0.5 || v > height - 0.5) return;
  addPrompt({ slice: view.slice, points: [slicePoint(view.plane, u, v)], labels: [label] }, "click");
}

function brushGesture(view, isErasing) {
  const stroke = new Stroke(isErasing);
  return {
    move: (x, y) => stroke.to(...view.toSlice(x, y)),
    end: () => stroke.end(),
    cancel: () => stroke.undo(),
  };
}

/** Move the crosshair, and with it the other planes. */
function crosshairGesture(view) {
  return {
    move: (x, y) => {
      const [u, v] = nearestPixel(view.plane, ...view.toSlice(x, y));
      change({ crosshair: toVoxel(view.plane, u, v, view.slice) });
    },
  };
}

function panGesture(view, x, y) {
  const shift = [...view.shift];
  return {
    move: (nx, ny) => {
      view.shift = [shift[0] + nx - x, shift[1] + ny - y];
      view.draw();
    },
  };
}

/** Right button: a drag across makes the window wider, a drag up brighter; a click is a point outside. */
function windowGesture(view, x, y) {
  const [low, high] = state.window;
  const [level, width] = [(low + high) / 2, high - low];
  const [least, greatest] = rangeOf(state.volume);
  const step = Math.max(width, (greatest - least) / 50) / 300;
  let isMoved = false;
  return {
    move: (nx, ny) => {
      isMoved ||= Math.hypot(nx - x, ny - y) > CLICK_PX;
      if (!isMoved) return;
      const wide = Math.max((greatest - least) / 2000, width + (nx - x) * step);
      const middle = level + (ny - y) * step;
      change({ window: [middle - wide / 2, middle + wide / 2].map((value) => Math.round(value * 100) / 100) });
    },
    end: () => {
      const isPrompt = !isMoved && state.tool === "point" && view.isDrawing && !state.isBaseline;
      if (isPrompt) addPoint(view, view.toSlice(x, y), 0);
      else if (isMoved) recordEvent("window");
    },
  };
}

function showRing(view, [x, y]) {
  const isPainting = view.isDrawing && (state.tool === "brush" || state.tool === "erase");
  if (isPainting) view.setSketch({ ring: view.toSlice(x, y), radius: brushRadius() });
  else if (view.sketch?.ring) view.setSketch(null);
}

/** A stroke of the brush or the eraser: it changes the mask of the shown slice. */
class Stroke {
  /** @param {boolean} isErasing */
  constructor(isErasing) {
    this.isErasing = isErasing;
    this.object = state.current;
    this.slice = shownSlice();
    this.before = state.masks.mask(this.object, this.slice);
    this.mask = this.before.slice();
    /** @type {number[]|null} */
    this.last = null;
  }

  /** Continue to a point (u, v) of the shown slice. */
  to(u, v) {
    const [from, end] = [this.last ?? [u, v], [u, v]];
    const steps = Math.max(1, Math.ceil(Math.hypot(end[0] - from[0], end[1] - from[1]) / Math.max(1, brushRadius() / 2)));
    for (let i = 0; i <= steps; i++) {
      this.dab(from[0] + ((end[0] - from[0]) * i) / steps, from[1] + ((end[1] - from[1]) * i) / steps);
    }
    this.last = end;
    state.masks.setMask(this.object, this.slice, this.mask);
    change({ masksAt: state.masksAt + 1 });
  }

  /** Send the new mask to the session as a prompt. */
  end() {
    let voxels = 0;
    for (let at = 0; at < this.mask.length; at++) if (this.mask[at] !== this.before[at]) voxels++;
    if (!this.mask.includes(1)) {
      this.undo();
    } else if (voxels) {
      // The masks may have been read from the session again since the last dab.
      state.masks.setMask(this.object, this.slice, this.mask);
      const mask = state.masks.rle(this.object, this.slice);
      addPrompt({ slice: this.slice, mask }, this.isErasing ? "erase" : "brush", voxels);
    }
  }

  /** Restore the mask from before the stroke. */
  undo() {
    state.masks.setMask(this.object, this.slice, this.before);
    change({ masksAt: state.masksAt + 1 });
  }

  /** Paint a disc around a point. */
  dab(u, v) {
    const plane = drawingPlane();
    const { height, width } = state.masks;
    const reach = brushRadius();
    const rows = reach / plane.aspect;
    for (let dv = -Math.ceil(rows); dv <= Math.ceil(rows); dv++) {
      for (let du = -Math.ceil(reach); du <= Math.ceil(reach); du++) {
        const [pu, pv] = [Math.round(u) + du, Math.round(v) + dv];
        if (pu < 0 || pv < 0 || pu >= plane.width || pv >= plane.height) continue;
        // The disc is round on the screen, even if pixels are not square.
        if (Math.hypot(pu - u, (pv - v) * plane.aspect) > reach) continue;
        const [x, y] = slicePoint(plane, pu, pv);
        if (x < width && y < height) this.mask[y * width + x] = this.isErasing ? 0 : 1;
      }
    }
  }
}

/** In pixels across the shown slice. */
const brushRadius = () => state.brushSize / 2;
