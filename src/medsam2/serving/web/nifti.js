/** Read NIfTI-1 and NIfTI-2, and write labels on the grid of a scan. The rules are those of imaging/formats/nifti.py. */

import { columnOf, cross, determinant, spacingOf } from "./volume.js";

/**
 * @typedef {Object} NiftiHeader  The fields that say how voxels are stored and where they lie.
 * @property {1|2} version
 * @property {boolean} isLittle
 * @property {number[]} dim
 * @property {number[]} pixdim
 * @property {number} dimInfo
 * @property {number} datatype
 * @property {number} offset  First byte of the voxels.
 * @property {number} slope
 * @property {number} shift
 * @property {number} units
 * @property {number} qformCode
 * @property {number} sformCode
 * @property {number[]} quaternion  b, c, d, then the offsets along x, y and z.
 * @property {number[]} rows  The 12 numbers of the sform.
 */

const TYPES = {
  2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 64: Float64Array,
  256: Int8Array, 512: Uint16Array, 768: Uint32Array, 1024: BigInt64Array, 1280: BigUint64Array,
};
const REFUSED = { 1: "single bits", 32: "complex numbers", 128: "colours", 1792: "complex numbers", 2304: "colours" };
const SIZES = [348, 540];
const MM_PER_UNIT = { 1: 1000, 2: 1, 3: 0.001 };
const SCANNER = 1;
const UINT8 = 2;

/** How many bytes at the beginning of a file hold the header. */
export const HEADER_BYTES = 544;

/**
 * The fields of a header.
 * @param {ArrayBufferLike} bytes  The beginning of an unpacked file.
 * @returns {NiftiHeader|null} null where this is no NIfTI file.
 */
export function niftiHeader(bytes) {
  if (bytes.byteLength < SIZES[0]) return null;
  const view = new DataView(bytes);
  const isLittle = SIZES.includes(view.getInt32(0, true));
  const size = view.getInt32(0, isLittle);
  if (!SIZES.includes(size) || bytes.byteLength < size) return null;
  const fields = fieldsOf(view, size === SIZES[0] ? 1 : 2, isLittle);
  return { version: size === SIZES[0] ? 1 : 2, isLittle, ...fields };
}

/** Fields of both versions: a position, and how many bytes a number has there. */
function fieldsOf(view, version, isLittle) {
  const isFirst = version === 1;
  const int16 = (at) => view.getInt16(at, isLittle);
  const int32 = (at) => view.getInt32(at, isLittle);
  const int64 = (at) => Number(view.getBigInt64(at, isLittle));
  const real = (at) => (isFirst ? view.getFloat32(at, isLittle) : view.getFloat64(at, isLittle));
  const many = (count, start, size, read) => Array.from({ length: count }, (_, i) => read(start + i * size));
  const step = isFirst ? 4 : 8;
  return {
    dim: isFirst ? many(8, 40, 2, int16) : many(8, 16, 8, int64),
    pixdim: many(8, isFirst ? 76 : 104, step, real),
    dimInfo: view.getUint8(isFirst ? 39 : 524),
    datatype: int16(isFirst ? 70 : 12),
    offset: isFirst ? real(108) : int64(168),
    slope: real(isFirst ? 112 : 176),
    shift: real(isFirst ? 116 : 184),
    units: isFirst ? view.getUint8(123) : int32(500),
    qformCode: isFirst ? int16(252) : int32(344),
    sformCode: isFirst ? int16(254) : int32(348),
    quaternion: many(6, isFirst ? 256 : 352, step, real),
    rows: many(12, isFirst ? 280 : 400, step, real),
  };
}

/**
 * What a header says about the voxels.
 * @param {NiftiHeader} header
 * @throws {Error} The voxels are no single numbers, or there are several volumes.
 */
export function niftiLayout(header) {
  const [numDims, ...sizes] = header.dim;
  const dims = sizes.slice(0, numDims);
  if (!(numDims >= 2 && numDims <= 7) || dims.some((size) => size < 1)) {
    throw new Error(`The header names the dimensions ${dims.join(" x ")}; the file is damaged.`);
  }
  const frames = dims.slice(3).reduce((product, size) => product * size, 1);
  if (frames > 1) {
    throw new Error(`The file holds ${frames} volumes (${dims.join(" x ")}). Save one of them as a file of its own, with three dimensions.`);
  }
  const Type = TYPES[header.datatype];
  if (!Type) {
    throw new Error(`The voxels are ${REFUSED[header.datatype] ?? `of the unknown type ${header.datatype}`}; whole numbers and floats are read.`);
  }
  const size = [dims[0], dims[1], dims[2] ?? 1];
  const count = size[0] * size[1] * size[2];
  return { size, count, Type, offset: header.offset, numBytes: count * Type.BYTES_PER_ELEMENT };
}

