/** Rounds of learning: start one on the done cases, follow it, use what came out or go back. */

import { askJson } from "./api.js";
import { say, sayFault } from "./notices.js";
import { readRounds, startRound } from "./project.js";
import { state, watch } from "./state.js";
import { requireUser } from "./user.js";

const ASK_EVERY_MS = 3000;

let timer = 0;

/** Show the latest round on the start page. */
export function showRounds() {
  document.getElementById("improve").addEventListener("click", improve);
  watch(["project", "opened"], () => {
    document.getElementById("improve").hidden = state.project === null;
    if (state.project && !state.opened) follow();
    else clearTimeout(timer);
  });
}

async function improve() {
  if (!(await requireUser())) return;
  try {
    await startRound(state.user);
    say("The model learns from the done cases in the background; you can go on.");
    follow();
  } catch (error) {
    sayFault(error);
  }
}

async function follow() {
  clearTimeout(timer);
  const place = document.getElementById("round");
  try {
    const { rounds } = await readRounds();
    const latest = rounds?.at(-1);
    place.hidden = !latest;
    if (!latest) return;
    draw(place, latest);
    if (latest.state === "running") timer = setTimeout(follow, ASK_EVERY_MS);
  } catch (error) {
    place.hidden = true;
    // A server without training has no rounds.
    document.getElementById("improve").hidden ||= error.status === 404 || error.status === 501;
  }
}

function draw(place, round) {
  const text = document.createElement("span");
  const progress = round.progress === undefined || round.progress === null ? "" : `, ${Math.round(100 * round.progress)} %`;
  text.textContent = `Round ${round.number ?? round.id}: ${round.state}${round.state === "running" ? progress : ""}${compared(round)}`;
  place.replaceChildren(text);
  if (round.state !== "done") return;
  for (const [action, label] of [["use", "Use the new weights"], ["back", "Go back to the old ones"]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", async () => {
      try {
        await askJson("POST", `/v1/project/rounds/${encodeURIComponent(round.id)}/${action}`, { json: { user: state.user } });
        say(action === "use" ? "The new weights make the next proposals." : "The old weights are in use again.");
        follow();
      } catch (error) {
        sayFault(error);
      }
    });
    place.append(button);
  }
}

function compared({ before, after }) {
  const dice = (value) => (typeof value === "number" ? value : value?.dice);
  if (dice(before) === undefined || dice(after) === undefined) return "";
  return `. Held-out Dice ${dice(before).toFixed(3)} before, ${dice(after).toFixed(3)} after`;
}
