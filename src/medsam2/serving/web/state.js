/** The page's one state, and the watchers of its parts. */

import { colourOf } from "./colours.js";

/**
 * @typedef {Object} SceneObject  How the page names and shows an object.
 * @property {number} number
 * @property {string} name
 * @property {string} colour  "#rrggbb"
 * @property {boolean} isHidden
 * @property {boolean} isLocked
 */

export const state = {
  /** Name of the user; "" while unknown. */
  user: "",
  /** The answer of GET /v1/project; null where the server has no folder. */
  project: null,
  /** {kind: "case"|"file"|"tour", id, name, state}, or null. */
  opened: null,
  /** The answer of POST /v1/sessions. */
  session: null,
  /** The scan's voxels, see volume.js. */
  volume: null,
  /** The three planes, see planes.js; the first is the one that prompts go to. */
  planes: [],
  /** Name of the plane that was chosen for prompts; null: the plane of the file's slices. */
  plane: null,
  /** Voxel (x, y, z) that all planes go through. */
  crosshair: [0, 0, 0],
  /** Grey values that are black and white. */
  window: [0, 1],
  tool: "box",
  brushSize: 9,
  /** @type {SceneObject[]} */
  objects: [],
  /** Number of the object that prompts go to. */
  current: 1,
  /** Masks by object and slice, see masks.js; a new value of `masksAt` tells that they changed. */
  masks: null,
  masksAt: 0,
  /** {slice: {object: 0..1}} */
  confidence: {},
  /** Steps so far, see history.js. */
  log: [],
  undone: [],
  /** {text, done, of, canCancel} while the server works. */
  task: null,
  measurements: [],
  /** {slice, box} that the tour asks for, or null. */
  target: null,
  areMasksShown: true,
  isBaseline: false,
  isServerAway: false,
};

/** @type {{keys: string[], onChange: () => void}[]} */
const watchers = [];
/** @type {Set<string>} */
const changed = new Set();

/**
 * Change parts of the state; watchers are called once, before the next frame.
 * @param {Partial<typeof state>} parts
 */
export function change(parts) {
  Object.assign(state, parts);
  if (!changed.size) queueMicrotask(callWatchers);
  for (const key of Object.keys(parts)) changed.add(key);
}

/**
 * Call a function now and whenever one of some parts changes.
 * @param {string[]} keys
 * @param {() => void} onChange
 */
export function watch(keys, onChange) {
  watchers.push({ keys, onChange });
  onChange();
}

function callWatchers() {
  const keys = new Set(changed);
  changed.clear();
  for (const watcher of watchers) if (watcher.keys.some((key) => keys.has(key))) watcher.onChange();
}

/** The plane that prompts go to: its slices are those of the session. */
export function drawingPlane() {
  return state.planes.find((plane) => plane.axis === state.session?.axis) ?? null;
}

/** Index of the shown slice of the drawing plane. */
export function shownSlice() {
  return state.session ? state.crosshair[state.session.axis] : 0;
}

/** @returns {SceneObject|undefined} */
export function currentObject() {
  return state.objects.find((object) => object.number === state.current);
}

/**
 * An object with the name and colour that its number gives it.
 * @returns {SceneObject}
 */
export function makeObject(number) {
  return {
    number, name: `object ${number}`, colour: colourOf(number), isHidden: false, isLocked: false,
  };
}
