/** From mask logits back to the slice, and connected parts: `inference/masks.py`, `imaging/labels.py`. */

import { roundEven } from "./view.js";

/** @typedef {import("./view.js").Patch} Patch */

const FILLED_LOGIT = 0.1; // SAM 2 sets filled holes to it

/** Where `count` places lie between `length` numbers that are joined linearly, as PyTorch has it. */
function placesOf(length, count) {
  const scale = Math.fround(length / count);
  return Array.from({ length: count }, (_, at) => {
    const place = Math.max(Math.fround(scale * (at + 0.5) - 0.5), 0);
    const first = Math.min(Math.trunc(place), length - 1);
    return { first, second: Math.min(first + 1, length - 1), share: Math.min(place - first, 1) };
  });
}

/** Resample numbers `(y, x)` to the rows and columns of some places. */
function interpolate(values, width, rows, columns) {
  const found = new Float32Array(rows.length * columns.length);
  let to = 0;
  for (const y of rows) {
    const [upper, lower] = [y.first * width, y.second * width];
    for (const { first, second, share } of columns) {
      const above = (1 - share) * values[upper + first] + share * values[upper + second];
      const below = (1 - share) * values[lower + first] + share * values[lower + second];
      found[to++] = (1 - y.share) * above + y.share * below;
    }
  }
  return found;
}

/**
 * Bring logits of a view to the pixels of the slice that it covers, those of `Views.bounds`.
 * @returns {{left: number, top: number, width: number, height: number, logits: Float32Array}}
 */
export function toSlice(logits, size, view, { top, bottom, left, right }) {
  const rows = placesOf(size, view.height).slice(top - view.y, bottom - view.y);
  const columns = placesOf(size, view.width).slice(left - view.x, right - view.x);
  return { left, top, width: right - left, height: bottom - top, logits: interpolate(logits, size, rows, columns) };
}

/** Bring logits of a part of a slice to another view; elsewhere the object is absent. */
export function toView(part, view, size, absent) {
  const padded = new Float32Array(view.width * view.height).fill(absent);
  for (let y = 0; y < part.height; y++) {
    const row = y + part.top - view.y;
    for (let x = 0; x < part.width && row >= 0 && row < view.height; x++) {
      const column = x + part.left - view.x;
      if (column >= 0 && column < view.width) padded[row * view.width + column] = part.logits[y * part.width + x];
    }
  }
  return interpolate(padded, view.width, placesOf(view.height, size), placesOf(view.width, size));
}

export const sigmoid = (logits) => logits.map((logit) => 1 / (1 + Math.exp(-logit)));

export const isAbove = (values, least) => Uint8Array.from(values, (value) => (value > least ? 1 : 0));

/**
 * Number the 8-connected parts of a mask from 1, in the order of their first pixels.
 * @param {ArrayLike<number>} mask  Not 0 inside.
 * @returns {{labels: Int32Array, count: number}}
 */
export function numberParts(mask, width, height) {
  const labels = new Int32Array(width * height);
  const waiting = [];
  let count = 0;
  for (let start = 0; start < labels.length; start++) {
    if (!mask[start] || labels[start]) continue;
    labels[start] = ++count;
    waiting.push(start);
    while (waiting.length) {
      const at = waiting.pop();
      const [x, y] = [at % width, Math.trunc(at / width)];
      for (let row = Math.max(y - 1, 0); row <= Math.min(y + 1, height - 1); row++) {
        for (let other = row * width + Math.max(x - 1, 0); other <= row * width + Math.min(x + 1, width - 1); other++) {
          if (!mask[other] || labels[other]) continue;
          labels[other] = count;
          waiting.push(other);
        }
      }
    }
  }
  return { labels, count };
}

function areasOf({ labels, count }) {
  const areas = new Int32Array(count + 1);
  for (const label of labels) areas[label]++;
  return areas;
}

/** The part with most pixels; of equals, the one that comes first. */
function largestPart(mask, width, height) {
  const parts = numberParts(mask, width, height);
  const areas = areasOf(parts).fill(0, 0, 1);
  const largest = areas.indexOf(Math.max(...areas));
  return parts.labels.map((label) => Number(label === largest && label > 0));
}

