/** Read NRRD files that have their voxels in the same file. */

import { spacingOf } from "../volume.js";
import { SentenceError } from "./failures.js";
import { readBytes, streamOf } from "./packed.js";

const HEADER_BYTES = 1 << 20;
const TYPES = {
  "signed char": Int8Array, int8: Int8Array, int8_t: Int8Array,
  "unsigned char": Uint8Array, uchar: Uint8Array, uint8: Uint8Array, uint8_t: Uint8Array,
  short: Int16Array, "short int": Int16Array, "signed short": Int16Array, "signed short int": Int16Array, int16: Int16Array, int16_t: Int16Array,
  ushort: Uint16Array, "unsigned short": Uint16Array, "unsigned short int": Uint16Array, uint16: Uint16Array, uint16_t: Uint16Array,
  int: Int32Array, "signed int": Int32Array, int32: Int32Array, int32_t: Int32Array,
  uint: Uint32Array, "unsigned int": Uint32Array, uint32: Uint32Array, uint32_t: Uint32Array,
  float: Float32Array, double: Float64Array,
};
/** The signs that turn a space's axes to right, front and head. */
const SPACES = {
  "left-posterior-superior": [-1, -1, 1], lps: [-1, -1, 1],
  "right-anterior-superior": [1, 1, 1], ras: [1, 1, 1],
  "left-anterior-superior": [-1, 1, 1], las: [-1, 1, 1],
};

/**
 * Read a scan from a NRRD file.
 * @param {Blob} blob
 * @returns {Promise<{volume: import("../volume.js").Volume}>}
 * @throws {SentenceError} It is damaged, or not three dimensions of single numbers.
 */
export async function readNrrd(blob) {
  const start = new TextDecoder("latin1").decode(await blob.slice(0, HEADER_BYTES).arrayBuffer());
  const end = /\r?\n\r?\n/.exec(start);
  if (!end) throw new SentenceError("The NRRD header does not end, or its voxels lie in another file. Save header and voxels as one file, .nrrd.");
  const fields = fieldsOf(start.slice(0, end.index));
  const { size, Type } = layoutOf(fields);
  const count = size[0] * size[1] * size[2];
  const bytes = await voxelBytes(blob.slice(end.index + end[0].length), fields, count * Type.BYTES_PER_ELEMENT);
  if (fields.get("endian") === "big") reverse(new Uint8Array(bytes), Type.BYTES_PER_ELEMENT);
  const affine = affineOf(fields);
  return { volume: { size, voxels: new Type(bytes), slope: 1, shift: 0, affine, spacing: spacingOf(affine) } };
}

function fieldsOf(header) {
  const fields = new Map();
  for (const line of header.split(/\r?\n/).slice(1)) {
    const found = /^([^#:][^:]*): (.*)$/.exec(line);
    if (found) fields.set(found[1].trim().toLowerCase(), found[2].trim());
  }
  return fields;
}

function layoutOf(fields) {
  if (fields.has("data file") || fields.has("datafile")) {
    throw new SentenceError("The voxels of this NRRD lie in another file. Save header and voxels as one file, .nrrd.");
  }
  const sizes = (fields.get("sizes") ?? "").split(/\s+/).map(Number);
  if (sizes.length !== 3 || !sizes.every((size) => Number.isInteger(size) && size > 0)) {
    throw new SentenceError(`The NRRD has the sizes ${fields.get("sizes") ?? "of nothing"}; a scan has three dimensions and one number a voxel.`);
  }
  const Type = TYPES[(fields.get("type") ?? "").toLowerCase()];
  if (!Type) throw new SentenceError(`The voxels of this NRRD are of the type ${fields.get("type")}; whole numbers of at most 32 bits and floats are read.`);
  return { size: /** @type {[number, number, number]} */ (sizes), Type };
}

async function voxelBytes(blob, fields, numBytes) {
  const encoding = (fields.get("encoding") ?? "raw").toLowerCase();
  const skip = Number(fields.get("byte skip") ?? fields.get("byteskip") ?? 0);
  if (encoding === "raw") return readBytes(blob.stream(), skip < 0 ? blob.size - numBytes : skip, numBytes);
  if (encoding === "gzip" || encoding === "gz") return readBytes(await streamOf(blob), 0, numBytes);
  throw new SentenceError(`The voxels of this NRRD are encoded as ${encoding}; raw and gzip are read.`);
}

function reverse(bytes, size) {
  for (let at = 0; at < bytes.length; at += size) bytes.subarray(at, at + size).reverse();
}

function affineOf(fields) {
  const signs = SPACES[(fields.get("space") ?? "lps").toLowerCase()];
  if (!signs) throw new SentenceError(`The NRRD lies in the space ${fields.get("space")}; left-posterior-superior and right-anterior-superior are read.`);
  const vectors = [...(fields.get("space directions") ?? "").matchAll(/\(([^)]*)\)/g)].map((one) => one[1].split(",").map(Number));
  const spacings = (fields.get("spacings") ?? "1 1 1").split(/\s+/).map(Number);
  const directions = vectors.length === 3 ? vectors : [0, 1, 2].map((axis) => [0, 1, 2].map((i) => (i === axis ? spacings[axis] || 1 : 0)));
  const origin = /\(([^)]*)\)/.exec(fields.get("space origin") ?? "")?.[1].split(",").map(Number) ?? [0, 0, 0];
  const affine = [0, 1, 2].map((row) => [...directions.map((vector) => vector[row]), origin[row]].map((value) => signs[row] * value));
  if (!affine.flat().every(Number.isFinite)) throw new SentenceError("The NRRD does not say where its voxels lie; the file is damaged.");
  return affine;
}