/**
 * A volume from a header and its voxels.
 * @param {NiftiHeader} header
 * @param {ArrayBufferLike} buffer
 * @param {number} offset  Where the voxels begin in it.
 * @returns {import("./volume.js").Volume}
 */
export function niftiVolume(header, buffer, offset) {
  const { size, count, Type } = niftiLayout(header);
  const isScaled = header.slope !== 0 && Number.isFinite(header.slope);
  const affine = niftiAffine(header);
  return {
    size: [size[0], size[1], size[2]],
    voxels: voxelsOf(buffer, Type, offset, count, header.isLittle),
    slope: isScaled ? header.slope : 1,
    shift: isScaled ? header.shift : 0,
    affine,
    spacing: spacingOf(affine),
  };
}

/**
 * Unpack and read a .nii.gz file, or a .nii file.
 * @param {ArrayBuffer} bytes
 * @returns {Promise<import("./volume.js").Volume>}
 */
export async function readNifti(bytes) {
  const start = new Uint8Array(bytes, 0, 2);
  const file = start[0] === 0x1f && start[1] === 0x8b ? await unpack(bytes) : bytes;
  const header = niftiHeader(file);
  if (!header) throw new Error("The file is not a NIfTI file.");
  return niftiVolume(header, file, header.offset);
}

