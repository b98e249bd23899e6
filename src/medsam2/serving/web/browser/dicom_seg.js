/** Write masks as a DICOM segmentation (SEG) that refers to the series that they were drawn on. */

import { colourOf, labOf } from "../colours.js";
import { loadDcmjs } from "./dicom.js";

const SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4";
const PRODUCT = "medsam2";
const SERIES_NUMBER = 900; // of our segmentations: scanners count from 1
const LONGEST_NAME = 64;
/** 3D Slicer's category and type of a segment of which nothing is known. */
const TISSUE = { CodeValue: "85756007", CodingSchemeDesignator: "SCT", CodeMeaning: "Tissue" };
const DERIVATION = { CodeValue: "113076", CodingSchemeDesignator: "DCM", CodeMeaning: "Segmentation" };
const SOURCE = { CodeValue: "121322", CodingSchemeDesignator: "DCM", CodeMeaning: "Source image for image processing operation" };
const INTELLIGENCE = { CodeValue: "123109", CodingSchemeDesignator: "DCM", CodeMeaning: "Artificial Intelligence" };
/** What is taken from the source: patient and study, and no other text. Some must be there, if only empty. */
const REQUIRED = [
  "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
  "ReferringPhysicianName", "StudyID", "AccessionNumber",
];
const OPTIONAL = ["FrameOfReferenceUID", "PositionReferenceIndicator", "PatientAge", "PatientSize", "PatientWeight"];

/**
 * A DICOM SEG with a segment for each object; frames without it are left out.
 * @param {Uint8Array} labels  x fastest, an object's number inside it.
 * @param {import("./read_scan.js").Scan} scan
 * @param {number[]} objects
 * @param {Record<number, string>} names
 * @returns {Promise<Blob>}
 */
export async function writeSeg(labels, { volume, dicom }, objects, names) {
  const { data } = await loadDcmjs();
  const { DicomMetaDictionary, DicomDict, BitArray } = data;
  const { images } = dicom;
  const { header } = images[0];
  const [width, height] = volume.size;
  const frames = framesOf(labels, objects, images, width * height);
  const uid = DicomMetaDictionary.uid();
  const now = new Date().toISOString();
  const dataset = {
    // dcmjs writes all texts in UTF-8.
    SpecificCharacterSet: "ISO_IR 192", ...taken(header),
    SOPClassUID: SEGMENTATION, SOPInstanceUID: uid, Modality: "SEG", SeriesInstanceUID: DicomMetaDictionary.uid(),
    SeriesNumber: SERIES_NUMBER, SeriesDescription: `${PRODUCT} segmentation`, InstanceNumber: 1,
    SeriesDate: now.slice(0, 10).replaceAll("-", ""), SeriesTime: now.slice(11, 19).replaceAll(":", ""),
    ContentDate: now.slice(0, 10).replaceAll("-", ""), ContentTime: now.slice(11, 19).replaceAll(":", ""),
    Manufacturer: PRODUCT, ManufacturerModelName: PRODUCT, DeviceSerialNumber: "0", SoftwareVersions: "browser",
    ContentLabel: "SEGMENTATION", ContentDescription: "", ContentCreatorName: "",
    ImageType: ["DERIVED", "PRIMARY"], LossyImageCompression: "00", SegmentationType: "BINARY",
    SamplesPerPixel: 1, PhotometricInterpretation: "MONOCHROME2", PixelRepresentation: 0, BitsAllocated: 1, BitsStored: 1,
    HighBit: 0, Rows: height, Columns: width, NumberOfFrames: frames.length,
    SegmentSequence: objects.map((object, i) => segmentOf(object, i + 1, names[object])),
    ReferencedSeriesSequence: [{
      SeriesInstanceUID: header.SeriesInstanceUID,
      ReferencedInstanceSequence: [...new Set(images.map((image) => image.header))].map(referenceTo),
    }],
    ...dimensionsOf(DicomMetaDictionary.uid()),
    SharedFunctionalGroupsSequence: [sharedOf(volume, images[0])],
    PerFrameFunctionalGroupsSequence: frames.map(({ image, place, number }) => groupOf(image, place, number)),
    PixelData: [BitArray.pack(joined(frames, width * height)).buffer],
    _vrMap: { PixelData: "OB" },
  };
  const meta = {
    "00020001": { vr: "OB", Value: [new Uint8Array([0, 1]).buffer] }, "00020002": { vr: "UI", Value: [SEGMENTATION] },
    "00020003": { vr: "UI", Value: [uid] }, "00020010": { vr: "UI", Value: ["1.2.840.10008.1.2.1"] },
    "00020012": { vr: "UI", Value: ["2.25.294379385190268148853172107403186172417"] },
  };
  const file = new DicomDict(meta);
  file.dict = DicomMetaDictionary.denaturalizeDataset(dataset);
  return new Blob([file.write()]);
}

