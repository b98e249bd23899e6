/**
 * The three planes of a scan: how they are turned for the screen, and where a point of the screen lies.
 *
 * A point (u, v) is a pixel of the shown slice, (x, y) one of the session's slice, a voxel (x, y, z) one of the file.
 */

/**
 * @typedef {Object} Plane
 * @property {number} axis  File axis along which its slices are stacked.
 * @property {string} name  "axial", "coronal" or "sagittal", the nearest one.
 * @property {number} across  File axis that runs across the screen.
 * @property {number} down  File axis that runs down the screen.
 * @property {boolean} isMirrored  Whether it runs to the left instead.
 * @property {boolean} isUpsideDown
 * @property {boolean} isReversed  Whether its slices are counted against the way that radiologists count them.
 * @property {number} width  Voxels across.
 * @property {number} height
 * @property {number} numSlices
 * @property {number} aspect  Height of a shown voxel divided by its width.
 * @property {string[]} sides  Letters of the left, right, upper and lower edge.
 */

// For slices across the patient's axes (to the right, front and head): the axis that runs to the right of the screen,
// the axis that runs down, and the direction of each; then the direction in which slices follow each other.
const NAMES = ["sagittal", "coronal", "axial"];
const ACROSS = [{ axis: 1, sense: -1 }, { axis: 0, sense: -1 }, { axis: 0, sense: -1 }];
const DOWN = [{ axis: 2, sense: -1 }, { axis: 2, sense: -1 }, { axis: 1, sense: -1 }];
const THROUGH = [-1, -1, 1];
const LETTERS = [["L", "R"], ["P", "A"], ["I", "S"]];

/**
 * The planes of a volume, one for each file axis.
 * @param {import("./volume.js").Volume} volume
 * @returns {Plane[]}
 */
export function planesOf(volume) {
  const directions = directionsOf(volume.affine);
  return [2, 1, 0].map((axis) => {
    const normal = directions[axis].axis;
    const across = directions.findIndex((direction) => direction.axis === ACROSS[normal].axis);
    const down = directions.findIndex((direction) => direction.axis === DOWN[normal].axis);
    const letters = (which, sense) => LETTERS[which][sense > 0 ? 1 : 0];
    return {
      axis,
      name: NAMES[normal],
      across,
      down,
      isMirrored: directions[across].sense !== ACROSS[normal].sense,
      isUpsideDown: directions[down].sense !== DOWN[normal].sense,
      isReversed: directions[axis].sense !== THROUGH[normal],
      width: volume.size[across],
      height: volume.size[down],
      numSlices: volume.size[axis],
      aspect: volume.spacing[down] / volume.spacing[across],
      sides: [
        letters(ACROSS[normal].axis, -ACROSS[normal].sense),
        letters(ACROSS[normal].axis, ACROSS[normal].sense),
        letters(DOWN[normal].axis, -DOWN[normal].sense),
        letters(DOWN[normal].axis, DOWN[normal].sense),
      ],
    };
  });
}

/** For each file axis the nearest axis of the patient. Each is taken once; the closest pair is matched first. */
function directionsOf(affine) {
  const columns = [0, 1, 2].map((axis) => {
    const column = affine.map((row) => row[axis]);
    const length = Math.hypot(...column) || 1;
    return column.map((part) => part / length);
  });
  /** @type {{axis: number, sense: number}[]} */
  const directions = [];
  const pairs = [0, 1, 2].flatMap((file) => [0, 1, 2].map((axis) => ({ file, axis })));
  pairs.sort((a, b) => Math.abs(columns[b.file][b.axis]) - Math.abs(columns[a.file][a.axis]));
  for (const { file, axis } of pairs) {
    if (directions[file] || directions.some((direction) => direction?.axis === axis)) continue;
    directions[file] = { axis, sense: columns[file][axis] < 0 ? -1 : 1 };
  }
  return directions;
}

/**
 * The voxel at a point of a shown slice. Pixel centres are whole numbers on both sides.
 * @param {Plane} plane
 * @param {number} u  Across the screen, in pixels of the slice.
 * @param {number} v  Down.
 * @param {number} slice
 * @returns {[number, number, number]}
 */
export function toVoxel(plane, u, v, slice) {
  /** @type {[number, number, number]} */
  const voxel = [0, 0, 0];
  voxel[plane.axis] = slice;
  voxel[plane.across] = plane.isMirrored ? plane.width - 1 - u : u;
  voxel[plane.down] = plane.isUpsideDown ? plane.height - 1 - v : v;
  return voxel;
}

/**
 * The inverse of `toVoxel`: the point (u, v) at which a voxel is shown.
 * @returns {[number, number]}
 */
export function fromVoxel(plane, voxel) {
  const u = voxel[plane.across];
  const v = voxel[plane.down];
  return [plane.isMirrored ? plane.width - 1 - u : u, plane.isUpsideDown ? plane.height - 1 - v : v];
}

/** File axes that are x and y of a slice of the session. */
export function sliceAxes(axis) {
  const [x, y] = [0, 1, 2].filter((other) => other !== axis);
  return { x, y };
}

/**
 * A box on the screen as the session takes it: pixels of the slice, both ends inside it.
 * @param {Plane} plane
 * @param {[number, number]} from  A corner, (u, v).
 * @param {[number, number]} to  The opposite one.
 * @returns {number[]} [x_min, y_min, x_max, y_max]
 */
export function sliceBox(plane, from, to) {
  const [x0, y0] = slicePoint(plane, from[0], from[1]);
  const [x1, y1] = slicePoint(plane, to[0], to[1]);
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
}

/** The nearest pixel (x, y) of the session's slice to a point (u, v). */
export function slicePoint(plane, u, v) {
  const voxel = toVoxel(plane, ...nearestPixel(plane, u, v), 0);
  const { x, y } = sliceAxes(plane.axis);
  return [voxel[x], voxel[y]];
}

/**
 * The inverse of `slicePoint`.
 * @returns {[number, number]} (u, v)
 */
export function shownPoint(plane, x, y) {
  const axes = sliceAxes(plane.axis);
  const voxel = [0, 0, 0];
  voxel[axes.x] = x;
  voxel[axes.y] = y;
  return fromVoxel(plane, voxel);
}

/**
 * The pixel of the shown slice that is nearest to a point.
 * @returns {[number, number]} (u, v)
 */
export function nearestPixel(plane, u, v) {
  return [clampIndex(Math.round(u), plane.width), clampIndex(Math.round(v), plane.height)];
}

/** The index from 0 to `size` - 1 that is nearest. */
export const clampIndex = (index, size) => Math.min(size - 1, Math.max(0, index));
