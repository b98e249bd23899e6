/** What mouse, pen and fingers do on a plane. */

import { radius, Stroke } from "./brush.js";
import { note } from "./clock.js";
import { sliceBox, slicePoint } from "./cuts.js";
import { rangeOf } from "./greys.js";
import { say } from "./notices.js";
import { toVoxel } from "./planes.js";
import { change, currentObject, state } from "./state.js";
import { prompt } from "./work.js";

const CLICK_PX = 4;
const WHEEL_STEP = 50;

/** Listen to a view's pointer and wheel. */
export function listenTo(view) {
  const { canvas } = view;
  /** @type {{move: (x: number, y: number) => void, end: (x: number, y: number) => void, cancel?: () => void}|null} */
  let gesture = null;
  let wheel = 0;
  /** @returns {[number, number]} In CSS pixels of the canvas. */
  const place = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!state.volume || gesture) return;
    canvas.setPointerCapture(event.pointerId);
    gesture = gestureFor(view, event, ...place(event));
    gesture?.move(...place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!state.volume) return;
    showRing(view, place(event));
    gesture?.move(...place(event));
  });
  canvas.addEventListener("pointerup", (event) => {
    const ended = gesture;
    gesture = null;
    ended?.end(...place(event));
  });
  canvas.addEventListener("pointercancel", () => {
    gesture?.cancel?.();
    gesture = null;
  });
  canvas.addEventListener("pointerleave", () => {
    if (view.sketch?.ring) drawSketch(view, null);
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => state.tool === "pan" && view.fit());
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (!state.volume) return;
      if (event.ctrlKey || event.metaKey) {
        view.zoomAt(Math.exp(-event.deltaY / 300), ...place(event));
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

/** Go some slices on in a plane. */
export function scroll(plane, steps) {
  const crosshair = [...state.crosshair];
  const next = crosshair[plane.axis] + steps;
  crosshair[plane.axis] = Math.min(plane.numSlices - 1, Math.max(0, next));
  note("scroll");
  change({ crosshair });
}

function gestureFor(view, event, x, y) {
  if (event.button === 1 || state.tool === "pan") return panning(view, x, y);
  if (event.button === 2) return windowing(view, x, y);
  if (!view.isDrawing || event.shiftKey && state.tool !== "point" || state.tool === "crosshair") return pointing(view);
  if (currentObject()?.isLocked) {
    say(`${currentObject().name} is locked: open its lock in the list of objects first.`);
    return null;
  }
  if (state.work?.canCancel) {
    say("The masks are being found; Escape stops that.");
    return null;
  }
  if (state.tool === "brush" || state.tool === "erase") return painting(view, state.tool === "erase");
  if (state.isBaseline) {
    say("This is the baseline: brush and eraser only, so that the time without the model is known.");
    return null;
  }
  if (state.tool === "point") return clicking(view, x, y, event.shiftKey || event.altKey ? 0 : 1);
  return boxing(view, x, y);
}

/** Draw a box from corner to corner. */
function boxing(view, x, y) {
  const from = inside(view, view.toSlice(x, y));
  let to = from;
  return {
    move: (nx, ny) => {
      to = inside(view, view.toSlice(nx, ny));
      drawSketch(view, { box: [from, to] });
    },
    end: (nx, ny) => {
      drawSketch(view, null);
      if (Math.hypot(nx - x, ny - y) < CLICK_PX) {
        say("Draw a box: press at one corner of the structure and let go at the opposite one.");
        return;
      }
      prompt({ slice: view.slice, box: sliceBox(view.plane, from, to) }, "box");
    },
    cancel: () => drawSketch(view, null),
  };
}

/** A click that says inside or outside. */
function clicking(view, x, y, label) {
  return {
    move: () => {},
    end: (nx, ny) => {
      if (Math.hypot(nx - x, ny - y) > 4 * CLICK_PX) return;
      pointAt(view, view.toSlice(x, y), label);
    },
  };
}

/** Say that a point (u, v) of the shown slice is inside or outside. */
export function pointAt(view, [u, v], label) {
  const { width, height } = view.plane;
  if (u < -0.5 || v < -0.5 || u > width - 0.5 || v > height - 0.5) return;
  prompt({ slice: view.slice, points: [slicePoint(view.plane, u, v)], labels: [label] }, "click");
}

function painting(view, isErasing) {
  const stroke = new Stroke(isErasing);
  return {
    move: (x, y) => stroke.to(...view.toSlice(x, y)),
    end: () => stroke.end(),
    cancel: () => stroke.undo(),
  };
}

/** Move the crosshair, and with it the other planes. */
function pointing(view) {
  return {
    move: (x, y) => {
      const [u, v] = inside(view, view.toSlice(x, y));
      change({ crosshair: toVoxel(view.plane, u, v, view.slice) });
    },
    end: () => {},
  };
}

function panning(view, x, y) {
  const shift = [...view.shift];
  return {
    move: (nx, ny) => {
      view.shift = [shift[0] + nx - x, shift[1] + ny - y];
      view.draw();
    },
    end: () => {},
  };
}

/** Right button: across makes the window wider, up makes it brighter; a click says outside. */
function windowing(view, x, y) {
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
      if (isPrompt) pointAt(view, view.toSlice(x, y), 0);
      else if (isMoved) note("window");
    },
  };
}

/** @returns {[number, number]} The nearest pixel. */
function inside(view, [u, v]) {
  const { width, height } = view.plane;
  return [Math.min(width - 1, Math.max(0, Math.round(u))), Math.min(height - 1, Math.max(0, Math.round(v)))];
}

function showRing(view, [x, y]) {
  const isPainting = view.isDrawing && (state.tool === "brush" || state.tool === "erase");
  if (isPainting) drawSketch(view, { ring: view.toSlice(x, y), radius: radius() });
  else if (view.sketch?.ring) drawSketch(view, null);
}

function drawSketch(view, sketch) {
  view.sketch = sketch;
  view.draw();
}
