/** The labels of a file as steps: each slice of each object is said as it is drawn. */

import { sliceAxes } from "./planes.js";
import { encodeRle } from "./rle.js";

/**
 * @param {import("./nifti.js").Volume} labels  0 outside, an object's number inside.
 * @param {number} axis  Along which slices are stacked.
 * @returns {import("./history.js").PromptStep[]}
 */
export function stepsOf(labels, axis) {
  const axes = sliceAxes(axis);
  const strides = [1, labels.size[0], labels.size[0] * labels.size[1]];
  const [width, height] = [labels.size[axes.x], labels.size[axes.y]];
  /** @type {import("./history.js").PromptStep[]} */
  const steps = [];
  for (let slice = 0; slice < labels.size[axis]; slice++) {
    /** @type {Map<number, Uint8Array>} */
    const masks = new Map();
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        const object = labels.voxels[slice * strides[axis] + y * strides[axes.y] + x * strides[axes.x]];
        if (!object) continue;
        if (!masks.has(object)) masks.set(object, new Uint8Array(width * height));
        masks.get(object)[at] = 1;
      }
    }
    for (const [object, mask] of masks) steps.push({ kind: "prompt", object, slice, mask: encodeRle(mask, height, width) });
  }
  return steps.sort((a, b) => a.object - b.object);
}
