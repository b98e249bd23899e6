/** Find and make elements of the page; show notices and ask questions. */

const NOTICE_MS = 6000;
const MAX_NOTICES = 3;
const SVG = "http://www.w3.org/2000/svg";
/** Paths of the icons, in a square of 24 units. */
const ICONS = {
  box: "M4 7h16v11H4z",
  point: "M12 4v16M4 12h16",
  brush: "M5 19c0-3 2-4 4-4l9-10 2 2-10 9c0 2-1 4-5 3z",
  erase: "M4 15l8-9 7 6-6 7H8zM8 10l7 6",
  crosshair: "M12 3v6M12 15v6M3 12h6M15 12h6",
  pan: "M12 3v18M3 12h18M12 3l-3 3M12 3l3 3M12 21l-3-3M12 21l3-3M3 12l3-3M3 12l3 3M21 12l-3-3M21 12l-3 3",
  eye: "M3 12c3-5 6-6 9-6s6 1 9 6c-3 5-6 6-9 6s-6-1-9-6zM12 9.5a2.5 2.5 0 1 0 0 5a2.5 2.5 0 1 0 0-5",
  "eye-shut": "M3 12c3 4 6 5 9 5s6-1 9-5M6 15l-2 3M18 15l2 3M12 17v3",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  "lock-open": "M6 11h12v9H6zM8.5 11V7a3.5 3.5 0 0 1 6.8-1",
};

/**
 * The element of an id; index.html says of which kind it is.
 * @returns {any}
 */
export const byId = (id) => document.getElementById(id);

/**
 * All elements of a selector.
 * @returns {any[]}
 */
export const all = (selector) => [...document.querySelectorAll(selector)];

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, any>} [properties]  Properties of the element; its attributes where it has no such property.
 * @param {...(Node|string)} children
 * @returns {any}
 */
export function make(tag, { dataset = {}, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, String(value));
  }
  Object.assign(element.dataset, dataset);
  element.append(...children);
  return element;
}

/** Make a button. */
export function makeButton(text, onClick, properties = {}) {
  const button = make("button", { type: "button", ...properties }, text);
  button.addEventListener("click", () => onClick());
  return button;
}

/**
 * Make an icon in the colour of the text around it.
 * @param {keyof typeof ICONS} name
 */
export function makeIcon(name) {
  const icon = document.createElementNS(SVG, "svg");
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.setAttribute("aria-hidden", "true");
  icon.classList.add("drawn");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", ICONS[name]);
  icon.append(line);
  return icon;
}

/**
 * Show a sentence.
 * @param {string} text
 * @param {"info"|"error"} kind  An error stays until it is closed.
 */
export function showNotice(text, kind = "info") {
  const list = byId("notices");
  for (const old of [...list.children]) if (old.dataset.text === text) old.remove();
  const notice = make(
    "div", { className: `notice ${kind}`, role: kind === "error" ? "alert" : "status", dataset: { text } },
    make("span", {}, text), makeButton("×", () => notice.remove(), { "aria-label": "Close this notice" }),
  );
  list.append(notice);
  while (list.children.length > MAX_NOTICES) list.firstElementChild.remove();
  if (kind === "info") setTimeout(() => notice.remove(), NOTICE_MS);
}

/** Show an error; a request that was cancelled on purpose is none. */
export function showError(error) {
  if (error?.name === "AbortError") return;
  showNotice(error instanceof Error ? error.message : String(error), "error");
}

/** Remove the notices of all errors. */
export function clearErrors() {
  all("#notices .error").forEach((notice) => notice.remove());
}

/**
 * Ask a question in a dialog.
 * @param {{title: string, text: string, field?: string, value?: string, type?: string, yes: string, pattern?: string,
 *   isOptional?: boolean}} question
 * @returns {Promise<string|null>} What was filled in ("" without a field), or null for no.
 */
export function askQuestion({ title, text, field, value = "", type = "text", yes, pattern, isOptional = false }) {
  /** @type {HTMLDialogElement} */
  const dialog = byId("question");
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
