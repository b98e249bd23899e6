/** Give the work away: a version for the project, or a file for the person. */

import { note, sendEvents } from "./clock.js";
import { saveDraft } from "./drafts.js";
import { isCorrected, isStale, objectsIn } from "./history.js";
import { askPerson, say } from "./notices.js";
import * as project from "./project.js";
import { saveFile } from "./save_file.js";
import { exportMasks } from "./sessions.js";
import { change, state } from "./state.js";
import { inSession, inTurn, propagateNow } from "./work.js";

/** The forms of `medsam2 segment`, and what people call them. */
export const EXPORTS = [
  { type: "nifti", label: "NIfTI (.nii.gz)" },
  { type: "nrrd", label: "NRRD" },
  { type: "seg.nrrd", label: "3D Slicer segmentation" },
  { type: "dicom-seg", label: "DICOM SEG" },
  { type: "rtstruct", label: "DICOM RT structure set" },
  { type: "stl", label: "STL surface" },
  { type: "npz", label: "NumPy (.npz)" },
];

/** Save a file with the masks. */
export function exportAs(type) {
  return inTurn("Writing the file", async () => {
    requireMask();
    await findAgain();
    const { blob, name } = await inSession((id) => exportMasks(id, type, namesOf()));
    note("export");
    saveFile(blob, name);
    say(`Saved ${name}.`);
  });
}

/** Keep a version of the masks in the project; the case is done, or still in work. */
export function saveVersion(caseState) {
  if (state.opened?.kind !== "case") {
    say("This scan belongs to no project: export its masks instead.");
    return Promise.resolve();
  }
  return inTurn("Saving", async () => {
    requireMask();
    await findAgain();
    const { id } = state.opened;
    note("save");
    await sendEvents();
    const { blob } = await inSession((session) => exportMasks(session, "nifti", namesOf()));
    const objects = Object.fromEntries(state.objects.map(({ number, name, colour }) => [number, { name, colour }]));
    const saved = await project.addVersion(id, {
      user: state.user, session: state.session.id, objects, mask: await base64(blob), prompts: state.isBaseline ? [] : state.log, state: caseState,
    });
    const versions = [...(state.opened.versions ?? []), saved];
    change({ opened: { ...state.opened, state: saved.state, versions }, project: await project.readProject() });
    await saveDraft();
    say(`Saved as version ${saved.version}; the case is ${saved.state}.`);
  });
}

/** Accept or send back a case that is done. */
export async function judge(verdict) {
  const comment = await askPerson({
    title: verdict === "reviewed" ? "Accept this mask" : "Send this case back",
    text: verdict === "reviewed" ? "It counts as reviewed." : "Say in a few words what is to be changed.",
    field: "Comment", yes: verdict === "reviewed" ? "Accept" : "Send back", isOptional: verdict === "reviewed",
  });
  if (comment === null) return;
  await inTurn("Saving the verdict", async () => {
    const { id } = state.opened;
    await project.setState(id, state.user, verdict, comment);
    change({ opened: { ...state.opened, state: verdict }, project: await project.readProject() });
    say(`The case is ${verdict}.`);
  });
}

function namesOf() {
  const numbers = objectsIn(state.log);
  const named = state.objects.filter(({ number }) => numbers.includes(number));
  return Object.fromEntries(named.map(({ number, name }) => [number, name]));
}

function requireMask() {
  if (!objectsIn(state.log).length) throw new Error("There is no mask yet: draw a box first.");
}

/** Carry corrections to the other slices first: what is saved is what is shown. */
async function findAgain() {
  if (state.isBaseline || !isCorrected(state.log)) return;
  const { work } = state;
  change({ work: { ...work, text: "Propagating" } });
  await propagateNow();
  if (isStale(state.log)) throw new Error("Stopped before the end, so nothing was saved.");
  change({ work });
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}
