/** Which part of a slice the network looks at, and the way between pixels of both: `inference/zoom.py`. */

/**
 * @typedef {Object} View  A rectangle of a slice, in its pixels; it may reach beyond the slice's edge.
 * @property {number} x  Left column.
 * @property {number} y  Top row.
 * @property {number} width
 * @property {number} height
 * @property {boolean} isZoomed  Whether it follows the object.
 */

/**
 * @typedef {Object} Patch  The part of a slice that may hold an object.
 * @property {number} left
 * @property {number} top
 * @property {number} width
 * @property {number} height
 * @property {Uint8Array} inside  Row by row, 1 inside.
 */

/** @typedef {{xMin: number, yMin: number, xMax: number, yMax: number}} Extent  Both ends included. */

/** Round as Python does: a half goes to the even neighbour. */
export function roundEven(value) {
  const nearest = Math.round(value);
  return nearest - value === 0.5 && nearest % 2 !== 0 ? nearest - 1 : nearest;
}

export const isSameView = (a, b) => a.x === b.x && a.y === b.y && a.width === b.width && a.height === b.height;

/** @typedef {[number, number]} Place  x and y. */

/** Where a point of the slice lies in an input of `size` pixels a side; `shift` is 0.5 to map middles to middles. */
export function toInput(view, x, y, size, shift = view.isZoomed ? 0.5 : 0) {
  return [
    (x + shift - view.x) * (size / view.width) - shift,
    (y + shift - view.y) * (size / view.height) - shift,
  ];
}

/** First and last pixel of the input that a box covers, as x_min, y_min, x_max, y_max. */
export function boxToInput(view, [xMin, yMin, xMax, yMax], size) {
  if (!view.isZoomed) return [...toInput(view, xMin, yMin, size), ...toInput(view, xMax, yMax, size)];
  const [across, down] = [size / view.width, size / view.height];
  const start = [(xMin - view.x) * across, (yMin - view.y) * down];
  return [...start, (xMax + 1 - view.x) * across - 1, (yMax + 1 - view.y) * down - 1];
}

/**
 * The box around a mask; null around an empty one.
 * @param {Patch} patch
 * @returns {Extent|null}
 */
export function extentOfMask({ left, top, width, height, inside }) {
  let [xMin, xMax, yMin, yMax] = [width, -1, -1, -1];
  for (let y = 0; y < height; y++) {
    const row = inside.subarray(y * width, (y + 1) * width);
    const first = row.indexOf(1);
    if (first < 0) continue;
    if (yMin < 0) yMin = y;
    yMax = y;
    xMin = Math.min(xMin, first);
    xMax = Math.max(xMax, row.lastIndexOf(1));
  }
  return xMax < 0 ? null : { xMin: xMin + left, yMin: yMin + top, xMax: xMax + left, yMax: yMax + top };
}

/** @returns {Extent} The box around everything that a prompt points at. */
function extentOf(prompt) {
  if (prompt.mask) return extentOfMask(prompt.mask);
  const [x0, y0, x1, y1] = prompt.box ?? [];
  const xs = [...(prompt.box ? [x0, x1] : []), ...prompt.points.map(({ x }) => x)];
  const ys = [...(prompt.box ? [y0, y1] : []), ...prompt.points.map(({ y }) => y)];
  return { xMin: Math.min(...xs), yMin: Math.min(...ys), xMax: Math.max(...xs), yMax: Math.max(...ys) };
}

/** @returns {Place} */
const centerOf = ({ xMin, yMin, xMax, yMax }) => [(xMin + xMax) / 2, (yMin + yMax) / 2];
/** @returns {Place} */
const middleOf = (view) => [view.x + (view.width - 1) / 2, view.y + (view.height - 1) / 2];
const longestSide = ({ xMin, yMin, xMax, yMax }) => Math.max(xMax - xMin, yMax - yMin) + 1;

/** The views of slices of one size. */
export class Views {
  /**
   * @param {any} chain  What chain.json says.
   * @param {number} height
   * @param {number} width
   */
  constructor(chain, height, width) {
    this.constants = chain.constants;
    this.zooms = chain.config.zoom;
    this.height = height;
    this.width = width;
    this.longest = Math.max(height, width);
  }

