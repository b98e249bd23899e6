/** What a person can do to the scan that is open: prompt, propagate, correct, take back. */

import { ApiError } from "./api.js";
import { note } from "./clock.js";
import { saveDraftSoon } from "./drafts.js";
import { objectsIn, promptedSlices, takeBack } from "./history.js";
import { clearFaults, say, sayFault } from "./notices.js";
import { reopen } from "./opening.js";
import { serverIsAway } from "./presence.js";
import * as sessions from "./sessions.js";
import { change, currentObject, plainObject, state } from "./state.js";

/** @type {AbortController|null} Of the propagation that runs. */
let running = null;
/** @type {Promise<unknown>} A session is used by one call at a time. */
let queue = Promise.resolve();

/**
 * Say something about the current object on a slice; the mask there follows at once.
 * @param {Omit<import("./history.js").PromptStep, "kind"|"object">} said
 * @param {string} kind  For the clock.
 * @param {number} voxels  That the hand changed.
 */
export function prompt(said, kind, voxels = 0) {
  if (!mayChange()) return Promise.resolve();
  const object = state.current;
  note(kind, { object, voxels });
  /** @type {import("./history.js").PromptStep} */
  const step = { kind: "prompt", object, ...said };
  const started = performance.now();
  return inTurn("Looking at the slice", async () => {
    const isFirst = !state.log.length && String(state.window) !== String(state.session.window);
    // The network sees the scan in the window that the person looked at when they began.
    if (isFirst && said.mask === undefined) await reopen({ window: state.window });
    const found = await inSession((id) => sessions.addPrompt(id, step));
    // A painted mask is taken as it is, and the next stroke may have begun.
    if (step.mask === undefined) state.masks.set(object, step.slice, found.mask);
    const confidence = { ...state.confidence };
    confidence[step.slice] = { ...confidence[step.slice], [object]: found.confidence };
    done([...state.log, step], [], { confidence });
    document.body.dataset.promptMs = String(Math.round(performance.now() - started));
  });
}

/** Find all objects on all slices, showing each slice as it is done. */
export async function propagate() {
  if (!mayChange() || state.work) return;
  if (!objectsIn(state.log).length) {
    say("Draw a box around something first: then it can be followed through the slices.");
    return;
  }
  note("propagate");
  await inTurn("Propagating", propagateNow);
}

/** The propagation itself; `most` ends it after so many slices. */
export async function propagateNow(most = Infinity) {
  const controller = new AbortController();
  running = controller;
  let count = 0;
  let isWhole = false;
  const take = (event, data) => {
    if (event === "done") isWhole = true;
    if (event !== "slice") return;
    count++;
    for (const object of objectsIn(state.log)) state.masks.set(object, data.slice, data.masks[object]);
    const confidence = { ...state.confidence, [data.slice]: data.confidence };
    change({
      confidence, masksAt: state.masksAt + 1, work: { ...state.work, done: data.done ?? count, of: data.of, canCancel: true },
    });
    if (count >= most) controller.abort();
  };
  change({ work: { ...state.work, canCancel: true } });
  try {
    await inSession((id) => sessions.propagateSession(id, controller.signal, take));
  } catch (error) {
    if (!controller.signal.aborted) throw error;
  } finally {
    running = null;
  }
  const step = { kind: "propagate", ...(isWhole ? {} : { slices: count }) };
  await refreshMasks();
  done([...state.log, step], []);
}

/** Stop the propagation that runs; what was found so far stays. */
export function cancel() {
  if (!running) return false;
  running.abort();
  say("Stopped. What was found so far stays; Enter goes on.");
  return true;
}

/** Take back the last prompt or removal, with all that followed from it. */
export function undo() {
  if (!state.session || isPropagating()) return Promise.resolve();
  return inTurn("Taking back", async () => {
    const step = takeBack(state.log);
    if (!step) return;
    note("undo");
    await inSession((id) => sessions.undoIn(id));
    done(step.log, [...state.undone, step.tail]);
    await refreshMasks();
  });
}

