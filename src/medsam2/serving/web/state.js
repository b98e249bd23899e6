/** The page's one state, and who is told when a part of it changes. */

/**
 * @typedef {Object} Shown  What the page knows about one object.
 * @property {number} number
 * @property {string} name
 * @property {string} colour  "#rrggbb"
 * @property {boolean} isHidden
 * @property {boolean} isLocked
 */

/** Colours of new objects: those that exports use, far apart in hue and readable on grey. */
const COLOURS = [
  "#e63c3c", "#3cb44b", "#5b8cff", "#f5be28", "#b46bd6", "#28bec8", "#f58232", "#e664b4", "#96c83c", "#b98f62",
];

export const state = {
  /** Who annotates; "" until they say. */
  user: "",
  /** What GET /v1/project gave, or null where no folder was opened. */
  project: null,
  /** {kind: "case"|"file"|"tour", id, name, state}, or null. */
  opened: null,
  /** What POST /v1/sessions gave. */
  session: null,
  /** A scan's voxels, see nifti.js. */
  volume: null,
  /** The three planes, see planes.js; `drawing` is the one that prompts go to. */
  planes: [],
  /** Name of the plane that was chosen to draw on; null: that of the file's slices. */
  plane: null,
  /** Voxel (x, y, z) that all planes go through. */
  crosshair: [0, 0, 0],
  /** Grey values that are black and white. */
  window: [0, 1],
  tool: "box",
  brushSize: 9,
  /** @type {Shown[]} */
  objects: [],
  /** Number of the object that prompts go to. */
  current: 1,
  /** Masks by object and slice, see masks.js; a new value of `masksAt` says they changed. */
  masks: null,
  masksAt: 0,
  /** {slice: {object: 0..1}} */
  confidence: {},
  /** Steps of the work so far, see history.js. */
  log: [],
  undone: [],
  /** {text, done, of, cancel} while the server works. */
  work: null,
  measurements: [],
  /** {slice, box} that the tour asks for, or null. */
  target: null,
  areMasksShown: true,
  isBaseline: false,
  isServerAway: false,
};

/** @type {{keys: string[], tell: () => void}[]} */
const watchers = [];
/** @type {Set<string>} */
const changed = new Set();

/**
 * Change parts of the state; watchers are told once, before the next frame.
 * @param {Partial<typeof state>} parts
 */
export function change(parts) {
  Object.assign(state, parts);
  if (!changed.size) queueMicrotask(tellAll);
  for (const key of Object.keys(parts)) changed.add(key);
}

/**
 * Call a function now and whenever one of some parts changes.
 * @param {string[]} keys
 * @param {() => void} tell
 */
export function watch(keys, tell) {
  watchers.push({ keys, tell });
  tell();
}

function tellAll() {
  const keys = new Set(changed);
  changed.clear();
  for (const watcher of watchers) if (watcher.keys.some((key) => keys.has(key))) watcher.tell();
}

/** The plane that prompts go to: its slices are those of the session. */
export function drawingPlane() {
  return state.planes.find((plane) => plane.axis === state.session?.axis) ?? null;
}

/** Index of the slice of the session that is shown. */
export function shownSlice() {
  return state.session ? state.crosshair[state.session.axis] : 0;
}

/** @returns {Shown|undefined} */
export function currentObject() {
  return state.objects.find((object) => object.number === state.current);
}

/**
 * An object of which nothing is known but its number.
 * @returns {Shown}
 */
export function plainObject(number) {
  return {
    number, name: `object ${number}`, colour: COLOURS[(number - 1) % COLOURS.length], isHidden: false, isLocked: false,
  };
}
