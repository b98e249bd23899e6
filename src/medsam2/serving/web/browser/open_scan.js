/** One open scan in the worker: its session with the engine, in the slices and pixels of the file. */

import { decodeRle, encodeRle } from "../masks.js";
import { stridesOf } from "../volume.js";
import { SentenceError } from "./failures.js";
import { measureObjects } from "./measure.js";
import { Turn } from "./turned.js";
import { writeMasks } from "./write_masks.js";

const CONFLICT = 409;

export class OpenScan {
  /**
   * @param {string} id
   * @param {string} name  What the file is called.
   * @param {import("./read_scan.js").Scan} scan
   * @param {string|null} plane
   * @param {import("../engine/segmenter.js").Segmenter} segmenter
   */
  constructor(id, name, scan, plane, segmenter) {
    this.id = id;
    this.name = name;
    this.scan = scan;
    this.segmenter = segmenter;
    this.turn = new Turn(scan.volume, plane);
    /** @type {number[]} */
    this.window = [0, 1];
    /** @type {Uint8Array|null} See `labels`; null after a change. */
    this.found = null;
  }

  /** Give the voxels to the engine. */
  start(window) {
    const { volume, modality, fileWindow } = this.scan;
    const [slices, height, width] = this.turn.shape;
    const found = this.segmenter.openVolume({
      voxels: this.turn.voxels(), shape: [slices, height, width], slope: volume.slope, shift: volume.shift, window,
      modality, fileWindow,
    });
    this.window = found.window;
  }

  /** The session as the server describes one. */
  describe() {
    const { id, name, window, turn } = this;
    return { id, name, shape: turn.fileShape, axis: turn.axis, window, notes: this.scan.notes, objects: [] };
  }

  /** Prompt an object on a slice, and give its mask there. */
  async addPrompt(/** @type {any} */ { object, slice, box, points, labels, mask }) {
    const [, height, width] = this.turn.fileShape;
    this.found = null;
    const found = await this.segmenter.addPrompt(object, {
      slice: this.turn.slice(slice),
      ...(box && { box: this.turn.box(box) }),
      ...(points && { points: points.map((point) => this.turn.point(point)), labels }),
      ...(mask !== undefined && { mask: this.turn.maskIn(decodeRle(mask, height, width)) }),
    });
    return { object, slice, size: [height, width], mask: this.rle(found.mask), confidence: found.score };
  }

  async remove(object, slice) {
    this.found = null;
    await this.segmenter.removePrompts(object, slice === undefined ? null : this.turn.slice(slice));
  }

  /** Segment all slices; each is an event as the server sends it. */
  async propagate(signal, onEvent) {
    const seen = new Set();
    this.found = null;
    for await (const { slice, of, masks } of this.segmenter.propagate({ signal })) {
      seen.add(slice);
      const found = [...masks].map(([object, mask]) => [object, this.rle(mask)]).filter(([, rle]) => rle);
      const scores = [...masks.keys()].map((object) => [object, this.segmenter.scores(object).get(slice)]);
      onEvent("slice", {
        slice: this.turn.slice(slice), done: seen.size, of, masks: Object.fromEntries(found),
        confidence: Object.fromEntries(scores.filter(([, score]) => score !== undefined)),
      });
      // WebAssembly never waits: without this, no message that asks to stop would be read before the end.
      await new Promise((resolve) => setTimeout(resolve));
    }
    if (!signal.aborted) onEvent("done", { num_slices: seen.size });
  }

  async undo() {
    this.found = null;
    if (!(await this.segmenter.undo())) throw Object.assign(new SentenceError("There is nothing to undo."), { status: CONFLICT });
  }

  async redo() {
    this.found = null;
    if (!(await this.segmenter.redo())) throw Object.assign(new SentenceError("There is nothing to redo."), { status: CONFLICT });
  }

  /** The masks of all slices, and how sure the network is of them. */
  readMasks() {
    /** @type {Record<number, Record<number, string>>} */
    const slices = {};
    /** @type {Record<number, Record<number, number>>} */
    const confidence = {};
    const { objects } = this.segmenter.status;
    // Of one object, the masks are the labels too: to find both takes as long again.
    const labels = objects.length === 1 ? this.emptyLabels() : null;
    for (const object of objects) {
      for (const { slice, mask } of this.segmenter.masks(object)) {
        const rle = this.rle(mask);
        if (labels) this.putLabels(labels, slice, mask, object);
        if (rle) (slices[this.turn.slice(slice)] ??= {})[object] = rle;
      }
      for (const [slice, score] of this.segmenter.scores(object)) (confidence[this.turn.slice(slice)] ??= {})[object] = score;
    }
    this.found = labels;
    return { size: this.turn.fileShape.slice(1), slices, confidence };
  }

  /** Measure all objects. */
  measure() {
    return { objects: measureObjects(this.labels(), this.scan.volume, this.turn.axis, this.segmenter.status.objects) };
  }

  /** The masks as a file. */
  export(type, names) {
    return writeMasks(type, this.name, this.labels(), this.scan, this.segmenter.status.objects, names);
  }

  /** All objects in one array of the file's order; no voxel belongs to two. */
  labels() {
    if (this.found) return this.found;
    const labels = this.emptyLabels();
    for (const { slice, labels: turned } of this.segmenter.labels()) this.putLabels(labels, slice, turned, 1);
    this.found = labels;
    return labels;
  }

  emptyLabels() {
    return new Uint8Array(this.scan.volume.size.reduce((product, size) => product * size));
  }

  /** Put a slice of the network's into labels: its numbers times `factor`. */
  putLabels(labels, slice, turned, factor) {
    const strides = stridesOf(this.scan.volume.size);
    const { axis, fileShape } = this.turn;
    const [alongX, alongY] = [0, 1, 2].filter((other) => other !== axis).map((other) => strides[other]);
    const found = this.turn.maskOut(turned);
    const start = this.turn.slice(slice) * strides[axis];
    for (let y = 0, at = 0; y < fileShape[1]; y++) {
      for (let x = 0; x < fileShape[2]; x++, at++) {
        if (found[at]) labels[start + y * alongY + x * alongX] = found[at] * factor;
      }
    }
  }

  /** The run lengths of a mask in the file's slice; null where it is empty. */
  rle(mask) {
    const [, height, width] = this.turn.fileShape;
    return mask.includes(1) ? encodeRle(this.turn.maskOut(mask), height, width) : null;
  }
}
