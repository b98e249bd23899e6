/** Masks as a plane shows them: which pixels are inside, and the line around them. */

import { fromVoxel, sliceAxes, toVoxel } from "./planes.js";

/**
 * An object in a shown slice of any plane.
 * @param {import("./masks.js").Masks} masks
 * @param {number} object
 * @param {number} sessionAxis  Along which the masks' slices are stacked.
 * @param {import("./planes.js").Plane} plane
 * @param {number} slice  Of the plane.
 * @returns {Uint8Array|null} A byte a pixel, as shown; null where it is not.
 */
export function cutMask(masks, object, sessionAxis, plane, slice) {
  const cut = new Uint8Array(plane.width * plane.height);
  const axes = sliceAxes(sessionAxis);
  let isEmpty = true;
  const put = (x, y, z) => {
    const voxel = [0, 0, 0];
    voxel[axes.x] = x;
    voxel[axes.y] = y;
    voxel[sessionAxis] = z;
    const [u, v] = fromVoxel(plane, voxel);
    cut[v * plane.width + u] = 1;
    isEmpty = false;
  };
  if (plane.axis === sessionAxis) {
    const patch = masks.patch(object, slice);
    if (patch) eachInside(patch, 0, patch.height, 0, patch.width, (x, y) => put(x, y, slice));
  } else {
    for (const [z, patch] of masks.objects.get(object) ?? []) {
      const isColumn = plane.axis === axes.x;
      const at = slice - (isColumn ? patch.x : patch.y);
      if (at < 0 || at >= (isColumn ? patch.width : patch.height)) continue;
      const [rows, columns] = isColumn ? [[0, patch.height], [at, at + 1]] : [[at, at + 1], [0, patch.width]];
      eachInside(patch, rows[0], rows[1], columns[0], columns[1], (x, y) => put(x, y, z));
    }
  }
  return isEmpty ? null : cut;
}

function eachInside(patch, top, bottom, left, right, take) {
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      if (patch.inside[row * patch.width + column]) take(patch.x + column, patch.y + row);
    }
  }
}

/**
 * The edges between inside and outside, from pixel corner to pixel corner.
 * @param {Uint8Array} cut
 * @param {number} width
 * @param {number} height
 */
export function outlineOf(cut, width, height) {
  const path = new Path2D();
  const inside = (u, v) => u >= 0 && v >= 0 && u < width && v < height && cut[v * width + u] === 1;
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
export function tint(image, cut, colour, alpha) {
  const rgb = parseInt(colour.slice(1), 16);
  const [red, green, blue] = [rgb >> 16, (rgb >> 8) & 255, rgb & 255];
  for (let at = 0; at < cut.length; at++) {
    if (!cut[at]) continue;
    image.data.set([red, green, blue, alpha], 4 * at);
  }
}

/**
 * A box on the screen as the session has it: pixels of the slice, both ends inside it.
 * @param {import("./planes.js").Plane} plane
 * @param {[number, number]} from  A corner, (u, v).
 * @param {[number, number]} to  The opposite one.
 * @returns {number[]} [x_min, y_min, x_max, y_max]
 */
export function sliceBox(plane, from, to) {
  const [x0, y0] = slicePoint(plane, from[0], from[1]);
  const [x1, y1] = slicePoint(plane, to[0], to[1]);
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
}

/** A pixel of the screen's slice as (x, y) of the session's, kept inside. */
export function slicePoint(plane, u, v) {
  const voxel = toVoxel(plane, clamp(Math.round(u), plane.width), clamp(Math.round(v), plane.height), 0);
  const { x, y } = sliceAxes(plane.axis);
  return [voxel[x], voxel[y]];
}

/**
 * Undo `slicePoint`.
 * @returns {[number, number]} (u, v)
 */
export function shownPoint(plane, x, y) {
  const axes = sliceAxes(plane.axis);
  const voxel = [0, 0, 0];
  voxel[axes.x] = x;
  voxel[axes.y] = y;
  return fromVoxel(plane, voxel);
}

function clamp(value, size) {
  return Math.min(size - 1, Math.max(0, value));
}
