/** The 3D view: a smooth surface around each mask, found by surface nets and drawn by NiiVue. */

import { rgbOf } from "./colours.js";
import { byId } from "./page.js";
import { sliceAxes } from "./planes.js";
import { state, watch } from "./state.js";

const WAIT_MS = 250;
const BACKGROUND = [0.043, 0.055, 0.075, 1];
const RENDER = 4; // NiiVue's number of the 3D view
const LARGEST_SIDE = 96;
const LEVEL = 0.5;

/** @type {Promise<{niivue: any, Mesh: any}>|null} */
let loading = null;
let timer = 0;
/** Describes what is drawn; the same key needs no new drawing. */
let drawnKey = "";

/** Show the objects as soon as there are masks on several slices. */
export function show3D() {
  watch(["masksAt", "objects", "task", "session"], () => {
    clearTimeout(timer);
    // While slices arrive, drawing would slow them down.
    if (state.session && !state.task) timer = setTimeout(draw, WAIT_MS);
  });
}

async function draw() {
  const shown = state.objects.filter((object) => !object.isHidden && (state.masks?.slices(object.number).length ?? 0) > 1);
  const text = byId("solid-text");
  text.hidden = shown.length > 0;
  const key = JSON.stringify([state.session?.id, state.masksAt, shown.map((object) => [object.number, object.colour])]);
  if (key === drawnKey || (!shown.length && !loading)) return;
  drawnKey = key;
  try {
    loading ??= start();
    const { niivue, Mesh } = await loading;
    for (const mesh of [...niivue.meshes]) niivue.removeMesh(mesh);
    for (const object of shown) {
      const surface = surfaceOf(state.masks, object.number, state.session.axis, state.volume);
      if (surface) niivue.addMesh(meshOf(Mesh, niivue.gl, object, surface));
    }
    niivue.drawScene();
    document.body.dataset.solids = String(niivue.meshes.length);
  } catch (error) {
    text.hidden = false;
    text.textContent = "This browser cannot draw in 3D: WebGL 2 is missing or switched off.";
    console.warn(error);
  }
}

async function start() {
  // @ts-ignore: NiiVue is here without its types.
  const { Niivue, NVMesh } = await import("./niivue.js");
  const niivue = new Niivue({
    backColor: BACKGROUND, show3Dcrosshair: false, isOrientCube: true, dragAndDropEnabled: false, loadingText: "", logLevel: "error",
    isResizeCanvas: true,
  });
  await niivue.attachToCanvas(byId("solid"));
  niivue.setSliceType(RENDER);
  niivue.setRenderAzimuthElevation(160, 15);
  return { niivue, Mesh: NVMesh };
}

function meshOf(Mesh, gl, object, { points, triangles }) {
  const colour = new Uint8Array([...rgbOf(object.colour), 255]);
  return new Mesh(points, triangles, object.name, colour, 1, true, gl);
}

/**
 * The surface of an object in the scan's space.
 * @param {import("./masks.js").Masks} masks
 * @param {number} object
 * @param {number} axis  Along which slices are stacked.
 * @param {import("./volume.js").Volume} volume
 * @returns {{points: Float32Array, triangles: Uint32Array}|null} Points in mm, right, front, head.
 */
function surfaceOf(masks, object, axis, volume) {
  const field = fieldOf(masks.objects.get(object));
  if (!field) return null;
  for (const along of [0, 1, 2]) blur(field, along);
  const { cells, triangles } = netOf(field);
  if (!triangles.length) return null;
  const axes = sliceAxes(axis);
  const points = new Float32Array(cells.length);
  for (let at = 0; at < cells.length; at += 3) {
    const voxel = [0, 0, 0];
    voxel[axes.x] = field.start[0] + (cells[at] + 0.5) * field.steps[0] - 0.5;
    voxel[axes.y] = field.start[1] + (cells[at + 1] + 0.5) * field.steps[1] - 0.5;
    voxel[axis] = field.start[2] + (cells[at + 2] + 0.5) * field.steps[2] - 0.5;
    volume.affine.forEach((row, i) => (points[at + i] = row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]));
  }
  return { points, triangles: isMirroring(volume.affine, axis) ? reversed(triangles) : triangles };
}

