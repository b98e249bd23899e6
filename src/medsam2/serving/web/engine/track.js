/** One object: each slice is found from the mask of the slice before it, as in `inference/carried_track.py`. */

import { Banks } from "./memory.js";
import {
  ConnectedParts, fillHoles, isAbove, keepReaching, mergeClicks, promptedPart, sigmoid, toSlice, toView,
} from "./postprocess.js";
import { resampleMask } from "./preprocess.js";
import { isSameView, toInput } from "./view.js";

/** @typedef {import("./view.js").View} View */
/** @typedef {import("./encode.js").Answer} Answer */

/**
 * @typedef {Object} Prompt  What a slice was prompted with.
 * @property {number} slice
 * @property {[number, number, number, number]|null} box
 * @property {{x: number, y: number, isInside: boolean}[]} points
 * @property {import("./view.js").Patch|null} mask
 */

/**
 * @typedef {Object} Result  The object in one slice; it is never changed.
 * @property {View} view
 * @property {Float32Array} logits
 * @property {number} score  Overlap with the truth that is expected; 0 where the object is absent.
 * @property {import("./view.js").Patch|null} drawn  The mask, where the user drew it.
 */

/**
 * @typedef {Object} Engine  What all objects of a scan share.
 * @property {import("./encode.js").Network} network
 * @property {import("./preprocess.js").Slices} slices
 * @property {import("./view.js").Views} views
 * @property {any} constants  As in chain.json.
 * @property {{fillHoleArea: number, stopAfter: number, keepComponent: boolean}} options
 */

export class Track {
  constructor(/** @type {Engine} */ engine) {
    this.engine = engine;
    /** @type {Map<number, Prompt>} */
    this.prompts = new Map();
    /** @type {Map<number, Result>} */
    this.results = new Map();
    this.banks = new Banks();
  }

  /** The same object in maps of its own: this one stays as it is, to come back to. */
  copy() {
    const copy = new Track(this.engine);
    [copy.prompts, copy.results, copy.banks] = [new Map(this.prompts), new Map(this.results), this.banks.copy()];
    return copy;
  }

  /** Take a prompt in and find the object in its slice. */
  async add(/** @type {Prompt} */ prompt) {
    const { slice } = prompt;
    const { answer, view } = await this.answer(prompt);
    this.prompts.set(slice, prompt);
    this.keep(slice, answer, view, prompt.mask);
    this.banks.forget((other) => other === slice);
    this.banks.begin(await this.engine.network.remember(slice, answer, view));
    this.forgetStale(slice);
  }

  /** Take the prompt of a slice back, and what was found from it. */
  async remove(slice) {
    if (slice !== this.prompts.keys().next().value) {
      this.forgetStale(slice);
      this.banks.walks.delete(slice);
      this.prompts.delete(slice);
      this.results.delete(slice);
      return;
    }
    const rest = [...this.prompts.values()].filter((prompt) => prompt.slice !== slice);
    [this.prompts, this.results, this.banks] = [new Map(), new Map(), new Banks()];
    for (const prompt of rest) await this.add(prompt); // the first one is what the others rest on
  }

  /** Find the object in a slice from the slice before it in a direction, unless it is known. */
  async advance(slice, step) {
    if (this.results.has(slice)) return;
    const { views, constants, network } = this.engine;
    let view = this.viewAfter(slice - step);
    let answer = await this.carry(slice, step, view);
    for (let growth = 0; growth < constants.most_view_growths; growth++) {
      const wider = views.grow(view);
      if (isSameView(wider, view) || !view.isZoomed || !views.touchesBorder(this.masked(answer.logits, view))) break;
      view = wider;
      answer = await this.carry(slice, step, view);
    }
    this.banks.keep(await network.remember(slice, answer, view), step);
    this.keep(slice, answer, view);
  }

  keep(slice, answer, view, drawn = null) {
    const { options: { fillHoleArea }, constants } = this.engine;
    const logits = fillHoleArea ? fillHoles(answer.logits, constants.image_size, fillHoleArea) : answer.logits;
    this.results.set(slice, { ...resultOf(answer, view), logits, drawn });
  }

  /** Drop tracked slices that are found from a prompted one; prompted ones stay. */
  forgetStale(origin) {
    const isStale = (slice) => !this.prompts.has(slice) && this.banks.origin(slice) === origin;
    for (const slice of this.banks.forget(isStale)) this.results.delete(slice);
  }

