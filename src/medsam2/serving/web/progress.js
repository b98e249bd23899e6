/** What the server is doing, and what is to be done next. */

import { isCorrected, isStale, objectsIn } from "./history.js";
import { by } from "./page_parts.js";
import { state, watch } from "./state.js";
import { cancel, propagate } from "./work.js";


/** Show the button to propagate, and the progress in its place. */
export function showProgress() {
  by("propagate").addEventListener("click", propagate);
  by("cancel").addEventListener("click", cancel);
  watch(["work"], () => {
    const { work } = state;
    document.body.classList.toggle("is-working", work !== null);
    by("progress").hidden = work === null;
    by("cancel").hidden = !work?.canCancel;
    if (!work) return;
    const bar = by("progress-bar");
    if (work.of) Object.assign(bar, { max: work.of, value: work.done });
    else bar.removeAttribute("value");
    const count = work.done ? `: ${work.canCancel ? "slice " : ""}${work.done}${work.of ? ` of ${work.of}` : ""}` : "";
    by("progress-text").textContent = `${work.text}${count}`;
  });
  watch(["log", "work", "isBaseline", "opened"], () => {
    const isPrompted = objectsIn(state.log).length > 0;
    by("propagate").disabled = !isPrompted || state.work !== null || state.isBaseline;
    by("propagate").classList.toggle("is-next", isPrompted && isStale(state.log) && !state.isBaseline);
    by("stale").hidden = state.work !== null || (isPrompted && !isStale(state.log));
    by("stale").textContent = nextStep(isPrompted);
  });
}

function nextStep(isPrompted) {
  if (state.isBaseline) return "Baseline: paint every slice with the brush.";
  if (!isPrompted) return "Draw a box around a structure on any slice.";
  if (state.log.at(-1)?.slices !== undefined) return "Stopped before the end: propagate again to see all slices.";
  return isCorrected(state.log)
    ? "Corrected: propagate again to carry it to the other slices."
    : "The outline is right? Then carry it through the slices.";
}