/** Drop the parts of a mask that do not touch the mask of the slice before: their logits become `dropped`. */
export function keepReaching(logits, before, size, dropped) {
  const { labels, count } = numberParts(isAbove(logits, 0), size, size);
  const met = new Uint8Array(count + 1);
  let isEmpty = true;
  before.forEach((share, at) => {
    if (share <= 0.5) return;
    met[labels[at]] = 1;
    isEmpty = false;
  });
  if (isEmpty) return logits;
  return logits.map((logit, at) => (labels[at] && !met[labels[at]] ? dropped : logit));
}

/** Fill holes of up to `mostArea` pixels, edges included, as SAM 2 does. */
export function fillHoles(logits, size, mostArea) {
  const parts = numberParts(logits.map((logit) => Number(!(logit > 0))), size, size);
  const areas = areasOf(parts);
  return logits.map((logit, at) => (parts.labels[at] && areas[parts.labels[at]] <= mostArea ? FILLED_LOGIT : logit));
}

/**
 * Take over what changed around each click, and keep the mask as it was elsewhere; see `merge_clicks` in
 * `inference/carried_track.py`.
 * @param {Float32Array} before  Logits that are corrected.
 * @param {Float32Array} after  Those that the network answered.
 * @param {[number, number, boolean][]} clicks  x, y and whether inside, in cells.
 * @param {number} size  Cells along a side.
 * @param {number} clicked  Logit of a clicked cell that the network would not give its user.
 */
export function mergeClicks(before, after, clicks, size, clicked) {
  const merged = before.slice();
  for (const [x, y, isInside] of clicks) {
    const [columns, rows] = [x, y].map((place) => Math.min(Math.max(place, 0), size - 1))
      .map((place) => [Math.floor(place), Math.ceil(place)]);
    const change = before.map((old, at) => Number(old > 0 !== after[at] > 0 && after[at] > 0 === isInside));
    const { labels } = numberParts(change, size, size);
    const near = new Set(cellsOf(rows, columns, size, 1).map((at) => labels[at]));
    near.delete(0);
    labels.forEach((label, at) => {
      if (near.has(label)) merged[at] = after[at];
    });
    for (const at of cellsOf(rows, columns, size, 0)) {
      if (merged[at] > 0 !== isInside) merged[at] = isInside ? clicked : -clicked;
    }
  }
  return merged;
}

/** Cells of some rows and columns, first and last given, with `around` more on each side. */
function cellsOf(rows, columns, size, around) {
  const cells = [];
  const [left, right] = [Math.max(columns[0] - around, 0), Math.min(columns[1] + around, size - 1)];
  for (let y = Math.max(rows[0] - around, 0); y <= Math.min(rows[1] + around, size - 1); y++) {
    for (let x = left; x <= right; x++) cells.push(y * size + x);
  }
  return cells;
}

/**
 * What of a prompted slice's mask is the object: parts connected to it in 3D are kept.
 * @param {Patch} patch
 * @returns {Uint8Array}  A byte a pixel of the patch.
 */
export function promptedPart(patch, prompt) {
  const { left, top, width, height, inside } = patch;
  if (prompt.mask) return inside;
  const seed = new Uint8Array(inside.length);
  const add = (part) => part.forEach((value, at) => (seed[at] |= value));
  if (prompt.box) {
    const [xMin, yMin, xMax, yMax] = prompt.box.map(roundEven);
    const isBoxed = (x, y) => x >= xMin && x <= xMax && y >= yMin && y <= yMax;
    add(largestPart(inside.map((value, at) => {
      return value && Number(isBoxed(left + (at % width), top + Math.trunc(at / width)));
    }), width, height));
  }
  const clicks = prompt.points.filter(({ isInside }) => isInside);
  for (const point of clicks) {
    const [x, y] = [roundEven(point.x) - left, roundEven(point.y) - top];
    if (x >= 0 && y >= 0 && x < width && y < height) seed[y * width + x] = 1;
  }
  if (!prompt.box && !clicks.length) add(largestPart(inside, width, height));
  return seed.map((value, at) => value & inside[at]);
}

