/** What runs in the background: the check for a missing server, the lock of the open case, the log of events. */

import { ApiError } from "./api.js";
import { clearErrors, showNotice } from "./page.js";
import { checkServer, postEvents, renewLock } from "./routes.js";
import { change, state } from "./state.js";

const CHECK_EVERY_MS = 1500;
const RENEW_EVERY_MS = 30_000;
const SEND_AFTER_MS = 5000;
const MAX_EVENTS = 500;
const SCROLL_EVERY_MS = 1000;

/** @type {(() => void)|null} */
let onServerReturn = null;
let lockTimer = 0;
let sendTimer = 0;
let scrolledAt = 0;
/** @type {{kind: string, object: number, at_ms: number, voxels: number, baseline: boolean}[]} */
let events = [];

/** Set the function to call when a missing server is back. */
export function whenServerReturns(act) {
  onServerReturn = act;
}

/** Note that the server does not answer, and check until it does. */
export function noteServerAway() {
  if (state.isServerAway) return;
  change({ isServerAway: true });
  setTimeout(checkAgain, CHECK_EVERY_MS);
}

async function checkAgain() {
  try {
    await checkServer();
  } catch {
    setTimeout(checkAgain, CHECK_EVERY_MS);
    return;
  }
  change({ isServerAway: false });
  clearErrors();
  showNotice("The server is back.");
  onServerReturn?.();
}

/** Renew the lock of a case, so that nobody else changes it, until `stopLock`. */
export function keepLock(id) {
  clearInterval(lockTimer);
  lockTimer = setInterval(async () => {
    try {
      await renewLock(id, state.user);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 409) return;
      stopLock();
      showNotice(`${error.message} You can no longer save. Export the masks, or open the case again.`, "error");
    }
  }, RENEW_EVERY_MS);
}

export function stopLock() {
  clearInterval(lockTimer);
}

/**
 * Log what the user did. The server computes the active time from it; only cases of a project are logged.
 * @param {string} kind  box, click, brush, erase, propagate, undo, redo, scroll, save, open ...
 * @param {{object?: number, voxels?: number}} [details]  Voxels that were changed by hand.
 */
export function recordEvent(kind, { object = state.current, voxels = 0 } = {}) {
  if (state.opened?.kind !== "case") return;
  const now = Date.now();
  if (kind === "scroll") {
    if (now - scrolledAt < SCROLL_EVERY_MS) return;
    scrolledAt = now;
  }
  events.push({ kind, object, at_ms: now, voxels, baseline: state.isBaseline });
  if (events.length > MAX_EVENTS) events.shift();
  if (!sendTimer) sendTimer = setTimeout(sendEvents, SEND_AFTER_MS);
}

/** Send the events; if that fails, try again later. */
export async function sendEvents(keepalive = false) {
  clearTimeout(sendTimer);
  sendTimer = 0;
  if (!events.length || state.opened?.kind !== "case") return;
  const sent = events;
  events = [];
  try {
    await postEvents(state.opened.id, state.user, sent, keepalive === true);
  } catch {
    // A missing log must not interrupt the work.
    events = [...sent, ...events].slice(-MAX_EVENTS);
    sendTimer = setTimeout(sendEvents, SEND_AFTER_MS);
  }
}
