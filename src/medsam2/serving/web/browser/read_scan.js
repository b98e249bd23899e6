/** Read a scan from a file that was dropped: its content says of which kind it is. */

import { HEADER_BYTES, niftiHeader, niftiLayout, niftiVolume } from "../nifti.js";
import { browserFault, ELSEWHERE, SentenceError } from "./failures.js";
import { readNrrd } from "./nrrd.js";
import { firstBytes, readBytes, streamOf, zipEntries } from "./packed.js";

/**
 * @typedef {Object} Scan
 * @property {import("../volume.js").Volume} volume
 * @property {string|null} modality  "CT", "MR" and so on, where the file says it.
 * @property {[number, number]|null} fileWindow  The window that the file names.
 * @property {import("../nifti.js").NiftiHeader|null} nifti  Its header, if it was NIfTI.
 * @property {import("./dicom.js").Series|null} dicom  The series, if it was DICOM.
 * @property {string[]} notes  Sentences about what was chosen.
 */

const READ = "NIfTI (.nii, .nii.gz), NRRD, DICOM folders and zips of these are read here.";
/** The beginnings of files that people drop by mistake, or that only the program reads. */
const OTHERS = [
  { starts: "ObjectType", what: "MetaImage", isScan: true },
  { starts: "\x89PNG", what: "a picture (PNG)", isScan: true },
  { starts: "\xff\xd8\xff", what: "a picture (JPEG)", isScan: true },
  { starts: "\x89HDF", what: "HDF5", isScan: false },
  { starts: "%PDF", what: "a PDF", isScan: false },
  { starts: "solid", what: "a surface (STL)", isScan: false },
];

/**
 * Read a scan.
 * @param {Blob} blob
 * @param {string} name
 * @returns {Promise<Scan>}
 * @throws {SentenceError} It is no scan, is damaged, or is too large.
 */
export async function readScan(blob, name) {
  const fault = browserFault();
  if (fault) throw new SentenceError(fault);
  if (!blob.size) throw new SentenceError(`The file is empty. ${READ}`);
  const start = await firstBytes(await streamOf(blob), HEADER_BYTES);
  const text = String.fromCharCode(...new Uint8Array(start));
  if (text.startsWith("PK\x03\x04")) return readZip(blob);
  if (text.startsWith("NRRD000")) return { ...(await readNrrd(blob)), modality: null, fileWindow: null, nifti: null, dicom: null, notes: [] };
  if (text.slice(128, 132) === "DICM") return readDicomFiles([{ name, read: () => blob.arrayBuffer() }]);
  const header = niftiHeader(start);
  if (header) return readNiftiFile(blob, header, text);
  throw new SentenceError(refusal(text, name));
}

async function readNiftiFile(blob, header, text) {
  const magic = text.slice(...(header.version === 1 ? [344, 347] : [4, 7]));
  if (magic === "ni1" || magic === "ni2") throw new SentenceError("The file is half of a pair (.hdr and .img). Save the scan as one file, .nii or .nii.gz.");
  if (magic !== "n+1" && magic !== "n+2") throw new SentenceError("The file is ANALYZE 7.5, which does not tell left from right. Convert it to NIfTI where it comes from.");
  const layout = niftiLayout(header);
  const bytes = await readBytes(await streamOf(blob), layout.offset, layout.numBytes);
  return { volume: niftiVolume(header, bytes, 0), modality: null, fileWindow: null, nifti: header, dicom: null, notes: [] };
}

async function readZip(blob) {
  const entries = await zipEntries(blob);
  const files = entries.filter(({ name }) => !/(^|\/)(\.|__MACOSX)/.test(name) && !/(^|\/)DICOMDIR$/i.test(name));
  if (!files.length) throw new SentenceError(`The zip is empty. ${READ}`);
  if (files.some(({ name }) => name.endsWith(".npy"))) throw new SentenceError(`The file is NumPy's (.npz). ${READ} ${ELSEWHERE}`);
  if (files.length === 1) {
    const bytes = await files[0].read();
    if (new Uint8Array(bytes, 0, 2).toString() === "80,75") throw new SentenceError("The zip holds another zip. Unpack it first.");
    return readScan(new Blob([bytes]), files[0].name);
  }
  return readDicomFiles(files);
}

async function readDicomFiles(files) {
  const { readDicom } = await import("./dicom.js");
  return { nifti: null, ...(await readDicom(files)) };
}

function refusal(text, name) {
  const found = OTHERS.find(({ starts }) => text.startsWith(starts));
  if (found) return `The file is ${found.what}, ${found.isScan ? "which this page does not read" : "which is no scan"}. ${READ}${found.isScan ? ` ${ELSEWHERE}` : ""}`;
  if (/\.(dcm|ima)$/i.test(name)) return `The file is no complete DICOM file: it lacks the letters DICM at byte 128. ${READ}`;
  return `The file is no scan. ${READ}`;
}
