/** Runs jobs in a page's worker; the page that starts it is written by `engine_runs.py`. */

import * as ort from "/ort/ort.wasm.min.mjs";
import { Segmenter } from "/engine/segmenter.js";
import { runJob } from "/jobs/jobs.js";

const read = async (path) => (await fetch(path)).arrayBuffer();
let segmenter = null;

const DOES = {
  async open({ threads }) {
    ort.env.wasm.wasmPaths = "/ort/";
    const started = performance.now();
    const chain = await (await fetch("/parts/chain.json")).json();
    segmenter = await Segmenter.open({ ort, chain, readPart: (file) => read(`/parts/${file}`), threads });
    return { ms: performance.now() - started, isIsolated: crossOriginIsolated };
  },
  run: async (job) => ({ results: await runJob(segmenter, job, read) }),
};

addEventListener("message", async ({ data: { name, argument } }) => {
  postMessage(await DOES[name](argument).catch((error) => ({ error: error.message })));
});
