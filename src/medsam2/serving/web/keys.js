/** The keyboard, and the sheet that lists its keys. */

import { addPoint } from "./gestures.js";
import { chooseWindow, goToMark, scroll, WINDOWS } from "./navigation.js";
import { all, byId, make } from "./page.js";
import { activeView, changeLayout, drawingView, fitAll, zoomAll } from "./plane_panes.js";
import { clampIndex, fromVoxel, sliceBox, toVoxel } from "./planes.js";
import { saveVersion } from "./saving.js";
import { cancelPropagation } from "./session.js";
import { change, shownSlice, state } from "./state.js";
import { resizeBrush, TOOLS } from "./toolbar.js";
import { addPrompt, newObject, propagate, redo, undo } from "./work.js";

const PAGE = 10;
/** @type {{slice: number, at: [number, number]}|null} The first corner of a box drawn with the keyboard. */
let corner = null;

/** @type {[string, string[][]][]} */
const SHEET = [
  ["Draw", [
    ...TOOLS.map(({ key, title }) => [key.toUpperCase(), title]),
    ["[ ]", "Narrower or wider brush"],
    ["Space", "Draw at the crosshair: a corner of the box, or a point (Shift: outside)"],
    ["Right click", "With the point tool: outside"],
    ["Enter", "Propagate through the slices"],
    ["Esc", "Stop, or cancel the box"],
    ["Ctrl Z", "Undo"], ["Ctrl Shift Z", "Redo"], ["Ctrl S", "Save a version"],
  ]],
  ["Look", [
    ["Wheel, ↑ ↓", "Next slice"], ["Page ↑ ↓", "Ten slices"], ["Home, End", "First, last slice"],
    ["Shift arrows", "Move the crosshair in the slice"], ["J K", "Previous, next slice that is prompted or unsure"],
    ["Ctrl wheel, + −", "Zoom"], ["Middle drag", "Pan"], ["F", "Fit"], ["Q", "Four equal views"],
    ["Right drag", "Window: wider, brighter"],
    ["1 … 6", WINDOWS.map(({ name }) => name).join(", ")], ["0", "Window as opened"], ["X", "Hide all masks"],
  ]],
  ["Objects", [["N", "New object"], [", .", "Previous, next object"], ["?", "This sheet"]]],
];

const PLAIN = {
  Enter: propagate,
  "?": openSheet,
  "[": () => resizeBrush(-2), "]": () => resizeBrush(2),
  ArrowUp: () => step(1), ArrowDown: () => step(-1), PageUp: () => step(PAGE), PageDown: () => step(-PAGE),
  Home: () => step(-Infinity), End: () => step(Infinity),
  j: () => goToMark(-1), k: () => goToMark(1),
  f: fitAll, q: changeLayout, "+": () => zoomAll(1.25), "=": () => zoomAll(1.25), "-": () => zoomAll(0.8),
  0: () => chooseWindow("opened"),
  x: () => change({ areMasksShown: !state.areMasksShown }),
  n: newObject, ",": () => nextObject(-1), ".": () => nextObject(1),
  ...Object.fromEntries(WINDOWS.map(({ name }, i) => [i + 1, () => chooseWindow(name)])),
  ...Object.fromEntries(TOOLS.map(({ name, key }) => [key, () => change({ tool: name })])),
};
const WITH_CONTROL = { z: undo, Z: redo, y: redo, s: () => saveVersion("in work") };

/** Listen to the keyboard, and to the button for its sheet. */
export function listenToKeys() {
  fillSheet();
  byId("help").addEventListener("click", openSheet);
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || isTyping(event.target)) return;
    if (event.key === "?") return act(event, openSheet);
    if (!state.session) return undefined;
    if (event.key === "Escape") return stop();
    if (event.ctrlKey || event.metaKey) return act(event, WITH_CONTROL[event.key]);
    if (event.altKey) return undefined;
    if (event.shiftKey && event.key.startsWith("Arrow")) return act(event, () => moveCrosshair(event.key));
    const isOnCanvas = event.target instanceof HTMLCanvasElement;
    if (event.key === " " && isOnCanvas) return act(event, () => drawAtCrosshair(event.shiftKey));
    if (needsKey(event.target, event.key)) return undefined;
    return act(event, PLAIN[event.key] ?? PLAIN[event.key.toLowerCase()]);
  });
}

function openSheet() {
  byId("sheet").showModal();
}

function act(event, action) {
  if (!action) return;
  event.preventDefault();
  action();
}

function stop() {
  for (const menu of all("details.menu[open]")) menu.open = false;
  const view = drawingView();
  if (cancelPropagation() || !view) return;
  corner = null;
  view.setSketch(null);
}

function step(slices) {
  const view = activeView();
  if (view) scroll(view.plane, Math.max(-view.plane.numSlices, Math.min(view.plane.numSlices, slices)));
}

function moveCrosshair(key) {
  const view = activeView();
  if (!view) return;
  const [u, v] = fromVoxel(view.plane, state.crosshair);
  const du = { ArrowLeft: -1, ArrowRight: 1 }[key] ?? 0;
  const dv = { ArrowUp: -1, ArrowDown: 1 }[key] ?? 0;
  const { width, height } = view.plane;
  change({ crosshair: toVoxel(view.plane, clampIndex(u + du, width), clampIndex(v + dv, height), view.slice) });
  if (corner) sketchBox(view);
}

/** A point, or a corner of a box, where the crosshair is. */
function drawAtCrosshair(isOutside) {
  const view = drawingView();
  const at = fromVoxel(view.plane, state.crosshair);
  if (state.tool === "point") {
    addPoint(view, at, isOutside ? 0 : 1);
  } else if (state.tool === "box" && (!corner || corner.slice !== shownSlice())) {
    corner = { slice: shownSlice(), at };
    sketchBox(view);
  } else if (state.tool === "box") {
    const box = sliceBox(view.plane, corner.at, at);
    corner = null;
    view.setSketch(null);
    addPrompt({ slice: shownSlice(), box }, "box");
  }
}

function sketchBox(view) {
  view.setSketch({ box: [corner.at, fromVoxel(view.plane, state.crosshair)] });
}

function nextObject(direction) {
  const at = state.objects.findIndex((object) => object.number === state.current);
  const next = state.objects[(at + direction + state.objects.length) % state.objects.length];
  if (next) change({ current: next.number });
}

function isTyping(target) {
  return target instanceof HTMLElement
    && (target.matches("input[type=text], input[type=password], textarea, select") || target.isContentEditable);
}

/** Whether an element uses a key itself. */
function needsKey(target, key) {
  if (!(target instanceof HTMLElement)) return false;
  if (key === "Enter" || key === " ") return target.matches("button, summary, a, input:not([type=range])");
  return /^(Arrow|Page|Home|End)/.test(key) && target.matches("input");
}

function fillSheet() {
  for (const [title, entries] of SHEET) {
    const list = make("dl");
    for (const [keys, text] of entries) list.append(make("dt", {}, make("kbd", {}, keys)), make("dd", {}, text));
    byId("sheet-body").append(make("section", {}, make("h3", {}, title), list));
  }
}
