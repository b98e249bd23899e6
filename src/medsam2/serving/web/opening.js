/** Open a scan, and open it again where the work on it stood. */

import { ApiError } from "./api.js";
import { keptWork } from "./browser_store.js";
import { note, sendEvents } from "./clock.js";
import { draftNow, followDraft, forgetDraft, lastOpened, saveDraft, saveDraftSoon } from "./drafts.js";
import { objectsIn, promptedSlices } from "./history.js";
import { dropLock, holdLock } from "./locks.js";
import { Masks } from "./masks.js";
import { readNifti } from "./nifti.js";
import { planesOf } from "./planes.js";
import * as project from "./project.js";
import * as sessions from "./sessions.js";
import { change, plainObject, state } from "./state.js";
import { inTurn, propagateNow, refreshMasks } from "./work.js";

/** @type {{path?: string, blob?: Blob, name: string}|null} What the session is opened from. */
let source = null;

/** Open a dropped file, or the tour's. */
export function openFile(blob, name, kind = "file", draft = null) {
  return inTurn(`Opening ${name}`, async () => {
    await leaveNow();
    await start({ blob, name }, { kind, id: name, name, state: "" }, draft);
    followDraft(blob);
    saveDraftSoon();
  });
}

/** Take a case of the project and open its scan. */
export function openCase(id) {
  return inTurn("Opening the case", async () => {
    await leaveNow();
    const { name, state: caseState } = state.project.cases.find((one) => one.id === id) ?? { name: id, state: "" };
    const taken = await project.openCase(id, state.user);
    try {
      const latest = taken.versions?.at(-1);
      // Nothing unsaved: go on from the steps of the latest version, be it a person's or a proposal.
      const draft = taken.draft ?? (latest?.prompts?.length ? fromVersion(latest) : null);
      await start({ path: taken.path, name }, { kind: "case", id, name, state: caseState, versions: taken.versions }, draft);
    } catch (error) {
      await project.releaseCase(id, state.user).catch(() => {});
      throw error;
    }
    holdLock(id);
    followDraft(null);
    note("open");
  });
}

/** Go back to what was open when the page was left. */
export async function resume() {
  const last = lastOpened();
  if (!last) return;
  if (last.kind === "case") {
    if (state.user && state.project?.cases.some((one) => one.id === last.id)) await openCase(last.id);
    return;
  }
  const kept = await keptWork().catch(() => undefined);
  if (kept) await openFile(kept.blob, kept.name, kept.kind, kept.draft);
}

/** Close what is open and show the list. */
export function leave() {
  return inTurn("Closing", async () => {
    await leaveNow();
    forgetDraft();
  });
}

async function leaveNow() {
  if (!state.opened) return;
  await saveDraft();
  await sendEvents();
  const { opened, session } = state;
  dropLock();
  change({ opened: null, session: null, volume: null, planes: [], masks: null, log: [], undone: [], measurements: [] });
  if (session) await sessions.closeSession(session.id).catch(() => {});
  if (opened.kind === "case") await project.releaseCase(opened.id, state.user).catch(() => {});
}

/** Open the same scan in a new session and repeat all steps; a new window is the network's as well. */
export async function reopen({ window = null }) {
  const draft = draftNow();
  const old = state.session.id;
  const session = await sessions.openSession(source, window ?? draft.networkWindow);
  change({ session });
  sessions.closeSession(old).catch(() => {});
  await replay(draft.log);
}

async function start(from, opened, draft) {
  source = from;
  const { session, isOld } = await sessionFor(from, draft);
  const volume = await readNifti(await sessions.readVolume(session.id));
  const { x, y, z } = { x: volume.size[0], y: volume.size[1], z: volume.size[2] };
  const [, height, width] = session.shape;
  const planes = planesOf(volume).sort((a, b) => Number(b.axis === session.axis) - Number(a.axis === session.axis));
  change({
    opened, session, volume, planes,
    masks: new Masks(height, width),
    masksAt: state.masksAt + 1,
    confidence: {}, log: [], undone: [], measurements: [],
    crosshair: draft?.crosshair ?? [x >> 1, y >> 1, z >> 1],
    window: draft?.window ?? session.window,
    objects: draft?.objects?.length ? draft.objects : [plainObject(1)],
    current: draft?.current ?? 1,
    isBaseline: draft?.isBaseline ?? false,
    tool: "box",
  });
  if (isOld) {
    change({ log: draft.log });
    await refreshMasks();
  } else if (draft?.log?.length) {
    await replay(draft.log);
  }
}

/** The session that the draft was made in, if it is alive and agrees with it, or a new one. */
async function sessionFor(from, draft) {
  if (draft?.sessionId) {
    try {
      const session = await sessions.readSession(draft.sessionId);
      if (agrees(session, draft.log)) return { session, isOld: true };
    } catch (error) {
      if (!(error instanceof ApiError) || error.isAway) throw error;
    }
  }
  return { session: await sessions.openSession(from, draft?.networkWindow ?? null), isOld: false };
}

function agrees(session, log) {
  const said = objectsIn(log).map((object) => [object, promptedSlices(log, object)]);
  const known = session.objects.map((object) => [
    object.number, object.prompts.map((prompt) => prompt.slice).sort((a, b) => a - b),
  ]);
  const sorted = (pairs) => JSON.stringify(pairs.sort((a, b) => a[0] - b[0]));
  return sorted(said) === sorted(known);
}

/** Do all steps again, so that the masks are those that they were. */
async function replay(log) {
  try {
    change({ log: [] });
    state.masks.clear();
    for (const [at, step] of log.entries()) {
      change({ work: { text: `Repeating step ${at + 1} of ${log.length}`, done: at, of: log.length, canCancel: false } });
      await repeat(step);
    }
    if (log.length) await refreshMasks();
  } finally {
    change({ log, masksAt: state.masksAt + 1 });
  }
}

async function repeat(step) {
  const { id } = state.session;
  if (step.kind === "propagate") {
    await propagateNow(step.slices ?? Infinity);
    return;
  }
  if (step.kind === "remove") {
    await sessions.removeFrom(id, step.object, step.slice);
  } else {
    const found = await sessions.addPrompt(id, step);
    state.masks.set(step.object, step.slice, found.mask);
  }
  change({ log: [...state.log, step], masksAt: state.masksAt + 1 });
}

function fromVersion(version) {
  const objects = Object.entries(version.objects ?? {}).map(([number, { name, colour }]) => ({
    ...plainObject(Number(number)), ...(name && { name }), ...(colour && { colour }),
  }));
  return { log: version.prompts, objects, current: objects[0]?.number ?? 1, sessionId: null };
}
