/** The tools at the side of the scan. */

import { iconOf } from "./icons.js";
import { by } from "./page_parts.js";
import { change, state, watch } from "./state.js";

/** In the order of the toolbar; `key` chooses it. */
export const TOOLS = [
  { name: "box", key: "b", title: "Box around a structure" },
  { name: "point", key: "p", title: "Click inside; Shift or right click outside" },
  { name: "brush", key: "d", title: "Brush" },
  { name: "erase", key: "e", title: "Eraser" },
  { name: "crosshair", key: "c", title: "Move the crosshair" },
  { name: "pan", key: "h", title: "Pan; double click fits" },
];
const SIZES = [1, 60];

/** Show the toolbar. */
export function showTools() {
  const bar = by("tools");
  for (const tool of TOOLS) bar.append(buttonFor(tool));
  const size = document.createElement("label");
  size.className = "brush-size";
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min: SIZES[0], max: SIZES[1], id: "brush-size" });
  input.setAttribute("aria-label", "Width of the brush in pixels");
  input.addEventListener("input", () => change({ brushSize: Number(input.value) }));
  const words = document.createElement("span");
  size.append(input, words);
  bar.append(size);
  watch(["tool"], () => {
    for (const button of bar.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
    }
    size.hidden = state.tool !== "brush" && state.tool !== "erase";
    by("views").dataset.tool = state.tool;
  });
  watch(["brushSize"], () => {
    input.value = String(state.brushSize);
    words.textContent = `${state.brushSize} px`;
  });
}

/** Make the brush wider or narrower. */
export function resizeBrush(by) {
  change({ brushSize: Math.min(SIZES[1], Math.max(SIZES[0], state.brushSize + by)) });
}

function buttonFor({ name, key, title }) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.tool = name;
  button.title = `${title} (${key.toUpperCase()})`;
  button.setAttribute("aria-label", title);
  const letter = document.createElement("kbd");
  letter.textContent = key.toUpperCase();
  button.append(iconOf(name), letter);
  button.addEventListener("click", () => change({ tool: name }));
  return button;
}
