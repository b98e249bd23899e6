/** The project of the folder that was opened, one function a route. */

import { ask, askJson } from "./api.js";

const ROOT = "/v1/project";
const caseAt = (id) => `${ROOT}/cases/${encodeURIComponent(id)}`;

export const readProject = () => askJson("GET", ROOT);

export const readThumbnail = async (id) => (await ask("GET", `${caseAt(id)}/thumbnail`)).blob();

/** Take a case to work on; 409 says who has it. */
export const openCase = (id, user) => askJson("POST", `${caseAt(id)}/open`, { json: { user } });

export const renewLock = (id, user) => askJson("POST", `${caseAt(id)}/renew`, { json: { user } });

export const releaseCase = (id, user) => ask("POST", `${caseAt(id)}/release`, { json: { user }, keepalive: true });

export function putDraft(id, user, draft, keepalive = false) {
  return ask("PUT", `${caseAt(id)}/draft`, { json: { user, draft }, keepalive });
}

/** The labels of a version, a .nii.gz file on the scan's grid. */
export const readVersion = async (id, number) => (await ask("GET", `${caseAt(id)}/versions/${number}/mask`)).arrayBuffer();

/** Keep a version of the masks; `state` is what the case is then. */
export const addVersion = (id, version) => askJson("POST", `${caseAt(id)}/versions`, { json: version });

export function setState(id, user, state, comment) {
  return askJson("POST", `${caseAt(id)}/state`, { json: { user, state, comment } });
}

export function postEvents(id, user, events, keepalive = false) {
  return ask("POST", `${ROOT}/events`, { json: { user, case: id, events }, keepalive });
}


/** The page with the times, as the project reports them. */
export const REPORT = `${ROOT}/report`;

export const readRounds = () => askJson("GET", `${ROOT}/rounds`);

/** Start a round of learning, or take the weights of one into use, or go back to those before. */
export function actOnRounds(action, user, round) {
  return askJson("POST", `${ROOT}/rounds`, { json: { action, user, ...(round !== undefined && { round }) } });
}
