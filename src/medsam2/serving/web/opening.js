/** Open a scan, a case or a file, and close it. */

import { ApiError } from "./api.js";
import { keepLock, recordEvent, sendEvents, stopLock } from "./background.js";
import { endDraft, lastOpened, saveDraft, saveDraftSoon, startDraft, storedFile } from "./drafts.js";
import { promptsFromLabels } from "./masks.js";
import { askQuestion, showNotice } from "./page.js";
import * as server from "./routes.js";
import { changePlane, repeatSteps, runTask, startSession } from "./session.js";
import { closeSession } from "./sessions.js";
import { change, makeObject, state } from "./state.js";

/** Open a dropped file, or the tour's. */
export function openFile(blob, name, kind = "file", draft = null) {
  return runTask(`Opening ${name}`, async () => {
    await closeNow();
    try {
      await startSession({ blob, name }, { kind, id: name, name, state: "" }, draft);
    } catch (error) {
      if (error instanceof ApiError && error.isAway) throw error;
      throw new Error(`${name} could not be opened. ${error.message}`);
    }
    await startDraft(blob, draft !== null);
    saveDraftSoon();
  });
}

/** Lock a case of the project and open its scan. */
export function openCase(id) {
  return runTask("Opening the case", async () => {
    await closeNow();
    const name = state.project?.cases.find((one) => one.id === id)?.name ?? id;
    const { path, state: caseState, versions, draft } = await lockCase(id, name);
    try {
      await startSession(
        { path, name }, { kind: "case", id, name, state: caseState, versions }, isOutdated(draft, versions) ? null : draft,
      );
      const latest = versions.at(-1);
      if (latest && !state.log.length) await openVersion(id, latest);
    } catch (error) {
      await server.releaseCase(id, state.user).catch(() => {});
      throw error;
    }
    keepLock(id);
    await startDraft(null, draft !== null);
    recordEvent("open");
  });
}

/** Send prompts to the slices of another plane; the prompts so far belong to the old slices and are deleted. */
export async function drawOnPlane({ name }) {
  if (state.log.length) {
    const answer = await askQuestion({
      title: `Draw on ${name} slices`,
      text: "Your prompts belong to the slices of the other plane. They are deleted with their masks. Export the masks first to keep them.",
      yes: "Delete and change",
    });
    if (answer === null) return;
  }
  await runTask(`Opening ${name} slices`, async () => {
    await changePlane(name);
    saveDraftSoon();
  });
}

/** Open again what was open when the page was left. */
export async function reopenLast() {
  const last = lastOpened();
  if (!last) return;
  if (last.kind === "case") {
    if (state.user && state.project?.cases.some((one) => one.id === last.id)) await openCase(last.id);
    return;
  }
  const file = await storedFile().catch(() => null);
  if (file) await openFile(file.blob, file.name, file.kind, file.draft);
}

/** Close what is open and show the list. */
export function closeScan() {
  return runTask("Closing", async () => {
    await closeNow();
    endDraft();
  });
}

async function closeNow() {
  if (!state.opened) return;
  await saveDraft();
  await sendEvents();
  const { opened, session } = state;
  stopLock();
  change({ opened: null, session: null, volume: null, planes: [], masks: null, log: [], undone: [], measurements: [] });
  if (session) await closeSession(session.id).catch(() => {});
  if (opened.kind === "case") await server.releaseCase(opened.id, state.user).catch(() => {});
}

async function lockCase(id, name) {
  try {
    return await server.openCase(id, state.user);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 409) throw error;
    change({ project: await server.readProject() });
    const lock = state.project.cases.find((one) => one.id === id)?.lock;
    if (!lock) throw error;
    const until = new Date(lock.until).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    throw new Error(`${lock.user} is at work on ${name}. You can open it when ${lock.user} closes it, or at ${until} if ${lock.user} does nothing until then.`);
  }
}

/** Whether somebody else has saved a version since the draft was written. */
function isOutdated(draft, versions) {
  const newer = versions.find((version) => version.version > (draft?.base ?? 0) && version.author !== state.user);
  if (!draft || !newer) return false;
  showNotice(`${newer.author} has saved version ${newer.version} since your last visit. You see this version.`);
  return true;
}

/** Continue from a version, by a user or a model: each of its masks becomes a prompt. */
async function openVersion(id, { version, objects }) {
  const labels = await server.readVersion(id, version);
  const numbers = Object.keys(objects).map(Number);
  const named = numbers.map((number) => {
    const { name, colour } = objects[number];
    return { ...makeObject(number), ...(name && { name }), ...(colour && { colour }) };
  });
  change({ objects: named.length ? named : state.objects, current: numbers[0] ?? 1 });
  await repeatSteps(promptsFromLabels(labels, state.session.axis));
}
