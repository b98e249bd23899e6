/** The parts of the network, and what it is shown of a slice: `tracking/planes.py`, `tracking/carried.py`. */

import { roundToBfloat16 } from "./memory.js";
import { sigmoid } from "./postprocess.js";
import { boxToInput, toInput } from "./view.js";

/**
 * @typedef {Object} Known  A slice of which the mask is known, in today's view.
 * @property {Float32Array} grey  0 to 1.
 * @property {Float32Array} inside  Probability of its mask.
 */

/**
 * @typedef {Object} Sight  Everything that is shown of a slice, in its view.
 * @property {Float32Array} grey
 * @property {Float32Array} before  The slice that the walk comes from, or a neighbour.
 * @property {Float32Array} beyond  The neighbour on the other side.
 * @property {{box: Float32Array, inside: Float32Array, outside: Float32Array}} [prompt]  Of this slice.
 * @property {Float32Array|null} [prior]  Probability of the mask before, or of the one that is corrected.
 * @property {Known} [carried]  The slice before, where the object comes from there.
 * @property {Known} [key]  The prompted slice; none while it is answered for the first time.
 */

/**
 * @typedef {Object} Answer  What was found in a slice, with what a memory of it is made of.
 * @property {Float32Array} logits
 * @property {number} overlap  With the truth, as the network expects it.
 * @property {number} objectLogit  Above 0 where the object is in the slice.
 * @property {Float32Array} pooled
 * @property {Float32Array} seen
 */

export class Network {
  /** @param {any} chain  What chain.json says. */
  constructor(ort, chain, sessions) {
    this.ort = ort;
    this.sessions = sessions;
    this.parts = new Map(chain.parts.map((part) => [part.name, part]));
    this.planes = chain.constants.planes;
    this.radius = chain.constants.click_radius;
    this.size = chain.constants.image_size;
    this.nothing = new Float32Array(this.size ** 2);
  }

  /** Load the parts; see `Segmenter.open`. */
  static async load(ort, chain, readPart) {
    const sessions = new Map();
    for (const { name, file } of chain.parts) {
      const bytes = new Uint8Array(await readPart(file));
      try {
        sessions.set(name, await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }));
      } catch (error) {
        throw new Error(`The network's part ${file} cannot be loaded; export the page again.`, { cause: error });
      }
    }
    return new Network(ort, chain, sessions);
  }

  /** Run a part on its inputs, in their order; give its outputs in theirs. One dimension of an input may be free. */
  async run(name, ...inputs) {
    const part = this.parts.get(name);
    const feeds = {};
    part.inputs.forEach((input, at) => {
      const known = input.shape.map((length) => (length === "batch" ? 1 : length));
      const rest = known.reduce((product, length) => product * (Number.isInteger(length) ? length : 1), 1);
      const shape = known.map((length) => (Number.isInteger(length) ? length : inputs[at].length / rest));
      feeds[input.name] = new this.ort.Tensor(input.dtype, inputs[at], shape);
    });
    const found = await this.sessions.get(name).run(feeds);
    return part.outputs.map((output) => found[output.name].data);
  }

  /** Draw a prompt in a view: the box as ones, each click as a disc. */
  draw(prompt, view) {
    const { size } = this;
    const planes = { box: this.nothing, inside: this.nothing, outside: this.nothing };
    if (prompt.box) {
      const [left, top, right, bottom] = boxToInput(view, prompt.box, size).map(Math.fround);
      const isBetween = (place, low, high) => place > Math.fround(low - 0.5) && place < Math.fround(high + 0.5);
      planes.box = this.nothing.map((_, at) => {
        return Number(isBetween(at % size, left, right) && isBetween(Math.trunc(at / size), top, bottom));
      });
    }
    for (const kind of ["inside", "outside"]) {
      const clicks = prompt.points.filter(({ isInside }) => isInside === (kind === "inside"));
      if (clicks.length) planes[kind] = this.nothing.slice();
      for (const { x, y } of clicks) {
        const [column, row] = toInput(view, x, y, size).map(Math.fround);
        const square = (distance) => Math.fround(Math.fround(distance) ** 2);
        planes[kind].forEach((_, at) => {
          const distance = Math.fround(square((at % size) - column) + square(Math.trunc(at / size) - row));
          if (distance <= square(this.radius)) planes[kind][at] = 1;
        });
      }
    }
    return planes;
  }

  /** Join what is shown to the network's input. */
  async join(/** @type {Sight} */ { grey, before, beyond, prompt, prior, carried, key }) {
    const known = key ?? { grey, inside: prompt ? roughMask(prompt, prior) : this.nothing };
    const shown = {
      slice: grey, before, beyond, prior, key_slice: key?.grey, key_mask: key?.inside, box: prompt?.box,
      clicks_inside: prompt?.inside, clicks_outside: prompt?.outside, is_prompted: prompt && this.nothing.map(() => 1),
    };
    if (known.inside.some((share) => share > 0)) {
      [shown.grey_like_key] = await this.run("grey_likeness", known.grey, known.inside, grey);
      [shown.context_like_key] = await this.run("context_likeness", known.grey, known.inside, grey);
    }
    if (carried) {
      [shown.grey_like_before] = await this.run("grey_likeness", carried.grey, carried.inside, grey);
      [shown.context_like_before] = await this.run("context_likeness", carried.grey, carried.inside, grey);
      [shown.matched, shown.match_quality] = await this.run("match_patches", carried.grey, carried.inside, grey);
    }
    const planes = new Float32Array(this.planes.length * this.nothing.length);
    this.planes.forEach((name, at) => shown[name] && planes.set(shown[name], at * this.nothing.length));
    return planes;
  }

  /**
   * Find an object in one slice.
   * @param {Sight} sight
   * @param {import("./memory.js").Memories} [memories]
   * @returns {Promise<Answer>}
   */
  async answer(sight, memories) {
    const [fine, level2x, level4x, level8x, level2] = await this.run("encoder", await this.join(sight));
    const [conditioned] = memories
      ? await this.run("memory_reader", level2, memories.spatial, memories.codes, memories.squares, memories.pointers,
        memories.distances)
      : await this.run("without_memory", level2);
    const [logits, [overlap], [objectLogit], pooled, seen] = await this.run("decoder", fine, level2x, level4x, level8x,
      conditioned);
    return { logits, overlap, objectLogit, pooled, seen };
  }

  /**
   * Make of a slice what later slices may look back at.
   * @param {number} slice
   * @param {Answer} answer
   * @param {import("./view.js").View} view
   * @returns {Promise<import("./memory.js").Memory>}
   */
  async remember(slice, { logits, pooled, seen }, view) {
    const [shares] = await this.run("cell_shares", sigmoid(logits));
    const [spatial] = await this.run("memory_writer", seen, shares);
    const [pointer] = await this.run("object_pointer", pooled);
    return { slice, spatial: roundToBfloat16(spatial), pointer: roundToBfloat16(pointer), view };
  }

  async close() {
    for (const session of this.sessions.values()) await session.release();
  }
}

/** What a prompted slice's mask may be: the one corrected or drawn or, where that is empty, the box. */
function roughMask(prompt, prior) {
  return prior?.some((share) => share > 0.5) ? prior : prompt.box;
}
