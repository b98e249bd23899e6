/** What the user sees: slice, crosshair and window; and the strip with the slider and the marks of all slices. */

import { recordEvent } from "./background.js";
import { PROMPT_COLOUR } from "./colours.js";
import { promptedSlices } from "./history.js";
import { byId } from "./page.js";
import { clampIndex } from "./planes.js";
import { change, currentObject, drawingPlane, shownSlice, state, watch } from "./state.js";

/** Windows by name, the same as on the command line; the keys 1 to 6 choose them. */
export const WINDOWS = [
  { name: "abdomen", limits: [-160, 240] },
  { name: "liver", limits: [-45, 105] },
  { name: "mediastinum", limits: [-125, 225] },
  { name: "lung", limits: [-1350, 150] },
  { name: "bone", limits: [-500, 1300] },
  { name: "brain", limits: [0, 80] },
];
/** Below this confidence the network is unsure of a slice. */
const UNSURE = 0.75;
const UNSURE_COLOUR = "#ff9f43";

/** Choose a window by its name; "opened" is the window of the session. */
export function chooseWindow(name) {
  const limits = WINDOWS.find((one) => one.name === name)?.limits ?? (name === "opened" ? state.session?.window : null);
  if (limits) change({ window: [...limits] });
}

/** Move by a number of slices in a plane. */
export function scroll(plane, steps) {
  const crosshair = [...state.crosshair];
  crosshair[plane.axis] = clampIndex(crosshair[plane.axis] + steps, plane.numSlices);
  recordEvent("scroll");
  change({ crosshair });
}

/** Go to a slice of the drawing plane. */
export function goToSlice(slice) {
  const plane = drawingPlane();
  if (plane && slice !== shownSlice()) scroll(plane, slice - shownSlice());
}

/** Go to the next slice with a prompt or an unsure mask; direction 1 is up, -1 is down. */
export function goToMark(direction) {
  const marks = new Set([...promptedSlices(state.log, state.current), ...unsureSlices()]);
  const ahead = [...marks].filter((slice) => (slice - shownSlice()) * direction > 0);
  if (ahead.length) goToSlice(direction > 0 ? Math.min(...ahead) : Math.max(...ahead));
}

/** Show the strip. */
export function showStrip() {
  /** @type {HTMLCanvasElement} */
  const picture = byId("strip-picture");
  /** @type {HTMLInputElement} */
  const slider = byId("strip-slice");
  slider.addEventListener("input", () => goToSlice(Number(slider.value)));
  picture.addEventListener("pointerdown", (event) => {
    picture.setPointerCapture(event.pointerId);
    goToSlice(sliceAt(picture, event));
  });
  picture.addEventListener("pointermove", (event) => event.buttons && goToSlice(sliceAt(picture, event)));
  const draw = () => {
    const plane = drawingPlane();
    if (!plane) return;
    slider.max = String(plane.numSlices - 1);
    slider.value = String(shownSlice());
    drawStrip(picture, plane.numSlices);
    byId("strip-text").textContent = describeSlice();
  };
  watch(["volume", "crosshair", "masksAt", "log", "confidence", "current", "objects"], draw);
  new ResizeObserver(draw).observe(picture);
}

function sliceAt(picture, event) {
  const frame = picture.getBoundingClientRect();
  const { numSlices } = drawingPlane();
  return clampIndex(Math.floor(((event.clientX - frame.left) / frame.width) * numSlices), numSlices);
}

/** The slices on which the network is unsure of the current object. */
function unsureSlices() {
  return (state.masks?.slices(state.current) ?? []).filter((slice) => {
    const confidence = state.confidence[slice]?.[state.current];
    return confidence !== undefined && confidence < UNSURE;
  });
}

function drawStrip(picture, numSlices) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [picture.clientWidth, picture.clientHeight];
  if (!width) return;
  Object.assign(picture, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  const context = picture.getContext("2d");
  context.scale(ratio, ratio);
  const step = width / numSlices;
  const drawMark = (slice, top, bottom, colour) => {
    context.fillStyle = colour;
    // On whole pixels, so that neighbours leave no gap.
    const left = Math.floor(slice * step);
    context.fillRect(left, top, Math.max(Math.floor((slice + 1) * step) - left, 2), bottom - top);
  };
  const shown = state.objects.filter((object) => !object.isHidden);
  const row = (height - 12) / Math.max(1, shown.length);
  shown.forEach((object, i) => {
    for (const slice of state.masks.slices(object.number)) drawMark(slice, 6 + i * row, 6 + (i + 1) * row - 1, object.colour);
  });
  for (const slice of unsureSlices()) drawMark(slice, height - 5, height, UNSURE_COLOUR);
  for (const slice of promptedSlices(state.log, state.current)) drawMark(slice, 0, 5, PROMPT_COLOUR);
  context.fillStyle = "#ffffff";
  context.fillRect((shownSlice() + 0.5) * step - 1, 0, 2, height);
}

function describeSlice() {
  if (!state.masks?.patch(state.current, shownSlice())) return "";
  const confidence = state.confidence[shownSlice()]?.[state.current];
  const sure = confidence === undefined ? "" : `, ${Math.round(confidence * 100)} % sure`;
  return `${currentObject()?.name ?? ""} on slice ${shownSlice() + 1}${sure}`;
}
