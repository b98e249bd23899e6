/** The clock: tells the project what the annotator does, for the time that a case takes. */

import { postEvents } from "./project.js";
import { state } from "./state.js";

const SEND_AFTER_MS = 5000;
const MOST = 500;
const SCROLL_EVERY_MS = 1000;

/** @type {{kind: string, object: number, at_ms: number, voxels: number, baseline: boolean}[]} */
let events = [];
let timer = 0;
let scrolledAt = 0;

/**
 * Note something that the annotator did, if a case of the project is open.
 * @param {string} kind  box, click, brush, erase, propagate, undo, redo, scroll, save, open ...
 * @param {{object?: number, voxels?: number}} [about]  Voxels that the hand changed.
 */
export function note(kind, { object = state.current, voxels = 0 } = {}) {
  if (state.opened?.kind !== "case") return;
  const now = Date.now();
  if (kind === "scroll") {
    if (now - scrolledAt < SCROLL_EVERY_MS) return;
    scrolledAt = now;
  }
  events.push({ kind, object, at_ms: now, voxels, baseline: state.isBaseline });
  if (events.length > MOST) events.shift();
  if (!timer) timer = setTimeout(sendEvents, SEND_AFTER_MS);
}

/** Send what was noted; what cannot be sent waits. */
export async function sendEvents(keepalive = false) {
  clearTimeout(timer);
  timer = 0;
  if (!events.length || state.opened?.kind !== "case") return;
  const sent = events;
  events = [];
  try {
    await postEvents(state.opened.id, state.user, sent, keepalive === true);
  } catch {
    // The clock never stands in the way of the work.
    events = [...sent, ...events].slice(-MOST);
    timer = setTimeout(sendEvents, SEND_AFTER_MS);
  }
}
