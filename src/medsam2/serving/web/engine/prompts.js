/** Prompts as a caller gives them, checked once against the scan: `prompts/types.py`. */

/** @typedef {import("./track.js").Prompt} Prompt */

/**
 * @param {import("./segmenter.js").PromptParts} parts
 * @param {import("./preprocess.js").Slices} slices
 * @returns {Prompt}
 * @throws {Error} Something does not lie in the scan.
 */
export function readPrompt({ slice, box = null, points = null, labels = null, mask = null }, { count, height, width }) {
  if (!Number.isInteger(slice) || slice < 0 || slice >= count) {
    throw new Error(`Slice ${slice} is outside the scan: it has slices 0 to ${count - 1}.`);
  }
  const places = points ?? [];
  if (!box && !places.length && !mask) throw new Error("A prompt needs a box, a point or a mask.");
  if (mask && (box || places.length)) throw new Error("A mask replaces box and points: give it alone.");
  if (box) checkBox(box, height, width);
  for (const [x, y] of places) {
    if (!(x >= 0 && x <= width - 1 && y >= 0 && y <= height - 1)) {
      throw new Error(`Point (${x}, ${y}) is outside the slice: x is 0 to ${width - 1} and y 0 to ${height - 1}.`);
    }
  }
  const kinds = labels ?? places.map(() => 1);
  if (kinds.length !== places.length || kinds.some((kind) => kind !== 0 && kind !== 1)) {
    const given = `there are ${places.length} and the labels are ${[...kinds].join(", ")}`;
    throw new Error(`Every point needs one label, 1 inside or 0 outside; ${given}.`);
  }
  if (mask && mask.length !== height * width) {
    throw new Error(`A mask of a slice has ${height * width} pixels here, not ${mask.length}.`);
  }
  if (mask && !mask.some((value) => value)) throw new Error("The mask is empty: at least one pixel must be inside.");
  return {
    slice,
    box,
    points: places.map(([x, y], at) => ({ x, y, isInside: kinds[at] === 1 })),
    mask: mask && { left: 0, top: 0, width, height, inside: Uint8Array.from(mask, (value) => (value ? 1 : 0)) },
  };
}

function checkBox(box, height, width) {
  const [xMin, yMin, xMax, yMax] = box;
  const told = `(${box.join(", ")})`;
  if (box.length !== 4 || !box.every(Number.isFinite)) {
    throw new Error(`A box is x_min, y_min, x_max, y_max, not ${told}.`);
  }
  if (xMax <= xMin || yMax <= yMin) throw new Error(`Box ${told} has no area: the smaller ends come first.`);
  if (xMin < 0 || yMin < 0 || xMax > width - 1 || yMax > height - 1) {
    throw new Error(`Box ${told} is outside the slice: x is 0 to ${width - 1} and y 0 to ${height - 1}.`);
  }
}

/**
 * What holds on a slice after another prompt: points join, a box or a mask begins anew.
 * @param {Prompt|undefined} earlier
 * @param {Prompt} prompt
 * @returns {Prompt}
 */
export function joinPrompts(earlier, prompt) {
  if (!earlier || earlier.mask || prompt.box || prompt.mask) return prompt;
  return { ...prompt, box: earlier.box, points: [...earlier.points, ...prompt.points] };
}
