/** The slice slider, and above it where masks, prompts and doubts are. */

import { promptedSlices } from "./history.js";
import { scroll } from "./gestures.js";
import { by } from "./page_parts.js";
import { currentObject, drawingPlane, shownSlice, state, watch } from "./state.js";

/** Below this the network is unsure of a slice. */
export const UNSURE = 0.75;
const PROMPT_COLOUR = "#ffe066";
const UNSURE_COLOUR = "#ff9f43";

/** Show the strip. */
export function showStrip() {
  /** @type {HTMLCanvasElement} */
  const picture = by("strip-picture");
  /** @type {HTMLInputElement} */
  const slider = by("strip-slice");
  slider.addEventListener("input", () => go(Number(slider.value)));
  picture.addEventListener("pointerdown", (event) => {
    picture.setPointerCapture(event.pointerId);
    go(sliceAt(picture, event));
  });
  picture.addEventListener("pointermove", (event) => event.buttons && go(sliceAt(picture, event)));
  const draw = () => {
    const plane = drawingPlane();
    if (!plane) return;
    slider.max = String(plane.numSlices - 1);
    slider.value = String(shownSlice());
    drawStrip(picture, plane.numSlices);
    by("strip-text").textContent = describe();
  };
  watch(["volume", "crosshair", "masksAt", "log", "confidence", "current", "objects"], draw);
  new ResizeObserver(draw).observe(picture);
}

/** Go to the next slice that is prompted or unsure, in a direction. */
export function goToMark(direction) {
  const marks = new Set([...promptedSlices(state.log, state.current), ...unsureSlices()]);
  const here = shownSlice();
  const ahead = [...marks].filter((slice) => (slice - here) * direction > 0);
  if (ahead.length) go(direction > 0 ? Math.min(...ahead) : Math.max(...ahead));
}

function go(slice) {
  const plane = drawingPlane();
  if (plane && slice !== shownSlice()) scroll(plane, slice - shownSlice());
}

function sliceAt(picture, event) {
  const frame = picture.getBoundingClientRect();
  const { numSlices } = drawingPlane();
  return Math.min(numSlices - 1, Math.max(0, Math.floor(((event.clientX - frame.left) / frame.width) * numSlices)));
}

/** Slices where the current object was found without certainty. */
export function unsureSlices() {
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
  const bar = (slice, top, bottom, colour) => {
    context.fillStyle = colour;
    // On whole pixels, so that neighbours leave no gap.
    const left = Math.floor(slice * step);
    context.fillRect(left, top, Math.max(Math.floor((slice + 1) * step) - left, 2), bottom - top);
  };
  const shown = state.objects.filter((object) => !object.isHidden);
  const row = (height - 12) / Math.max(1, shown.length);
  shown.forEach((object, i) => {
    for (const slice of state.masks.slices(object.number)) bar(slice, 6 + i * row, 6 + (i + 1) * row - 1, object.colour);
  });
  for (const slice of unsureSlices()) bar(slice, height - 5, height, UNSURE_COLOUR);
  for (const slice of promptedSlices(state.log, state.current)) bar(slice, 0, 5, PROMPT_COLOUR);
  context.fillStyle = "#ffffff";
  context.fillRect((shownSlice() + 0.5) * step - 1, 0, 2, height);
}

function describe() {
  const confidence = state.confidence[shownSlice()]?.[state.current];
  const isThere = state.masks?.patch(state.current, shownSlice());
  if (!isThere) return "";
  const sure = confidence === undefined ? "" : `, ${Math.round(confidence * 100)} % sure`;
  return `${currentObject()?.name ?? ""} on slice ${shownSlice() + 1}${sure}`;
}
