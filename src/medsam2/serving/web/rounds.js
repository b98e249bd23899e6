/** Rounds of fine-tuning: start one on the done cases, follow it, use the new weights or go back. */

import { sentence } from "./api.js";
import { byId, make, makeButton, showError, showNotice } from "./page.js";
import { changeRounds, readRounds } from "./routes.js";
import { state, watch } from "./state.js";
import { requireUser } from "./user.js";

const READ_EVERY_MS = 3000;

/** The states of a round in words; the message of a running one is enough. */
const STATES = { ready: "New weights are ready. ", stopped: "Stopped. ", failed: "Failed. " };

let timer = 0;

/** Show the latest round on the start page. */
export function showRounds() {
  const done = "The model is fine-tuned on the done cases in the background. You can go on working.";
  byId("improve").addEventListener("click", () => act("start", undefined, done));
  watch(["project", "opened"], () => {
    byId("improve").hidden = state.project === null;
    if (state.project && !state.opened) follow();
    else clearTimeout(timer);
  });
}

async function act(action, round, done) {
  if (!(await requireUser())) return;
  try {
    await changeRounds(action, state.user, round);
    showNotice(done);
  } catch (error) {
    showError(error);
  }
  follow();
}

async function follow() {
  clearTimeout(timer);
  const place = byId("round");
  const improve = byId("improve");
  try {
    const { rounds, obstacle } = await readRounds();
    improve.disabled = Boolean(obstacle);
    improve.title = obstacle ?? "Fine-tune the model on the done cases, in the background";
    const latest = rounds.at(-1);
    const isRunning = latest?.state === "running";
    byId("obstacle").hidden = !obstacle || isRunning;
    byId("obstacle").textContent = obstacle ? `To improve the model: ${obstacle}.` : "";
    // The way back from the weights in use stays, whatever became of a newer round.
    const inUse = rounds.find((one) => one.in_use && one !== latest);
    place.hidden = !latest;
    place.replaceChildren(...[latest, inUse].filter(Boolean).map(rowFor));
    if (isRunning) timer = setTimeout(follow, READ_EVERY_MS);
  } catch (error) {
    place.hidden = true;
    // A server without training has no rounds.
    improve.hidden ||= error.status === 404;
  }
}

function rowFor(round) {
  const message = round.message ? `${sentence(round.message)} ` : "";
  const row = make("p", {}, make("span", {}, `Round ${round.round}: ${STATES[round.state] ?? ""}${message}${comparisonOf(round)}`));
  const addButton = (label, action, done) => row.append(makeButton(label, () => act(action, round.round, done)));
  if (round.state === "running") {
    row.append(make("progress", { max: 1, value: round.progress ?? 0, "aria-label": "Progress of the round" }));
  }
  if (round.state === "stopped") addButton("Go on", "go on", "The round goes on where it stopped.");
  if (round.state === "ready" && round.in_use) {
    addButton("Go back to the old weights", "back", "The old weights are in use again.");
  } else if (round.state === "ready") {
    addButton(isWorse(round) ? "Use the new weights anyway" : "Use the new weights", "use", "The new weights make the next proposals.");
  }
  return row;
}

const isWorse = ({ before, after }) => Boolean(before && after) && after.Dice < before.Dice;

/** The measures on held-out cases with the old and with the new weights. */
function comparisonOf(round) {
  const { before, after } = round;
  const parts = Object.keys(after ?? {})
    .filter((measure) => before && measure in before)
    .map((measure) => `${measure} ${before[measure].toFixed(3)} before, ${after[measure].toFixed(3)} after`);
  if (!parts.length) return "";
  return `On held-out cases: ${parts.join("; ")}.${isWorse(round) ? " The new weights are worse there." : ""}`;
}
