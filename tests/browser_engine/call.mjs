/** Calls the engine's functions: a JSON list of calls in, a JSON list of results out. */

import { text } from "node:stream/consumers";

const ENGINE = new URL("../../src/medsam2/serving/web/engine/", import.meta.url);
const ARRAYS = { bool: Uint8Array, uint8: Uint8Array, int8: Int8Array, int16: Int16Array, uint16: Uint16Array,
  int32: Int32Array, float32: Float32Array, float64: Float64Array };

const revive = (_, value) => {
  if (!value?.dtype) return value;
  return new ARRAYS[value.dtype](Uint8Array.from(Buffer.from(value.base64, "base64")).buffer);
};
const plain = (_, value) => {
  if (value instanceof Map) return [...value];
  return ArrayBuffer.isView(value) ? Array.from(/** @type {any} */ (value)) : value;
};

const results = [];
for (const { module, name, construct, method, given } of JSON.parse(await text(process.stdin), revive)) {
  const found = (await import(new URL(module, ENGINE).href))[name];
  try {
    if (!construct) results.push({ value: found(...given) });
    else if (!method) results.push({ value: new found(...construct) });
    else results.push({ value: new found(...construct)[method](...given) });
  } catch (error) {
    results.push({ error: error.message });
  }
}
console.log(JSON.stringify(results, plain));
