/**
 * Drafts: unsaved work, stored after each step, so that it continues after a reload or a restart of the server. The
 * server stores the draft of a case; this browser stores the draft of a dropped file.
 */

import { showNotice } from "./page.js";
import { putDraft } from "./routes.js";
import { state } from "./state.js";

const LAST = "medsam2.last";
const WAIT_MS = 300;
const DATABASE = "medsam2";
const STORE = "work";
const FILE = "file";
const DRAFT = "draft";

let timer = 0;
let isFailing = false;
/** Whether the open scan is a dropped file. */
let isDropped = false;
/** Whether a draft was stored; then an empty one must replace it. */
let isWritten = false;

/** The draft: all that is needed to continue the work. */
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
 * Begin to store drafts of the scan that was just opened.
 * @param {Blob|null} blob  Its file, if it was dropped.
 * @param {boolean} hasDraft  Whether it was opened with one.
 */
export async function startDraft(blob, hasDraft) {
  isDropped = blob !== null;
  isWritten = hasDraft;
  const { kind, id, name } = state.opened;
  localStorage.setItem(LAST, JSON.stringify({ kind, id }));
  if (!blob) return;
  try {
    await transact("readwrite", (store) => store.delete(DRAFT));
    await transact("readwrite", (store) => store.put({ kind, name, blob }, FILE));
  } catch {
    showNotice("The browser cannot store this file. A reload loses the work on it, so export the masks in time.", "error");
  }
}

/** The scan that was open when the page was left, {kind, id}, or null. */
export function lastOpened() {
  try {
    return JSON.parse(localStorage.getItem(LAST) ?? "null");
  } catch {
    return null;
  }
}

/**
 * The dropped file in this browser and the draft of it, if there is one.
 * @returns {Promise<{kind: "file"|"tour", name: string, blob: Blob, draft: object|null}|null>}
 */
export async function storedFile() {
  const file = await transact("readonly", (store) => store.get(FILE));
  return file ? { ...file, draft: (await transact("readonly", (store) => store.get(DRAFT))) ?? null } : null;
}

/** Forget the closed scan, so that a reload shows the list. */
export function endDraft() {
  clearTimeout(timer);
  timer = 0;
  localStorage.removeItem(LAST);
  if (isDropped) transact("readwrite", (store) => store.clear()).catch(() => {});
  isDropped = false;
}

/** Store the draft soon. */
export function saveDraftSoon() {
  clearTimeout(timer);
  timer = setTimeout(saveDraft, WAIT_MS);
}

/** Store the draft now. */
export async function saveDraft(keepalive = false) {
  clearTimeout(timer);
  timer = 0;
  if (!state.opened || !state.session) return;
  // A case that the user only looked at needs no draft.
  if (!isWritten && !state.log.length) return;
  const { kind, id } = state.opened;
  try {
    if (kind === "case") await putDraft(id, state.user, draftNow(), keepalive === true);
    else await transact("readwrite", (store) => store.put(draftNow(), DRAFT));
    isFailing = false;
    isWritten = true;
  } catch (error) {
    if (!isFailing) showNotice(`The unsaved work could not be stored: ${error.message}`, "error");
    isFailing = true;
  }
}

/** Whether a draft waits to be stored. */
export const isDraftWaiting = () => timer !== 0;

async function transact(mode, act) {
  /** @type {IDBDatabase} */
  const database = await new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const request = act(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}