  /**
   * Find the object in a slice that was prompted.
   * @returns {Promise<{answer: Answer, view: View}>}
   */
  async answer(/** @type {Prompt} */ prompt) {
    const { network, views, constants } = this.engine;
    const { slice } = prompt;
    const clicks = this.latestClicks(prompt);
    if (clicks.length && !this.results.has(slice) && this.prompts.size) await this.guess(slice);
    if (clicks.length && this.results.has(slice)) return this.correct(prompt, clicks);
    if (!prompt.box && !prompt.mask && views.zooms) return this.answerClicks(prompt);
    const view = views.ofPrompt(prompt);
    const mask = prompt.mask && resampleMask(prompt.mask, view, constants.image_size);
    const answer = await network.answer(this.sight(prompt, view, mask));
    if (!mask) return { answer: atBestDice(answer, constants), view };
    // A drawn mask is taken as it is; the network only makes a memory of it.
    const logits = mask.map((value) => (value ? constants.mask_prompt_logit : -constants.mask_prompt_logit));
    return { answer: { ...answer, logits, overlap: 1, objectLogit: mask.includes(1) ? 1 : -1 }, view };
  }

  /** Find an object at clicks, which do not tell how large it is: look from near to far, then closer. */
  async answerClicks(prompt) {
    const { network, views, constants } = this.engine;
    let best = null;
    for (const view of views.ofClicks(prompt)) {
      const answer = await network.answer(this.sight(prompt, view));
      const sureness = answer.logits.some((logit) => logit > 0) ? answer.overlap : 0;
      if (!best || sureness > best.sureness) best = { answer, view, sureness };
    }
    const closer = views.ofMask(this.masked(best.answer.logits, best.view), best.view);
    if (isSameView(closer, best.view)) return { answer: atBestDice(best.answer, constants), view: closer };
    const part = this.inSlice(best.answer.logits, best.view);
    const prior = sigmoid(toView(part, closer, constants.image_size, constants.absent_logit));
    return { answer: atBestDice(await network.answer(this.sight(prompt, closer, prior)), constants), view: closer };
  }

  /** Change the part of a mask that clicks point at. */
  async correct(prompt, clicks) {
    const { network, views, constants } = this.engine;
    const { slice } = prompt;
    const view = views.growTo(this.results.get(slice).view, prompt);
    const previous = this.logitsIn(slice, view);
    /** @type {import("./encode.js").Sight} */
    let sight = this.sight(prompt, view, sigmoid(previous));
    let memories;
    if (!this.prompts.has(slice)) {
      const origin = this.banks.origin(slice);
      const step = slice > origin ? 1 : -1;
      const carried = this.results.has(slice - step) ? this.known(slice - step, view) : undefined;
      const neighbours = this.neighbours(slice, slice - step, slice + step, view);
      sight = { ...sight, ...neighbours, key: this.known(origin, view), carried };
      memories = this.banks.recall(slice, step, view, constants);
    }
    const answer = await network.answer(sight, memories);
    const cells = clicks.map(({ x, y, isInside }) => [...toInput(view, x, y, constants.image_size, 0.5), isInside]);
    const logits = mergeClicks(previous, answer.logits, cells, constants.image_size, constants.clicked_logit);
    return { answer: { ...answer, logits }, view };
  }

  /** Find the object in a slice that it was not followed to, from the nearest one that shows it. */
  async guess(slice) {
    const known = [...this.results.keys()].filter((other) => this.mask(other).inside.includes(1));
    if (!known.length) return;
    const nearest = known.reduce((best, other) => (Math.abs(other - slice) < Math.abs(best - slice) ? other : best));
    const view = this.viewAfter(nearest);
    const carried = this.known(nearest, view);
    const sight = {
      ...this.neighbours(slice, nearest, slice > nearest ? slice + 1 : slice - 1, view),
      prior: carried.inside, carried, key: this.known(this.banks.origin(nearest), view),
    };
    this.results.set(slice, resultOf(await this.engine.network.answer(sight), view));
  }

  /** @returns {Promise<Answer>} The object in a slice, from the one before it. */
  async carry(slice, step, view) {
    const { network, constants, options } = this.engine;
    const carried = this.known(slice - step, view);
    const sight = {
      ...this.neighbours(slice, slice - step, slice + step, view),
      prior: carried.inside, carried, key: this.known(this.banks.origin(slice), view),
    };
    const answer = await network.answer(sight, this.banks.recall(slice, step, view, constants));
    if (!options.keepComponent) return answer;
    const logits = keepReaching(answer.logits, carried.inside, constants.image_size, constants.out_of_reach_logit);
    return { ...answer, logits };
  }

  /** What is shown of a prompted slice by itself. */
  sight(prompt, view, prior = null) {
    const neighbours = this.neighbours(prompt.slice, prompt.slice - 1, prompt.slice + 1, view);
    return { ...neighbours, prompt: this.engine.network.draw(prompt, view), prior };
  }

