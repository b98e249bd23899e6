/** Bytes of files that may be packed: gzip is unpacked while it is read, and a zip is opened without unpacking it whole. */

import { allocate, SentenceError } from "./failures.js";

const STORED = 0;
const DEFLATED = 8;
const END_SIGNATURE = 0x06054b50;
const ENTRY_SIGNATURE = 0x02014b50;
const END_BYTES = 22;
const LONGEST_COMMENT = 65535;
const MOST_ENTRIES = 20_000;

/** Whether a file is packed by gzip. */
export async function isGzip(blob) {
  const start = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  return start[0] === 0x1f && start[1] === 0x8b;
}

/** The bytes of a file, unpacked, as a stream. */
export async function streamOf(blob) {
  return (await isGzip(blob)) ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob.stream();
}

/**
 * The first bytes of a stream; fewer where it is shorter.
 * @param {ReadableStream<Uint8Array>} stream
 * @param {number} count
 * @returns {Promise<ArrayBuffer>}
 */
export async function firstBytes(stream, count) {
  const bytes = new Uint8Array(count);
  const length = await fill(stream, 0, bytes);
  return bytes.buffer.slice(0, length);
}

/**
 * So many bytes of a stream, behind those that are skipped.
 * @param {ReadableStream<Uint8Array>} stream
 * @param {number} skip
 * @param {number} count
 * @returns {Promise<ArrayBuffer>} Shared with the page where the browser allows it.
 * @throws {SentenceError} The stream is shorter or damaged, or there is no memory for it.
 */
export async function readBytes(stream, skip, count) {
  const buffer = allocate(count);
  const length = await fill(stream, skip, new Uint8Array(buffer));
  if (length < count) {
    throw new SentenceError(`The file ends early: ${length} of ${count} bytes of voxels are there. Copy it again from where it comes from.`);
  }
  return buffer;
}

/** Fill an array from a stream, and return how many bytes came. */
async function fill(stream, skip, bytes) {
  const reader = stream.getReader();
  let [left, at] = [skip, 0];
  try {
    while (at < bytes.length) {
      const { value, done } = await reader.read();
      if (done) break;
      const part = value.subarray(Math.min(left, value.length), Math.min(value.length, left + bytes.length - at));
      left = Math.max(0, left - value.length);
      bytes.set(part, at);
      at += part.length;
    }
  } catch (error) {
    // Bytes behind the end of a packed file are an error too, and then all that was packed is there.
    if (at < bytes.length) throw new SentenceError(`The file is damaged: it cannot be unpacked (${error.message}).`);
  } finally {
    reader.cancel().catch(() => {});
  }
  return at;
}

/**
 * The files in a zip.
 * @param {Blob} blob
 * @returns {Promise<{name: string, size: number, read: () => Promise<ArrayBuffer>}[]>}
 * @throws {SentenceError} It is damaged, or packed in a way that browsers do not know.
 */
export async function zipEntries(blob) {
  const tailStart = Math.max(0, blob.size - END_BYTES - LONGEST_COMMENT);
  const tail = new DataView(await blob.slice(tailStart).arrayBuffer());
  let end = tail.byteLength - END_BYTES;
  while (end >= 0 && tail.getUint32(end, true) !== END_SIGNATURE) end--;
  if (end < 0) throw new SentenceError("The zip is cut off: its list of files is missing.");
  const count = tail.getUint16(end + 10, true);
  const start = tail.getUint32(end + 16, true);
  if (count > MOST_ENTRIES || start === 0xffffffff) throw new SentenceError("The zip is too large for a tab. Unpack it and drop the folder of one series.");
  const view = new DataView(await blob.slice(start, start + tail.getUint32(end + 12, true)).arrayBuffer());
  const entries = [];
  for (let at = 0, i = 0; i < count; i++) {
    if (at + 46 > view.byteLength || view.getUint32(at, true) !== ENTRY_SIGNATURE) throw new SentenceError("The zip is damaged.");
    const lengths = [28, 30, 32].map((field) => view.getUint16(at + field, true));
    const name = new TextDecoder().decode(new Uint8Array(view.buffer, at + 46, lengths[0]));
    const entry = {
      method: view.getUint16(at + 10, true), packedSize: view.getUint32(at + 20, true), size: view.getUint32(at + 24, true),
      place: view.getUint32(at + 42, true), isSecret: (view.getUint16(at + 8, true) & 1) === 1,
    };
    if (!name.endsWith("/")) entries.push({ name, size: entry.size, read: () => readEntry(blob, entry) });
    at += 46 + lengths[0] + lengths[1] + lengths[2];
  }
  return entries;
}

async function readEntry(blob, { method, packedSize, size, place, isSecret }) {
  if (isSecret) throw new SentenceError("The zip has a password. Unpack it and drop the folder.");
  if (method !== STORED && method !== DEFLATED) throw new SentenceError("The zip is packed in a way that browsers do not know. Unpack it and drop the folder.");
  const head = new DataView(await blob.slice(place, place + 30).arrayBuffer());
  const start = place + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  const packed = blob.slice(start, start + packedSize);
  if (method === STORED) return packed.arrayBuffer();
  const stream = packed.stream().pipeThrough(new DecompressionStream("deflate-raw"));
  // The size is what the zip says; a small file that unpacks into a huge one ends there.
  const bytes = await firstBytes(stream, size);
  if (bytes.byteLength < size) throw new SentenceError("The zip is damaged.");
  return bytes;
}
