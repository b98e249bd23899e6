/** The panel beside the scan: the objects with their prompts, the button to propagate, the measurements. */

import { isCorrected, isStale, objectsIn, promptedSlices } from "./history.js";
import { goToSlice } from "./navigation.js";
import { byId, make, makeButton, makeIcon, showError } from "./page.js";
import { cancelPropagation } from "./session.js";
import { readMeasurements } from "./sessions.js";
import { change, state, watch } from "./state.js";
import { adjustObject, newObject, propagate, remove } from "./work.js";

const MAX_CHIPS = 8;
const WAIT_MS = 400;

let timer = 0;

/** Show the list of objects. */
export function showObjects() {
  byId("add-object").addEventListener("click", newObject);
  watch(["objects", "current", "log", "opened"], drawObjects);
}

/** Show the button to propagate, and the progress while the server works. */
export function showProgress() {
  byId("propagate").addEventListener("click", propagate);
  byId("cancel").addEventListener("click", cancelPropagation);
  watch(["task"], drawTask);
  watch(["log", "task", "isBaseline", "opened"], () => {
    const isPrompted = objectsIn(state.log).length > 0;
    byId("propagate").disabled = !isPrompted || state.task !== null || state.isBaseline;
    byId("propagate").classList.toggle("is-next", isPrompted && isStale(state.log) && !state.isBaseline);
    byId("stale").hidden = state.task !== null || (isPrompted && !isStale(state.log));
    byId("stale").textContent = nextStep(isPrompted);
  });
}

/** Show the measurements, and measure again after a step. */
export function showMeasurements() {
  watch(["log", "task", "session"], () => {
    clearTimeout(timer);
    // After a correction the session has fewer slices than are shown, until it is propagated.
    const isWaiting = isCorrected(state.log) && state.measurements.length > 0;
    if (state.task === null && state.session && state.log.length && !isWaiting) timer = setTimeout(measure, WAIT_MS);
  });
  watch(["measurements", "objects", "opened", "log"], drawMeasurements);
}

function drawObjects() {
  const list = byId("objects");
  /** @type {any} */
  const active = list.contains(document.activeElement) ? document.activeElement : null;
  // A name that is being typed must not lose the cursor.
  if (active?.dataset.editing) return;
  list.replaceChildren(...state.objects.map(itemFor));
  if (active?.dataset.part) list.querySelector(`.is-current [data-part="${active.dataset.part}"]`)?.focus();
}

function itemFor(object) {
  const { number, name, isHidden, isLocked } = object;
  const isCurrent = number === state.current;
  const row = make(
    "div", { className: "object-row" }, chooser(object), colourInput(object), nameInput(object),
    toggle(object, "isHidden", isHidden ? "eye-shut" : "eye", isHidden ? "Show" : "Hide"),
    toggle(object, "isLocked", isLocked ? "lock" : "lock-open", isLocked ? "Unlock" : "Lock"),
    smallButton("✕", `Delete ${name}`, "delete", () => remove(number)),
  );
  return make("li", { className: isCurrent ? "is-current" : "", dataset: { object: number } }, row, promptChips(object));
}

function chooser({ number, name }) {
  const input = make("input", {
    type: "radio", name: "current-object", checked: number === state.current, "aria-label": `Work on ${name}`,
    dataset: { part: "choose" },
  });
  input.addEventListener("change", () => change({ current: number }));
  return input;
}

function colourInput({ number, name, colour }) {
  const input = make("input", { type: "color", value: colour, "aria-label": `Colour of ${name}` });
  input.addEventListener("change", () => adjustObject(number, { colour: input.value }));
  return input;
}

function nameInput({ number, name }) {
  const input = make("input", {
    type: "text", value: name, title: name, maxLength: 64, className: "object-name", "aria-label": `Name of object ${number}`,
  });
  input.addEventListener("focus", () => {
    input.dataset.editing = "yes";
    if (state.current !== number) change({ current: number });
  });
  input.addEventListener("keydown", (event) => event.key === "Enter" && input.blur());
  input.addEventListener("blur", () => {
    delete input.dataset.editing;
    adjustObject(number, { name: input.value.trim() || `object ${number}` });
  });
  return input;
}

