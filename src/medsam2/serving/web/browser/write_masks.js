/** Write masks as a file on exactly the grid of the scan. */

import { writeNifti } from "../nifti.js";
import { SentenceError } from "./failures.js";

const ENDINGS = /(\.nii|\.seg)?\.[A-Za-z0-9]{2,5}$/;
const LONGEST_STEM = 60;
const SUFFIXES = { nifti: ".nii.gz", nrrd: ".nrrd", "dicom-seg": ".dcm" };

/**
 * The masks as a file.
 * @param {string} type  A key of `SUFFIXES`.
 * @param {string} name  What the scan's file is called.
 * @param {Uint8Array} labels  x fastest, an object's number inside it.
 * @param {import("./read_scan.js").Scan} scan
 * @param {number[]} objects
 * @param {Record<number, string>} names  Of objects.
 * @returns {Promise<{blob: Blob, name: string}>}
 */
export async function writeMasks(type, name, labels, scan, objects, names) {
  const write = { nifti, nrrd, "dicom-seg": dicomSeg }[type];
  if (!write) throw new SentenceError(`This page does not write ${type}.`);
  return { blob: await write(labels, scan, objects, names), name: `${stemOf(name)}_mask${SUFFIXES[type]}` };
}

const nifti = async (labels, { volume, nifti: header }) => new Blob([await pack(writeNifti(labels, volume, header))]);

/** A NRRD file, in the axes of ITK and 3D Slicer: to the left, the back and the head. */
async function nrrd(labels, { volume: { size, affine } }) {
  const vector = (column) => `(${affine.map((row, i) => (i < 2 ? -row[column] : row[column]) + 0).join(",")})`;
  const lines = [
    "NRRD0004", "type: unsigned char", "dimension: 3", "space: left-posterior-superior", `sizes: ${size.join(" ")}`,
    `space directions: ${[0, 1, 2].map(vector).join(" ")}`, "kinds: domain domain domain", "encoding: gzip",
    `space origin: ${vector(3)}`, "", "",
  ];
  return new Blob([lines.join("\n"), await pack(new Blob([labels]))]);
}

async function dicomSeg(labels, scan, objects, names) {
  if (!scan.dicom) {
    throw new SentenceError("DICOM SEG refers to a DICOM series, and this scan was opened from another file. Export NIfTI instead.");
  }
  const there = new Set(labels);
  const { writeSeg } = await import("./dicom_seg.js");
  return writeSeg(labels, scan, objects.filter((object) => there.has(object)), names);
}

/** Bytes packed by gzip. */
function pack(blob) {
  return new Response(blob.stream().pipeThrough(new CompressionStream("gzip"))).arrayBuffer();
}

/** The letters, digits and `._-` of a scan's name, for the beginning of a file's name. */
function stemOf(name) {
  const safe = name.replace(ENDINGS, "").replace(/[^A-Za-z0-9._-]+/g, "_").slice(0, LONGEST_STEM);
  return safe.replace(/^[._-]+|[._-]+$/g, "") || "scan";
}
