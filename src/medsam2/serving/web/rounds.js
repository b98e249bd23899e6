/** Rounds of learning: start one on the done cases, follow it, use what came out or go back. */

import { say, sayFault } from "./notices.js";
import { by } from "./page_parts.js";
import { actOnRounds, readRounds } from "./project.js";
import { state, watch } from "./state.js";
import { requireUser } from "./user.js";

const ASK_EVERY_MS = 3000;

let timer = 0;

/** Show the latest round on the start page. */
export function showRounds() {
  by("improve").addEventListener("click", improve);
  watch(["project", "opened"], () => {
    by("improve").hidden = state.project === null;
    if (state.project && !state.opened) follow();
    else clearTimeout(timer);
  });
}

async function improve() {
  if (!(await requireUser())) return;
  try {
    await actOnRounds("start", state.user);
    say("The model learns from the done cases in the background; you can go on.");
    follow();
  } catch (error) {
    sayFault(error);
  }
}

async function follow() {
  clearTimeout(timer);
  const place = by("round");
  const improving = by("improve");
  try {
    const { rounds, obstacle } = await readRounds();
    improving.disabled = Boolean(obstacle);
    improving.title = obstacle ?? "Learn from the cases that are done, in the background";
    const latest = rounds.at(-1);
    place.hidden = !latest;
    if (!latest) return;
    draw(place, latest);
    if (latest.state === "running") timer = setTimeout(follow, ASK_EVERY_MS);
  } catch (error) {
    place.hidden = true;
    // A server without training has no rounds.
    improving.hidden ||= error.status === 404;
  }
}

function draw(place, round) {
  const text = document.createElement("span");
  const progress = round.state === "running" ? `, ${Math.round(100 * (round.progress ?? 0))} %` : "";
  text.textContent = `Round ${round.round}: ${round.state}${progress}${compared(round)}${round.message ? `. ${round.message}` : ""}`;
  place.replaceChildren(text);
  if (round.state !== "ready") return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = round.in_use ? "Go back to the weights before" : "Use the new weights";
  button.addEventListener("click", async () => {
    try {
      await actOnRounds(round.in_use ? "back" : "use", state.user, round.round);
      say(round.in_use ? "The weights before are in use again." : "The new weights make the next proposals.");
      follow();
    } catch (error) {
      sayFault(error);
    }
  });
  place.append(button);
}

/** What was measured on held-out cases with the weights before and with the new ones. */
function compared({ before, after }) {
  const parts = Object.keys(after ?? {})
    .filter((measure) => before && measure in before)
    .map((measure) => `${measure} ${before[measure].toFixed(3)} before, ${after[measure].toFixed(3)} after`);
  return parts.length ? `. On held-out cases: ${parts.join("; ")}` : "";
}
