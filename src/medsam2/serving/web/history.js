/**
 * The steps of the work on a scan, enough to do it again in a new session.
 *
 * @typedef {{kind: "prompt", object: number, slice: number, box?: number[], points?: number[][],
 *   labels?: number[], mask?: string}} PromptStep  As the server takes it.
 * @typedef {{kind: "remove", object: number, slice?: number}} RemoveStep
 * @typedef {{kind: "propagate", slices?: number}} PropagateStep  `slices`: cancelled after so many.
 * @typedef {PromptStep | RemoveStep | PropagateStep} Step
 */

/**
 * What was said about an object on a slice, as the session has it now.
 * @param {Step[]} log
 * @returns {{boxes: number[][], points: {x: number, y: number, label: number}[], hasMask: boolean}}
 */
export function promptsOn(log, object, slice) {
  let said = { boxes: [], points: [], hasMask: false };
  for (const step of log) {
    if (step.kind === "propagate" || step.object !== object) continue;
    if (step.kind === "remove") {
      if (step.slice === undefined || step.slice === slice) said = { boxes: [], points: [], hasMask: false };
      continue;
    }
    if (step.slice !== slice) continue;
    // Points join what was said before unless that was a mask; a box or a mask begins anew.
    if (step.mask !== undefined || step.box || said.hasMask) said = { boxes: [], points: [], hasMask: false };
    if (step.mask !== undefined) said.hasMask = true;
    if (step.box) said.boxes = [step.box];
    (step.points ?? []).forEach(([x, y], i) => said.points.push({ x, y, label: step.labels?.[i] ?? 1 }));
  }
  return said;
}

/**
 * Slices on which something is said about an object.
 * @param {Step[]} log
 * @returns {number[]}
 */
export function promptedSlices(log, object) {
  const slices = new Set();
  for (const step of log) {
    if (step.kind === "propagate" || step.object !== object) continue;
    if (step.kind === "prompt") slices.add(step.slice);
    else if (step.slice === undefined) slices.clear();
    else slices.delete(step.slice);
  }
  return [...slices].sort((a, b) => a - b);
}

/** Objects that something is said about. */
export function objectsIn(log) {
  const numbers = new Set(log.flatMap((step) => (step.kind === "prompt" ? [step.object] : [])));
  return [...numbers].filter((object) => promptedSlices(log, object).length);
}

/**
 * Take back the last prompt or removal with all that followed from it, as the session does.
 * @param {Step[]} log
 * @returns {{log: Step[], tail: Step[]} | null}
 */
export function takeBack(log) {
  for (let at = log.length - 1; at >= 0; at--) {
    if (log[at].kind !== "propagate") return { log: log.slice(0, at), tail: log.slice(at) };
  }
  return null;
}

/** Whether an object was changed since it was last followed: the session has let go of slices that are still shown. */
export function isCorrected(log) {
  const at = log.findLastIndex((step) => step.kind === "propagate");
  const followed = objectsIn(log.slice(0, Math.max(at, 0)));
  const changed = log.slice(at + 1).filter((step) => step.kind === "prompt" || step.slice !== undefined);
  return changed.some((step) => followed.includes(step.object));
}

/** Whether the last step left slices to be found again. */
export function isStale(log) {
  const last = log.at(-1);
  return last !== undefined && (last.kind !== "propagate" || last.slices !== undefined);
}