/** Patient and study of the source. */
function taken(header) {
  const found = Object.fromEntries(REQUIRED.map((name) => [name, header[name] ?? ""]));
  for (const name of OPTIONAL) if (header[name] !== undefined) found[name] = header[name];
  return found;
}

/** A frame for each object and each slice that it is in. */
function framesOf(labels, objects, images, count) {
  return objects.flatMap((object, i) =>
    images.flatMap((image, z) => {
      const slice = labels.subarray(z * count, (z + 1) * count);
      return slice.includes(object) ? [{ image, place: z + 1, number: i + 1, object, slice }] : [];
    }),
  );
}

/** The pixels of all frames behind each other, 0 or 1. */
function joined(frames, count) {
  const pixels = new Uint8Array(frames.length * count);
  frames.forEach(({ slice, object }, i) => {
    for (let at = 0; at < count; at++) if (slice[at] === object) pixels[i * count + at] = 1;
  });
  return pixels;
}

function segmentOf(object, number, name) {
  return {
    SegmentNumber: number, SegmentLabel: (name || `object ${object}`).replaceAll("\\", " ").slice(0, LONGEST_NAME),
    SegmentAlgorithmType: "SEMIAUTOMATIC", SegmentAlgorithmName: PRODUCT,
    SegmentationAlgorithmIdentificationSequence: [{
      AlgorithmFamilyCodeSequence: [INTELLIGENCE], AlgorithmName: PRODUCT, AlgorithmVersion: "browser",
    }],
    SegmentedPropertyCategoryCodeSequence: [TISSUE], SegmentedPropertyTypeCodeSequence: [TISSUE],
    RecommendedDisplayCIELabValue: labOf(colourOf(object)),
  };
}

const referenceTo = ({ SOPClassUID, SOPInstanceUID }) => ({ ReferencedSOPClassUID: SOPClassUID, ReferencedSOPInstanceUID: SOPInstanceUID });

/** Frames are counted by their segment and then by their place. */
function dimensionsOf(uid) {
  return {
    DimensionOrganizationSequence: [{ DimensionOrganizationUID: uid }],
    DimensionIndexSequence: [
      { DimensionOrganizationUID: uid, DimensionIndexPointer: 0x0062000b, FunctionalGroupPointer: 0x0062000a, DimensionDescriptionLabel: "Segment" },
      { DimensionOrganizationUID: uid, DimensionIndexPointer: 0x00200032, FunctionalGroupPointer: 0x00209113, DimensionDescriptionLabel: "Place" },
    ],
  };
}

function sharedOf({ spacing }, image) {
  return {
    PlaneOrientationSequence: [{ ImageOrientationPatient: image.orientation }],
    PixelMeasuresSequence: [{
      PixelSpacing: image.spacing, SliceThickness: image.thickness, SpacingBetweenSlices: Number(spacing[2].toFixed(6)),
    }],
  };
}

function groupOf({ header, frame, position }, place, number) {
  const source = {
    ...referenceTo(header), PurposeOfReferenceCodeSequence: [SOURCE], SpatialLocationsPreserved: "YES",
    ...(Number(header.NumberOfFrames ?? 1) > 1 && { ReferencedFrameNumber: frame + 1 }),
  };
  return {
    FrameContentSequence: [{ DimensionIndexValues: [number, place] }],
    PlanePositionSequence: [{ ImagePositionPatient: position }],
    DerivationImageSequence: [{ DerivationCodeSequence: [DERIVATION], SourceImageSequence: [source] }],
    SegmentIdentificationSequence: [{ ReferencedSegmentNumber: number }],
  };
}
