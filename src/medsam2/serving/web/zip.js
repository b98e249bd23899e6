/** Put files into a zip without packing them: how a DICOM folder is sent. */

const CRC_TABLE = new Uint32Array(256).map((_, n) => {
  let crc = n;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});
const STORED = 0;
const VERSION = 20;
const LONG_AGO = 0x21; // 1 January 1980, the least that a zip can say

/**
 * @param {File[]} files
 * @returns {Promise<Blob>} Files are called 1, 2, ...: their own names may name a patient.
 */
export async function zipOf(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [at, file] of files.entries()) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const name = new TextEncoder().encode(`${at + 1}.dcm`);
    const facts = [VERSION, 0, STORED, 0, LONG_AGO, [crcOf(bytes)], [bytes.length], [bytes.length], name.length, 0];
    const head = record(0x04034b50, facts, name);
    directory.push(record(0x02014b50, [VERSION, ...facts, 0, 0, 0, [0], [offset]], name));
    parts.push(head, bytes);
    offset += head.length + bytes.length;
  }
  const size = directory.reduce((sum, entry) => sum + entry.length, 0);
  const end = record(0x06054b50, [0, 0, files.length, files.length, [size], [offset], 0], new Uint8Array(0));
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** A record of a zip: numbers of 2 bytes, those in brackets of 4. */
function record(signature, values, name) {
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
