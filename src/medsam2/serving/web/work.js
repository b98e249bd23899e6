/** What the user can do with the open scan: prompt, propagate, undo, and change its objects. */

import { recordEvent } from "./background.js";
import { saveDraftSoon } from "./drafts.js";
import { objectsIn, promptedSlices, undoLast } from "./history.js";
import { showNotice } from "./page.js";
import { changeLog, inSession, isPropagating, propagateNow, refreshMasks, reopenSession, runTask } from "./session.js";
import * as engine from "./sessions.js";
import { change, currentObject, makeObject, state } from "./state.js";

const MAX_OBJECTS = 255;

/**
 * Add a prompt to the current object; the mask on its slice follows at once.
 * @param {Omit<import("./history.js").PromptStep, "kind"|"object">} prompt
 * @param {string} event  Kind of the event in the log.
 * @param {number} voxels  Number of voxels that were changed by hand.
 */
export function addPrompt(prompt, event, voxels = 0) {
  if (!canChange()) return Promise.resolve();
  const object = state.current;
  recordEvent(event, { object, voxels });
  /** @type {import("./history.js").PromptStep} */
  const step = { kind: "prompt", object, ...prompt };
  const started = performance.now();
  return runTask("Segmenting the slice", async () => {
    const isFirst = !state.log.length && String(state.window) !== String(state.session.window);
    // The network uses the window that is shown at the first prompt.
    if (isFirst && step.mask === undefined) await reopenSession(state.window);
    const { mask, confidence } = await inSession((id) => engine.addPrompt(id, step));
    // A painted mask is shown already, and the user may have begun the next stroke.
    if (step.mask === undefined) state.masks.set(object, step.slice, mask);
    const onSlice = { ...state.confidence[step.slice], [object]: confidence };
    changeLog([...state.log, step], [], { confidence: { ...state.confidence, [step.slice]: onSlice } });
    document.body.dataset.promptMs = String(Math.round(performance.now() - started));
  });
}

/** Segment all objects on all slices. */
export async function propagate() {
  if (!canChange() || state.task) return;
  if (!objectsIn(state.log).length) {
    showNotice("Draw a box around a structure first. Then it can be propagated.");
    return;
  }
  recordEvent("propagate");
  await runTask("Propagating", propagateNow);
}

/** Undo the last prompt or removal, with the propagations after it. */
export function undo() {
  if (!state.session || isPropagating()) return Promise.resolve();
  return runTask("Undoing", async () => {
    const undone = undoLast(state.log);
    if (!undone) return;
    recordEvent("undo");
    await inSession(engine.undo);
    changeLog(undone.log, [...state.undone, undone.tail]);
    await refreshMasks();
  });
}

/** Redo what was undone last. */
export function redo() {
  if (!state.session || isPropagating()) return Promise.resolve();
  return runTask("Redoing", async () => {
    const tail = state.undone.at(-1);
    if (!tail) return;
    recordEvent("redo");
    await inSession(engine.redo);
    changeLog([...state.log, ...tail], state.undone.slice(0, -1));
    await refreshMasks();
  });
}

/** Remove the prompts of an object on a slice, or with no slice the whole object. */
export function remove(object, slice) {
  const isWhole = slice === undefined || promptedSlices(state.log, object).length < 2;
  if (!objectsIn(state.log).includes(object)) {
    removeFromList(object);
    return Promise.resolve();
  }
  if (!canChange(object)) return Promise.resolve();
  recordEvent("remove", { object });
  return runTask("Removing", async () => {
    await inSession((id) => engine.removePrompts(id, object, isWhole ? undefined : slice));
    changeLog([...state.log, { kind: "remove", object, ...(isWhole ? {} : { slice }) }], []);
    if (slice === undefined) removeFromList(object);
    await refreshMasks();
  });
}

/** Add an object. */
export function newObject() {
  const number = Math.max(0, ...state.objects.map((object) => object.number), ...objectsIn(state.log)) + 1;
  if (number > MAX_OBJECTS) {
    showNotice(`A scan has at most ${MAX_OBJECTS} objects.`, "error");
    return;
  }
  change({ objects: [...state.objects, makeObject(number)], current: number });
  saveDraftSoon();
}

/** Change the name or the look of an object. */
export function adjustObject(number, parts) {
  change({ objects: state.objects.map((object) => (object.number === number ? { ...object, ...parts } : object)) });
  saveDraftSoon();
}

/** Whether an object can be changed now; if not, a notice says why. */
export function canChange(number = state.current) {
  if (!state.session || isPropagating()) return false;
  const object = state.objects.find((one) => one.number === number) ?? currentObject();
  if (object?.isLocked) showNotice(`${object.name} is locked. Unlock it in the list of objects first.`);
  return !object?.isLocked;
}

function removeFromList(number) {
  const objects = state.objects.filter((object) => object.number !== number);
  state.masks.remove(number);
  change({ objects, current: objects.at(-1)?.number ?? 1, masksAt: state.masksAt + 1 });
  if (!objects.length) newObject();
}
