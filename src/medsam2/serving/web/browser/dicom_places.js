/** Where the slices of a DICOM series lie: their order and their grid, as imaging/dicom/grid.py finds them. */

import { cross } from "../volume.js";
import { SentenceError } from "./failures.js";

const SAME_DIRECTION = 1e-3;
const SAME_PLACE = 0.1; // of a pixel
const SAME_PLACE_MM = 0.01;
const UNEVEN_STEP = 0.1; // of a step
const FARTHEST = 0.25;
const GAP = 1.5;
const SMALLEST_TILT_DEG = 0.5;

/**
 * Sort slices along their normal, and find their grid.
 * @param {any[]} images  See dicom.js.
 * @returns {{images: import("./dicom.js").Image[], affine: number[][], notes: string[]}}
 * @throws {SentenceError} They differ, or one is missing or there twice.
 */
export function placeSlices(images) {
  const stack = withoutScouts(images);
  const [first] = stack;
  const across = unit(first.orientation.slice(0, 3));
  const down = unit(first.orientation.slice(3));
  const normal = unit(cross(across, down));
  if (Math.abs(dot(across, down)) > 0.1 || normal.some(Number.isNaN)) throw new SentenceError("The slices say of no direction where they lie in; the files are damaged.");
  const height = ({ position }) => dot(position, normal);
  const sorted = [...stack].sort((a, b) => height(a) - height(b));
  const smallest = Math.min(SAME_PLACE_MM, SAME_PLACE * Math.min(...first.spacing));
  if (sorted.some((image, i) => i > 0 && height(image) - height(sorted[i - 1]) <= smallest)) {
    throw new SentenceError("Several images lie at one place: phases, echoes or a second copy. Drop the files of one of them.");
  }
  const step = stepOf(sorted, normal, first.thickness);
  const tiltDeg = (Math.acos(Math.min(1, dot(normal, step) / Math.hypot(...step))) * 180) / Math.PI;
  const isTilted = tiltDeg >= SMALLEST_TILT_DEG;
  const through = isTilted ? step : normal.map((part) => part * dot(normal, step));
  const [rowStep, columnStep] = first.spacing;
  // DICOM's axes run to the left and to the back.
  const affine = [0, 1, 2].map((i) => {
    const row = [across[i] * columnStep, down[i] * rowStep, through[i], sorted[0].position[i]];
    return i < 2 ? row.map((value) => -value + 0) : row;
  });
  const notes = isTilted ? [`The gantry was tilted by ${tiltDeg.toFixed(1)} degrees. Slices keep their places, in a sheared grid.`] : [];
  if (stack.length < images.length) notes.push(`${images.length - stack.length} images with another size or direction were left out.`);
  return { images: sorted, affine, notes };
}

/** The images of the size and direction that most have; the others are scouts. */
function withoutScouts(images) {
  const placed = images.filter(({ position, orientation, spacing }) => position && orientation && spacing);
  if (!placed.length) throw new SentenceError("The images do not say where they lie in the patient. Slices of CT, MR or PET do; pictures and videos do not.");
  const key = ({ header, orientation }) => JSON.stringify([header.Rows, header.Columns, orientation.map((part) => Math.round(part / SAME_DIRECTION))]);
  /** @type {Map<string, any[]>} */
  const groups = new Map();
  for (const image of placed) groups.set(key(image), [...(groups.get(key(image)) ?? []), image]);
  const [stack] = [...groups.values()].sort((a, b) => b.length - a.length);
  if (2 * stack.length <= images.length && images.length > 1) throw new SentenceError("The images of the series differ in size or direction; they are not one scan.");
  const { spacing } = stack[0];
  if (stack.some((image) => image.spacing.some((part, i) => Math.abs(part - spacing[i]) > SAME_DIRECTION * spacing[i]))) {
    throw new SentenceError("The slices of the series differ in pixel spacing; they are not one scan.");
  }
  return stack;
}

/** The step from slice to slice; they must be evenly spaced. */
function stepOf(sorted, normal, thickness) {
  if (sorted.length === 1) return normal.map((part) => part * (thickness || 1));
  const places = sorted.map(({ position }) => position);
  const mean = subtract(places.at(-1), places[0]).map((part) => part / (places.length - 1));
  const steps = places.slice(1).map((place, i) => subtract(place, places[i]));
  const lengths = steps.map((step) => Math.hypot(...step));
  const typical = [...lengths].sort((a, b) => a - b)[lengths.length >> 1];
  const isSimilar = steps.every((step, i) => Math.abs(lengths[i] - typical) <= UNEVEN_STEP * typical && Math.hypot(...subtract(step, mean)) <= 2 * UNEVEN_STEP * typical);
  const far = places.map((place, i) => Math.hypot(...subtract(place, places[0].map((part, axis) => part + i * mean[axis]))));
  const isNear = Math.max(...far) <= FARTHEST * Math.hypot(...mean) && Math.max(...lengths) < GAP * typical;
  if (isSimilar || isNear) return mean;
  const at = lengths.findIndex((length) => length > GAP * typical);
  throw new SentenceError(at >= 0
    ? `A slice is missing after slice ${at + 1} of ${sorted.length}: the others are ${typical.toFixed(2)} mm apart, these two ${lengths[at].toFixed(2)} mm. Copy the whole series.`
    : "The slices are not evenly spaced, and a volume is. Drop the files of one part of the series.");
}

const dot = (a, b) => a.reduce((sum, part, i) => sum + part * b[i], 0);
const subtract = (a, b) => a.map((part, i) => part - b[i]);
const unit = (vector) => vector.map((part) => part / Math.hypot(...vector));
