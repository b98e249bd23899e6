/** The user's name, and the project of the server. */

import { ApiError, storeKey } from "./api.js";
import { noteServerAway } from "./background.js";
import { askQuestion, showError, showNotice } from "./page.js";
import { readProject } from "./sessions.js";
import { change, state } from "./state.js";

const NAME = "medsam2.user";
const PATTERN = "[A-Za-z0-9._ \\-]{1,64}";

/** Read the user's name and the project. */
export async function loadUser() {
  change({ user: localStorage.getItem(NAME) ?? "" });
  await refreshProject();
}

/** Read the project again. */
export async function refreshProject() {
  try {
    change({ project: await readProject() });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.isAway) noteServerAway();
    else if (error.status === 401 || error.status === 403) await askForKey(error);
    else if (error.status === 404) change({ project: null });
    else showError(error);
  }
}

/** Return the user's name; ask for it if it is unknown. Without an answer it is "". */
export async function requireUser() {
  if (!state.user) await askForUser();
  return state.user;
}

/** Ask who annotates. */
export async function askForUser() {
  const known = state.project?.users?.length ? ` Known names: ${state.project.users.join(", ")}.` : "";
  const name = await askQuestion({
    title: "Who annotates?",
    text: `Your masks and your time are stored with your name.${known}`,
    field: "Name (letters, digits, . _ - and spaces)", value: state.user, yes: "Use this name", pattern: PATTERN,
  });
  if (!name) return;
  if (state.opened?.kind === "case" && name !== state.user) {
    showNotice("The open case is locked under the other name. Go back to the list first.");
    return;
  }
  localStorage.setItem(NAME, name);
  change({ user: name });
}

async function askForKey(error) {
  const key = await askQuestion({
    title: "This server needs a key", text: error.message, field: "Key", type: "password", yes: "Use this key",
  });
  if (!key) return;
  storeKey(key);
  await refreshProject();
}
