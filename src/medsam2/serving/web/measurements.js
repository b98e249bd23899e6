/** Volume, diameters and grey values of the objects, as they change. */

import { isCorrected } from "./history.js";
import { sayFault } from "./notices.js";
import { by } from "./page_parts.js";
import { readMeasurements } from "./sessions.js";
import { change, state, watch } from "./state.js";

const WAIT_MS = 400;

let timer = 0;

/** Show the measurements, and take them anew when the work rests. */
export function showMeasurements() {
  watch(["log", "work", "session"], () => {
    clearTimeout(timer);
    // After a correction the session has fewer slices than are shown, until it is propagated.
    const isWaiting = isCorrected(state.log) && state.measurements.length > 0;
    if (state.work === null && state.session && state.log.length && !isWaiting) timer = setTimeout(measure, WAIT_MS);
  });
  watch(["measurements", "objects", "opened", "log"], draw);
}

async function measure() {
  const { session, log } = state;
  try {
    const found = await readMeasurements(session.id);
    if (state.session?.id === session.id && state.log === log) change({ measurements: found.objects });
  } catch (error) {
    // One that has expired is opened again by the next step; there is nothing to say until then.
    if (error.status !== 404 && !error.isAway) sayFault(error);
  }
}

function draw() {
  const place = by("measurements");
  const measured = state.measurements.filter((one) => one.num_voxels > 0);
  if (!measured.length) {
    const text = document.createElement("p");
    text.className = "quiet";
    text.textContent = "Appear with the first mask.";
    place.replaceChildren(text);
    return;
  }
  place.replaceChildren(...measured.map(tableFor));
  if (!isCorrected(state.log)) return;
  const text = document.createElement("p");
  text.className = "quiet";
  text.textContent = "Taken again when the correction is propagated.";
  place.append(text);
}

function tableFor(one) {
  const object = state.objects.find((known) => known.number === one.label);
  const table = document.createElement("table");
  const caption = table.createCaption();
  const dot = document.createElement("span");
  dot.className = "dot";
  dot.style.background = object?.colour ?? "#999";
  caption.append(dot, object?.name ?? one.name);
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
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = label;
    row.append(head);
    row.insertCell().textContent = value;
  }
  return table;
}
