/** The pixels of DICOM slices as voxels of one volume. */

import { allocate, SentenceError } from "./failures.js";

const BIG_ENDIAN = "1.2.840.10008.1.2.2";

export class PixelReader {
  /** @param {any[]} images  The slices in order, see dicom.js; the pixels of each are released when they are read. */
  constructor(images) {
    this.images = images;
    /** The lowest intensity, once the slices are read. */
    this.lowest = 0;
    const [{ header }] = images;
    this.rows = Number(header.Rows);
    this.columns = Number(header.Columns);
    this.bits = Number(header.BitsAllocated);
    this.isSigned = Number(header.PixelRepresentation ?? 0) === 1;
    this.isAlike = images.every(
      (one) => one.slope === images[0].slope && one.shift === images[0].shift
        && Number(one.header.PixelRepresentation ?? 0) === Number(header.PixelRepresentation ?? 0)
        && Number(one.header.BitsAllocated) === this.bits && !isInverted(one.header),
    );
  }

  /**
   * All voxels. Where slices have scales of their own, as in PET, grey values are stored and not numbers of the file.
   * @returns {{size: [number, number, number], voxels: any, slope: number, shift: number}}
   */
  read() {
    const { rows, columns, images } = this;
    const count = rows * columns;
    const Type = !this.isAlike ? Float32Array : this.bits === 8 ? (this.isSigned ? Int8Array : Uint8Array) : this.isSigned ? Int16Array : Uint16Array;
    const voxels = new Type(allocate(count * images.length * Type.BYTES_PER_ELEMENT));
    const padded = [];
    let lowest = Infinity;
    images.forEach((image, z) => {
      const stored = this.storedOf(image);
      const limits = paddingOf(image.header);
      const [slope, shift] = this.isAlike ? [1, 0] : [image.slope, image.shift];
      const top = isInverted(image.header) ? mirrorOf(image.header) : null;
      for (let i = 0, to = z * count; i < count; i++, to++) {
        const value = stored[i];
        if (limits && value >= limits[0] && value <= limits[1]) {
          padded.push(to);
          continue;
        }
        const grey = (top === null ? value : top - value) * slope + shift;
        voxels[to] = grey;
        if (grey < lowest) lowest = grey;
      }
    });
    for (const { header } of images) delete header.PixelData;
    const { slope, shift } = this.isAlike ? images[0] : { slope: 1, shift: 0 };
    this.lowest = lowest * slope + shift;
    // Padding is no intensity: it gets the lowest one, or 0 if none is lower. The array cuts off what it cannot hold.
    const filled = lowest < Infinity ? Math.max(leastOf(Type), (Math.min(0, lowest * slope + shift) - shift) / slope) : 0;
    for (const at of padded) voxels[at] = filled;
    return { size: [columns, rows, images.length], voxels, slope, shift };
  }

  /** The stored numbers of a slice. */
  storedOf({ header, frame }) {
    const bits = Number(header.BitsAllocated);
    const isSigned = Number(header.PixelRepresentation ?? 0) === 1;
    const count = this.rows * this.columns;
    const bytes = [header.PixelData].flat()[0];
    const size = bits / 8;
    const start = frame * count * size;
    if (!bytes || bytes.byteLength < start + count * size) {
      throw new SentenceError("The pixels of a slice are cut off. Copy the series again from where it comes from.");
    }
    if (bits === 8) return isSigned ? new Int8Array(bytes, start, count) : new Uint8Array(bytes, start, count);
    const unused = bits - Number(header.BitsStored ?? bits);
    const stored = isSigned ? new Int16Array(count) : new Uint16Array(count);
    const view = new DataView(bytes, start, count * size);
    const isLittle = header.syntax !== BIG_ENDIAN;
    // Bits above those stored may hold anything: shifting up and down removes them.
    if (isSigned) for (let i = 0; i < count; i++) stored[i] = (view.getInt16(2 * i, isLittle) << (16 + unused)) >> (16 + unused);
    else for (let i = 0; i < count; i++) stored[i] = view.getUint16(2 * i, isLittle) & (0xffff >> unused);
    return stored;
  }
}

/** The least number of an array. */
const leastOf = (Type) => ({ Int8Array: -128, Int16Array: -32768, Float32Array: -Infinity })[Type.name] ?? 0;

/** Whether the lowest number is white; those of a CT are Hounsfield units and stay. */
const isInverted = ({ PhotometricInterpretation, Modality }) => PhotometricInterpretation === "MONOCHROME1" && Modality !== "CT";

/** The sum of the lowest and the highest number that the stored bits can have. */
const mirrorOf = ({ BitsStored, PixelRepresentation }) => (Number(PixelRepresentation ?? 0) === 1 ? -1 : 2 ** Number(BitsStored) - 1);

/** The lowest and the highest stored number that is padding; null where the file names none. */
function paddingOf({ PixelPaddingValue, PixelPaddingRangeLimit }) {
  if (PixelPaddingValue === undefined || PixelPaddingValue === null) return null;
  const ends = [Number(PixelPaddingValue), Number(PixelPaddingRangeLimit ?? PixelPaddingValue)];
  return ends.every(Number.isFinite) ? [Math.min(...ends), Math.max(...ends)] : null;
}
