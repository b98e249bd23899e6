/** Hold the lock of the case that is open, so that nobody else changes it. */

import { ApiError } from "./api.js";
import { say } from "./notices.js";
import { renewLock } from "./project.js";
import { state } from "./state.js";

const RENEW_EVERY_MS = 30_000;

let timer = 0;

/** Renew the lock of a case until it is dropped. */
export function holdLock(id) {
  clearInterval(timer);
  timer = setInterval(() => renew(id), RENEW_EVERY_MS);
}

export function dropLock() {
  clearInterval(timer);
}

async function renew(id) {
  try {
    await renewLock(id, state.user);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 409) return;
    dropLock();
    say(`${error.message} What you do now cannot be saved; export it, or open the case again.`, "fault");
  }
}
