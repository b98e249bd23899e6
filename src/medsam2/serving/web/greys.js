/** Cut slices out of a scan as grey pictures, and find windows for them. */

/** Windows by name, as the command line has them; the keys 1 to 6 choose them. */
export const WINDOWS = [
  { name: "abdomen", limits: [-160, 240] },
  { name: "liver", limits: [-45, 105] },
  { name: "mediastinum", limits: [-125, 225] },
  { name: "lung", limits: [-1350, 150] },
  { name: "bone", limits: [-500, 1300] },
  { name: "brain", limits: [0, 80] },
];

/**
 * A slice as it is shown.
 * @param {import("./nifti.js").Volume} volume
 * @param {import("./planes.js").Plane} plane
 * @param {number} slice
 * @param {number[]} window  Lower and upper grey value.
 * @returns {ImageData}
 */
export function sliceImage(volume, plane, slice, window) {
  const image = new ImageData(plane.width, plane.height);
  const pixels = new Uint32Array(image.data.buffer);
  const { start, across, down } = stepsOf(volume, plane, slice);
  const gain = (255 * volume.slope) / (window[1] - window[0]);
  const offset = (255 * (volume.shift - window[0])) / (window[1] - window[0]);
  const { voxels } = volume;
  for (let v = 0, to = 0; v < plane.height; v++) {
    let from = start + v * down;
    for (let u = 0; u < plane.width; u++, to++, from += across) {
      const value = voxels[from] * gain + offset;
      const grey = value <= 0 ? 0 : value >= 255 ? 255 : value | 0;
      pixels[to] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
  }
  return image;
}

/** The grey value of a voxel (x, y, z), in the scan's own units. */
export function valueAt(volume, [x, y, z]) {
  const [nx, ny] = volume.size;
  return volume.voxels[(z * ny + y) * nx + x] * volume.slope + volume.shift;
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

/** First voxel of a shown slice, and how far one goes for a pixel across and down. */
function stepsOf(volume, plane, slice) {
  const [nx, ny] = volume.size;
  const strides = [1, nx, nx * ny];
  let start = slice * strides[plane.axis];
  if (plane.isMirrored) start += (plane.width - 1) * strides[plane.across];
  if (plane.isUpsideDown) start += (plane.height - 1) * strides[plane.down];
  return {
    start,
    across: (plane.isMirrored ? -1 : 1) * strides[plane.across],
    down: (plane.isUpsideDown ? -1 : 1) * strides[plane.down],
  };
}
