/** Words for the person: short notices, a bar while the server is away, questions. */

import { all, by } from "./page_parts.js";

const SHOWN_MS = 6000;

/**
 * Show a sentence for a while.
 * @param {string} text
 * @param {"news"|"fault"} kind  Faults stay until they are closed.
 */
export function say(text, kind = "news") {
  const list = by("notices");
  for (const old of list.children) if (old.dataset.text === text) old.remove();
  const notice = document.createElement("div");
  notice.className = `notice ${kind}`;
  notice.dataset.text = text;
  notice.setAttribute("role", kind === "fault" ? "alert" : "status");
  const words = document.createElement("span");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "×";
  close.setAttribute("aria-label", "Close this notice");
  close.addEventListener("click", () => notice.remove());
  notice.append(words, close);
  list.append(notice);
  while (list.children.length > 3) list.firstElementChild.remove();
  if (kind === "news") setTimeout(() => notice.remove(), SHOWN_MS);
}

/** Say what went wrong; what was cancelled on purpose is no fault. */
export function sayFault(error) {
  if (error?.name === "AbortError") return;
  say(error instanceof Error ? error.message : String(error), "fault");
}

/** Take away all faults: what they spoke of is over. */
export function clearFaults() {
  all("#notices .fault").forEach((notice) => notice.remove());
}

/**
 * Ask something in a dialog.
 * @param {{title: string, text: string, field?: string, value?: string, type?: string, yes: string, pattern?: string,
 *   isOptional?: boolean}} question
 * @returns {Promise<string|null>} What was filled in ("" without a field), or null for no.
 */
export function askPerson({ title, text, field, value = "", type = "text", yes, pattern, isOptional = false }) {
  /** @type {HTMLDialogElement} */
  const dialog = by("question");
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector("p").textContent = text;
  const label = dialog.querySelector("label");
  /** @type {HTMLInputElement} */
  const input = dialog.querySelector("input");
  label.hidden = field === undefined;
  label.querySelector("span").textContent = field ?? "";
  Object.assign(input, { type, value, required: field !== undefined && !isOptional });
  if (pattern) input.pattern = pattern;
  else input.removeAttribute("pattern");
  dialog.querySelector("[value=yes]").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  if (field !== undefined) input.select();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => resolve(dialog.returnValue === "yes" ? (field === undefined ? "" : input.value.trim()) : null),
      { once: true },
    );
  });
}
