/** A scan: its voxels, its place in space and its grey values. */

/**
 * @typedef {Object} Volume
 * @property {[number, number, number]} size  Voxels along x, y and z of the file.
 * @property {ArrayLike<number>} voxels  As stored, x fastest.
 * @property {number} slope
 * @property {number} shift  A grey value is voxel * slope + shift.
 * @property {number[][]} affine  3 rows of 4: voxel (x, y, z, 1) to right, front, head in mm.
 * @property {number[]} spacing  Millimetres along x, y and z of the file.
 */

/**
 * Steps in `voxels` along x, y and z of the file.
 * @param {number[]} size  As a volume's.
 */
export const stridesOf = ([nx, ny]) => [1, nx, nx * ny];

export const columnOf = (affine, axis) => affine.map((row) => row[axis]);

/** Millimetres along x, y and z of a grid. */
export const spacingOf = (affine) => [0, 1, 2].map((axis) => Math.hypot(...columnOf(affine, axis)));

/** The cross product of two vectors in space. */
export const cross = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d];

/** How many cubic millimetres a voxel has; below 0 where the axes run as those of a left hand do. */
export function determinant(affine) {
  const z = columnOf(affine, 2);
  return cross(columnOf(affine, 0), columnOf(affine, 1)).reduce((sum, part, i) => sum + part * z[i], 0);
}

/** The grey value of a voxel (x, y, z), in the scan's own units. */
export function valueAt(volume, [x, y, z]) {
  const strides = stridesOf(volume.size);
  return volume.voxels[x + y * strides[1] + z * strides[2]] * volume.slope + volume.shift;
}

/** The least and the greatest grey value, of a sample of a large scan. */
export function rangeOf(volume) {
  const step = Math.max(1, Math.floor(volume.voxels.length / 500_000));
  let [low, high] = [Infinity, -Infinity];
  for (let at = 0; at < volume.voxels.length; at += step) {
    const value = volume.voxels[at];
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low * volume.slope + volume.shift, high * volume.slope + volume.shift];
}