  neighbours(slice, before, beyond, view) {
    const { slices } = this.engine;
    return { grey: slices.greys(view, slice), before: slices.greys(view, before), beyond: slices.greys(view, beyond) };
  }

  known(slice, view) {
    return { grey: this.engine.slices.greys(view, slice), inside: sigmoid(this.logitsIn(slice, view)) };
  }

  logitsIn(slice, view) {
    const result = this.results.get(slice);
    const { constants } = this.engine;
    if (isSameView(result.view, view)) return result.logits;
    return toView(this.logits(slice), view, constants.image_size, constants.absent_logit);
  }

  /** The view of the slice that comes after one: it follows the object. */
  viewAfter(slice) {
    const { view } = this.results.get(slice);
    return this.engine.views.zooms ? this.engine.views.follow(view, this.mask(slice)) : view;
  }

  /** Clicks that were added to the prompt of a slice; none if the prompt begins anew. */
  latestClicks({ slice, box, points, mask }) {
    const earlier = this.prompts.get(slice);
    if (mask || String(box) !== String(earlier?.box ?? null)) return [];
    return points.slice(earlier?.points.length ?? 0);
  }

  /** Logits of a slice that was visited, where its view covers it; elsewhere the object is absent. */
  logits(slice) {
    const { logits, view } = this.results.get(slice);
    return this.inSlice(logits, view);
  }

  inSlice(logits, view) {
    return toSlice(logits, this.engine.constants.image_size, view, this.engine.views.bounds(view));
  }

  /** @returns {import("./view.js").Patch} The object in a slice that was visited, before parts are left out. */
  mask(slice) {
    const { logits, view, drawn } = this.results.get(slice);
    return drawn ?? this.masked(logits, view);
  }

  masked(logits, view) {
    const { logits: inSlice, ...place } = this.inSlice(logits, view);
    return { ...place, inside: isAbove(inSlice, 0) };
  }

  /** Slices that it was followed into, in their order. */
  slices() {
    return [...this.results.keys()].sort((a, b) => a - b);
  }

  /** Start to tell which parts belong to the object; see `ConnectedParts`. */
  parts() {
    const seeds = new Map();
    for (const prompt of this.prompts.values()) seeds.set(prompt.slice, promptedPart(this.mask(prompt.slice), prompt));
    const parts = new ConnectedParts((slice) => this.mask(slice));
    return { add: (slice) => parts.add(slice, seeds.get(slice)), kept: (slice) => parts.kept(slice) };
  }

  /** The final mask: a function from a slice that was visited to its patch. */
  keptSlices() {
    if (!this.engine.options.keepComponent) return (slice) => this.mask(slice);
    const parts = this.parts();
    for (const slice of this.slices()) parts.add(slice);
    return parts.kept;
  }
}

/**
 * The same answer with logits above 0 in the mask with the highest expected Dice, as `Answer.at_best_dice` in Python.
 * @returns {Answer}
 */
function atBestDice(/** @type {Answer} */ answer, { least_overlap: least }) {
  const shift = Math.fround(Math.log(Math.min(Math.max(answer.overlap, least), 1)));
  return { ...answer, logits: answer.logits.map((logit) => logit - shift) };
}

/** @returns {Result} */
function resultOf({ logits, objectLogit, overlap }, view) {
  return { view, logits, score: objectLogit > 0 ? overlap : 0, drawn: null };
}

/** One object's walk in one direction, which it may leave before the scan ends. */
export class Walk {
  constructor(/** @type {Track} */ track, step) {
    this.track = track;
    this.step = step;
    const prompted = [...track.prompts.keys()];
    this.position = step > 0 ? Math.min(...prompted) : Math.max(...prompted) - 1;
    this.numAbsent = 0;
    this.skip();
  }

  get isInside() {
    return this.position >= 0 && this.position < this.track.engine.slices.count;
  }

  get isOver() {
    if (!this.isInside) return true;
    const { stopAfter } = this.track.engine.options;
    const isPromptedAhead = [...this.track.prompts.keys()].some((slice) => (slice - this.position) * this.step >= 0);
    return stopAfter > 0 && this.numAbsent >= stopAfter && !isPromptedAhead;
  }

  /** Do the slice at hand and go on. */
  async take() {
    await this.track.advance(this.position, this.step);
    const isThere = this.track.logits(this.position).logits.some((logit) => logit > 0);
    this.numAbsent = isThere ? 0 : this.numAbsent + 1;
    this.position += this.step;
    this.skip();
  }

  /** Leave out slices that are reached from the other side. */
  skip() {
    while (this.isInside && this.track.banks.direction(this.position) !== this.step) {
      this.numAbsent = 0;
      this.position += this.step;
    }
  }
}
