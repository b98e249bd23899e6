/** Brush and eraser: change the mask of the shown slice by hand. */

import { slicePoint } from "./cuts.js";
import { drawingPlane, shownSlice, state, change } from "./state.js";
import { prompt } from "./work.js";

/** One stroke, from the pointer's going down to its coming up. */
export class Stroke {
  /** @param {boolean} isErasing */
  constructor(isErasing) {
    this.isErasing = isErasing;
    this.object = state.current;
    this.slice = shownSlice();
    this.before = state.masks.mask(this.object, this.slice);
    this.mask = this.before.slice();
    /** @type {number[]|null} */
    this.last = null;
  }

  /** Go on to a point (u, v) of the shown slice. */
  to(u, v) {
    const [from, end] = [this.last ?? [u, v], [u, v]];
    const steps = Math.max(1, Math.ceil(Math.hypot(end[0] - from[0], end[1] - from[1]) / Math.max(1, radius() / 2)));
    for (let i = 0; i <= steps; i++) {
      this.dab(from[0] + ((end[0] - from[0]) * i) / steps, from[1] + ((end[1] - from[1]) * i) / steps);
    }
    this.last = end;
    state.masks.setMask(this.object, this.slice, this.mask);
    change({ masksAt: state.masksAt + 1 });
  }

  /** Tell the session what the mask is now. */
  end() {
    let voxels = 0;
    for (let at = 0; at < this.mask.length; at++) if (this.mask[at] !== this.before[at]) voxels++;
    if (!voxels) return Promise.resolve();
    if (!this.mask.includes(1)) {
      this.undo();
      return Promise.resolve();
    }
    const mask = state.masks.rle(this.object, this.slice);
    return prompt({ slice: this.slice, mask }, this.isErasing ? "erase" : "brush", voxels);
  }

  /** Leave the mask as it was. */
  undo() {
    state.masks.setMask(this.object, this.slice, this.before);
    change({ masksAt: state.masksAt + 1 });
  }

  dab(u, v) {
    const plane = drawingPlane();
    const { height, width } = state.masks;
    const reach = radius();
    const rows = reach / plane.aspect;
    for (let dv = -Math.ceil(rows); dv <= Math.ceil(rows); dv++) {
      for (let du = -Math.ceil(reach); du <= Math.ceil(reach); du++) {
        const [pu, pv] = [Math.round(u) + du, Math.round(v) + dv];
        if (pu < 0 || pv < 0 || pu >= plane.width || pv >= plane.height) continue;
        // Round on the screen, whatever the shape of the pixels.
        if (Math.hypot(pu - u, (pv - v) * plane.aspect) > reach) continue;
        const [x, y] = slicePoint(plane, pu, pv);
        if (x < width && y < height) this.mask[y * width + x] = this.isErasing ? 0 : 1;
      }
    }
  }
}

/** Of the brush, in pixels across the screen's slice. */
export const radius = () => state.brushSize / 2;
