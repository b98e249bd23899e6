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

import { Network } from "./encode.js";
import { Slices } from "./preprocess.js";
import { joinPrompts, readPrompt } from "./prompts.js";
import { Track, Walk } from "./track.js";
import { Views } from "./view.js";

const FORMAT = 1; // of chain.json
const NEWEST_CONSTANT = "least_overlap"; // files of an earlier version lack it
const MOST_OBJECTS = 255;
const MOST_UNDO = 50;

/**
 * @typedef {Object} PromptParts  A box, points, a box with points, or a mask alone.
 * @property {number} slice
 * @property {[number, number, number, number]} [box]  x_min, y_min, x_max, y_max.
 * @property {[number, number][]} [points]  They join those that the slice has already; a box or a mask replaces all.
 * @property {(0|1)[]} [labels]  1 for a point inside, 0 for one outside; all inside if not given.
 * @property {Uint8Array} [mask]  A byte a pixel of the slice, not 0 inside; it is taken as it is.
 */

/**
 * @typedef {Int8Array|Uint8Array|Int16Array|Uint16Array|Int32Array|Uint32Array|Float32Array|Float64Array} Voxels
 */

/**
 * @typedef {Object} OpenVolume
 * @property {Voxels} voxels  Slice by slice, row by row; kept and not changed. A grey value is
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

/** @typedef {{tracks: Map<number, Track>, isPropagated: boolean}} Moment  What `undo` and `redo` come back to. */

