/**
 * Sessions of scans, whoever computes them: a server, or this browser in a page without a server.
 *
 * The page says in `data-engine` how it was started. Both modules offer the same functions; those of the project are in
 * routes.js alone, since only a server has one.
 */

/** Whether this browser segments, and no server. */
export const isInBrowser = document.documentElement.dataset.engine === "browser";

const engine = isInBrowser ? await import("./browser/sessions.js") : await import("./routes.js");

/** Open a scan in a session, describe it, and close it. */
export const { openSession, readSession, closeSession } = engine;

/** The voxels of a session's scan, see volume.js. */
export const { readVolume } = engine;

/** Change a session: add or remove prompts, and propagate. */
export const { addPrompt, removePrompts, propagate } = engine;

/** Take the last change back, or do it again. */
export const { undo, redo } = engine;

/** Read the masks of a session and what they measure. */
export const { readMasks, readMeasurements } = engine;

/** Write the masks as a file of one of these types. */
export const { EXPORT_TYPES, exportMasks } = engine;

/** The scan of the tour with its known answer. */
export const { readTour, readTourScan, readTourAnswer } = engine;

/** The project of the server; null where there is none. */
export const { readProject } = engine;

/**
 * Prepare the page for its engine; call this before all else. In a page without a server it may load the page once
 * more, and then it does not come back.
 * @type {() => Promise<void>}
 */
export const startEngine = engine.startEngine;
