/** Files of the browser: read what is dropped, zip it, save a result. */

const LINK_MS = 60_000;
const CRC_TABLE = new Uint32Array(256).map((_, n) => {
  let crc = n;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});
const STORED = 0;
const VERSION = 20;
const FIRST_DATE = 0x21; // 1 January 1980, the earliest that a zip can state

/**
 * Save a file, as a click on a link does.
 * @param {Blob} blob
 * @param {string} name
 */
export function saveFile(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), LINK_MS);
}

/** All files of a drop, also those in folders. */
export async function droppedFiles(transfer) {
  const entries = [...(transfer?.items ?? [])].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  // Files that a script has made have no entry.
  return entries.length ? (await Promise.all(entries.map(filesOf))).flat() : [...(transfer?.files ?? [])];
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const files = [];
  for (;;) {
    // A reader gives a hundred at a time, and none at the end.
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return files.flat();
    files.push(...(await Promise.all(entries.map(filesOf))));
  }
}

export async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

/**
 * Put files into a zip without compression, to send a DICOM folder.
 * @param {File[]} files
 * @returns {Promise<Blob>} The files get numbers as names, because their own names may name a patient.
 */
export async function zipFiles(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [at, file] of files.entries()) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const name = new TextEncoder().encode(`${at + 1}.dcm`);
    const fields = [VERSION, 0, STORED, 0, FIRST_DATE, [crcOf(bytes)], [bytes.length], [bytes.length], name.length, 0];
    const head = zipRecord(0x04034b50, fields, name);
    directory.push(zipRecord(0x02014b50, [VERSION, ...fields, 0, 0, 0, [0], [offset]], name));
    parts.push(head, bytes);
    offset += head.length + bytes.length;
  }
  const size = directory.reduce((sum, entry) => sum + entry.length, 0);
  const end = zipRecord(0x06054b50, [0, 0, files.length, files.length, [size], [offset], 0], new Uint8Array(0));
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** A record of a zip: numbers of 2 bytes, those in brackets of 4. */
function zipRecord(signature, values, name) {
  const bytes = new Uint8Array(4 + values.reduce((sum, value) => sum + (Array.isArray(value) ? 4 : 2), 0) + name.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, signature, true);
  let at = 4;
  for (const value of values) {
    if (Array.isArray(value)) view.setUint32(at, value[0], true);
    else view.setUint16(at, value, true);
    at += Array.isArray(value) ? 4 : 2;
  }
  bytes.set(name, at);
  return bytes;
}

function crcOf(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
