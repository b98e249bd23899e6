/** The worker that segments: it loads the network, has one open scan, and answers what browser/sessions.js calls. */

import { Segmenter } from "../engine/segmenter.js";
import { explain } from "./failures.js";
import { OpenScan } from "./open_scan.js";
import { readScan } from "./read_scan.js";

const SITE = new URL("../../", import.meta.url);
const MOST_THREADS = 4;
const NOT_FOUND = 404;

/** @type {any} */
const scope = self;
/** @type {Promise<Segmenter>|null} */
let loading = null;
/** @type {import("./read_scan.js").Scan|null} The file that was read last. */
let scan = null;
/** @type {OpenScan|null} */
let open = null;
/** @type {AbortController|null} Stops the propagation that runs. */
let propagation = null;
let count = 0;

/** What can be called, by name. */
const CALLS = {
  async open({ blob, name, window, plane }) {
    open = null;
    if (blob) {
      scan = null;
      scan = await readScan(blob, name);
    }
    open = new OpenScan(`browser-${++count}`, name, scan, plane, await network());
    open.start(window);
    return open.describe();
  },
  show: ({ id }) => opened(id).describe(),
  close({ id }) {
    // The page opens a scan anew before it closes the old session; the file stays for that.
    if (open?.id === id) [open, scan] = [null, null];
  },
  volume: ({ id }) => opened(id).scan.volume,
  prompt: ({ id, ...prompt }) => opened(id).addPrompt(prompt),
  remove: ({ id, object, slice }) => opened(id).remove(object, slice),
  async propagate({ id }, onEvent) {
    propagation = new AbortController();
    try {
      await opened(id).propagate(propagation.signal, onEvent);
    } finally {
      propagation = null;
    }
  },
  undo: ({ id }) => opened(id).undo(),
  redo: ({ id }) => opened(id).redo(),
  masks: ({ id }) => opened(id).readMasks(),
  measure: ({ id }) => opened(id).measure(),
  export: ({ id, type, names }) => opened(id).export(type, names),
};

scope.addEventListener("message", async ({ data }) => {
  if (data.cancel) {
    propagation?.abort();
    return;
  }
  const { number, name, parameters } = data;
  try {
    const onEvent = (event, facts) => scope.postMessage({ number, event, data: facts });
    scope.postMessage({ number, result: await CALLS[name](parameters, onEvent) });
  } catch (error) {
    scope.postMessage({ number, error: { message: explain(error), status: error?.status } });
  }
});

// The network is loaded while the user looks for a scan; what fails is said when the network is needed.
network().catch(() => {});

function opened(id) {
  if (open?.id === id) return open;
  throw Object.assign(new Error("The session has ended."), { status: NOT_FOUND });
}

function network() {
  // After a failure the next call tries again.
  loading ??= load().catch((error) => {
    loading = null;
    throw error;
  });
  return loading;
}

async function load() {
  // @ts-ignore: `medsam2 export web` puts it there.
  const ort = await import("../../runtime/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("runtime/", SITE).href;
  ort.env.logLevel = "error";
  const chain = await (await fetchFile("parts/chain.json")).json();
  const readPart = async (file) => (await fetchFile(`parts/${file}`)).arrayBuffer();
  const threads = scope.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  return Segmenter.open({ ort, chain, readPart, threads });
}

async function fetchFile(path) {
  const response = await fetch(new URL(path, SITE)).catch(() => null);
  if (!response?.ok) throw new Error(`The file ${path} of this page cannot be had. Load the page again; if that does not help, the folder lacks the file.`);
  return response;
}
