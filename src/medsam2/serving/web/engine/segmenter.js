/**
 * Segments a scan where this module runs, in a worker of a page or in Node: no server is needed.
 *
 * It does step for step what `inference/session.py` does with the compact network, on the parts that
 * `medsam2 export onnx` writes. The masks differ from Python's in a few pixels at most, since sums run in
 * another order.
 *
 *     const segmenter = await Segmenter.open({ ort, chain, readPart, threads: 2 });
 *     segmenter.openVolume({ voxels, shape: [30, 101, 122], modality: "CT" });
 *     const { mask, score } = await segmenter.addPrompt(1, { slice: 12, box: [30, 25, 50, 45] });
 *     for await (const { slice, masks } of segmenter.propagate()) show(slice, masks.get(1));
 *     for (const { slice, mask } of segmenter.masks(1)) save(slice, mask);
 *
 * Slices are counted from 0 in the order of `voxels`; a mask has a byte a pixel, row by row, 1 inside. Boxes and
 * points are `x, y` in pixels of a slice, a whole number is the middle of a pixel, and a box includes both ends.
 * Whoever names a plane turns voxels and prompts into it before, as `imaging/geometry.py` does.
 *
 * Methods that compute return promises and wait for each other: nothing is lost if one is called while another
 * runs. A change ends a propagation that is under way; the slices that it found and that are still right are not
 * computed again by the next one.
 */

/**
 * @typedef {Object} PromptParts  A box, points, a box with points, or a mask alone.
 * @property {number} slice
 * @property {[number, number, number, number]} [box]  x_min, y_min, x_max, y_max.
 * @property {[number, number][]} [points]  They join those that the slice has already; a box or a mask replaces all.
 * @property {(0|1)[]} [labels]  1 for a point inside, 0 for one outside; all inside if not given.
 * @property {Uint8Array} [mask]  A byte a pixel of the slice, not 0 inside; it is taken as it is.
 */

/**
 * @typedef {Object} OpenVolume
 * @property {ArrayLike<number>} voxels  Slice by slice, row by row; kept and not changed. A grey value is
 *   voxel * slope + shift, as the file says it.
 * @property {[number, number, number]} shape  Slices, rows and columns.
 * @property {number} [slope]  1 if not given.
 * @property {number} [shift]  0 if not given.
 * @property {[number, number]|null} [window]  Grey values that become black and white; null to find them as the
 *   server does.
 * @property {string|null} [modality]  `CT`, `MR`, `US` and so on, if the file says it.
 * @property {[number, number]|null} [fileWindow]  The window that the file names, if any.
 * @property {{fillHoleArea?: number, stopAfter?: number, keepComponent?: boolean}} [options]  As
 *   `inference/options.py` has them.
 */

export class Segmenter {
  /**
   * Load the network.
   * @param {Object} from
   * @param {any} from.ort  The module onnxruntime-web; where its files are is up to the caller.
   * @param {any} from.chain  What chain.json says.
   * @param {(file: string) => Promise<ArrayBuffer>} from.readPart  Reads a part by the name of its file.
   * @param {number} [from.threads]  1 if not given; more need a page that is isolated from other origins.
   * @returns {Promise<Segmenter>}
   * @throws {Error} The chain is of another format or network, or a part cannot be loaded.
   */
  static async open({ ort, chain, readPart, threads = 1 }) {
    throw notYet(ort, chain, readPart, threads);
  }

  /**
   * Take a scan in; one that was open before is forgotten, with its objects.
   * @param {OpenVolume} volume
   * @returns {{window: [number, number], source: string}}  Grey values of black and white, and how they were
   *   found: `caller`, `display`, `file`, `soft-tissue`, `percentiles` or `range`.
   * @throws {Error} The numbers do not fit the shape, are not finite, or are all equal.
   */
  openVolume(volume) {
    throw notYet(volume);
  }

  /** @returns {{objects: number[], canUndo: boolean, canRedo: boolean, isPropagated: boolean}} */
  get status() {
    throw notYet();
  }

  /**
   * Prompt an object in one slice, or correct it there, and see it.
   * @param {number} object  1 to 255; a new number begins a new object.
   * @param {PromptParts} prompt
   * @returns {Promise<{slice: number, mask: Uint8Array, score: number}>}  The score is the overlap with the truth
   *   that the network expects, 0 to 1.
   * @throws {Error} The prompt does not lie in the scan.
   */
  async addPrompt(object, prompt) {
    throw notYet(object, prompt);
  }

  /**
   * Remove an object, or its prompt on one slice with what was found from it.
   * @param {number} object
   * @param {number|null} [slice]
   * @returns {Promise<void>}
   * @throws {Error} There is no such object or prompt, or it is the object's only one.
   */
  async removePrompts(object, slice = null) {
    throw notYet(object, slice);
  }

  /**
   * Follow all objects through the scan, upwards from their prompts and then downwards.
   *
   * A slice comes as soon as it is done, and once more if a later one shows that more of it belongs to the object:
   * the last mask of a slice is the one that `masks` has. `done` counts different slices, `of` is the most that
   * there can be; an object may end before.
   * @param {{signal?: AbortSignal}} [options]  An aborted signal ends it quietly before the next slice.
   * @returns {AsyncGenerator<{slice: number, done: number, of: number, masks: Map<number, Uint8Array>}>}
   * @throws {Error} There is no object.
   */
  async *propagate({ signal } = {}) {
    yield* notYet(signal);
  }

  /**
   * An object in the slices that it was followed into, in their order, as Python's `Session.result(object)` has it.
   * @param {number} object
   * @returns {Iterable<{slice: number, mask: Uint8Array}>}
   */
  masks(object) {
    throw notYet(object);
  }

  /**
   * All objects as labels, a byte a pixel; where objects overlap, the one with the higher logit has the pixel.
   * Slices without any object are left out.
   * @returns {Iterable<{slice: number, labels: Uint8Array}>}
   */
  labels() {
    throw notYet();
  }

  /** @returns {Map<number, number>} How sure the network is of an object, 0 to 1, by slice. */
  scores(object) {
    throw notYet(object);
  }

  /** @returns {Promise<boolean>} Whether there was a change to take back. */
  async undo() {
    throw notYet();
  }

  /** @returns {Promise<boolean>} Whether there was a change to do again. */
  async redo() {
    throw notYet();
  }

  /** Give back the memory of the network; nothing can be done afterwards. */
  async close() {}
}

/** @returns {any} */
function notYet(..._) {
  return new Error("The engine cannot segment yet.");
}
