/** Measure objects in the patient's units: volume, slices, RECIST's diameters and grey values, as measure/sizes.py does. */

import { sliceAxes } from "../planes.js";
import { columnOf, determinant, stridesOf } from "../volume.js";
import { hullOf, longestOf, widestAcross } from "./outline.js";

const CORNERS = [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]];
const LEAST_SHARE = 1 / 3; // so that an oblique line of pixels has two sides
const NO_SHEAR = 1e-6;

/**
 * Measure all objects.
 * @param {Uint8Array} labels  x fastest, an object's number inside it.
 * @param {import("../volume.js").Volume} volume  The scan on the same grid.
 * @param {number} axis  File axis along which slices are stacked.
 * @param {number[]} objects
 */
export function measureObjects(labels, volume, axis, objects) {
  const found = new Map(objects.map((object) => [object, collect()]));
  const strides = stridesOf(volume.size);
  const axes = sliceAxes(axis);
  const [width, height, numSlices] = [volume.size[axes.x], volume.size[axes.y], volume.size[axis]];
  for (let z = 0; z < numSlices; z++) {
    for (let y = 0; y < height; y++) {
      let at = z * strides[axis] + y * strides[axes.y];
      for (let x = 0; x < width; x++, at += strides[axes.x]) {
        if (labels[at]) found.get(labels[at])?.add(x, y, z, volume.voxels[at] * volume.slope + volume.shift);
      }
    }
  }
  const voxelMl = Math.abs(determinant(volume.affine)) / 1000;
  const toMm = inPlaneMm(volume.affine, axes);
  return objects.map((label) => {
    const { ends, greys } = found.get(label);
    return {
      label, name: `object ${label}`, num_voxels: greys.count, volume_ml: greys.count * voxelMl, num_slices: ends.size,
      diameters: diametersOf(ends, toMm), intensities: greys.summary(),
    };
  });
}

/** The voxels of an object: the ends of its rows in each slice, and its grey values. */
function collect() {
  /** @type {Map<number, Map<number, [number, number]>>} */
  const ends = new Map();
  const greys = new Greys();
  const add = (x, y, z, grey) => {
    let rows = ends.get(z);
    if (!rows) ends.set(z, (rows = new Map()));
    const row = rows.get(y);
    if (row) row[1] = x;
    else rows.set(y, [x, x]);
    greys.add(grey);
  };
  return { ends, greys, add };
}

/** Mean and deviation of grey values, found in one pass (Welford 1962). Those that are not finite do not count. */
class Greys {
  count = 0;
  num = 0;
  mean = 0;
  squares = 0;
  min = Infinity;
  max = -Infinity;

  add(grey) {
    this.count++;
    if (!Number.isFinite(grey)) return;
    const step = grey - this.mean;
    this.mean += step / ++this.num;
    this.squares += step * (grey - this.mean);
    if (grey < this.min) this.min = grey;
    if (grey > this.max) this.max = grey;
  }

  summary() {
    if (!this.num) return null;
    return { mean: this.mean, std: Math.sqrt(this.squares / this.num), min: this.min, max: this.max };
  }
}

/** The matrix that turns steps (x, y) in pixels of a slice into millimetres along x and at right angles to it. */
function inPlaneMm(affine, axes) {
  const [alongX, alongY] = [columnOf(affine, axes.x), columnOf(affine, axes.y)];
  const [xMm, yMm] = [Math.hypot(...alongX), Math.hypot(...alongY)];
  const cosine = alongX.reduce((sum, part, i) => sum + part * alongY[i], 0) / (xMm * yMm);
  if (Math.abs(cosine) < NO_SHEAR) return [[xMm, 0], [0, yMm]];
  return [[xMm, cosine * yMm], [0, Math.sqrt(1 - cosine * cosine) * yMm]];
}

/** The longest axis within a slice, and the longest at right angles to it in the same slice; null without voxels. */
function diametersOf(ends, toMm) {
  let best = null;
  for (const slice of [...ends.keys()].sort((a, b) => a - b)) {
    const outline = outlineMm(ends.get(slice), toMm);
    const longest = longestOf(outline);
    if (!best || longest.length > best.longest.length) best = { slice, outline, longest };
  }
  if (!best) return null;
  const { slice, outline, longest } = best;
  const [from, to] = longest.ends;
  const direction = [(to[0] - from[0]) / longest.length, (to[1] - from[1]) / longest.length];
  return {
    slice_index: slice,
    long: { length_mm: longest.length },
    short: { length_mm: widestAcross(outline, direction) },
  };
}

/**
 * The convex outline of an object in a slice, in mm. The outline around the middles of the pixels is moved out by a
 * share of half a pixel: the part of it that runs along rows, and along columns.
 */
function outlineMm(rows, toMm) {
  const taut = hullOf([...rows].flatMap(([y, [first, last]]) => [[first, y], [last, y]]));
  const shares = [shareAlong(taut, 0), shareAlong(taut, 1)].map((share) => Math.max(share, LEAST_SHARE));
  const moved = taut.flatMap(([x, y]) => CORNERS.map(([dx, dy]) => [x + dx * shares[0], y + dy * shares[1]]));
  return hullOf(moved).map(([x, y]) => [toMm[0][0] * x + toMm[0][1] * y, toMm[1][1] * y]);
}

/** The part of an outline's extent along an axis that runs exactly along it, of both sides. */
function shareAlong(outline, along) {
  const places = outline.map((point) => point[along]);
  const extent = Math.max(...places) - Math.min(...places);
  if (!extent) return 1;
  const straight = outline.reduce((sum, point, i) => {
    const next = outline[(i + 1) % outline.length];
    return sum + (point[1 - along] === next[1 - along] ? Math.abs(next[along] - point[along]) : 0);
  }, 0);
  return straight / (2 * extent);
}
