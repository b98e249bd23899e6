/** The tour: a generated scan with a known answer, and three hints that lead from the box to a corrected mask. */

import { openFile } from "./opening.js";
import { byId, make, showError } from "./page.js";
import { sliceAxes } from "./planes.js";
import { readTour, readTourAnswer, readTourScan } from "./sessions.js";
import { change, drawingPlane, state, watch } from "./state.js";
import { stridesOf } from "./volume.js";

const SEEN = "medsam2.tour";
/** @type {{name: string, structure: string, slice: number, box: number[], window: number[]}|null} */
let tour = null;
/** @type {import("./volume.js").Volume|null} */
let answer = null;

/** Show the hints while the tour's scan is open. */
export function showTour() {
  byId("tour-start").addEventListener("click", startTour);
  watch(["opened", "log", "masksAt", "task"], draw);
}

/** Open the tour on the first visit. */
export function offerTour() {
  if (!localStorage.getItem(SEEN)) startTour();
}

async function startTour() {
  localStorage.setItem(SEEN, "yes");
  try {
    tour = await readTour();
    await openFile(await readTourScan(), tour.name, "tour");
    if (state.opened?.kind !== "tour") return;
    const crosshair = [...state.crosshair];
    const { x, y } = sliceAxes(state.session.axis);
    crosshair[state.session.axis] = tour.slice;
    crosshair[x] = Math.round((tour.box[0] + tour.box[2]) / 2);
    crosshair[y] = Math.round((tour.box[1] + tour.box[3]) / 2);
    change({ crosshair, window: tour.window, target: tour, objects: [{ ...state.objects[0], name: tour.structure }] });
  } catch (error) {
    if (error.status !== 404) showError(error);
  }
}

async function draw() {
  const hint = byId("tour-hint");
  hint.hidden = state.opened?.kind !== "tour";
  if (hint.hidden) return;
  tour ??= await readTour().catch(() => null);
  if (!tour) return;
  const propagated = state.log.findIndex((step) => step.kind === "propagate");
  const [title, text] = hintAfter(propagated);
  hint.replaceChildren(make("strong", {}, title), make("p", {}, text));
  if (propagated >= 0 && !state.task) hint.append(make("p", {}, await scoreLine()));
}

/** The hint at this point of the work; `propagated` is the index of the first propagation, or -1. */
function hintAfter(propagated) {
  if (!state.log.length) {
    return ["1 of 3: box", `Draw a box around the ${tour.structure} on slice ${tour.slice + 1}, like the blue one. Press at one corner and release at the opposite corner.`];
  }
  if (propagated < 0) {
    return ["2 of 3: propagate", "The outline is the network's mask on this slice. Press Enter to propagate it through all slices."];
  }
  if (propagated === state.log.length - 1) {
    return ["3 of 3: correct", "Look through the slices. Where the outline is wrong, press P. Click what belongs to the structure, or right-click what does not. Then press Enter again."];
  }
  return ["That is all", "Box, propagate, correct. Export the mask, or go back to the list and open your own scan."];
}

async function scoreLine() {
  answer ??= await readTourAnswer();
  const dice = diceWith(answer);
  document.body.dataset.dice = dice.toFixed(4);
  return `Dice against the known answer: ${dice.toFixed(3)}`;
}

function diceWith(known) {
  const strides = stridesOf(known.size);
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
