/** The tools at the side of the scan. */

import { change, state, watch } from "./state.js";

const SVG = "http://www.w3.org/2000/svg";

/** In the order of the toolbar; `key` chooses it, `path` is its icon in a square of 24. */
export const TOOLS = [
  { name: "box", key: "b", title: "Box around a structure", path: "M4 7h16v11H4z" },
  { name: "point", key: "p", title: "Click inside; Shift or right click outside", path: "M12 4v16M4 12h16" },
  { name: "brush", key: "d", title: "Brush", path: "M5 19c0-3 2-4 4-4l9-10 2 2-10 9c0 2-1 4-5 3z" },
  { name: "erase", key: "e", title: "Eraser", path: "M4 15l8-9 7 6-6 7H8zM8 10l7 6" },
  { name: "crosshair", key: "c", title: "Move the crosshair", path: "M12 3v6M12 15v6M3 12h6M15 12h6" },
  { name: "pan", key: "h", title: "Pan; double click fits", path: "M12 3v18M3 12h18M12 3l-3 3M12 3l3 3M12 21l-3-3M12 21l3-3M3 12l3-3M3 12l3 3M21 12l-3-3M21 12l-3 3" },
];
const SIZES = [1, 60];

/** Show the toolbar. */
export function showTools() {
  const bar = document.getElementById("tools");
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
    document.getElementById("views").dataset.tool = state.tool;
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

function buttonFor({ name, key, title, path }) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.tool = name;
  button.title = `${title} (${key.toUpperCase()})`;
  button.setAttribute("aria-label", title);
  const icon = document.createElementNS(SVG, "svg");
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  icon.append(line);
  const letter = document.createElement("kbd");
  letter.textContent = key.toUpperCase();
  button.append(icon, letter);
  button.addEventListener("click", () => change({ tool: name }));
  return button;
}
