/** Slices as the network sees them: windowed, cut and resampled, as `inference/features.py` does it. */

import { findWindow, scaling } from "./window.js";

const KEPT = 64; // views of slices: each is shown with its neighbours
const FIXED_BITS = 22; // of Pillow's weights

/** The slices of one scan. */
export class Slices {
  /**
   * @param {import("./segmenter.js").OpenVolume} volume
   * @param {number} size  Side of the network's input.
   * @throws {Error} The numbers do not fit the shape, or there is nothing to see.
   */
  constructor(volume, size) {
    const { voxels, shape, slope = 1, shift = 0 } = volume;
    const count = shape[0] * shape[1] * shape[2];
    if (voxels.length !== count || !count) {
      throw new Error(`A scan of ${shape.join(" x ")} voxels has ${count}, not ${voxels.length}.`);
    }
    const [depth, height, width] = shape;
    const { window, source } = findWindow(volume);
    this.voxels = voxels;
    this.count = depth;
    this.height = height;
    this.width = width;
    this.window = window;
    this.source = source;
    this.size = size;
    this.valueOf = scaling(voxels, slope, shift);
    /** @type {Map<string, Float32Array>} */
    this.kept = new Map();
  }

  /**
   * A view of a slice, 0 to 1; beyond either end, the last slice there.
   * @param {import("./view.js").View} view
   * @param {number} index
   */
  greys(view, index) {
    const slice = Math.min(Math.max(index, 0), this.count - 1);
    const key = `${slice} ${view.x} ${view.y} ${view.width} ${view.height}`;
    let greys = this.kept.get(key);
    if (!greys) greys = Float32Array.from(resample(this.cut(view, slice), view, this.size), (grey) => grey / 255);
    this.kept.delete(key);
    this.kept.set(key, greys);
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return greys;
  }

  /** A view of a slice in 0..255, 0 beyond its edge. */
  cut(view, slice) {
    const part = new Uint8Array(view.width * view.height);
    const [lower, upper] = this.window;
    const [left, right] = [Math.max(view.x, 0), Math.min(view.x + view.width, this.width)];
    for (let y = Math.max(view.y, 0); y < Math.min(view.y + view.height, this.height); y++) {
      const row = (slice * this.height + y) * this.width;
      let to = (y - view.y) * view.width + left - view.x;
      for (let at = row + left; at < row + right; at++) {
        const value = Math.min(Math.max(this.valueOf(this.voxels[at]), lower), upper);
        part[to++] = ((value - lower) / (upper - lower)) * 255; // cut off; NaN is 0
      }
    }
    return part;
  }
}

/**
 * For each of `count` places along `length` pixels: the first pixel that it is made of, and the weights of this and
 * the next ones, by a triangle that widens where pixels are joined.
 */
function weightsOf(length, count) {
  const scale = length / count;
  const reach = Math.max(scale, 1);
  return Array.from({ length: count }, (_, place) => {
    const middle = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(middle - reach + 0.5), 0);
    const end = Math.min(Math.trunc(middle + reach + 0.5), length);
    const weights = Array.from({ length: end - first }, (_, at) => {
      return Math.max(1 - Math.abs((at + first - middle + 0.5) * (1 / reach)), 0);
    });
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

/** Resample greys of a view to a square as Pillow does: rows, then columns, each rounded to 8 bits. */
export function resample(part, { width, height }, size) {
  const fixed = (length) => weightsOf(length, size).map(({ first, weights }) => {
    return { first, weights: Int32Array.from(weights, (weight) => weight * (1 << FIXED_BITS) + 0.5) };
  });
  const half = 1 << (FIXED_BITS - 1);
  const across = width === size ? part : new Uint8Array(height * size);
  if (width !== size) {
    fixed(width).forEach(({ first, weights }, x) => {
      for (let y = 0; y < height; y++) {
        let sum = half;
        for (let at = 0; at < weights.length; at++) sum += part[y * width + first + at] * weights[at];
        across[y * size + x] = sum >> FIXED_BITS;
      }
    });
  }
  if (height === size) return across;
  const resampled = new Uint8Array(size * size);
  fixed(height).forEach(({ first, weights }, y) => {
    for (let x = 0; x < size; x++) {
      let sum = half;
      for (let at = 0; at < weights.length; at++) sum += across[(first + at) * size + x] * weights[at];
      resampled[y * size + x] = sum >> FIXED_BITS;
    }
  });
  return resampled;
}

/**
 * Resample a drawn mask to 0 and 1 in a view, as PyTorch does with antialiasing.
 * @param {import("./view.js").Patch} patch
 * @param {import("./view.js").View} view
 * @param {number} size
 */
export function resampleMask(patch, view, size) {
  const part = new Float32Array(view.width * view.height);
  for (let y = 0; y < patch.height; y++) {
    const row = y + patch.top - view.y;
    for (let x = 0; x < patch.width && row >= 0 && row < view.height; x++) {
      const column = x + patch.left - view.x;
      if (column >= 0 && column < view.width) part[row * view.width + column] = patch.inside[y * patch.width + x];
    }
  }
  if (view.width === size && view.height === size) return part;
  const across = new Float32Array(view.height * size);
  weightsOf(view.width, size).forEach(({ first, weights }, x) => {
    for (let y = 0; y < view.height; y++) across[y * size + x] = weighted(part, y * view.width + first, 1, weights);
  });
  const found = new Float32Array(size * size);
  weightsOf(view.height, size).forEach(({ first, weights }, y) => {
    for (let x = 0; x < size; x++) {
      found[y * size + x] = Number(weighted(across, first * size + x, size, weights) >= 0.5);
    }
  });
  return found;
}

function weighted(values, from, step, weights) {
  let sum = 0;
  weights.forEach((weight, at) => (sum = Math.fround(sum + values[from + at * step] * Math.fround(weight))));
  return sum;
}
