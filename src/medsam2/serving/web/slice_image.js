/** Slices as pixels: grey values through a window, masks, and the lines around masks. */

import { rgbOf } from "./colours.js";
import { fromVoxel, sliceAxes } from "./planes.js";
import { stridesOf } from "./volume.js";

/**
 * A slice as it is shown, in grey.
 * @param {import("./volume.js").Volume} volume
 * @param {import("./planes.js").Plane} plane
 * @param {number} slice
 * @param {number[]} window  Lower and upper grey value.
 * @returns {ImageData}
 */
export function sliceImage(volume, plane, slice, window) {
  const image = new ImageData(plane.width, plane.height);
  const pixels = new Uint32Array(image.data.buffer);
  const { start, across, down } = pixelSteps(volume, plane, slice);
  const gain = (255 * volume.slope) / (window[1] - window[0]);
  const offset = (255 * (volume.shift - window[0])) / (window[1] - window[0]);
  const { voxels } = volume;
  for (let v = 0, to = 0; v < plane.height; v++) {
    let from = start + v * down;
    for (let u = 0; u < plane.width; u++, to++, from += across) {
      const value = voxels[from] * gain + offset;
      const grey = value <= 0 ? 0 : value >= 255 ? 255 : value | 0;
      pixels[to] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
  }
  return image;
}

/** The first voxel of a shown slice, and the steps in `voxels` for a pixel across and down. */
function pixelSteps(volume, plane, slice) {
  const strides = stridesOf(volume.size);
  let start = slice * strides[plane.axis];
  if (plane.isMirrored) start += (plane.width - 1) * strides[plane.across];
  if (plane.isUpsideDown) start += (plane.height - 1) * strides[plane.down];
  return {
    start,
    across: (plane.isMirrored ? -1 : 1) * strides[plane.across],
    down: (plane.isUpsideDown ? -1 : 1) * strides[plane.down],
  };
}

/**
 * The mask of an object on a shown slice of any plane.
 * @param {import("./masks.js").Masks} masks
 * @param {number} object
 * @param {number} sessionAxis  Along which the masks' slices are stacked.
 * @param {import("./planes.js").Plane} plane
 * @param {number} slice  Of the plane.
 * @returns {Uint8Array|null} A byte a pixel, as shown; null where the object is not.
 */
export function maskOnPlane(masks, object, sessionAxis, plane, slice) {
  const mask = new Uint8Array(plane.width * plane.height);
  const axes = sliceAxes(sessionAxis);
  let isEmpty = true;
  const put = (x, y, z) => {
    const voxel = [0, 0, 0];
    voxel[axes.x] = x;
    voxel[axes.y] = y;
    voxel[sessionAxis] = z;
    const [u, v] = fromVoxel(plane, voxel);
    mask[v * plane.width + u] = 1;
    isEmpty = false;
  };
  if (plane.axis === sessionAxis) {
    const patch = masks.patch(object, slice);
    if (patch) forEachPixel(patch, 0, patch.height, 0, patch.width, (x, y) => put(x, y, slice));
  } else {
    for (const [z, patch] of masks.objects.get(object) ?? []) {
      const isColumn = plane.axis === axes.x;
      const at = slice - (isColumn ? patch.x : patch.y);
      if (at < 0 || at >= (isColumn ? patch.width : patch.height)) continue;
      const [rows, columns] = isColumn ? [[0, patch.height], [at, at + 1]] : [[at, at + 1], [0, patch.width]];
      forEachPixel(patch, rows[0], rows[1], columns[0], columns[1], (x, y) => put(x, y, z));
    }
  }
  return isEmpty ? null : mask;
}

function forEachPixel(patch, top, bottom, left, right, onPixel) {
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      if (patch.inside[row * patch.width + column]) onPixel(patch.x + column, patch.y + row);
    }
  }
}

/**
 * The edges between inside and outside, from pixel corner to pixel corner.
 * @param {Uint8Array} mask
 * @param {number} width
 * @param {number} height
 */
export function outlineOf(mask, width, height) {
  const path = new Path2D();
  const inside = (u, v) => u >= 0 && v >= 0 && u < width && v < height && mask[v * width + u] === 1;
  for (let v = 0; v <= height; v++) {
    for (let u = 0; u < width; u++) {
      if (inside(u, v) === inside(u, v - 1)) continue;
      let end = u + 1;
      while (end < width && inside(end, v) !== inside(end, v - 1)) end++;
      path.moveTo(u, v);
      path.lineTo(end, v);
      u = end;
    }
  }
  for (let u = 0; u <= width; u++) {
    for (let v = 0; v < height; v++) {
      if (inside(u, v) === inside(u - 1, v)) continue;
      let end = v + 1;
      while (end < height && inside(u, end) !== inside(u - 1, end)) end++;
      path.moveTo(u, v);
      path.lineTo(u, end);
      v = end;
    }
  }
  return path;
}

/** Colour the pixels inside; the alpha is 0..255. */
export function tint(image, mask, colour, alpha) {
  const rgba = [...rgbOf(colour), alpha];
  for (let at = 0; at < mask.length; at++) {
    if (mask[at]) image.data.set(rgba, 4 * at);
  }
}
