/** What is remembered of slices, and what a slice looks back at: `inference/state.py`, `tracking/policies.py`. */

/**
 * @typedef {Object} Memory  One slice as the slices after it may look back at it.
 * @property {number} slice
 * @property {Float32Array} spatial
 * @property {Float32Array} pointer
 * @property {import("./view.js").View} view  That it was made in.
 */

/**
 * @typedef {Object} Memories  What a slice looks back at, stacked for the network.
 * @property {Float32Array} spatial
 * @property {Int32Array} codes
 * @property {Float32Array} squares
 * @property {Float32Array} pointers
 * @property {Float32Array} distances
 */

/** Round numbers as bfloat16 has them, in place: the network has learnt from memories that were stored so. */
export function roundToBfloat16(/** @type {Float32Array} */ values) {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let at = 0; at < bits.length; at++) bits[at] = (bits[at] + 0x7fff + ((bits[at] >>> 16) & 1)) & 0xffff0000;
  return values;
}

/** Two walks from each prompted slice, and the memories of each: a slice is found from the nearest prompt. */
export class Banks {
  constructor() {
    /** @type {Map<number, {own: Memory, tracked: Map<number, Map<number, Memory>>}>} */
    this.walks = new Map();
  }

  /** The prompted slice that a slice is found from; of two as near, the lower one. */
  origin(slice) {
    const origins = [...this.walks.keys()].sort((a, b) => a - b);
    return origins.reduce((best, other) => (Math.abs(other - slice) < Math.abs(best - slice) ? other : best));
  }

  /** 1 if a slice is reached upwards, -1 if downwards. */
  direction(slice) {
    return slice >= this.origin(slice) ? 1 : -1;
  }

  /** Look back at a prompted slice from now on. */
  begin(/** @type {Memory} */ own) {
    const tracked = this.walks.get(own.slice)?.tracked ?? new Map([[1, new Map()], [-1, new Map()]]);
    this.walks.set(own.slice, { own, tracked });
  }

  /** Remember a slice that was reached in a direction. */
  keep(/** @type {Memory} */ memory, step) {
    this.walks.get(this.origin(memory.slice)).tracked.get(step).set(memory.slice, memory);
  }

  /** Drop tracked slices, and say which. */
  forget(isStale) {
    const dropped = [];
    for (const { tracked } of this.walks.values()) {
      for (const memories of tracked.values()) {
        for (const slice of [...memories.keys()].filter(isStale)) {
          memories.delete(slice);
          dropped.push(slice);
        }
      }
    }
    return dropped;
  }

  /** The same memories in maps of their own, so that a later change leaves them alone. */
  copy() {
    const copy = new Banks();
    for (const [origin, { own, tracked }] of this.walks) {
      const copied = [...tracked].map(([step, memories]) => /** @type {[number, any]} */ ([step, new Map(memories)]));
      copy.walks.set(origin, { own, tracked: new Map(copied) });
    }
    return copy;
  }

  /**
   * What a slice looks back at: the prompted slice, then the slices just passed from the farthest to the nearest.
   * @param {number} slice
   * @param {number} step  1 upwards, -1 downwards.
   * @param {import("./view.js").View} view  Of the slice.
   * @param {any} constants  As in chain.json.
   * @returns {Memories}
   */
  recall(slice, step, view, constants) {
    const { own, tracked } = this.walks.get(this.origin(slice));
    const recalled = [{ memory: own, code: constants.prompted_code }];
    for (let code = constants.recent_memories - 1; code >= 0; code--) {
      const memory = tracked.get(step).get(slice - step * (code + 1));
      if (memory) recalled.push({ memory, code });
    }
    const memories = recalled.map(({ memory }) => memory);
    return {
      spatial: joined(memories.map(({ spatial }) => spatial)),
      codes: Int32Array.from(recalled, ({ code }) => code),
      squares: Float32Array.from(memories.flatMap(({ view: { x, y, width } }) => [
        (x - view.x) / view.width, (y - view.y) / view.height, width / view.width,
      ])),
      pointers: joined(memories.map(({ pointer }) => pointer)),
      distances: Float32Array.from(memories, (memory) => Math.abs(slice - memory.slice) / constants.distance_unit),
    };
  }
}

function joined(parts) {
  const whole = new Float32Array(parts.length * parts[0].length);
  parts.forEach((part, at) => whole.set(part, at * part.length));
  return whole;
}