/** The 3D parts of a mask that share a voxel with seeds, as slices become known in any order. */
export class ConnectedParts {
  /** @param {(slice: number) => Patch} maskAt */
  constructor(maskAt) {
    this.maskAt = maskAt;
    /** Of each piece, a part of one slice, the piece that stands for all it is joined with. Piece 0: all seeds. */
    this.leaders = [0];
    /** Slices of the pieces that a leader stands for. */
    this.slices = [[]];
    /** The piece before the first one of each slice. */
    this.starts = new Map();
    this.latest = new Map();
  }

  /**
   * Take in a slice.
   * @param {number} slice
   * @param {Uint8Array} [seed]  A byte a pixel of the slice's patch.
   * @returns {number[]}  Other slices in which more is kept than before, in order.
   */
  add(slice, seed) {
    const here = this.partsOf(slice);
    const start = this.leaders.length - 1;
    this.starts.set(slice, start);
    for (let label = 1; label <= here.count; label++) {
      this.leaders.push(start + label);
      this.slices.push([slice]);
    }
    const changed = [];
    seed?.forEach((value, at) => value && here.labels[at] && changed.push(...this.merge(0, start + here.labels[at])));
    for (const other of [slice - 1, slice + 1]) {
      if (!this.starts.has(other)) continue;
      for (const [there, label] of touching(this.partsOf(other), here)) {
        changed.push(...this.merge(this.starts.get(other) + there, start + label));
      }
    }
    return [...new Set(changed)].filter((z) => z !== slice).sort((a, b) => a - b);
  }

  /** @returns {Patch} What is kept in a slice that was added. */
  kept(slice) {
    const { labels, count, patch } = this.partsOf(slice);
    const [start, seeds] = [this.starts.get(slice), this.find(0)];
    const isKept = Array.from({ length: count + 1 }, (_, label) => label > 0 && this.find(start + label) === seeds);
    return { ...patch, inside: Uint8Array.from(labels, (label) => Number(isKept[label])) };
  }

  partsOf(slice) {
    if (!this.latest.has(slice)) {
      if (this.latest.size > 1) this.latest.delete(this.latest.keys().next().value);
      const patch = this.maskAt(slice);
      this.latest.set(slice, { patch, ...numberParts(patch.inside, patch.width, patch.height) });
    }
    return this.latest.get(slice);
  }

  find(piece) {
    while (this.leaders[piece] !== piece) piece = this.leaders[piece] = this.leaders[this.leaders[piece]];
    return piece;
  }

  /** Join two pieces; return the slices of the one that is connected to the seeds only now. */
  merge(one, other) {
    const seeds = this.find(0);
    let [kept, joining] = [this.find(one), this.find(other)];
    if (kept === joining) return [];
    if (joining === seeds) [kept, joining] = [joining, kept];
    const changed = kept === seeds ? this.slices[joining] : [];
    this.leaders[joining] = kept;
    this.slices[kept] = this.slices[kept].concat(this.slices[joining]);
    this.slices[joining] = [];
    return changed;
  }
}

/** Pairs of labels of two neighbouring slices that touch by a face, an edge or a corner. */
function touching(lower, upper) {
  const pairs = new Map();
  let last = 0; // pairs come in long runs, and a map is slow
  const { left, top, width, height } = lower.patch;
  upper.labels.forEach((label, at) => {
    if (!label) return;
    const x = (at % upper.patch.width) + upper.patch.left - left;
    const y = Math.trunc(at / upper.patch.width) + upper.patch.top - top;
    for (let row = Math.max(y - 1, 0); row <= Math.min(y + 1, height - 1); row++) {
      for (let column = Math.max(x - 1, 0); column <= Math.min(x + 1, width - 1); column++) {
        const there = lower.labels[row * width + column];
        const pair = there * (upper.count + 1) + label;
        if (there && pair !== last) pairs.set(pair, [there, label]);
        if (there) last = pair;
      }
    }
  });
  return pairs.values();
}
