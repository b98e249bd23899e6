/** Read a DICOM series with dcmjs: choose it, sort its slices, and put their pixels into one volume. */

import { spacingOf } from "../volume.js";
import { PixelReader } from "./dicom_pixels.js";
import { placeSlices } from "./dicom_places.js";
import { ELSEWHERE, SentenceError } from "./failures.js";

/**
 * @typedef {Object} Series  What a segmentation refers to.
 * @property {Image[]} images  In the order of the volume's slices, without pixels.
 */

/**
 * @typedef {Object} Image  One slice.
 * @property {any} header
 * @property {number} frame  Of a file with several, from 0.
 * @property {number[]} position  LPS, mm.
 * @property {number[]} orientation  Along a row and down a column, LPS.
 * @property {number[]} spacing  Between rows and between columns, mm.
 * @property {number} thickness  mm
 * @property {number} slope
 * @property {number} shift
 * @property {any} shown  Elements with the window.
 */

const HIGHEST_MINIMUM = -100; // Hounsfield units: every CT has lower ones, as air has -1000
const MODALITIES = ["CT", "MR", "PT", "NM", "US"];
const FROM_FILE = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"];

/**
 * Read the series with the most slices.
 * @param {{name: string, read: () => Promise<ArrayBuffer>}[]} files
 * @returns {Promise<{volume: import("../volume.js").Volume, modality: string|null, fileWindow: [number, number]|null,
 *   dicom: Series, notes: string[]}>}
 * @throws {SentenceError} There is no series of slices, or a slice is missing, damaged or packed.
 */
export async function readDicom(files) {
  const dcmjs = await loadDcmjs();
  const headers = [];
  let num = 0;
  for (const file of files) {
    const header = await readHeader(dcmjs, file);
    if (header?.PixelData && header.Rows) headers.push(header);
    else if (header) num++;
  }
  if (!headers.length) {
    throw new SentenceError(num
      ? "The DICOM files hold no images but other things, such as reports or regions. Drop the folder of a scan."
      : "None of the files is a complete DICOM image. Drop the folder of one DICOM series, or NIfTI or NRRD.");
  }
  const { chosen, notes } = chooseSeries(headers);
  const [first] = chosen;
  checkPixels(first);
  const { images, affine, notes: placeNotes } = placeSlices(chosen.flatMap(imagesOf));
  const reader = new PixelReader(images);
  const volume = { ...reader.read(), affine, spacing: spacingOf(affine) };
  const isKnown = MODALITIES.includes(first.Modality) && !(first.Modality === "CT" && lacksUnit(images, reader.lowest));
  const modality = isKnown ? first.Modality : null;
  return {
    volume, modality, fileWindow: windowOf(images), dicom: { images },
    notes: [...notes, ...placeNotes],
  };
}

/** dcmjs is a script of the older kind, which leaves its name to all. */
export async function loadDcmjs() {
  // @ts-ignore: `medsam2 export web` puts it there.
  if (!globalThis.dcmjs) await import("../../runtime/dcmjs.min.js");
  // @ts-ignore
  return globalThis.dcmjs;
}

/** The elements of a file by their names, or null where it is no DICOM. */
async function readHeader({ data, log }, { read }) {
  log.setLevel("error");
  const bytes = await read();
  const { DicomMessage, DicomMetaDictionary } = data;
  try {
    const message = DicomMessage.readFile(bytes);
    const header = DicomMetaDictionary.naturalizeDataset(message.dict);
    header._meta = message.meta;
    header.syntax = message.meta["00020010"]?.Value?.[0] ?? "";
    return header;
  } catch {
    return null;
  }
}

function chooseSeries(headers) {
  /** @type {Map<string, any[]>} */
  const groups = new Map();
  for (const header of headers) {
    const frames = Number(header.NumberOfFrames ?? 1);
    const key = `${header.SeriesInstanceUID}${frames > 1 ? header.SOPInstanceUID : ""}`;
    groups.set(key, [...(groups.get(key) ?? []), header]);
  }
  const size = (group) => group.reduce((sum, header) => sum + Number(header.NumberOfFrames ?? 1), 0);
  const [chosen, ...others] = [...groups.values()].sort((a, b) => size(b) - size(a));
  const unique = [...new Map(chosen.map((header) => [header.SOPInstanceUID ?? header, header])).values()];
  const notes = others.length
    ? [`The files hold ${groups.size} series. The one with the most slices is open: ${size(unique)} slices${describe(unique[0])}.`]
    : [];
  return { chosen: unique, notes };
}

