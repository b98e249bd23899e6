/** Save the masks: as a version in the project, or as a file. */

import { recordEvent, sendEvents } from "./background.js";
import { saveDraft } from "./drafts.js";
import { base64, saveFile } from "./files.js";
import { isCorrected, isStale, objectsIn } from "./history.js";
import { askQuestion, showNotice } from "./page.js";
import * as server from "./routes.js";
import { inSession, propagateNow, runTask } from "./session.js";
import { EXPORT_TYPES, exportMasks } from "./sessions.js";
import { change, state } from "./state.js";

/** The types of `medsam2 segment` that can be written here, with their names in the menu. */
export const EXPORTS = [
  { type: "nifti", label: "NIfTI (.nii.gz)" },
  { type: "nrrd", label: "NRRD" },
  { type: "seg.nrrd", label: "3D Slicer segmentation" },
  { type: "dicom-seg", label: "DICOM SEG" },
  { type: "rtstruct", label: "DICOM RT structure set" },
  { type: "stl", label: "STL surface" },
  { type: "npz", label: "NumPy (.npz)" },
].filter(({ type }) => EXPORT_TYPES.includes(type));

/** Save a file with the masks. */
export function exportAs(type) {
  return runTask("Writing the file", async () => {
    await requireMasks();
    const { blob, name } = await masksAsFile(type);
    recordEvent("export");
    saveFile(blob, name);
    showNotice(`Saved ${name}.`);
  });
}

/** Save the masks as a version in the project; the case is then done, or still in work. */
export function saveVersion(caseState) {
  if (state.opened?.kind !== "case") {
    showNotice("This scan is not in a project. Export its masks instead.");
    return Promise.resolve();
  }
  return runTask("Saving", async () => {
    await requireMasks();
    const { id } = state.opened;
    recordEvent("save");
    await sendEvents();
    const { blob } = await masksAsFile("nifti");
    const objects = Object.fromEntries(state.objects.map(({ number, name, colour }) => [number, { name, colour }]));
    const saved = await server.addVersion(id, {
      user: state.user, session: state.session.id, objects, mask: await base64(blob),
      prompts: state.isBaseline ? [] : state.log, state: caseState,
    });
    const versions = [...(state.opened.versions ?? []), saved];
    change({ opened: { ...state.opened, state: saved.state, versions }, project: await server.readProject() });
    await saveDraft();
    showNotice(`Saved as version ${saved.version}. The case is ${saved.state}.`);
  });
}

/** Review a case that is done: it becomes "reviewed" or "rejected". */
export async function reviewCase(verdict) {
  const isAccepted = verdict === "reviewed";
  const comment = await askQuestion({
    title: isAccepted ? "Accept this mask" : "Send this case back",
    text: isAccepted ? "The case counts as reviewed." : "Write in a few words what is to be changed.",
    field: "Comment", yes: isAccepted ? "Accept" : "Send back", isOptional: isAccepted,
  });
  if (comment === null) return;
  await runTask("Saving the review", async () => {
    const { id } = state.opened;
    await server.setCaseState(id, state.user, verdict, comment);
    change({ opened: { ...state.opened, state: verdict }, project: await server.readProject() });
    showNotice(`The case is ${verdict}.`);
  });
}

/** Check that there are masks, and propagate corrections first, so that the saved mask is the shown one. */
async function requireMasks() {
  if (!objectsIn(state.log).length) throw new Error("There is no mask yet. Draw a box first.");
  if (state.isBaseline || !isCorrected(state.log)) return;
  const { task } = state;
  change({ task: { ...task, text: "Propagating" } });
  await propagateNow();
  if (isStale(state.log)) throw new Error("Propagation was stopped, so nothing was saved.");
  change({ task });
}

function masksAsFile(type) {
  const numbers = objectsIn(state.log);
  const named = state.objects.filter(({ number }) => numbers.includes(number));
  const names = Object.fromEntries(named.map(({ number, name }) => [number, name]));
  return inSession((id) => exportMasks(id, type, names));
}
