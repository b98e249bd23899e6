/** One plane of the scan on a canvas: the slice, the masks, the prompts, the crosshair. */

import { PROMPT_COLOUR } from "./colours.js";
import { promptsOn } from "./history.js";
import { fromVoxel, shownPoint } from "./planes.js";
import { maskOnPlane, outlineOf, sliceImage, tint } from "./slice_image.js";
import { state } from "./state.js";

const FILL_ALPHA = 56;
const MARGIN = 0.97;
const MAX_ZOOM = 40;
const TARGET_COLOUR = "#7cc4ff";
const POINT_COLOURS = { 1: "#5dff9b", 0: "#ff8f8f" };

export class PlaneView {
  /**
   * @param {HTMLElement} pane  Holds the canvas.
   * @param {number} place  Which of `state.planes` is shown.
   */
  constructor(pane, place) {
    this.pane = pane;
    this.place = place;
    /** @type {HTMLCanvasElement} */
    this.canvas = pane.querySelector("canvas");
    this.zoom = 1;
    this.shift = [0, 0];
    /** What a gesture draws: {box: [[u, v], [u, v]]} or {ring: [u, v], radius}. */
    this.sketch = null;
    this.image = document.createElement("canvas");
    this.tints = document.createElement("canvas");
    this.imageKey = "";
    this.masksKey = "";
    /** @type {{colour: string, path: Path2D, isCurrent: boolean}[]} */
    this.outlines = [];
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  get plane() {
    return state.planes[this.place];
  }

  get slice() {
    return state.crosshair[this.plane.axis];
  }

  /** Whether prompts go to this plane. */
  get isDrawing() {
    return this.plane?.axis === state.session?.axis;
  }

  /** Show the whole slice. */
  fit() {
    this.zoom = 1;
    this.shift = [0, 0];
    this.draw();
  }

  /** Zoom about a point of the canvas, in CSS pixels. */
  zoomAt(factor, x, y) {
    const before = this.toSlice(x, y);
    this.zoom = Math.min(MAX_ZOOM, Math.max(0.5, this.zoom * factor));
    const frame = this.frame();
    this.shift[0] += x - (frame.left + (before[0] + 0.5) * frame.scaleX);
    this.shift[1] += y - (frame.top + (before[1] + 0.5) * frame.scaleY);
    this.draw();
  }

  /** Where the slice lies on the canvas, in CSS pixels. */
  frame() {
    const { clientWidth, clientHeight } = this.canvas;
    const { width, height, aspect } = this.plane;
    const scaleX = Math.min(clientWidth / width, clientHeight / (height * aspect)) * MARGIN * this.zoom;
    const scaleY = scaleX * aspect;
    return {
      scaleX, scaleY,
      left: (clientWidth - width * scaleX) / 2 + this.shift[0],
      top: (clientHeight - height * scaleY) / 2 + this.shift[1],
    };
  }

  /**
   * Point (u, v) of the slice under a point of the canvas; pixel centres are whole numbers.
   * @returns {[number, number]}
   */
  toSlice(x, y) {
    const frame = this.frame();
    return [(x - frame.left) / frame.scaleX - 0.5, (y - frame.top) / frame.scaleY - 0.5];
  }

  /**
   * Where a pointer event is on the canvas, in CSS pixels.
   * @returns {[number, number]}
   */
  pointOf(event) {
    const frame = this.canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  }

  /** Show what a gesture draws, or nothing. */
  setSketch(sketch) {
    this.sketch = sketch;
    this.draw();
  }

  /** Draw everything again. */
  draw() {
    const ratio = window.devicePixelRatio || 1;
    const { canvas } = this;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!state.volume || !this.plane || !width) return;
    this.prepareImage();
    this.prepareMasks();
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const frame = this.frame();
    context.imageSmoothingEnabled = frame.scaleX < 6;
    context.imageSmoothingQuality = "high";
    /** @type {[number, number, number, number]} */
    const place = [frame.left, frame.top, this.plane.width * frame.scaleX, this.plane.height * frame.scaleY];
    context.drawImage(this.image, ...place);
    if (state.areMasksShown) this.drawMasks(context, frame, place);
    this.drawCrosshair(context, frame);
    if (this.isDrawing) this.drawPrompts(context, frame);
    this.drawSketch(context, frame);
    this.label();
  }

  prepareImage() {
    const key = [state.session.id, this.plane.axis, this.slice, ...state.window].join();
    if (key === this.imageKey) return;
    this.imageKey = key;
    Object.assign(this.image, { width: this.plane.width, height: this.plane.height });
    this.image.getContext("2d").putImageData(sliceImage(state.volume, this.plane, this.slice, state.window), 0, 0);
  }