function toggle(object, part, icon, verb) {
  const button = smallButton("", `${verb} ${object.name}`, part, () => adjustObject(object.number, { [part]: !object[part] }));
  button.append(makeIcon(icon));
  button.setAttribute("aria-pressed", String(object[part]));
  return button;
}

function smallButton(sign, label, part, act) {
  return makeButton(sign, act, { title: label, className: "icon", "aria-label": label, dataset: { part } });
}

function promptChips({ number }) {
  const row = make("div", { className: "object-prompts" });
  const slices = promptedSlices(state.log, number);
  if (number === state.current && !slices.length) row.textContent = "no prompt yet";
  for (const slice of slices.slice(0, MAX_CHIPS)) {
    const show = () => {
      change({ current: number });
      goToSlice(slice);
    };
    row.append(make(
      "span", { className: "prompt-chip" },
      smallButton(String(slice + 1), `Go to slice ${slice + 1}`, `go-${slice}`, show),
      smallButton("✕", `Remove the prompts on slice ${slice + 1}`, `remove-${slice}`, () => remove(number, slice)),
    ));
  }
  if (slices.length > MAX_CHIPS) row.append(`and ${slices.length - MAX_CHIPS} more`);
  return row;
}

function drawTask() {
  const { task } = state;
  document.body.classList.toggle("is-working", task !== null);
  byId("progress").hidden = task === null;
  byId("cancel").hidden = !task?.canCancel;
  if (!task) return;
  const bar = byId("progress-bar");
  if (task.of) Object.assign(bar, { max: task.of, value: task.done });
  else bar.removeAttribute("value");
  const count = task.done ? `: ${task.canCancel ? "slice " : ""}${task.done}${task.of ? ` of ${task.of}` : ""}` : "";
  byId("progress-text").textContent = `${task.text}${count}`;
}

function nextStep(isPrompted) {
  if (state.isBaseline) return "Baseline: paint every slice with the brush.";
  if (!isPrompted) return "Draw a box around a structure on any slice.";
  if (state.log.at(-1)?.slices !== undefined) return "Propagation was stopped. Propagate again to reach all slices.";
  return isCorrected(state.log)
    ? "You have corrected the mask. Propagate again to correct the other slices."
    : "If the outline is right, propagate it through the slices.";
}

async function measure() {
  const { session, log } = state;
  try {
    const { objects } = await readMeasurements(session.id);
    if (state.session?.id === session.id && state.log === log) change({ measurements: objects });
  } catch (error) {
    // A session that has ended is opened again by the next step.
    if (error.status !== 404 && !error.isAway) showError(error);
  }
}

function drawMeasurements() {
  const measured = state.measurements.filter((one) => one.num_voxels > 0);
  const parts = measured.map(tableFor);
  if (!measured.length) parts.push(make("p", { className: "quiet" }, "Measurements appear with the first mask."));
  else if (isCorrected(state.log)) parts.push(make("p", { className: "quiet" }, "Measured again when the correction is propagated."));
  byId("measurements").replaceChildren(...parts);
}

function tableFor(one) {
  const object = state.objects.find(({ number }) => number === one.label);
  const table = make("table");
  const dot = make("span", { className: "dot" });
  dot.style.background = object?.colour ?? "#999";
  table.createCaption().append(dot, object?.name ?? one.name);
  const rows = [
    ["Volume", `${one.volume_ml < 100 ? one.volume_ml.toPrecision(3) : one.volume_ml.toFixed(0)} ml`],
    ["Slices", String(one.num_slices)],
    ["Long axis", one.diameters && `${one.diameters.long.length_mm.toFixed(1)} mm`],
    ["Short axis", one.diameters && `${one.diameters.short.length_mm.toFixed(1)} mm`],
    ["Mean ± SD", one.intensities && `${one.intensities.mean.toFixed(0)} ± ${one.intensities.std.toFixed(0)}`],
  ];
  for (const [label, value] of rows) {
    if (!value) continue;
    const row = table.insertRow();
    row.append(make("th", { scope: "row" }, label));
    row.insertCell().textContent = value;
  }
  return table;
}
