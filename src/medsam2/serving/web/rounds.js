/** Rounds of learning: start one on the done cases, follow it, use what came out or go back. */

import { say, sayFault } from "./notices.js";
import { by } from "./page_parts.js";
import { actOnRounds, readRounds } from "./project.js";
import { state, watch } from "./state.js";
import { requireUser } from "./user.js";

const ASK_EVERY_MS = 3000;

/** What the page calls the states of a round. */
const STATES = { ready: "new weights are ready", stopped: "stopped", failed: "failed" };

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
    const isRunning = latest?.state === "running";
    by("obstacle").hidden = !obstacle || isRunning;
    by("obstacle").textContent = obstacle ? `To improve the model: ${obstacle}.` : "";
    // A newer round that came to nothing must not hide the way back from the one in use.
    const inUse = rounds.find((one) => one.in_use && one !== latest);
    place.hidden = !latest;
    place.replaceChildren(...[latest, inUse].filter(Boolean).map(line));
    if (isRunning) timer = setTimeout(follow, ASK_EVERY_MS);
  } catch (error) {
    place.hidden = true;
    // A server without training has no rounds.
    improving.hidden ||= error.status === 404;
  }
}

function line(round) {
  const row = document.createElement("p");
  const text = document.createElement("span");
  const stands = round.state in STATES ? `${STATES[round.state]}. ` : "";  // a running one says what it does
  text.textContent = `Round ${round.round}: ${stands}${sentence(round.message)}${compared(round)}`;
  row.append(text);
  if (round.state === "running") {
    const bar = document.createElement("progress");
    Object.assign(bar, { max: 1, value: round.progress ?? 0 });
    bar.setAttribute("aria-label", "Progress of the round");
    row.append(bar);
  }
  if (round.state === "stopped") row.append(button("Go on", "go on", round, "It goes on where it was."));
  if (round.state === "ready" && round.in_use) {
    row.append(button("Go back to the weights before", "back", round, "The weights before are in use again."));
  } else if (round.state === "ready") {
    const label = isWorse(round) ? "Use them all the same" : "Use the new weights";
    row.append(button(label, "use", round, "The new weights make the next proposals."));
  }
  return row;
}

function button(label, action, round, done) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = label;
  made.addEventListener("click", async () => {
    if (!(await requireUser())) return;
    try {
      await actOnRounds(action, state.user, round.round);
      say(done);
    } catch (error) {
      sayFault(error);
    }
    follow();
  });
  return made;
}

const sentence = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}. ` : "");

const isWorse = ({ before, after }) => Boolean(before && after) && after.Dice < before.Dice;

/** What was measured on held-out cases with the weights before and with the new ones. */
function compared(round) {
  const { before, after } = round;
  const parts = Object.keys(after ?? {})
    .filter((measure) => before && measure in before)
    .map((measure) => `${measure} ${before[measure].toFixed(3)} before, ${after[measure].toFixed(3)} after`);
  if (!parts.length) return "";
  return `On held-out cases: ${parts.join("; ")}.${isWorse(round) ? " The new weights are worse there." : ""}`;
}