/** Do again what was taken back. */
export function redo() {
  if (!state.session || isPropagating()) return Promise.resolve();
  return inTurn("Doing it again", async () => {
    const tail = state.undone.at(-1);
    if (!tail) return;
    note("redo");
    await inSession((id) => sessions.redoIn(id));
    done([...state.log, ...tail], state.undone.slice(0, -1));
    await refreshMasks();
  });
}

/** Forget what was said about an object on a slice, or with no slice the whole object. */
export function remove(object, slice) {
  const isWhole = slice === undefined || promptedSlices(state.log, object).length < 2;
  if (!objectsIn(state.log).includes(object)) {
    dropObject(object);
    return Promise.resolve();
  }
  if (!mayChange(object)) return Promise.resolve();
  note("remove", { object });
  return inTurn("Removing", async () => {
    await inSession((id) => sessions.removeFrom(id, object, isWhole ? undefined : slice));
    done([...state.log, { kind: "remove", object, ...(isWhole ? {} : { slice }) }], []);
    if (slice === undefined) dropObject(object);
    await refreshMasks();
  });
}

/** Begin another object. */
export function newObject() {
  const number = Math.max(0, ...state.objects.map((object) => object.number), ...objectsIn(state.log)) + 1;
  if (number > 255) {
    say("A scan has at most 255 objects.", "fault");
    return;
  }
  change({ objects: [...state.objects, plainObject(number)], current: number });
  saveDraftSoon();
}

/** Change how an object is called or shown. */
export function adjustObject(number, parts) {
  change({ objects: state.objects.map((object) => (object.number === number ? { ...object, ...parts } : object)) });
  saveDraftSoon();
}

/** Take the masks from the session, which knows best. */
export async function refreshMasks() {
  const found = await inSession((id) => sessions.readMasks(id));
  state.masks.clear();
  for (const [slice, masks] of Object.entries(found.slices)) {
    for (const [object, rle] of Object.entries(masks)) state.masks.set(Number(object), Number(slice), rle);
  }
  change({ masksAt: state.masksAt + 1, confidence: found.confidence ?? {} });
}

/**
 * Call the session; one that has expired is opened again, with all steps replayed.
 * @template T
 * @param {(id: string) => Promise<T>} call
 * @returns {Promise<T>}
 */
export async function inSession(call) {
  try {
    return await call(state.session.id);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 404) throw error;
    say("The server had let go of this scan. It is opened again and your steps are repeated.");
    await reopen({});
    return call(state.session.id);
  }
}

/** Do something after all that was asked for before, and say what went wrong. */
export function inTurn(text, act) {
  const turn = queue.then(async () => {
    clearFaults();
    change({ work: { text, done: 0, of: null, canCancel: false } });
    try {
      await act();
    } catch (error) {
      // The bar says so for as long as it is true.
      if (error instanceof ApiError && error.isAway) serverIsAway();
      else sayFault(error);
    } finally {
      change({ work: null });
    }
  });
  queue = turn;
  return turn;
}

function done(log, undone, parts = {}) {
  // What is taken back may bring an object back that was deleted.
  const missing = objectsIn(log).filter((number) => !state.objects.some((object) => object.number === number));
  const objects = [...state.objects, ...missing.map(plainObject)];
  change({ log, undone, objects, masksAt: state.masksAt + 1, ...parts });
  saveDraftSoon();
}

function dropObject(number) {
  const objects = state.objects.filter((object) => object.number !== number);
  state.masks.forget(number);
  change({ objects, current: objects.at(-1)?.number ?? 1, masksAt: state.masksAt + 1 });
  if (!objects.length) newObject();
}

function isPropagating() {
  if (running) say("The masks are being found; Escape stops that.");
  return running !== null;
}

function mayChange(number = state.current) {
  if (!state.session || isPropagating()) return false;
  const object = state.objects.find((one) => one.number === number) ?? currentObject();
  if (object?.isLocked) say(`${object.name} is locked: open its lock in the list of objects first.`);
  return !object?.isLocked;
}
