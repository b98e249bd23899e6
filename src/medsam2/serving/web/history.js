/**
 * The steps of the work on a scan, enough to repeat it in a new session.
 *
 * @typedef {{kind: "prompt", object: number, slice: number, box?: number[], points?: number[][],
 *   labels?: number[], mask?: string}} PromptStep  As the server expects it.
 * @typedef {{kind: "remove", object: number, slice?: number}} RemoveStep
 * @typedef {{kind: "propagate", slices?: number}} PropagateStep  `slices`: the number after which it was stopped.
 * @typedef {PromptStep | RemoveStep | PropagateStep} Step
 */

/**
 * The prompts of an object on a slice, as the session has them now.
 * @param {Step[]} log
 * @returns {{boxes: number[][], points: {x: number, y: number, label: number}[], hasMask: boolean}}
 */
export function promptsOn(log, object, slice) {
  const none = () => ({ boxes: [], points: [], hasMask: false });
  let prompts = none();
  for (const step of log) {
    if (step.kind === "propagate" || step.object !== object) continue;
    if (step.kind === "remove") {
      if (step.slice === undefined || step.slice === slice) prompts = none();
      continue;
    }
    if (step.slice !== slice) continue;
    // Points are added to earlier points and boxes. A box or a mask replaces all that was there, points replace a mask.
    if (step.mask !== undefined || step.box || prompts.hasMask) prompts = none();
    if (step.mask !== undefined) prompts.hasMask = true;
    if (step.box) prompts.boxes = [step.box];
    (step.points ?? []).forEach(([x, y], i) => prompts.points.push({ x, y, label: step.labels?.[i] ?? 1 }));
  }
  return prompts;
}

/**
 * The slices on which an object has prompts.
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

/** The objects that have prompts. */
export function objectsIn(log) {
  const numbers = new Set(log.flatMap((step) => (step.kind === "prompt" ? [step.object] : [])));
  return [...numbers].filter((object) => promptedSlices(log, object).length);
}

/**
 * Undo the last prompt or removal, with the propagations after it, as the session does.
 * @param {Step[]} log
 * @returns {{log: Step[], tail: Step[]} | null}
 */
export function undoLast(log) {
  for (let at = log.length - 1; at >= 0; at--) {
    if (log[at].kind !== "propagate") return { log: log.slice(0, at), tail: log.slice(at) };
  }
  return null;
}

/** Whether an object was changed after it was propagated: the page still shows slices that the session has dropped. */
export function isCorrected(log) {
  const at = log.findLastIndex((step) => step.kind === "propagate");
  const propagated = objectsIn(log.slice(0, Math.max(at, 0)));
  const changed = log.slice(at + 1).filter((step) => step.kind === "prompt" || step.slice !== undefined);
  return changed.some((step) => propagated.includes(step.object));
}

/** Whether the last step asks for a propagation. */
export function isStale(log) {
  const last = log.at(-1);
  return last !== undefined && (last.kind !== "propagate" || last.slices !== undefined);
}