/** How much of each cell is inside, 0 to 1, with a rim of empty cells. In a large object a cell is several voxels. */
function fieldOf(slices) {
  if (!slices?.size) return null;
  const [low, high] = [[Infinity, Infinity, Infinity], [-1, -1, -1]];
  for (const [z, patch] of slices) {
    const ends = [[patch.x, patch.x + patch.width - 1], [patch.y, patch.y + patch.height - 1], [z, z]];
    ends.forEach(([first, last], i) => {
      low[i] = Math.min(low[i], first);
      high[i] = Math.max(high[i], last);
    });
  }
  const steps = [0, 1, 2].map((i) => Math.max(1, Math.ceil((high[i] - low[i] + 1) / LARGEST_SIDE)));
  const start = [0, 1, 2].map((i) => low[i] - 2 * steps[i]);
  const size = [0, 1, 2].map((i) => Math.ceil((high[i] - low[i] + 1) / steps[i]) + 4);
  const values = new Float32Array(size[0] * size[1] * size[2]);
  const weight = 1 / (steps[0] * steps[1] * steps[2]);
  for (const [z, patch] of slices) {
    const layer = Math.floor((z - start[2]) / steps[2]) * size[1];
    for (let at = 0; at < patch.inside.length; at++) {
      if (!patch.inside[at]) continue;
      const x = Math.floor((patch.x + (at % patch.width) - start[0]) / steps[0]);
      const y = Math.floor((patch.y + Math.floor(at / patch.width) - start[1]) / steps[1]);
      values[(layer + y) * size[0] + x] += weight;
    }
  }
  return { values, size, start, steps };
}

/** Average each cell with its neighbours along an axis, with weights 1 2 1. */
function blur({ values, size }, along) {
  const stride = [1, size[0], size[0] * size[1]][along];
  const before = values.slice();
  for (let at = stride; at < values.length - stride; at++) {
    values[at] = (before[at - stride] + 2 * before[at] + before[at + stride]) / 4;
  }
}

function netOf({ values, size }) {
  const [nx, ny, nz] = size;
  const strides = [1, nx, nx * ny];
  const vertices = new Int32Array(values.length).fill(-1);
  const cells = [];
  const triangles = [];
  for (let z = 0; z < nz - 1; z++) {
    for (let y = 0; y < ny - 1; y++) {
      for (let x = 0; x < nx - 1; x++) {
        const at = (z * ny + y) * nx + x;
        const vertex = vertexOf(values, strides, at);
        if (!vertex) continue;
        vertices[at] = cells.length / 3;
        cells.push(x + vertex[0], y + vertex[1], z + vertex[2]);
      }
    }
  }
  for (let at = strides[2]; at < values.length - strides[2]; at++) {
    for (let axis = 0; axis < 3; axis++) {
      const isIn = values[at] > LEVEL;
      if (isIn === values[at + strides[axis]] > LEVEL) continue;
      const [b, c] = [strides[(axis + 1) % 3], strides[(axis + 2) % 3]];
      const corners = [at - b - c, at - c, at, at - b].map((cell) => vertices[cell]);
      if (corners.includes(-1)) continue;
      const [p, q, r, s] = isIn ? corners : corners.toReversed();
      triangles.push(p, q, r, p, r, s);
    }
  }
  return { cells, triangles: new Uint32Array(triangles) };
}

/** The mean of the points where the surface crosses the edges of a cell; null if it does not cross them. */
function vertexOf(values, strides, at) {
  const corner = (i) => values[at + (i & 1) * strides[0] + ((i >> 1) & 1) * strides[1] + (i >> 2) * strides[2]];
  let signs = 0;
  for (let i = 0; i < 8; i++) if (corner(i) > LEVEL) signs |= 1 << i;
  if (signs === 0 || signs === 255) return null;
  const sum = [0, 0, 0];
  let count = 0;
  for (let i = 0; i < 8; i++) {
    for (let axis = 0; axis < 3; axis++) {
      const j = i | (1 << axis);
      if (j === i || ((signs >> i) & 1) === ((signs >> j) & 1)) continue;
      const part = (LEVEL - corner(i)) / (corner(j) - corner(i));
      for (let k = 0; k < 3; k++) sum[k] += ((i >> k) & 1) + (k === axis ? part : 0);
      count++;
    }
  }
  return sum.map((value) => value / count);
}

/** Whether the step from slices (x, y, axis) to space mirrors the object. */
function isMirroring(affine, axis) {
  const [a, b, c] = affine;
  const volume = a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0]);
  // For the middle axis, x, y and axis are not in the order of the file.
  return volume < 0 !== (axis === 1);
}

function reversed(triangles) {
  const turned = triangles.slice();
  for (let at = 0; at < turned.length; at += 3) [turned[at + 1], turned[at + 2]] = [turned[at + 2], turned[at + 1]];
  return turned;
}
