/** The masks of all objects, kept slice by slice as small as they are. */

import { decodeRle, encodeRle } from "./rle.js";

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

  /** Take a slice's mask from run lengths; without any the object is not there. */
  set(object, slice, rle) {
    this.setMask(object, slice, rle ? decodeRle(rle, this.height, this.width) : null);
  }

  /** Take a slice's mask, a byte a pixel, row by row. */
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

  /** The whole slice as a byte a pixel, a copy. */
  mask(object, slice) {
    const whole = new Uint8Array(this.height * this.width);
    const patch = this.patch(object, slice);
    if (patch) copyRows(patch, whole, this.width);
    return whole;
  }

  /** The slice's run lengths, as the server takes them. */
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

  forget(object) {
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