  prepareMasks() {
    const looks = state.objects.map((object) => [object.number, object.colour, object.isHidden].join(":"));
    const key = [state.session.id, state.masksAt, this.slice, state.current, ...looks].join();
    if (key === this.masksKey || !state.masks) return;
    this.masksKey = key;
    const { width, height } = this.plane;
    const image = new ImageData(width, height);
    this.outlines = [];
    for (const object of state.objects) {
      if (object.isHidden) continue;
      const mask = maskOnPlane(state.masks, object.number, state.session.axis, this.plane, this.slice);
      if (!mask) continue;
      tint(image, mask, object.colour, FILL_ALPHA);
      const isCurrent = object.number === state.current;
      this.outlines.push({ colour: object.colour, path: outlineOf(mask, width, height), isCurrent });
    }
    Object.assign(this.tints, { width, height });
    this.tints.getContext("2d").putImageData(image, 0, 0);
  }

  drawMasks(context, frame, place) {
    context.save();
    context.imageSmoothingEnabled = false;
    context.drawImage(this.tints, ...place);
    context.restore();
    const toCanvas = new DOMMatrix([frame.scaleX, 0, 0, frame.scaleY, frame.left, frame.top]);
    context.lineCap = "square";
    for (const { colour, path, isCurrent } of this.outlines) {
      const placed = new Path2D();
      placed.addPath(path, toCanvas);
      context.strokeStyle = colour;
      context.lineWidth = isCurrent ? 2 : 1.25;
      context.stroke(placed);
    }
  }

  drawCrosshair(context, frame) {
    const [u, v] = fromVoxel(this.plane, state.crosshair);
    const [x, y] = this.at(frame, u, v);
    const { clientWidth, clientHeight } = this.canvas;
    context.strokeStyle = "rgba(120, 200, 255, 0.45)";
    context.lineWidth = 1;
    context.beginPath();
    for (const [from, to] of [[0, x - 12], [x + 12, clientWidth]]) line(context, from, y, to, y);
    for (const [from, to] of [[0, y - 12], [y + 12, clientHeight]]) line(context, x, from, x, to);
    context.stroke();
  }

  drawPrompts(context, frame) {
    const { boxes, points } = promptsOn(state.log, state.current, this.slice);
    context.setLineDash([5, 4]);
    if (state.target?.slice === this.slice && !state.log.length && !this.sketch?.box) {
      const [x0, y0, x1, y1] = state.target.box;
      this.drawBox(context, frame, shownPoint(this.plane, x0, y0), shownPoint(this.plane, x1, y1), TARGET_COLOUR);
    }
    for (const [x0, y0, x1, y1] of boxes) {
      this.drawBox(context, frame, shownPoint(this.plane, x0, y0), shownPoint(this.plane, x1, y1));
    }
    context.setLineDash([]);
    for (const { x, y, label } of points) {
      const [px, py] = this.at(frame, ...shownPoint(this.plane, x, y));
      drawPoint(context, px, py, label);
    }
  }

  drawSketch(context, frame) {
    if (this.sketch?.box) this.drawBox(context, frame, this.sketch.box[0], this.sketch.box[1]);
    if (this.sketch?.ring) {
      const [x, y] = this.at(frame, ...this.sketch.ring);
      const radius = this.sketch.radius;
      context.strokeStyle = PROMPT_COLOUR;
      context.lineWidth = 1;
      context.beginPath();
      context.ellipse(x, y, radius * frame.scaleX, radius * frame.scaleX, 0, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  drawBox(context, frame, from, to, colour = PROMPT_COLOUR) {
    // Both ends are inside the box: it goes around their pixels.
    const [left, right] = [Math.min(from[0], to[0]), Math.max(from[0], to[0]) + 1];
    const [top, bottom] = [Math.min(from[1], to[1]), Math.max(from[1], to[1]) + 1];
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.strokeRect(
      frame.left + left * frame.scaleX, frame.top + top * frame.scaleY,
      (right - left) * frame.scaleX, (bottom - top) * frame.scaleY,
    );
  }

  /** The middle of a pixel on the canvas. */
  at(frame, u, v) {
    return [frame.left + (u + 0.5) * frame.scaleX, frame.top + (v + 0.5) * frame.scaleY];
  }

  label() {
    const { name, numSlices, sides } = this.plane;
    const isMain = this.pane.classList.contains("main");
    const texts = { title: `${name} ${this.slice + 1}${isMain ? ` of ${numSlices}` : ""}` };
    ["left", "right", "top", "bottom"].forEach((side, i) => (texts[side] = sides[i]));
    for (const [part, text] of Object.entries(texts)) {
      const element = this.pane.querySelector(`.${part}`);
      if (element && element.textContent !== text) element.textContent = text;
    }
    this.pane.classList.toggle("is-drawing", this.isDrawing);
  }
}

function line(context, x0, y0, x1, y1) {
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
}

function drawPoint(context, x, y, label) {
  context.beginPath();
  context.arc(x, y, 6, 0, 2 * Math.PI);
  context.fillStyle = POINT_COLOURS[label];
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = "#ffffff";
  context.stroke();
  context.strokeStyle = "#10141a";
  context.lineWidth = 2;
  context.beginPath();
  line(context, x - 3, y, x + 3, y);
  if (label) line(context, x, y - 3, x, y + 3);
  context.stroke();
}
