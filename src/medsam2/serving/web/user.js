/** Who sits in front of the page, and what project they find. */

import { ApiError, keepKey } from "./api.js";
import { askPerson, say, sayFault } from "./notices.js";
import { serverIsAway } from "./presence.js";
import { readProject } from "./project.js";
import { change, state } from "./state.js";

const NAME = "medsam2.user";
const PATTERN = "[A-Za-z0-9._ \\-]{1,64}";

/** Find out who annotates and what there is to annotate. */
export async function greet() {
  change({ user: localStorage.getItem(NAME) ?? "" });
  await refreshProject();
}

/** Take the project's list anew. */
export async function refreshProject() {
  try {
    change({ project: await readProject() });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.isAway) {
      serverIsAway();
    } else if (error.status === 401 || error.status === 403) {
      await askForKey(error);
    } else if (error.status === 404) {
      change({ project: null });
    } else {
      sayFault(error);
    }
  }
}

/** The name of the person, asked for if it is not known; "" if they do not say. */
export async function requireUser() {
  if (!state.user) await askForUser();
  return state.user;
}

/** Ask who annotates. */
export async function askForUser() {
  const known = state.project?.users?.length ? ` Known here: ${state.project.users.join(", ")}.` : "";
  const name = await askPerson({
    title: "Who annotates?",
    text: `The name stands beside your masks and your time.${known}`,
    field: "Name (letters, digits, . _ - and spaces)", value: state.user, yes: "That is me", pattern: PATTERN,
  });
  if (!name) return;
  if (state.opened?.kind === "case" && name !== state.user) {
    say("Go back to the list first: this case is held by the other name.");
    return;
  }
  localStorage.setItem(NAME, name);
  change({ user: name });
}

async function askForKey(error) {
  const key = await askPerson({
    title: "This server needs a key", text: error.message, field: "Key", type: "password", yes: "Use it",
  });
  if (!key) return;
  keepKey(key);
  await refreshProject();
}
