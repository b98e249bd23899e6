/** The masks of all objects, slice by slice, and the run lengths in which the server sends them. */

import { sliceAxes } from "./planes.js";
import { stridesOf } from "./volume.js";

const BITS = 0x1f;
const SIGN = 0x10;
const MORE = 0x20;
const FIRST = 48;

/**
 * @typedef {Object} Patch  The part of a slice that holds an object.
 * @property {number} x
 * @property {number} y
 * @property {number} width
 * @property {number} height
 * @property {Uint8Array} inside  Row by row, 1 inside.
 */

export class Masks {
  /**
   * @param {number} height  Of a slice of the session.
   * @param {number} width
   */
  constructor(height, width) {
    this.height = height;
    this.width = width;
    /** @type {Map<number, Map<number, Patch>>} */
    this.objects = new Map();
  }

  /** Set a slice's mask from run lengths; without run lengths the object is not in the slice. */
  set(object, slice, rle) {
    this.setMask(object, slice, rle ? decodeRle(rle, this.height, this.width) : null);
  }

  /** Set a slice's mask, a byte a pixel, row by row. */
  setMask(object, slice, mask) {
    let slices = this.objects.get(object);
    if (!slices) this.objects.set(object, (slices = new Map()));
    const patch = mask && patchOf(mask, this.height, this.width);
    if (patch) slices.set(slice, patch);
    else slices.delete(slice);
  }

  /** @returns {Patch|undefined} */
  patch(object, slice) {
    return this.objects.get(object)?.get(slice);
  }

  /** A copy of the whole slice, a byte a pixel. */
  mask(object, slice) {
    const whole = new Uint8Array(this.height * this.width);
    const patch = this.patch(object, slice);
    if (patch) copyRows(patch, whole, this.width);
    return whole;
  }

  /** The slice's run lengths, as the server expects them. */
  rle(object, slice) {
    return encodeRle(this.mask(object, slice), this.height, this.width);
  }

  /** Slices that an object is in, in order. */
  slices(object) {
    return [...(this.objects.get(object)?.keys() ?? [])].sort((a, b) => a - b);
  }

  numVoxels(object) {
    let count = 0;
    for (const patch of this.objects.get(object)?.values() ?? []) for (const inside of patch.inside) count += inside;
    return count;
  }

  remove(object) {
    this.objects.delete(object);
  }

  clear() {
    this.objects.clear();
  }
}

/** Whether a pixel of the slice lies in a patch. */
export function isInside(patch, x, y) {
  const column = x - patch.x;
  const row = y - patch.y;
  return column >= 0 && row >= 0 && column < patch.width && row < patch.height
    && patch.inside[row * patch.width + column] === 1;
}

function copyRows(patch, whole, width) {
  for (let row = 0; row < patch.height; row++) {
    const from = patch.inside.subarray(row * patch.width, (row + 1) * patch.width);
    whole.set(from, (patch.y + row) * width + patch.x);
  }
}

function patchOf(mask, height, width) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!mask[at]) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  if (right < 0) return null;
  const patch = { x: left, y: top, width: right - left + 1, height: bottom - top + 1, inside: new Uint8Array(0) };
  patch.inside = new Uint8Array(patch.width * patch.height);
  for (let row = 0; row < patch.height; row++) {
    for (let column = 0; column < patch.width; column++) {
      patch.inside[row * patch.width + column] = mask[(top + row) * width + left + column] ? 1 : 0;
    }
  }
  return patch;
}

/**
 * Write a mask as the compressed run lengths of COCO.
 * @param {Uint8Array} mask  Row by row, not 0 inside.
 * @param {number} height
 * @param {number} width
 */
export function encodeRle(mask, height, width) {
  const runs = [];
  let value = 0;
  let length = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const here = mask[y * width + x] ? 1 : 0;
      if (here !== value) {
        runs.push(length);
        length = 0;
        value = here;
      }
      length++;
    }
  }
  runs.push(length);
  let text = "";
  runs.forEach((run, i) => {
    // From the fourth run on, COCO stores the difference from the last run but one.
    let rest = i > 2 ? run - runs[i - 2] : run;
    for (;;) {
      const group = rest & BITS;
      rest >>= 5;
      const isLast = rest === (group & SIGN ? -1 : 0);
      text += String.fromCharCode(group + (isLast ? 0 : MORE) + FIRST);
      if (isLast) break;
    }
  });
  return text;
}

/**
 * Read the compressed run lengths of COCO.
 * @param {string} text
 * @param {number} height
 * @param {number} width
 * @returns {Uint8Array} Row by row, 0 or 1.
 */
export function decodeRle(text, height, width) {
  const mask = new Uint8Array(height * width);
  const runs = [];
  let at = 0;
  let i = 0;
  while (i < text.length) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = text.charCodeAt(i++) - FIRST;
      value |= (code & BITS) << shift;
      shift += 5;
    } while (code & MORE);
    if (code & SIGN && shift < 32) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    if (runs.length % 2) fillColumns(mask, at, value, height, width);
    runs.push(value);
    at += value;
  }
  return mask;
}

function fillColumns(mask, start, length, height, width) {
  for (let at = start; at < start + length; at++) mask[(at % height) * width + Math.floor(at / height)] = 1;
}

/**
 * The labels of a file as prompts: a mask for each object on each slice.
 * @param {import("./volume.js").Volume} labels  0 outside, an object's number inside.
 * @param {number} axis  Along which slices are stacked.
 * @returns {import("./history.js").PromptStep[]}
 */
export function promptsFromLabels(labels, axis) {
  const axes = sliceAxes(axis);
  const strides = stridesOf(labels.size);
  const [width, height] = [labels.size[axes.x], labels.size[axes.y]];
  /** @type {import("./history.js").PromptStep[]} */
  const steps = [];
  for (let slice = 0; slice < labels.size[axis]; slice++) {
    /** @type {Map<number, Uint8Array>} */
    const masks = new Map();
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        const object = labels.voxels[slice * strides[axis] + y * strides[axes.y] + x * strides[axes.x]];
        if (!object) continue;
        if (!masks.has(object)) masks.set(object, new Uint8Array(width * height));
        masks.get(object)[at] = 1;
      }
    }
    for (const [object, mask] of masks) steps.push({ kind: "prompt", object, slice, mask: encodeRle(mask, height, width) });
  }
  return steps.sort((a, b) => a.object - b.object);
}