async function unpack(bytes) {
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

function voxelsOf(file, Type, offset, count, isLittle) {
  const size = Type.BYTES_PER_ELEMENT;
  // A view where possible: a large scan should not be in memory twice.
  const isView = isLittle && offset % size === 0;
  const bytes = isView ? file : file.slice(offset, offset + count * size);
  if (!isLittle && size > 1) {
    const all = new Uint8Array(bytes);
    for (let at = 0; at < all.length; at += size) all.subarray(at, at + size).reverse();
  }
  const voxels = new Type(bytes, isView ? offset : 0, count);
  return size === 8 && Type !== Float64Array ? Float64Array.from(voxels, Number) : voxels;
}

/** The affine, 3 rows of 4, voxel (x, y, z, 1) to right, front, head in mm. */
function niftiAffine(header) {
  const mm = MM_PER_UNIT[header.units & 7] ?? 1;
  const rows = header.sformCode > 0
    ? [0, 4, 8].map((at) => header.rows.slice(at, at + 4))
    : header.qformCode > 0 ? fromQuaternion(header) : withoutPlace(header.pixdim);
  const affine = rows.map((row) => row.map((value) => value * mm));
  // A single slice without thickness is 1 mm thick.
  for (const axis of [0, 1, 2]) {
    const isSingle = axis >= header.dim[0] || header.dim[axis + 1] === 1;
    if (!isSingle || affine.some((row) => row[axis] !== 0)) continue;
    const normal = cross(columnOf(affine, (axis + 1) % 3), columnOf(affine, (axis + 2) % 3));
    const length = Math.hypot(...normal) || 1;
    affine.forEach((row, i) => (row[axis] = normal[i] / length));
  }
  if (!affine.flat().every(Number.isFinite) || Math.abs(determinant(affine)) === 0) {
    throw new Error("The header does not say where the voxels lie; the file is damaged.");
  }
  return affine;
}

// The grid that ITK assumes: x to the left, y to the back, the first voxel at the origin.
const withoutPlace = (pixdim) => [[-pixdim[1], 0, 0, 0], [0, -pixdim[2], 0, 0], [0, 0, pixdim[3] || 1, 0]];

function fromQuaternion({ quaternion, pixdim }) {
  const [b, c, d, ...origin] = quaternion;
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const turn = [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
  ];
  const steps = [pixdim[1], pixdim[2], (pixdim[3] || 1) * (pixdim[0] < 0 ? -1 : 1)];
  return turn.map((row, i) => [...row.map((part, axis) => part * steps[axis]), origin[i]]);
}

/**
 * A NIfTI file with labels, a byte a voxel, not packed. The grid of a scan from NIfTI is written to the bit as it was;
 * texts of that file are not written, since they can name the patient.
 * @param {Uint8Array} labels  x fastest.
 * @param {import("./volume.js").Volume} volume  The scan that they belong to.
 * @param {NiftiHeader|null} header  Of the scan's file; null if it was no NIfTI.
 * @returns {Blob}
 */
export function writeNifti(labels, volume, header) {
  const { version, isLittle, dim, pixdim, dimInfo, units, qformCode, sformCode, quaternion, rows } = header ?? headerFor(volume);
  const isFirst = version === 1;
  const offset = isFirst ? 352 : 544;
  const view = new DataView(new ArrayBuffer(offset));
  const real = (at, value) => (isFirst ? view.setFloat32(at, value, isLittle) : view.setFloat64(at, value, isLittle));
  const whole = (at, value, size) => (size === 2 ? view.setInt16(at, value, isLittle) : size === 4 ? view.setInt32(at, value, isLittle) : view.setBigInt64(at, BigInt(value), isLittle));
  const step = isFirst ? 4 : 8;
  const dims = [3, dim[1], dim[2], dim[0] > 2 ? dim[3] : 1, 1, 1, 1, 1];
  whole(0, SIZES[version - 1], 4);
  dims.forEach((value, i) => (isFirst ? whole(40 + 2 * i, value, 2) : whole(16 + 8 * i, value, 8)));
  pixdim.forEach((value, i) => real((isFirst ? 76 : 104) + step * i, i === 3 && value === 0 ? 1 : value));
  view.setUint8(isFirst ? 39 : 524, dimInfo);
  whole(isFirst ? 70 : 12, UINT8, 2);
  whole(isFirst ? 72 : 14, 8, 2);
  if (isFirst) real(108, offset);
  else whole(168, offset, 8);
  real(isFirst ? 112 : 176, 1);
  if (isFirst) view.setUint8(123, units);
  else whole(500, units, 4);
  whole(isFirst ? 252 : 344, qformCode, isFirst ? 2 : 4);
  whole(isFirst ? 254 : 348, sformCode, isFirst ? 2 : 4);
  quaternion.forEach((value, i) => real((isFirst ? 256 : 352) + step * i, value));
  rows.forEach((value, i) => real((isFirst ? 280 : 400) + step * i, value));
  const magic = isFirst ? [110, 43, 49, 0] : [110, 43, 50, 0, 13, 10, 26, 10];
  magic.forEach((byte, i) => view.setUint8((isFirst ? 344 : 4) + i, byte));
  return new Blob([view.buffer, /** @type {any} */ (labels)]);
}

/** A header for a scan that was no NIfTI: its affine, and the same as a quaternion where it has right angles. */
function headerFor({ size, affine, spacing }) {
  const turn = affine.map((row) => row.slice(0, 3).map((value, axis) => value / spacing[axis]));
  const isMirrored = determinant(turn) < 0;
  const [b, c, d] = quaternionOf(turn.map((row) => [row[0], row[1], isMirrored ? -row[2] : row[2]]));
  return {
    version: 1, isLittle: true, dim: [3, ...size, 1, 1, 1, 1], pixdim: [isMirrored ? -1 : 1, ...spacing, 1, 1, 1, 1],
    dimInfo: 0, units: 2, qformCode: SCANNER, sformCode: SCANNER,
    quaternion: [b, c, d, ...columnOf(affine, 3)], rows: affine.flat(),
  };
}

/** The parts b, c and d of the quaternion of a rotation, with a part a that is not negative. */
function quaternionOf(m) {
  // Each part's size follows from the diagonal; the largest one gives the signs of the others.
  const squares = [
    1 + m[0][0] + m[1][1] + m[2][2], 1 + m[0][0] - m[1][1] - m[2][2],
    1 - m[0][0] + m[1][1] - m[2][2], 1 - m[0][0] - m[1][1] + m[2][2],
  ];
  const largest = squares.indexOf(Math.max(...squares));
  const half = Math.sqrt(Math.max(squares[largest], 1e-12)) * 2;
  const [yz, zx, xy] = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]];
  const [xyPlus, zxPlus, yzPlus] = [m[1][0] + m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2]];
  const parts = [
    [half / 4, yz / half, zx / half, xy / half],
    [yz / half, half / 4, xyPlus / half, zxPlus / half],
    [zx / half, xyPlus / half, half / 4, yzPlus / half],
    [xy / half, zxPlus / half, yzPlus / half, half / 4],
  ][largest];
  return parts.slice(1).map((part) => (parts[0] < 0 ? -part : part));
}
