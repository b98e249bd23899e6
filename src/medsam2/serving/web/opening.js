/** Open a scan, and open it again where the work on it stood. */

import { ApiError } from "./api.js";
import { keptWork } from "./browser_store.js";
import { note, sendEvents } from "./clock.js";
import { draftNow, followDraft, forgetDraft, lastOpened, saveDraft, saveDraftSoon } from "./drafts.js";
import { objectsIn, promptedSlices } from "./history.js";
import { dropLock, holdLock } from "./locks.js";
import { Masks } from "./masks.js";
import { readNifti } from "./nifti.js";
import { askPerson, say } from "./notices.js";
import { planesOf } from "./planes.js";
import { stepsOf } from "./label_steps.js";
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
    try {
      await start({ blob, name }, { kind, id: name, name, state: "" }, draft);
    } catch (error) {
      if (error instanceof ApiError && error.isAway) throw error;
      throw new Error(`${name} could not be opened. ${error.message}`);
    }
    await followDraft(blob, draft !== null);
    saveDraftSoon();
  });
}

/** Take a case of the project and open its scan. */
export function openCase(id) {
  return inTurn("Opening the case", async () => {
    await leaveNow();
    const name = state.project?.cases.find((one) => one.id === id)?.name ?? id;
    const taken = await takeCase(id, name);
    try {
      await start(
        { path: taken.path, name },
        { kind: "case", id, name, state: taken.state, versions: taken.versions },
        draftOf(taken),
      );
      const latest = taken.versions.at(-1);
      if (latest && !state.log.length) await takeVersion(id, latest);
    } catch (error) {
      await project.releaseCase(id, state.user).catch(() => {});
      throw error;
    }
    holdLock(id);
    await followDraft(null, taken.draft !== null);
    note("open");
  });
}

async function takeCase(id, name) {
  try {
    return await project.openCase(id, state.user);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 409) throw error;
    change({ project: await project.readProject() });
    const lock = state.project.cases.find((one) => one.id === id)?.lock;
    if (!lock) throw error;
    const until = new Date(lock.until).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    throw new Error(`${lock.user} is at work on ${name}. It is free when ${lock.user} closes it, or at ${until} if nothing is done there.`);
  }
}

/** Draw on the slices of another plane: what was drawn so far belongs to the slices of this one and goes. */
export async function drawIn(plane) {
  if (state.log.length) {
    const answer = await askPerson({
      title: `Draw on ${plane.name} slices`,
      text: "What was drawn so far belongs to the slices of the other plane. It is forgotten; export it first to keep it.",
      yes: "Begin anew",
    });
    if (answer === null) return;
  }
  await inTurn(`Opening ${plane.name} slices`, async () => {
    const { session } = state;
    await start(source, state.opened, { ...draftNow(), sessionId: null, log: [], plane: plane.name });
    sessions.closeSession(session.id).catch(() => {});
    saveDraftSoon();
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
  const kept = await keptWork().catch(() => null);
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
  const session = await sessions.openSession(source, window ?? draft.networkWindow, draft.plane);
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
    plane: draft?.plane ?? null,
    masks: new Masks(height, width),
    masksAt: state.masksAt + 1,
    confidence: {}, log: [], undone: [], measurements: [],
    crosshair: draft?.crosshair ?? [x >> 1, y >> 1, z >> 1],
    window: draft?.window ?? session.window,
    objects: draft?.objects?.length ? draft.objects : [plainObject(1)],
    current: draft?.current ?? 1,
    isBaseline: draft?.isBaseline ?? false,
    target: null,
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
  return { session: await sessions.openSession(from, draft?.networkWindow ?? null, draft?.plane ?? null), isOld: false };
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

/** The unsaved work, unless somebody else has saved a version since. */
function draftOf({ draft, versions }) {
  const newer = versions.find((version) => version.version > (draft?.base ?? 0) && version.author !== state.user);
  if (!draft || !newer) return draft;
  say(`${newer.author} has saved version ${newer.version} since you were here; it is what you see.`);
  return null;
}

/** Go on from the masks of a version, be it a person's or a proposal: each slice is said as it is. */
async function takeVersion(id, version) {
  const labels = await readNifti(await project.readVersion(id, version.version));
  const numbers = Object.keys(version.objects).map(Number);
  change({
    objects: numbers.length
      ? numbers.map((number) => ({ ...plainObject(number), ...namedIn(version.objects[number]) }))
      : state.objects,
    current: numbers[0] ?? 1,
  });
  await replay(stepsOf(labels, state.session.axis));
}

const namedIn = ({ name, colour }) => ({ ...(name && { name }), ...(colour && { colour }) });
