/**
 * A scan as the network sees it. Without a named plane, slices lie as in the file; with one, they are turned as
 * radiologists see them, as imaging/geometry.py does. Slices, points and masks of the session are in file axes.
 */

import { planesOf, sliceAxes } from "../planes.js";
import { stridesOf } from "../volume.js";
import { allocate } from "./failures.js";

export class Turn {
  /**
   * @param {import("../volume.js").Volume} volume
   * @param {string|null} planeName  "axial", "coronal" or "sagittal"; null for the file's third axis as it lies.
   */
  constructor(volume, planeName) {
    const plane = planeName ? planesOf(volume).find((one) => one.name === planeName) : null;
    this.volume = volume;
    this.axis = plane?.axis ?? 2;
    const axes = sliceAxes(this.axis);
    const { size } = volume;
    /** The session's shape: slices, rows and columns in file axes. */
    this.fileShape = [size[this.axis], size[axes.y], size[axes.x]];
    this.across = plane?.across ?? axes.x;
    this.down = plane?.down ?? axes.y;
    this.isSwapped = this.across !== axes.x;
    this.isReversed = plane?.isReversed ?? false;
    this.isUpsideDown = plane?.isUpsideDown ?? false;
    this.isMirrored = plane?.isMirrored ?? false;
    /** What the network sees: slices, rows and columns. */
    this.shape = [size[this.axis], size[this.down], size[this.across]];
  }

  /** Whether the network sees slices as they lie in memory. */
  get isPlain() {
    return this.axis === 2 && !this.isSwapped && !this.isReversed && !this.isUpsideDown && !this.isMirrored;
  }

  /** The voxels slice by slice, row by row, as the network sees them. */
  voxels() {
    const { voxels, size } = this.volume;
    if (this.isPlain) return voxels;
    const strides = stridesOf(size);
    const [numSlices, height, width] = this.shape;
    const along = this.isReversed ? -strides[this.axis] : strides[this.axis];
    const down = this.isUpsideDown ? -strides[this.down] : strides[this.down];
    const across = this.isMirrored ? -strides[this.across] : strides[this.across];
    const start = (this.isReversed ? (numSlices - 1) * strides[this.axis] : 0)
      + (this.isUpsideDown ? (height - 1) * strides[this.down] : 0)
      + (this.isMirrored ? (width - 1) * strides[this.across] : 0);
    const Type = /** @type {any} */ (voxels.constructor);
    const turned = new Type(allocate(voxels.length * Type.BYTES_PER_ELEMENT));
    for (let z = 0, to = 0; z < numSlices; z++) {
      for (let y = 0; y < height; y++) {
        let from = start + z * along + y * down;
        for (let x = 0; x < width; x++, to++, from += across) turned[to] = voxels[from];
      }
    }
    return turned;
  }

  /** The index of a slice for the network from the one in the file, or back. */
  slice(index) {
    return this.isReversed ? this.fileShape[0] - 1 - index : index;
  }

  /** A point (x, y) of the file's slice as the network sees it. */
  point([x, y]) {
    const [u, v] = this.isSwapped ? [y, x] : [x, y];
    const [, height, width] = this.shape;
    return [this.isMirrored ? width - 1 - u : u, this.isUpsideDown ? height - 1 - v : v];
  }

  /**
   * A box [x_min, y_min, x_max, y_max] as the network sees it.
   * @returns {[number, number, number, number]}
   */
  box([x0, y0, x1, y1]) {
    const [a, b] = [this.point([x0, y0]), this.point([x1, y1])];
    return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
  }

  /** A mask of the file's slice as the network sees it. */
  maskIn(mask) {
    return this.isPlain ? mask : this.copy(mask, (turned, file) => [turned, file]);
  }

  /** A mask of the network's as it lies in the file. */
  maskOut(mask) {
    return this.isPlain ? mask : this.copy(mask, (turned, file) => [file, turned]);
  }

  /** Copy a slice; `ways` says which of two places, the network's and the file's, is written and which is read. */
  copy(mask, ways) {
    const copied = new Uint8Array(mask.length);
    const [, height, width] = this.shape;
    const fileWidth = this.fileShape[2];
    for (let v = 0; v < height; v++) {
      for (let u = 0; u < width; u++) {
        const across = this.isMirrored ? width - 1 - u : u;
        const down = this.isUpsideDown ? height - 1 - v : v;
        const inFile = this.isSwapped ? across * fileWidth + down : down * fileWidth + across;
        const [to, from] = ways(v * width + u, inFile);
        copied[to] = mask[from];
      }
    }
    return copied;
  }
}
