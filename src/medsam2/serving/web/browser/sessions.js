/**
 * Sessions in this browser: the functions of routes.js for sessions, answered by a worker. Nothing is sent to anybody.
 */

import { ApiError } from "../api.js";
import { readNifti } from "../nifti.js";
import { showNotice } from "../page.js";
import { startOffline } from "./offline.js";

const TOUR = new URL("../../tour/", import.meta.url);
const NOT_FOUND = 404;

/** @type {Worker|null} */
let worker = null;
let count = 0;
/** @type {Map<number, {resolve: (value: any) => void, reject: (error: unknown) => void, onEvent?: (event: string, data: any) => void}>} */
const waiting = new Map();
/** @type {{blob: Blob, volume: import("../volume.js").Volume|null}|null} The file that the worker has read. */
let opened = null;

/** The types of files that masks can be exported to. */
export const EXPORT_TYPES = ["nifti", "nrrd", "dicom-seg"];

/** Prepare the page: files for work without a network, and the worker, which loads the network of the model. */
export async function startEngine() {
  await startOffline();
  startWorker();
}

/**
 * Read a scan and begin to work on it.
 * @param {{path?: string, blob?: Blob, name: string}} source
 * @param {number[]|null} window
 * @param {string|null} plane
 */
export async function openSession({ blob, name }, window, plane) {
  const isSame = opened?.blob === blob;
  if (!isSame) opened = null;
  const session = await call("open", { blob: isSame ? null : blob, name, window, plane });
  opened ??= { blob, volume: null };
  if (!isSame) session.notes.forEach((note) => showNotice(note));
  return session;
}

export const readSession = (id) => call("show", { id });

export const closeSession = (id) => call("close", { id });

/** The scan of a session, see volume.js. */
export async function readVolume(id) {
  opened.volume ??= await call("volume", { id });
  return opened.volume;
}

/**
 * Add a prompt; gives the mask on its slice.
 * @param {string} id
 * @param {Omit<import("../history.js").PromptStep, "kind">} prompt
 */
export function addPrompt(id, { object, slice, box, points, labels, mask }) {
  return call("prompt", { id, object, slice, box, points, labels, mask });
}

/** Remove an object, or its prompts on a slice. */
export const removePrompts = (id, object, slice = undefined) => call("remove", { id, object, slice });

/** Segment the objects on all slices; `onEvent` gets each slice. */
export function propagate(id, signal, onEvent) {
  const stop = () => worker?.postMessage({ cancel: true });
  signal.addEventListener("abort", stop);
  return call("propagate", { id }, onEvent).finally(() => signal.removeEventListener("abort", stop));
}

export const undo = (id) => call("undo", { id });

export const redo = (id) => call("redo", { id });

export const readMasks = (id) => call("masks", { id });

export const readMeasurements = (id) => call("measure", { id });

/** The masks as a file, {blob, name}. */
export const exportMasks = (id, type, names) => call("export", { id, type, names });

/** There is no server, and so no project. */
export const readProject = async () => null;

export const readTour = async () => (await fetchTour("tour.json")).json();

export const readTourScan = async () => (await fetchTour("scan.nii.gz")).blob();

export const readTourAnswer = async () => readNifti(await (await fetchTour("answer.nii.gz")).arrayBuffer());

async function fetchTour(name) {
  const response = await fetch(new URL(name, TOUR));
  if (!response.ok) throw new ApiError(NOT_FOUND, "This page was made without a tour.");
  return response;
}

/** Have the worker do something. */
function call(name, parameters, onEvent) {
  if (!worker) startWorker();
  const number = ++count;
  return new Promise((resolve, reject) => {
    waiting.set(number, { resolve, reject, onEvent });
    worker.postMessage({ number, name, parameters });
  });
}

/**
 * Start the worker from a text of this page and not from its file. So the worker has the page's own
 * Content-Security-Policy, also where a file server sends none with the file.
 */
function startWorker() {
  const start = `import ${JSON.stringify(new URL("./worker.js", import.meta.url).href)};`;
  const address = URL.createObjectURL(new Blob([start], { type: "text/javascript" }));
  const started = new Worker(address, { type: "module" });
  worker = started;
  started.addEventListener("message", ({ data }) => answer(data));
  started.addEventListener("error", (event) => {
    event.preventDefault();
    endWorker(started, event.message);
  });
}

function answer({ number, result, error, event, data }) {
  const one = waiting.get(number);
  if (!one) return;
  if (event) {
    one.onEvent?.(event, data);
    return;
  }
  waiting.delete(number);
  if (error) one.reject(error.status ? new ApiError(error.status, error.message) : new Error(error.message));
  else one.resolve(result);
}

/** After a failure that no answer tells of, everything that waits is told, and the next call starts anew. */
function endWorker(ended, message) {
  if (worker !== ended) return;
  ended.terminate();
  worker = null;
  opened = null;
  const text = `The part of the page that segments has stopped${message ? ` (${message})` : ""}. Most often the tab had too little memory. Open the scan again, or a smaller part of it.`;
  for (const one of waiting.values()) one.reject(new Error(text));
  waiting.clear();
}
