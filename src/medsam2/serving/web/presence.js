/** Whether the server is there: says so while it is not, and goes on when it is back. */

import { ask } from "./api.js";
import { clearFaults, say } from "./notices.js";
import { change, state } from "./state.js";

const ASK_EVERY_MS = 1500;

/** @type {(() => void)|null} */
let whenBack = null;

/** Say what is to be done when the server is back. */
export function onReturn(act) {
  whenBack = act;
}

/** Note that the server did not answer, and look for it until it does. */
export function serverIsAway() {
  if (state.isServerAway) return;
  change({ isServerAway: true });
  setTimeout(look, ASK_EVERY_MS);
}

async function look() {
  try {
    await ask("GET", "/readyz");
  } catch {
    setTimeout(look, ASK_EVERY_MS);
    return;
  }
  change({ isServerAway: false });
  clearFaults();
  say("The server is back.");
  whenBack?.();
}
