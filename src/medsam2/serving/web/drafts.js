/** Unsaved work: written down after each step, so that a reload or another server goes on from there. */

import { forgetWork, keepDraft, keepFile } from "./browser_store.js";
import { say } from "./notices.js";
import { putDraft } from "./project.js";
import { state } from "./state.js";

const LAST = "medsam2.last";
const WAIT_MS = 300;

let timer = 0;
let isSaid = false;
/** Whether what is open was dropped, so that the work on it stays in this browser. */
let isDropped = false;
/** Whether a draft was written, so that an empty one says something. */
let isWritten = false;

/** What is needed to go on elsewhere. */
export function draftNow() {
  return {
    version: 1,
    base: state.opened?.versions?.at(-1)?.version ?? 0,
    sessionId: state.session?.id ?? null,
    networkWindow: state.session?.window ?? null,
    plane: state.plane,
    log: state.log,
    objects: state.objects,
    current: state.current,
    crosshair: state.crosshair,
    window: state.window,
    isBaseline: state.isBaseline,
  };
}

/**
 * Follow a newly opened scan.
 * @param {Blob|null} blob  Its file where it was dropped.
 * @param {boolean} hasDraft  Whether it was opened with one.
 */
export async function followDraft(blob, hasDraft) {
  isDropped = blob !== null;
  isWritten = hasDraft;
  const { kind, id, name } = state.opened;
  localStorage.setItem(LAST, JSON.stringify({ kind, id }));
  if (!blob) return;
  try {
    await keepFile({ kind, name, blob });
  } catch {
    say("This file cannot be kept in the browser: a reload would lose the work on it. Export it in time.", "fault");
  }
}

/** What was open when the page was left, {kind, id}, or null. */
export function lastOpened() {
  try {
    return JSON.parse(localStorage.getItem(LAST) ?? "null");
  } catch {
    return null;
  }
}

/** Nothing is open any more, so that a reload shows the list. */
export function forgetDraft() {
  clearTimeout(timer);
  timer = 0;
  localStorage.removeItem(LAST);
  if (isDropped) forgetWork().catch(() => {});
  isDropped = false;
}

/** Write the work down soon. */
export function saveDraftSoon() {
  clearTimeout(timer);
  timer = setTimeout(saveDraft, WAIT_MS);
}

/** Write the work down now. */
export async function saveDraft(keepalive = false) {
  clearTimeout(timer);
  timer = 0;
  if (!state.opened || !state.session) return;
  // A case that was only looked at stays as it was.
  if (!isWritten && !state.log.length) return;
  const { kind, id } = state.opened;
  try {
    if (kind === "case") await putDraft(id, state.user, draftNow(), keepalive === true);
    else await keepDraft(draftNow());
    isSaid = false;
    isWritten = true;
  } catch (error) {
    if (!isSaid) say(`Unsaved work could not be written down: ${error.message}`, "fault");
    isSaid = true;
  }
}

/** Whether something waits to be written. */
export const isDraftWaiting = () => timer !== 0;
