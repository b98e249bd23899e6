/** The session of the open scan. It runs one task at a time; if it has ended, it is opened again with all steps. */

import { ApiError } from "./api.js";
import { noteServerAway } from "./background.js";
import { draftNow, saveDraftSoon } from "./drafts.js";
import { objectsIn, promptedSlices } from "./history.js";
import { Masks } from "./masks.js";
import { clearErrors, showError, showNotice } from "./page.js";
import { planesOf } from "./planes.js";
import * as engine from "./sessions.js";
import { change, makeObject, state } from "./state.js";

/** @type {{path?: string, blob?: Blob, name: string}|null} The scan that the session was opened from. */
let source = null;
/** @type {AbortController|null} Stops the propagation that runs. */
let propagation = null;
/** @type {Promise<unknown>} The tasks so far. */
let queue = Promise.resolve();

/** Run a task after all tasks before it, and show its error. */
export function runTask(text, act) {
  queue = queue.then(async () => {
    clearErrors();
    change({ task: { text, done: 0, of: null, canCancel: false } });
    try {
      await act();
    } catch (error) {
      // The bar at the top shows that the server is missing.
      if (error instanceof ApiError && error.isAway) noteServerAway();
      else showError(error);
    } finally {
      change({ task: null });
    }
  });
  return queue;
}

/**
 * Send a request to the session; one that has ended is opened again first.
 * @template T
 * @param {(id: string) => Promise<T>} send
 * @returns {Promise<T>}
 */
export async function inSession(send) {
  try {
    return await send(state.session.id);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 404) throw error;
    showNotice("The session on the server has ended. The scan is opened again and your steps are repeated.");
    await reopenSession();
    return send(state.session.id);
  }
}

/**
 * Open a scan and show it, with the steps of a draft.
 * @param {{path?: string, blob?: Blob, name: string}} from
 * @param {object} opened  As in the state.
 * @param {any} draft  See `draftNow`, or null.
 */
export async function startSession(from, opened, draft) {
  source = from;
  const { session, isOld } = await sessionFor(draft);
  const volume = await engine.readVolume(session.id);
  const [, height, width] = session.shape;
  const planes = planesOf(volume).sort((a, b) => Number(b.axis === session.axis) - Number(a.axis === session.axis));
  change({
    opened, session, volume, planes,
    plane: draft?.plane ?? null,
    masks: new Masks(height, width),
    masksAt: state.masksAt + 1,
    confidence: {}, log: [], undone: [], measurements: [],
    crosshair: draft?.crosshair ?? volume.size.map((size) => size >> 1),
    window: draft?.window ?? session.window,
    objects: draft?.objects?.length ? draft.objects : [makeObject(1)],
    current: draft?.current ?? 1,
    isBaseline: draft?.isBaseline ?? false,
    target: null,
    tool: "box",
  });
  if (isOld) {
    change({ log: draft.log });
    await refreshMasks();
  } else if (draft?.log?.length) {
    await repeatSteps(draft.log);
  }
}

/** Open the same scan in a new session and repeat all steps; the network sees the scan in this window. */
export async function reopenSession(window = state.session.window) {
  const { session, log, plane } = state;
  change({ session: await engine.openSession(source, window, plane) });
  engine.closeSession(session.id).catch(() => {});
  await repeatSteps(log);
}

/** Open the same scan for prompts on the slices of another plane, without the steps so far. */
export async function changePlane(name) {
  const { session, opened } = state;
  await startSession(source, opened, { ...draftNow(), sessionId: null, log: [], plane: name });
  engine.closeSession(session.id).catch(() => {});
}

/** The session of a draft if it still exists and has the draft's prompts, else a new one. */
async function sessionFor(draft) {
  if (draft?.sessionId) {
    try {
      const session = await engine.readSession(draft.sessionId);
      if (hasPromptsOf(session, draft.log)) return { session, isOld: true };
    } catch (error) {
      if (!(error instanceof ApiError) || error.isAway) throw error;
    }
  }
  return { session: await engine.openSession(source, draft?.networkWindow ?? null, draft?.plane ?? null), isOld: false };
}

