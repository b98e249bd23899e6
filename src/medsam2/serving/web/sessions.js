/** The sessions of the server, one function a route. */

import { ask, askEvents, askJson } from "./api.js";

const ROOT = "/v1/sessions";

/**
 * Open a scan.
 * @param {{path?: string, blob?: Blob, name: string}} source  A file of the server's folder, or bytes.
 * @param {number[]|null} window  Grey values that the network sees as black and white; null lets the server choose.
 * @param {string|null} plane  Whose slices are drawn on; null: those of the file's third axis.
 */
export function openSession(source, window, plane) {
  if (source.path !== undefined) {
    return askJson("POST", ROOT, { json: { path: source.path, ...(window && { window }), ...(plane && { plane }) } });
  }
  const query = new URLSearchParams({ name: source.name });
  if (window) query.set("window", window.join(","));
  if (plane) query.set("plane", plane);
  return askJson("POST", `${ROOT}?${query}`, { body: source.blob });
}

export const readSession = (id) => askJson("GET", `${ROOT}/${id}`);

export const closeSession = (id) => askJson("DELETE", `${ROOT}/${id}`, { keepalive: true });

export const readVolume = async (id) => (await ask("GET", `${ROOT}/${id}/volume`)).arrayBuffer();

/**
 * Say something about an object on a slice; gives the mask there.
 * @param {Omit<import("./history.js").PromptStep, "kind">} said
 */
export function addPrompt(id, said) {
  const { object, slice, box, points, labels, mask } = said;
  return askJson("POST", `${ROOT}/${id}/prompts`, { json: { object, slice, box, points, labels, mask } });
}

/** Forget an object, or what was said about it on a slice. */
export function removeFrom(id, object, slice) {
  const query = slice === undefined ? "" : `?slice=${slice}`;
  return askJson("DELETE", `${ROOT}/${id}/objects/${object}${query}`);
}

/** Find the objects on all slices; `take` gets each slice's event. */
export function propagateSession(id, signal, take) {
  return askEvents(`${ROOT}/${id}/propagate`, signal, take);
}

export const undoIn = (id) => askJson("POST", `${ROOT}/${id}/undo`);

export const redoIn = (id) => askJson("POST", `${ROOT}/${id}/redo`);

export const readMasks = (id) => askJson("GET", `${ROOT}/${id}/masks`);

export const readMeasurements = (id) => askJson("GET", `${ROOT}/${id}/measurements`);

/**
 * The masks as a file.
 * @param {string} type  "nifti", "dicom-seg" ...
 * @param {Record<number, string>} names
 * @returns {Promise<{blob: Blob, name: string}>}
 */
export async function exportMasks(id, type, names) {
  const list = Object.entries(names).map(([number, name]) => `${number}:${name.replace(/[,:]/g, " ")}`);
  const query = new URLSearchParams({ type, names: list.join(",") });
  const response = await ask("GET", `${ROOT}/${id}/export?${query}`);
  const said = response.headers.get("Content-Disposition") ?? "";
  return { blob: await response.blob(), name: /filename="?([^";]+)"?/.exec(said)?.[1] ?? "mask.nii.gz" };
}