export class Segmenter {
  /** Use `Segmenter.open`. */
  constructor(chain, network) {
    this.chain = chain;
    this.network = network;
    /** @type {import("./track.js").Engine|null} */
    this.engine = null;
    this.queue = Promise.resolve();
    this.forgetAll();
  }

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
    if (chain.format !== FORMAT || chain.network !== "compact" || !(NEWEST_CONSTANT in chain.constants)) {
      throw new Error("The files of the network are not those that this page needs; export the page again.");
    }
    ort.env.wasm.numThreads = threads;
    return new Segmenter(chain, await Network.load(ort, chain, readPart));
  }

  /**
   * Take a scan in; one that was open before is forgotten, with its objects.
   * @param {OpenVolume} volume
   * @returns {{window: [number, number], source: string}}  Grey values of black and white, and how they were
   *   found: `caller`, `display`, `file`, `soft-tissue`, `percentiles` or `range`.
   * @throws {Error} The numbers do not fit the shape, are not finite, or are all equal.
   */
  openVolume(volume) {
    const { constants } = this.chain;
    const slices = new Slices(volume, constants.image_size);
    const { fillHoleArea = 0, keepComponent = true, stopAfter = Number(keepComponent) } = volume.options ?? {};
    const views = new Views(this.chain, slices.height, slices.width);
    const options = { fillHoleArea, keepComponent, stopAfter };
    this.engine = { network: this.network, slices, views, constants, options };
    this.forgetAll();
    return { window: slices.window, source: slices.source };
  }

  /** @returns {{objects: number[], canUndo: boolean, canRedo: boolean, isPropagated: boolean}} */
  get status() {
    const { tracks, done, undone, isPropagated } = this;
    return { objects: [...tracks.keys()], canUndo: done.length > 0, canRedo: undone.length > 0, isPropagated };
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
    return this.inTurn(async () => {
      if (!this.engine) throw new Error("There is no scan; open one first.");
      if (!Number.isInteger(object) || object < 1 || object > MOST_OBJECTS) {
        throw new Error(`Objects are numbered 1 to ${MOST_OBJECTS}, not ${object}.`);
      }
      const read = readPrompt(prompt, this.engine.slices);
      const track = this.tracks.get(object) ?? new Track(this.engine);
      await this.change(async (tracks) => {
        await track.add(joinPrompts(track.prompts.get(read.slice), read));
        tracks.set(object, track);
      });
      const mask = this.whole(track.keptSlices()(read.slice));
      return { slice: read.slice, mask, score: track.results.get(read.slice).score };
    });
  }

  /**
   * Remove an object, or its prompt on one slice with what was found from it.
   * @param {number} object
   * @param {number|null} [slice]
   * @returns {Promise<void>}
   * @throws {Error} There is no such object or prompt, or it is the object's only one.
   */
  async removePrompts(object, slice = null) {
    return this.inTurn(() => {
      const track = this.track(object);
      const prompted = [...track.prompts.keys()].sort((a, b) => a - b);
      if (slice !== null && !prompted.includes(slice)) {
        throw new Error(`There is no prompt on slice ${slice}; prompts are on ${prompted.join(", ")}.`);
      }
      if (slice !== null && prompted.length === 1) {
        throw new Error(`Slice ${slice} has the object's only prompt; remove the object instead.`);
      }
      return this.change(async (tracks) => {
        if (slice === null) tracks.delete(object);
        else await track.remove(slice);
      });
    });
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
    await this.queue; // changes that were begun before
    if (!this.tracks.size) throw new Error("There is nothing to follow: add a box, a point or a mask first.");
    const { numChanges } = this;
    const isEnded = () => signal?.aborted || this.numChanges !== numChanges;
    const kept = new Map([...this.tracks].map(([object, track]) => [object, new KeptSoFar(track)]));
    const seen = new Set();
    const shown = (/** @type {Map<number, Map<number, import("./view.js").Patch>>} */ found, first = -1) => {
      const slices = new Set([...found.values()].flatMap((patches) => [...patches.keys()]));
      return [...slices].sort((a, b) => Number(b === first) - Number(a === first) || a - b).map((slice) => {
        const there = [...found].filter(([, patches]) => patches.has(slice));
        const masks = new Map(there.map(([object, patches]) => [object, this.whole(patches.get(slice))]));
        return { slice, done: seen.add(slice).size, of: this.engine.slices.count, masks };
      });
    };
    for (const step of [1, -1]) {
      const walks = new Map([...this.tracks].map(([object, track]) => [object, new Walk(track, step)]));
      for (;;) {
        const found = await this.inTurn(async () => {
          const active = isEnded() ? [] : [...walks].filter(([, walk]) => !walk.isOver);
          if (!active.length) return null;
          const slice = Math.min(...active.map(([, walk]) => step * walk.position)) * step;
          const here = active.filter(([, walk]) => walk.position === slice);
          for (const [, walk] of here) await walk.take();
          return shown(new Map(here.map(([object]) => [object, kept.get(object).visit(slice)])), slice);
        });
        if (found && this.numChanges === numChanges) yield* found;
        if (isEnded()) return;
        if (!found) break;
      }
    }
    yield* shown(new Map([...kept].map(([object, one]) => [object, one.visitRest()])));
    if (!isEnded()) this.isPropagated = true;
  }

  /**
   * An object in the slices that it was followed into, in their order, as Python's `Session.result(object)` has it.
   * @param {number} object
   * @returns {Iterable<{slice: number, mask: Uint8Array}>}
   */
  *masks(object) {
    const track = this.track(object);
    const kept = track.keptSlices();
    for (const slice of track.slices()) yield { slice, mask: this.whole(kept(slice)) };
  }

  /**
   * All objects as labels, a byte a pixel; where objects overlap, the one with the higher logit has the pixel.
   * Slices without any object are left out.
   * @returns {Iterable<{slice: number, labels: Uint8Array}>}
   */
  *labels() {
    const kept = new Map([...this.tracks].map(([object, track]) => [object, track.keptSlices()]));
    const slices = new Set([...this.tracks.values()].flatMap((track) => track.slices()));
    for (const slice of [...slices].sort((a, b) => a - b)) {
      const there = [...this.tracks].filter(([, track]) => track.results.has(slice));
      const parts = there.map(([object, track]) => [object, kept.get(object)(slice), track.logits(slice)]);
      const labels = this.joined(parts);
      if (labels.some((label) => label > 0)) yield { slice, labels };
    }
  }

  /** @returns {Map<number, number>} How sure the network is of an object, 0 to 1, by slice. */
  scores(object) {
    const track = this.track(object);
    return new Map(track.slices().map((slice) => [slice, track.results.get(slice).score]));
  }

  /** @returns {Promise<boolean>} Whether there was a change to take back. */
  async undo() {
    return this.inTurn(async () => this.stepBack(this.done, this.undone));
  }

  /** @returns {Promise<boolean>} Whether there was a change to do again. */
  async redo() {
    return this.inTurn(async () => this.stepBack(this.undone, this.done));
  }

  /** Give back the memory of the network; nothing can be done afterwards. */
  async close() {
    return this.inTurn(() => this.network.close());
  }

  forgetAll() {
    /** @type {Map<number, Track>} */
    this.tracks = new Map();
    /** @type {Moment[]} */
    this.done = [];
    /** @type {Moment[]} */
    this.undone = [];
    this.isPropagated = false;
    this.numChanges = (this.numChanges ?? 0) + 1;
  }

  /**
   * Do something after all that was begun before.
   * @template T
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  inTurn(work) {
    const turn = this.queue.then(work);
    this.queue = turn.then(() => {}, () => {});
    return turn;
  }

  /** Keep the moment before a change; a change that fails leaves no trace. */
  async change(/** @type {(tracks: Map<number, Track>) => Promise<void>} */ act) {
    const { tracks } = this;
    const copies = new Map([...tracks].map(([object, track]) => [object, track.copy()]));
    const before = { tracks: copies, isPropagated: this.isPropagated };
    const isOpen = () => this.tracks === tracks; // and no other scan in the meantime
    try {
      await act(tracks);
    } catch (error) {
      if (isOpen()) this.tracks = before.tracks;
      throw error;
    } finally {
      this.numChanges++;
    }
    if (!isOpen()) throw new Error("Another scan was opened.");
    this.done = [...this.done.slice(1 - MOST_UNDO), before];
    [this.undone, this.isPropagated] = [[], false];
  }

  stepBack(moments, others) {
    const moment = moments.pop();
    if (!moment) return false;
    others.push({ tracks: this.tracks, isPropagated: this.isPropagated });
    ({ tracks: this.tracks, isPropagated: this.isPropagated } = moment);
    this.numChanges++;
    return true;
  }

  track(object) {
    const track = this.tracks.get(object);
    const known = [...this.tracks.keys()].join(", ") || "none";
    if (!track) throw new Error(`There is no object ${object}; objects are ${known}.`);
    return track;
  }

  /** A patch as a mask of its slice, a byte a pixel. */
  whole(patch) {
    return this.joined([[1, patch, null]]);
  }

  /** Join patches to labels of a slice; a pixel of several goes to the higher logit. */
  joined(patches) {
    const { height, width } = this.engine.slices;
    const labels = new Uint8Array(height * width);
    const best = patches.length > 1 ? new Float32Array(labels.length).fill(-Infinity) : null;
    for (const [object, patch, part] of patches) {
      patch.inside.forEach((value, at) => {
        if (!value) return;
        const [x, y] = [patch.left + (at % patch.width), patch.top + Math.trunc(at / patch.width)];
        if (best) {
          const [column, row] = [x - part.left, y - part.top];
          const isCovered = column >= 0 && row >= 0 && column < part.width && row < part.height;
          const logit = isCovered ? part.logits[row * part.width + column] : this.chain.constants.absent_logit;
          if (logit <= best[y * width + x]) return;
          best[y * width + x] = logit;
        }
        labels[y * width + x] = object;
      });
    }
    return labels;
  }
}

/** An object's final mask as far as the slices that were visited tell it. */
class KeptSoFar {
  constructor(/** @type {Track} */ track) {
    this.track = track;
    this.parts = track.engine.options.keepComponent ? track.parts() : null;
    this.visited = new Set();
  }

  /** Take in a slice; give its mask, and those of slices in which more is kept now. */
  visit(slice) {
    if (!this.parts) {
      this.visited.add(slice);
      return new Map([[slice, this.track.mask(slice)]]);
    }
    const changed = this.visited.has(slice) ? [] : this.parts.add(slice);
    this.visited.add(slice);
    return new Map([slice, ...changed].map((other) => [other, this.parts.kept(other)]));
  }

  /** Take in what earlier runs found and this one did not come to. */
  visitRest() {
    const rest = this.track.slices().filter((slice) => !this.visited.has(slice));
    return new Map(rest.flatMap((slice) => [...this.visit(slice)]));
  }
}

