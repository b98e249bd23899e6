/** The bar at the top and the tools at the side: what is open, the window, undo, export, save. */

import { saveDraftSoon } from "./drafts.js";
import { undoLast } from "./history.js";
import { chooseWindow, WINDOWS } from "./navigation.js";
import { closeScan } from "./opening.js";
import { all, byId, make, makeButton, makeIcon } from "./page.js";
import { EXPORTS, exportAs, reviewCase, saveVersion } from "./saving.js";
import { isInBrowser } from "./sessions.js";
import { change, state, watch } from "./state.js";
import { askForUser, refreshProject } from "./user.js";
import { redo, undo } from "./work.js";

/** In the order of the page; `key` chooses the tool. */
export const TOOLS = [
  { name: "box", key: "b", title: "Box around a structure" },
  { name: "point", key: "p", title: "Click inside; outside with Shift, the right button or a long touch" },
  { name: "brush", key: "d", title: "Brush" },
  { name: "erase", key: "e", title: "Eraser" },
  { name: "crosshair", key: "c", title: "Move the crosshair" },
  { name: "pan", key: "h", title: "Pan; double click fits" },
];
const [MIN_BRUSH, MAX_BRUSH] = [1, 60];

/** Show the bar at the top. */
export function showBar() {
  byId("back").addEventListener("click", async () => {
    await closeScan();
    await refreshProject();
  });
  byId("undo").addEventListener("click", undo);
  byId("redo").addEventListener("click", redo);
  byId("user").addEventListener("click", askForUser);
  byId("baseline").addEventListener("change", () => {
    const isBaseline = byId("baseline").checked;
    change({ isBaseline, ...(isBaseline && { tool: "brush" }) });
    saveDraftSoon();
  });
  byId("accept").addEventListener("click", () => reviewCase("reviewed"));
  byId("send-back").addEventListener("click", () => reviewCase("rejected"));
  fillMenus();
  showWindow();
  watch(["opened", "user", "project"], showOpened);
  watch(["log", "undone", "task"], () => {
    byId("undo").disabled = !undoLast(state.log) || state.task !== null;
    byId("redo").disabled = !state.undone.length || state.task !== null;
  });
  watch(["isBaseline"], () => (byId("baseline").checked = state.isBaseline));
}

/** Show the tools. */
export function showTools() {
  const bar = byId("tools");
  const slider = make("input", {
    type: "range", min: MIN_BRUSH, max: MAX_BRUSH, id: "brush-size", "aria-label": "Width of the brush in pixels",
  });
  slider.addEventListener("input", () => change({ brushSize: Number(slider.value) }));
  const text = make("span");
  const size = make("label", { className: "brush-size" }, slider, text);
  bar.append(...TOOLS.map(toolButton), size);
  watch(["tool"], () => {
    for (const button of bar.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
    }
    size.hidden = state.tool !== "brush" && state.tool !== "erase";
    byId("views").dataset.tool = state.tool;
  });
  watch(["brushSize"], () => {
    slider.value = String(state.brushSize);
    text.textContent = `${state.brushSize} px`;
  });
}

/** Make the brush wider or narrower. */
export function resizeBrush(pixels) {
  change({ brushSize: Math.min(MAX_BRUSH, Math.max(MIN_BRUSH, state.brushSize + pixels)) });
}

function toolButton({ name, key, title }) {
  const letter = key.toUpperCase();
  const properties = { title: `${title} (${letter})`, "aria-label": title, dataset: { tool: name } };
  const button = makeButton("", () => change({ tool: name }), properties);
  button.append(makeIcon(name), make("kbd", {}, letter));
  return button;
}

function showOpened() {
  const { opened } = state;
  byId("back").hidden = byId("bar-work").hidden = opened === null;
  byId("title").textContent = opened?.name ?? state.project?.name ?? "";
  document.title = opened ? `${opened.name} – medsam2` : "medsam2";
  byId("case-state").hidden = !opened?.state;
  byId("case-state").textContent = byId("case-state").dataset.state = opened?.state ?? "";
  byId("user").textContent = state.user || "Who are you?";
  byId("user").hidden = state.project === null;
  byId("baseline-label").hidden = isInBrowser;
  byId("save-menu").hidden = opened?.kind !== "case";
  byId("review").hidden = opened?.state !== "done";
  const author = opened?.versions?.at(-1)?.author;
  byId("review-text").textContent = author ? `The latest version is by ${author}.` : "Is the mask right?";
}

function fillMenus() {
  fillMenu("export-menu", EXPORTS.map(({ type, label }) => ({ label, act: () => exportAs(type) })));
  fillMenu("save-menu", [
    { label: "Save, still in work (Ctrl+S)", act: () => saveVersion("in work") },
    { label: "Save as done", act: () => saveVersion("done") },
  ]);
  document.addEventListener("click", (event) => {
    for (const menu of all("details.menu[open]")) {
      if (!event.composedPath().includes(menu)) menu.open = false;
    }
  });
}

function fillMenu(id, entries) {
  const menu = byId(id);
  const choose = (act) => {
    menu.open = false;
    act();
  };
  menu.querySelector("ul").append(
    ...entries.map(({ label, act }) => make("li", {}, makeButton(label, () => choose(act)))),
  );
}

function showWindow() {
  /** @type {HTMLSelectElement} */
  const select = byId("window-preset");
  select.append(
    new Option("as opened", "opened"), ...WINDOWS.map(({ name }) => new Option(name, name)), new Option("by hand", "hand"),
  );
  select.addEventListener("change", () => chooseWindow(select.value));
  watch(["window", "session"], () => {
    const isShown = (limits) => limits && limits[0] === state.window[0] && limits[1] === state.window[1];
    const preset = WINDOWS.find((one) => isShown(one.limits))?.name;
    select.value = preset ?? (isShown(state.session?.window) ? "opened" : "hand");
    byId("window-values").textContent = state.window.map((value) => Math.round(value)).join(" … ");
  });
}