function hasPromptsOf(session, log) {
  const ours = objectsIn(log).map((object) => [object, promptedSlices(log, object)]);
  const theirs = session.objects.map((object) => [
    object.number, object.prompts.map((prompt) => prompt.slice).sort((a, b) => a - b),
  ]);
  const sorted = (pairs) => JSON.stringify(pairs.sort((a, b) => a[0] - b[0]));
  return sorted(ours) === sorted(theirs);
}

/** Repeat all steps; this makes the same masks again. */
export async function repeatSteps(log) {
  try {
    change({ log: [] });
    state.masks.clear();
    for (const [at, step] of log.entries()) {
      change({ task: { text: `Repeating step ${at + 1} of ${log.length}`, done: at, of: log.length, canCancel: false } });
      await repeatStep(step);
    }
    if (log.length) await refreshMasks();
  } finally {
    change({ log, masksAt: state.masksAt + 1 });
  }
}

async function repeatStep(step) {
  const { id } = state.session;
  if (step.kind === "propagate") {
    await propagateNow(step.slices ?? Infinity);
    return;
  }
  if (step.kind === "remove") {
    await engine.removePrompts(id, step.object, step.slice);
  } else {
    const { mask } = await engine.addPrompt(id, step);
    state.masks.set(step.object, step.slice, mask);
  }
  change({ log: [...state.log, step], masksAt: state.masksAt + 1 });
}

/** Segment all objects on all slices and show each slice; stop after `most` slices. */
export async function propagateNow(most = Infinity) {
  const controller = new AbortController();
  propagation = controller;
  let count = 0;
  let isWhole = false;
  const onEvent = (event, data) => {
    if (event === "done") isWhole = true;
    if (event !== "slice") return;
    count++;
    for (const object of objectsIn(state.log)) state.masks.set(object, data.slice, data.masks[object]);
    change({
      confidence: { ...state.confidence, [data.slice]: data.confidence },
      masksAt: state.masksAt + 1,
      task: { ...state.task, done: data.done ?? count, of: data.of, canCancel: true },
    });
    if (count >= most) controller.abort();
  };
  change({ task: { ...state.task, canCancel: true } });
  try {
    await inSession((id) => engine.propagate(id, controller.signal, onEvent));
  } catch (error) {
    if (!controller.signal.aborted) throw error;
  } finally {
    propagation = null;
  }
  await refreshMasks();
  changeLog([...state.log, { kind: "propagate", ...(isWhole ? {} : { slices: count }) }], []);
}

/** Stop the propagation that runs; the masks so far stay. */
export function cancelPropagation() {
  if (!propagation) return false;
  propagation.abort();
  showNotice("Propagation stopped. The masks so far stay. Press Enter to go on.");
  return true;
}

/** Whether a propagation runs; a notice tells so. */
export function isPropagating() {
  if (propagation) showNotice("Propagation is running. Press Escape to stop it.");
  return propagation !== null;
}

/** Read the masks from the session. */
export async function refreshMasks() {
  const { slices, confidence } = await inSession((id) => engine.readMasks(id));
  state.masks.clear();
  for (const [slice, masks] of Object.entries(slices)) {
    for (const [object, rle] of Object.entries(masks)) state.masks.set(Number(object), Number(slice), rle);
  }
  change({ masksAt: state.masksAt + 1, confidence: confidence ?? {} });
}

/** Change the log after a step; undo may bring a deleted object back. */
export function changeLog(log, undone, parts = {}) {
  const missing = objectsIn(log).filter((number) => !state.objects.some((object) => object.number === number));
  const objects = [...state.objects, ...missing.map(makeObject)];
  change({ log, undone, objects, masksAt: state.masksAt + 1, ...parts });
  saveDraftSoon();
}
