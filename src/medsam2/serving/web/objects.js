/** The list of objects: names, colours, eyes, locks, and where each was prompted. */

import { promptedSlices } from "./history.js";
import { scroll } from "./gestures.js";
import { iconOf } from "./icons.js";
import { by } from "./page_parts.js";
import { change, drawingPlane, shownSlice, state, watch } from "./state.js";
import { adjustObject, newObject, remove } from "./work.js";

const MOST_CHIPS = 8;

/** Show the list. */
export function showObjects() {
  by("add-object").addEventListener("click", newObject);
  watch(["objects", "current", "log", "opened"], draw);
}

function draw() {
  const list = by("objects");
  /** @type {any} */
  const activeElement = document.activeElement;
  // A name that is being typed must not lose the cursor.
  if (activeElement?.tagName === "INPUT" && list.contains(activeElement) && activeElement.dataset.editing) return;
  const focused = activeElement && list.contains(activeElement) ? activeElement.dataset.part : null;
  list.replaceChildren(...state.objects.map(itemFor));
  if (focused) list.querySelector(`.is-current [data-part="${focused}"]`)?.focus();
}

function itemFor(object) {
  const item = document.createElement("li");
  item.className = object.number === state.current ? "is-current" : "";
  item.dataset.object = String(object.number);
  const row = document.createElement("div");
  row.className = "object-row";
  row.append(
    chooser(object), colour(object), name(object),
    toggle(object, "isHidden", object.isHidden ? "eye-shut" : "eye", object.isHidden ? "Show" : "Hide"),
    toggle(object, "isLocked", object.isLocked ? "lock" : "lock-open", object.isLocked ? "Unlock" : "Lock"),
    button("✕", `Delete ${object.name}`, "delete", () => remove(object.number)),
  );
  item.append(row, prompts(object));
  return item;
}

function chooser(object) {
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: "current-object", checked: object.number === state.current });
  input.setAttribute("aria-label", `Work on ${object.name}`);
  input.dataset.part = "choose";
  input.addEventListener("change", () => change({ current: object.number }));
  return input;
}

function colour(object) {
  const input = document.createElement("input");
  Object.assign(input, { type: "color", value: object.colour });
  input.setAttribute("aria-label", `Colour of ${object.name}`);
  input.addEventListener("change", () => adjustObject(object.number, { colour: input.value }));
  return input;
}

function name(object) {
  const input = document.createElement("input");
  Object.assign(input, { type: "text", value: object.name, title: object.name, maxLength: 64, className: "object-name" });
  input.setAttribute("aria-label", `Name of object ${object.number}`);
  input.addEventListener("focus", () => {
    input.dataset.editing = "yes";
    if (state.current !== object.number) change({ current: object.number });
  });
  input.addEventListener("keydown", (event) => event.key === "Enter" && input.blur());
  input.addEventListener("blur", () => {
    delete input.dataset.editing;
    adjustObject(object.number, { name: input.value.trim() || `object ${object.number}` });
  });
  return input;
}

function toggle(object, part, icon, word) {
  const made = button("", `${word} ${object.name}`, part, () => adjustObject(object.number, { [part]: !object[part] }));
  made.append(iconOf(icon));
  made.setAttribute("aria-pressed", String(object[part]));
  return made;
}

function button(sign, label, part, act) {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", textContent: sign, title: label, className: "icon" });
  made.setAttribute("aria-label", label);
  made.dataset.part = part;
  made.addEventListener("click", act);
  return made;
}

function prompts(object) {
  const row = document.createElement("div");
  row.className = "object-prompts";
  const slices = promptedSlices(state.log, object.number);
  if (object.number === state.current && !slices.length) row.textContent = "nothing drawn yet";
  for (const slice of slices.slice(0, MOST_CHIPS)) {
    const chip = document.createElement("span");
    chip.className = "prompt-chip";
    const go = button(String(slice + 1), `Go to slice ${slice + 1}`, `go-${slice}`, () => {
      change({ current: object.number });
      scroll(drawingPlane(), slice - shownSlice());
    });
    chip.append(go, button("✕", `Forget what was drawn on slice ${slice + 1}`, `forget-${slice}`, () => remove(object.number, slice)));
    row.append(chip);
  }
  if (slices.length > MOST_CHIPS) row.append(`and ${slices.length - MOST_CHIPS} more`);
  return row;
}
