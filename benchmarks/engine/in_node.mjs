/** Runs jobs in Node: a line of JSON in, a line of JSON out. Arguments: onnxruntime-web, parts, threads. */

import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

import { Segmenter } from "../../src/medsam2/serving/web/engine/segmenter.js";
import { runJob } from "./jobs.js";

const [runtime, parts, threads] = process.argv.slice(2);
const ort = await import(pathToFileURL(`${runtime}/dist/ort.node.min.mjs`).href);
const read = async (path) => {
  const bytes = await readFile(path);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
};
const started = performance.now();
const chain = JSON.parse(await readFile(`${parts}/chain.json`, "utf8"));
const segmenter = await Segmenter.open({ ort, chain, readPart: (file) => read(`${parts}/${file}`), threads: Number(threads) });
console.log(JSON.stringify({ ms: performance.now() - started }));
for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  const before = process.cpuUsage();
  const answer = await runJob(segmenter, job, read).then((results) => ({ results }), (error) => ({ error: error.message }));
  const { user, system } = process.cpuUsage(before);
  console.log(JSON.stringify({ ...answer, cpuMs: (user + system) / 1000, bytes: process.memoryUsage().rss }));
}
await segmenter.close();
process.exit(0); // the runtime's threads would wait for ever
