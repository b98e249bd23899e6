/** The objects in three dimensions, drawn by NiiVue. */

import { by } from "./page_parts.js";
import { surfaceOf } from "./surface.js";
import { state, watch } from "./state.js";

const WAIT_MS = 250;
const BACK = [0.043, 0.055, 0.075, 1];
const RENDER = 4; // NiiVue's number of the 3D view

/** @type {Promise<{niivue: any, Mesh: any}>|null} */
let loading = null;
let timer = 0;
/** What the drawn surfaces were made of. */
let drawn = "";

/** Show the objects as soon as there are masks on several slices. */
export function showSolid() {
  watch(["masksAt", "objects", "work", "session"], () => {
    clearTimeout(timer);
    // While slices come in the processor has better things to do.
    if (state.session && !state.work) timer = setTimeout(draw, WAIT_MS);
  });
}

async function draw() {
  const shown = state.objects.filter((object) => !object.isHidden && (state.masks?.slices(object.number).length ?? 0) > 1);
  const text = by("solid-text");
  text.hidden = shown.length > 0;
  const key = JSON.stringify([state.session?.id, state.masksAt, shown.map((object) => [object.number, object.colour])]);
  if (key === drawn || (!shown.length && !loading)) return;
  drawn = key;
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
    text.textContent = "This browser cannot draw in three dimensions (WebGL 2 is missing or switched off).";
    console.warn(error);
  }
}

async function start() {
  // @ts-ignore: NiiVue lies here packed, without its types.
  const { Niivue, NVMesh } = await import("./niivue.js");
  const niivue = new Niivue({
    backColor: BACK, show3Dcrosshair: false, isOrientCube: true, dragAndDropEnabled: false, loadingText: "", logLevel: "error",
    isResizeCanvas: true,
  });
  await niivue.attachToCanvas(by("solid"));
  niivue.setSliceType(RENDER);
  niivue.setRenderAzimuthElevation(160, 15);
  return { niivue, Mesh: NVMesh };
}

function meshOf(Mesh, gl, object, { points, triangles }) {
  const rgb = parseInt(object.colour.slice(1), 16);
  const colour = new Uint8Array([rgb >> 16, (rgb >> 8) & 255, rgb & 255, 255]);
  return new Mesh(points, triangles, object.name, colour, 1, true, gl);
}
