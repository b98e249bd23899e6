/** What went wrong, in a sentence that says what would do; and what this browser must be able to do. */

/** How to go on where a tab cannot. */
export const ELSEWHERE = "The program does it on a computer: medsam2 annotate, see the documentation.";

const MEMORY = /memory|allocation|bad_alloc|out of bounds|OOM/i;
// The smallest module with an instruction of the 128-bit kind: i8x16.splat of a constant.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

/** Why this browser cannot segment, in a sentence; null if it can. */
export function browserFault() {
  if (typeof WebAssembly !== "object") {
    return "This browser has no WebAssembly, or it is switched off. Take a current Firefox, Chrome, Edge or Safari, or ask who manages this computer to allow it.";
  }
  if (!WebAssembly.validate(new Uint8Array(SIMD))) {
    return "This browser is too old: its WebAssembly has no SIMD. Firefox from 89, Chrome and Edge from 91 and Safari from 16.4 have it.";
  }
  if (typeof DecompressionStream !== "function" || !("toReversed" in Array.prototype)) {
    return "This browser is too old. Firefox from 115, Chrome and Edge from 110 and Safari from 16.4 can show this page.";
  }
  return null;
}

/** A sentence for an error. */
export function explain(error) {
  const text = error instanceof Error ? error.message : String(error);
  const isMemory = (error instanceof RangeError && /array|buffer|length/i.test(text)) || (!(error instanceof SentenceError) && MEMORY.test(text));
  if (isMemory) return `The tab has not enough memory for this scan. Close other tabs, or cut the scan to the part that you need. ${ELSEWHERE}`;
  return text;
}

/** An error whose message is a sentence for people. */
export class SentenceError extends Error {}

/**
 * Memory for voxels: shared with the page where the browser allows it, so that they are there once.
 * @param {number} numBytes
 * @returns {ArrayBuffer}
 */
export function allocate(numBytes) {
  if (numBytes > MOST_BYTES) {
    throw new SentenceError(`The scan has ${(numBytes / 2 ** 30).toFixed(1)} GiB of voxels, and a tab can hold about ${MOST_BYTES / 2 ** 30} GiB. Cut it to the part that you need. ${ELSEWHERE}`);
  }
  // @ts-ignore: in a worker `self` says whether it is isolated.
  return self.crossOriginIsolated ? /** @type {any} */ (new SharedArrayBuffer(numBytes)) : new ArrayBuffer(numBytes);
}

/** Of voxels. A tab has about 4 GiB, and the network, slices and masks need their share. */
const MOST_BYTES = 1.5 * 2 ** 30;
