/** A scan: its voxels and its place in space, read from a NIfTI file, and its grey values. */

/**
 * @typedef {Object} Volume
 * @property {[number, number, number]} size  Voxels along x, y and z of the file.
 * @property {ArrayLike<number>} voxels  As stored, x fastest.
 * @property {number} slope
 * @property {number} shift  A grey value is voxel * slope + shift.
 * @property {number[][]} affine  3 rows of 4: voxel (x, y, z, 1) to right, front, head in mm.
 * @property {number[]} spacing  Millimetres along x, y and z of the file.
 */

const TYPES = {
  2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 64: Float64Array,
  256: Int8Array, 512: Uint16Array, 768: Uint32Array,
};
const HEADER_SIZE = 348;

/**
 * Unpack and read a .nii.gz file, or a .nii file.
 * @param {ArrayBuffer} bytes
 * @returns {Promise<Volume>}
 */
export async function readNifti(bytes) {
  const start = new Uint8Array(bytes, 0, 2);
  const file = start[0] === 0x1f && start[1] === 0x8b ? await unpack(bytes) : bytes;
  const view = new DataView(file);
  const isLittle = view.getInt32(0, true) === HEADER_SIZE;
  if (!isLittle && view.getInt32(0, false) !== HEADER_SIZE) throw new Error("The server's answer is not a NIfTI file.");
  const Type = TYPES[view.getInt16(70, isLittle)];
  if (!Type) throw new Error(`The page cannot show voxels of NIfTI's type ${view.getInt16(70, isLittle)}.`);
  const [x, y, z] = [42, 44, 46].map((at) => Math.max(1, view.getInt16(at, isLittle)));
  const slope = view.getFloat32(112, isLittle);
  const affine = affineOf(view, isLittle);
  return {
    size: [x, y, z],
    voxels: voxelsOf(file, Type, view.getFloat32(108, isLittle), x * y * z, isLittle),
    slope: slope || 1,
    shift: slope ? view.getFloat32(116, isLittle) : 0,
    affine,
    spacing: [0, 1, 2].map((axis) => Math.hypot(...affine.map((row) => row[axis]))),
  };
}

/**
 * Steps in `voxels` along x, y and z of the file.
 * @param {number[]} size  As a volume's.
 */
export const stridesOf = ([nx, ny]) => [1, nx, nx * ny];

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

async function unpack(bytes) {
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

function voxelsOf(file, Type, offset, count, isLittle) {
  const size = Type.BYTES_PER_ELEMENT;
  // A view where possible: a large scan should not be in memory twice.
  if (isLittle && offset % size === 0) return new Type(file, offset, count);
  const bytes = file.slice(offset, offset + count * size);
  if (!isLittle && size > 1) {
    const all = new Uint8Array(bytes);
    for (let at = 0; at < all.length; at += size) all.subarray(at, at + size).reverse();
  }
  return new Type(bytes, 0, count);
}

function affineOf(view, isLittle) {
  const float = (at) => view.getFloat32(at, isLittle);
  if (view.getInt16(254, isLittle) > 0) {
    return [280, 296, 312].map((row) => [0, 4, 8, 12].map((column) => float(row + column)));
  }
  if (view.getInt16(252, isLittle) > 0) return fromQuaternion(float);
  return [0, 1, 2].map((row) => [0, 1, 2, 3].map((column) => (row === column ? float(80 + 4 * row) : 0)));
}

function fromQuaternion(float) {
  const [b, c, d] = [float(256), float(260), float(264)];
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const turn = [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
  ];
  const steps = [float(80), float(84), float(88) * (float(76) < 0 ? -1 : 1)];
  return turn.map((row, i) => [...row.map((part, axis) => part * steps[axis]), float(268 + 4 * i)]);
}
