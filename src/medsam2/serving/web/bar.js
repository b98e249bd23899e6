/** The bar at the top: what is open, the window, undo, export, save. */

import { all, by } from "./page_parts.js";
import { EXPORTS, exportAs, judge, saveVersion } from "./saving.js";
import { WINDOWS } from "./greys.js";
import { takeBack } from "./history.js";
import { leave } from "./opening.js";
import { openSheet } from "./keys.js";
import { refreshProject, askForUser } from "./user.js";
import { saveDraftSoon } from "./drafts.js";
import { change, state, watch } from "./state.js";
import { redo, undo } from "./work.js";

const STATES_TO_JUDGE = ["done"];

/** Show the bar and what its buttons do. */
export function showBar() {
  by("back").addEventListener("click", goBack);
  by("undo").addEventListener("click", undo);
  by("redo").addEventListener("click", redo);
  by("user").addEventListener("click", askForUser);
  by("help").addEventListener("click", openSheet);
  by("baseline").addEventListener("change", () => {
    const isBaseline = by("baseline").checked;
    change({ isBaseline, ...(isBaseline && { tool: "brush" }) });
    saveDraftSoon();
  });
  by("accept").addEventListener("click", () => judge("reviewed"));
  by("send-back").addEventListener("click", () => judge("rejected"));
  fillMenus();
  watchWindow();
  watch(["opened", "user", "project"], showOpened);
  watch(["log", "undone", "work"], () => {
    by("undo").disabled = !takeBack(state.log) || state.work !== null;
    by("redo").disabled = !state.undone.length || state.work !== null;
  });
  watch(["isBaseline"], () => (by("baseline").checked = state.isBaseline));
}

async function goBack() {
  await leave();
  await refreshProject();
}

function showOpened() {
  const { opened } = state;
  by("back").hidden = by("bar-work").hidden = opened === null;
  by("title").textContent = opened?.name ?? state.project?.name ?? "";
  document.title = opened ? `${opened.name} – medsam2` : "medsam2";
  by("case-state").hidden = !opened?.state;
  by("case-state").textContent = opened?.state ?? "";
  by("case-state").dataset.state = opened?.state ?? "";
  by("user").textContent = state.user || "Who are you?";
  by("user").hidden = state.project === null;
  by("save-menu").hidden = opened?.kind !== "case";
  by("review").hidden = !STATES_TO_JUDGE.includes(opened?.state ?? "");
  const author = opened?.versions?.at(-1)?.author;
  by("review-text").textContent = author ? `Latest version by ${author}.` : "Say whether the mask is right.";
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
  const menu = by(id);
  for (const { label, act } of entries) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", () => {
      menu.open = false;
      act();
    });
    const item = document.createElement("li");
    item.append(button);
    menu.querySelector("ul").append(item);
  }
}

function watchWindow() {
  /** @type {HTMLSelectElement} */
  const select = by("window-preset");
  select.append(new Option("as opened", "opened"));
  for (const { name } of WINDOWS) select.append(new Option(name, name));
  select.append(new Option("by hand", "hand"));
  select.addEventListener("change", () => chooseWindow(select.value));
  watch(["window", "session"], () => {
    const isSame = (limits) => limits && limits[0] === state.window[0] && limits[1] === state.window[1];
    const preset = WINDOWS.find((one) => isSame(one.limits))?.name;
    select.value = preset ?? (isSame(state.session?.window) ? "opened" : "hand");
    by("window-values").textContent = state.window.map((value) => Math.round(value)).join(" … ");
  });
}

/** Choose a window by its name. */
export function chooseWindow(name) {
  const limits = WINDOWS.find((one) => one.name === name)?.limits ?? (name === "opened" ? state.session?.window : null);
  if (limits) change({ window: [...limits] });
}