  /** @returns {View} Close to a box or a drawn mask; see `ofClicks` for clicks. */
  ofPrompt(prompt) {
    if (!this.zooms) return { x: 0, y: 0, width: this.width, height: this.height, isZoomed: false };
    return this.around(extentOf(prompt));
  }

  /** @returns {View[]} Clicks do not tell how large the object is: from close up to the whole slice. */
  ofClicks(prompt) {
    const extent = extentOf(prompt);
    const { view_over_box: overBox, least_view_side: least, look_growth: growth } = this.constants;
    const views = [];
    for (let side = Math.max(least, (longestSide(extent) * overBox) / 2); side < this.longest; side *= growth) {
      views.push(this.square(centerOf(extent), roundEven(side)));
    }
    return [...views, this.square(centerOf(extent), this.longest)];
  }

  /** @returns {View} Close to a mask; as before where it is empty. */
  ofMask(patch, view) {
    const extent = extentOfMask(patch);
    return extent ? this.around(extent) : view;
  }

  /** @returns {View} Where a view moves with a mask that has moved, grown or shrunk by more than a little. */
  follow(view, patch) {
    const extent = extentOfMask(patch);
    if (!extent || !view.isZoomed) return view;
    const { view_growth: growth, view_is_kept_within: kept, view_most_drift: most } = this.constants;
    let side = Math.min(this.closeSide(extent), this.longest);
    const center = centerOf(extent);
    const drift = Math.max(...middleOf(view).map((place, axis) => Math.abs(place - center[axis])));
    if (kept[0] < side / view.width && side / view.width < kept[1]) {
      side = view.width;
      if (drift <= most * side) return view;
    }
    return this.square(center, roundEven(Math.min(Math.max(side, view.width / growth), view.width * growth)));
  }

  /** @returns {View} Wider around its middle. */
  grow(view) {
    return this.square(middleOf(view), roundEven(view.width * this.constants.view_growth));
  }

  /** @returns {View} As wide as it must be to cover what a prompt points at. */
  growTo(view, prompt) {
    const extent = extentOf(prompt);
    for (;;) {
      const { top, bottom, left, right } = this.bounds(view);
      const isCovered = left <= Math.max(extent.xMin, 0) && Math.min(extent.xMax, this.width - 1) < right
        && top <= Math.max(extent.yMin, 0) && Math.min(extent.yMax, this.height - 1) < bottom;
      const wider = this.grow(view);
      if (isCovered || isSameView(wider, view)) return view;
      view = wider;
    }
  }

  /** Rows and columns of the slice that a view covers, ends excluded. */
  bounds({ x, y, width, height }) {
    return {
      top: Math.max(y, 0), bottom: Math.min(y + height, this.height),
      left: Math.max(x, 0), right: Math.min(x + width, this.width),
    };
  }

  /** Whether a mask, whose patch is all that a view covers, reaches an edge of it that is not the slice's. */
  touchesBorder({ left, top, width, height, inside }) {
    const hasRow = (y) => inside.subarray(y * width, (y + 1) * width).includes(1);
    const hasColumn = (x) => inside.some((value, at) => value === 1 && at % width === x);
    return (left > 0 && hasColumn(0)) || (top > 0 && hasRow(0))
      || (left + width < this.width && hasColumn(width - 1)) || (top + height < this.height && hasRow(height - 1));
  }

  closeSide(extent) {
    return Math.max(this.constants.least_view_side, longestSide(extent) * this.constants.view_over_box);
  }

  around(extent) {
    return this.square(centerOf(extent), roundEven(this.closeSide(extent)));
  }

  /** @returns {View} A square, moved to lie in the slice where it can. */
  square(/** @type {Place} */ [x, y], side) {
    side = Math.min(side, this.longest);
    const start = (center, length) => {
      if (side >= length) return Math.floor((length - side) / 2);
      return Math.min(Math.max(roundEven(center + 0.5 - side / 2), 0), length - side);
    };
    return { x: start(x, this.width), y: start(y, this.height), width: side, height: side, isZoomed: true };
  }
}