// Never the series' own name: it may hold anything about the patient.
const describe = ({ Modality, SeriesNumber }) => `, ${Modality ?? "no modality"}, series ${SeriesNumber ?? "without a number"}`;

function checkPixels({ syntax, PhotometricInterpretation, SamplesPerPixel, BitsAllocated }) {
  if (!FROM_FILE.includes(syntax)) {
    throw new SentenceError(`The pixels are packed (transfer syntax ${syntax || "unknown"}), and this page reads only those that are not. Export the series as Explicit VR Little Endian, or convert each file with: gdcmconv --raw IN OUT. ${ELSEWHERE}`);
  }
  if (Number(SamplesPerPixel ?? 1) !== 1 || !/^MONOCHROME[12]$/.test(PhotometricInterpretation ?? "")) {
    throw new SentenceError(`The images are ${PhotometricInterpretation ?? "of an unknown kind"}, not greys. A scan in slices, such as CT or MR, is needed.`);
  }
  if (![8, 16].includes(Number(BitsAllocated))) {
    throw new SentenceError(`The pixels have ${BitsAllocated} bits; those of 8 and 16 bits are read here. ${ELSEWHERE}`);
  }
}

/** The slices of a file, with their places. */
function imagesOf(header) {
  const frames = Number(header.NumberOfFrames ?? 1);
  return Array.from({ length: frames }, (_, frame) => {
    const own = listOf(header.PerFrameFunctionalGroupsSequence)[frame] ?? {};
    const [shared = {}] = listOf(header.SharedFunctionalGroupsSequence);
    const group = (name) => listOf(own[name])[0] ?? listOf(shared[name])[0] ?? (frames === 1 ? header : {});
    const scale = group("PixelValueTransformationSequence");
    const slope = numberOr(scale.RescaleSlope ?? header.RescaleSlope, 1);
    return {
      header, frame,
      position: numbers(group("PlanePositionSequence").ImagePositionPatient, 3),
      orientation: numbers(group("PlaneOrientationSequence").ImageOrientationPatient, 6),
      spacing: numbers(group("PixelMeasuresSequence").PixelSpacing, 2),
      thickness: numberOr(group("PixelMeasuresSequence").SliceThickness, 1),
      // A slope of 0 would make all numbers equal.
      slope: slope || 1,
      shift: numberOr(scale.RescaleIntercept ?? header.RescaleIntercept, 0),
      shown: listOf(own.FrameVOILUTSequence ?? shared.FrameVOILUTSequence)[0] ?? header,
    };
  });
}

const listOf = (sequence) => (sequence === undefined ? [] : Array.isArray(sequence) || typeof sequence.length === "number" ? sequence : [sequence]);

const numberOr = (value, usual) => (value === undefined || value === null || value === "" || !Number.isFinite(Number(value)) ? usual : Number(value));

function numbers(values, count) {
  const found = values === undefined || values === null ? [] : [...values].map(Number);
  return found.length === count && found.every(Number.isFinite) ? found : null;
}

/** Whether a CT without a scale has no number near that of air: then its numbers are no Hounsfield units. */
function lacksUnit(images, lowest) {
  const isMissing = (name) => images.every(({ header }) => header[name] === undefined && !header.SharedFunctionalGroupsSequence);
  return (isMissing("RescaleSlope") || isMissing("RescaleIntercept")) && lowest > HIGHEST_MINIMUM;
}

/** The window that most slices name, as limits in the scan's units. */
function windowOf(images) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const { shown } of images) {
    const [centre, width] = [shown.WindowCenter, shown.WindowWidth].map((value) => Number([value].flat()[0]));
    if (!Number.isFinite(centre) || !(width > 0)) continue;
    // As viewers compute the limits; those of the standard's own formula differ by half a unit.
    const key = JSON.stringify([centre - width / 2, centre + width / 2]);
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const [best] = [...counts].sort((a, b) => b[1] - a[1]);
  return best ? JSON.parse(best[0]) : null;
}
