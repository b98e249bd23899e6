/** The server's routes, one function each. */

import { request, requestEvents, requestJson } from "./api.js";
import { readNifti } from "./nifti.js";

const SESSIONS = "/v1/sessions";
const PROJECT = "/v1/project";
const REPORT = `${PROJECT}/report`;
const caseAt = (id) => `${PROJECT}/cases/${encodeURIComponent(id)}`;
const bytesAt = async (path) => (await request("GET", path)).arrayBuffer();
const blobAt = async (path) => (await request("GET", path)).blob();

/** Nothing is to be prepared in the page: the server is ready, or the first request says why not. */
export const startEngine = async () => {};

export const checkServer = () => request("GET", "/readyz");

/**
 * Open a scan in a session.
 * @param {{path?: string, blob?: Blob, name: string}} source  A file in the server's folder, or bytes.
 * @param {number[]|null} window  Grey values that are black and white for the network; null: the server chooses.
 * @param {string|null} plane  Whose slices prompts go to; null: those along the file's third axis.
 */
export function openSession(source, window, plane) {
  if (source.path !== undefined) {
    return requestJson("POST", SESSIONS, { json: { path: source.path, ...(window && { window }), ...(plane && { plane }) } });
  }
  const query = new URLSearchParams({ name: source.name });
  if (window) query.set("window", window.join(","));
  if (plane) query.set("plane", plane);
  return requestJson("POST", `${SESSIONS}?${query}`, { body: source.blob });
}

export const readSession = (id) => requestJson("GET", `${SESSIONS}/${id}`);

export const closeSession = (id) => requestJson("DELETE", `${SESSIONS}/${id}`, { keepalive: true });

/** The scan of a session, see volume.js. */
export const readVolume = async (id) => readNifti(await bytesAt(`${SESSIONS}/${id}/volume`));

/**
 * Add a prompt; gives the mask on its slice.
 * @param {Omit<import("./history.js").PromptStep, "kind">} prompt
 */
export function addPrompt(id, prompt) {
  const { object, slice, box, points, labels, mask } = prompt;
  return requestJson("POST", `${SESSIONS}/${id}/prompts`, { json: { object, slice, box, points, labels, mask } });
}

/** Remove an object, or its prompts on a slice. */
export function removePrompts(id, object, slice) {
  const query = slice === undefined ? "" : `?slice=${slice}`;
  return requestJson("DELETE", `${SESSIONS}/${id}/objects/${object}${query}`);
}

/** Segment the objects on all slices; `onEvent` gets each slice. */
export function propagate(id, signal, onEvent) {
  return requestEvents(`${SESSIONS}/${id}/propagate`, signal, onEvent);
}

export const undo = (id) => requestJson("POST", `${SESSIONS}/${id}/undo`);

export const redo = (id) => requestJson("POST", `${SESSIONS}/${id}/redo`);

export const readMasks = (id) => requestJson("GET", `${SESSIONS}/${id}/masks`);

export const readMeasurements = (id) => requestJson("GET", `${SESSIONS}/${id}/measurements`);

/** The types of files that masks can be exported to. */
export const EXPORT_TYPES = ["nifti", "nrrd", "seg.nrrd", "dicom-seg", "rtstruct", "stl", "npz"];

/**
 * The masks as a file.
 * @param {string} type  "nifti", "dicom-seg" ...
 * @param {Record<number, string>} names
 * @returns {Promise<{blob: Blob, name: string}>}
 */
export async function exportMasks(id, type, names) {
  const list = Object.entries(names).map(([number, name]) => `${number}:${name.replace(/[,:]/g, " ")}`);
  const query = new URLSearchParams({ type, names: list.join(",") });
  const response = await request("GET", `${SESSIONS}/${id}/export?${query}`);
  const disposition = response.headers.get("Content-Disposition") ?? "";
  return { blob: await response.blob(), name: /filename="?([^";]+)"?/.exec(disposition)?.[1] ?? "mask.nii.gz" };
}

export const readProject = () => requestJson("GET", PROJECT);

export const readThumbnail = (id) => blobAt(`${caseAt(id)}/thumbnail`);

/** Open a case and lock it; 409 says who has it. */
export const openCase = (id, user) => requestJson("POST", `${caseAt(id)}/open`, { json: { user } });

export const renewLock = (id, user) => requestJson("POST", `${caseAt(id)}/renew`, { json: { user } });

export const releaseCase = (id, user) => request("POST", `${caseAt(id)}/release`, { json: { user }, keepalive: true });

export function putDraft(id, user, draft, keepalive) {
  return request("PUT", `${caseAt(id)}/draft`, { json: { user, draft }, keepalive });
}

/** The labels of a version, on the scan's grid. */
export const readVersion = async (id, number) => readNifti(await bytesAt(`${caseAt(id)}/versions/${number}/mask`));

/** Add a version of the masks; `state` is the case's from then on. */
export const addVersion = (id, version) => requestJson("POST", `${caseAt(id)}/versions`, { json: version });

export function setCaseState(id, user, state, comment) {
  return requestJson("POST", `${caseAt(id)}/state`, { json: { user, state, comment } });
}

export function postEvents(id, user, events, keepalive) {
  return request("POST", `${PROJECT}/events`, { json: { user, case: id, events }, keepalive });
}

/** Open the time report in a new tab; only without a key, as a tab cannot send one. */
export const showReport = () => window.open(REPORT, "_blank", "noopener");

export const readReport = () => blobAt(REPORT);

export const readRounds = () => requestJson("GET", `${PROJECT}/rounds`);

/** Start or resume a round, use its weights, or go back to the weights before. */
export function changeRounds(action, user, round) {
  return requestJson("POST", `${PROJECT}/rounds`, { json: { action, user, ...(round !== undefined && { round }) } });
}

export const readTour = () => requestJson("GET", "/v1/tour");

export const readTourScan = () => blobAt("/v1/tour/scan");

export const readTourAnswer = async () => readNifti(await bytesAt("/v1/tour/answer"));
