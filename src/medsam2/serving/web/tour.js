/** The tour: a generated scan with a known answer, and three hints from the box to the corrected mask. */

import { ask, askJson } from "./api.js";
import { sayFault } from "./notices.js";
import { readNifti } from "./nifti.js";
import { openFile } from "./opening.js";
import { by } from "./page_parts.js";
import { change, drawingPlane, state, watch } from "./state.js";
import { sliceAxes } from "./planes.js";

const SEEN = "medsam2.tour";
/** @type {{name: string, structure: string, slice: number, box: number[], window: number[]}|null} */
let facts = null;
/** @type {import("./nifti.js").Volume|null} */
let answer = null;

/** Show the hints while the tour's scan is open. */
export function showTour() {
  by("tour-start").addEventListener("click", startTour);
  watch(["opened", "log", "masksAt", "work"], draw);
}

/** Open the tour for whoever is here for the first time. */
export function offerTour() {
  if (localStorage.getItem(SEEN)) return;
  startTour();
}

/** Open the tour's scan. */
export async function startTour() {
  localStorage.setItem(SEEN, "yes");
  try {
    facts = await askJson("GET", "/v1/tour");
    const scan = await (await ask("GET", "/v1/tour/scan")).blob();
    await openFile(scan, facts.name, "tour");
    if (state.opened?.kind !== "tour") return;
    const crosshair = [...state.crosshair];
    const { x, y } = sliceAxes(state.session.axis);
    crosshair[state.session.axis] = facts.slice;
    crosshair[x] = Math.round((facts.box[0] + facts.box[2]) / 2);
    crosshair[y] = Math.round((facts.box[1] + facts.box[3]) / 2);
    change({ crosshair, window: facts.window, target: facts, objects: [{ ...state.objects[0], name: facts.structure }] });
  } catch (error) {
    if (error.status !== 404) sayFault(error);
  }
}

async function draw() {
  const hint = by("tour-hint");
  hint.hidden = state.opened?.kind !== "tour";
  if (hint.hidden) return;
  facts ??= await askJson("GET", "/v1/tour").catch(() => null);
  if (!facts) return;
  const isPropagated = state.log.some((step) => step.kind === "propagate");
  const corrections = state.log.slice(state.log.findIndex((step) => step.kind === "propagate")).length - 1;
  let step;
  if (!state.log.length) {
    step = ["1 of 3: box", `Draw a box around the ${facts.structure} on slice ${facts.slice + 1}, as the blue one: press at one corner, let go at the opposite one.`];
  } else if (!isPropagated) {
    step = ["2 of 3: propagate", "The outline is the network's answer on this slice. Press Enter: it is carried through all slices."];
  } else if (corrections < 1) {
    step = ["3 of 3: correct", "Look through the slices. Where the outline is wrong, click what belongs to it (P), or right click what does not, and press Enter again."];
  } else {
    step = ["That is all", "Box, propagate, correct. Export the mask, or go back to the list and open a scan of yours."];
  }
  hint.replaceChildren(line("strong", step[0]), line("p", step[1]));
  if (isPropagated && !state.work) hint.append(line("p", await scoreLine()));
}

function line(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

/** How much of the known answer was found. */
async function scoreLine() {
  answer ??= await readNifti(await (await ask("GET", "/v1/tour/answer")).arrayBuffer());
  const dice = diceWith(answer);
  document.body.dataset.dice = dice.toFixed(4);
  return `Dice against the known answer: ${dice.toFixed(3)}`;
}

function diceWith(known) {
  const [nx, ny] = known.size;
  const strides = [1, nx, nx * ny];
  const { axis } = drawingPlane();
  const axes = sliceAxes(axis);
  let truth = 0;
  for (let at = 0; at < known.voxels.length; at++) truth += known.voxels[at] ? 1 : 0;
  let [both, found] = [0, 0];
  for (const [slice, patch] of state.masks.objects.get(state.current) ?? []) {
    for (let at = 0; at < patch.inside.length; at++) {
      if (!patch.inside[at]) continue;
      found++;
      const x = patch.x + (at % patch.width);
      const y = patch.y + Math.floor(at / patch.width);
      if (known.voxels[slice * strides[axis] + x * strides[axes.x] + y * strides[axes.y]]) both++;
    }
  }
  return (2 * both) / (found + truth || 1);
}
