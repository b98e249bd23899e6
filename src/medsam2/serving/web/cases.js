/** The list of the project's cases: pictures, states, owners. */

import { ask, hasKey } from "./api.js";
import { sayFault } from "./notices.js";
import { openCase } from "./opening.js";
import { by } from "./page_parts.js";
import { readProject, readThumbnail, REPORT } from "./project.js";
import { saveFile } from "./save_file.js";
import { change, state, watch } from "./state.js";
import { requireUser } from "./user.js";

const REFRESH_MS = 10_000;
const ALL = "all";

/** Pictures by case, as addresses of this page. */
const pictures = new Map();
let filter = ALL;

/** Show the list, and keep it fresh while it is in sight. */
export function showCases() {
  const select = by("filter");
  select.addEventListener("change", () => {
    filter = select.value;
    draw();
  });
  by("report").addEventListener("click", showReport);
  watch(["project", "user", "opened"], draw);
  setInterval(refresh, REFRESH_MS);
}

async function refresh() {
  if (!state.project || state.opened || document.hidden || state.isServerAway) return;
  try {
    const project = await readProject();
    if (JSON.stringify(project) !== JSON.stringify(state.project)) change({ project });
  } catch {
    // The next step of the person says what is wrong.
  }
}

function draw() {
  const { project } = state;
  const title = by("start-title");
  const text = by("start-text");
  for (const id of ["cases", "filter-label", "report"]) by(id).hidden = project === null;
  if (!project) {
    title.textContent = "Open a scan";
    text.textContent = "No folder was opened with the server, so masks are exported and not kept in a project.";
    return;
  }
  const count = project.cases.length;
  const finished = project.cases.filter((one) => one.state === "done" || one.state === "reviewed").length;
  title.textContent = project.name;
  text.textContent = count
    ? `${count} ${count === 1 ? "case" : "cases"}, ${finished} done.`
    : "There are no scans in this folder yet. Put some there and start again, or drop one here.";
  fillFilter(project.cases);
  const shown = project.cases.filter((one) => filter === ALL || one.state === filter);
  by("cases").replaceChildren(...shown.map(cardFor));
}

function fillFilter(cases) {
  const select = by("filter");
  const states = [...new Set(cases.map((one) => one.state))].sort();
  const choices = [ALL, ...states];
  if (!choices.includes(filter)) filter = ALL;
  select.replaceChildren(...choices.map((choice) => new Option(choice === ALL ? "all cases" : choice, choice)));
  select.value = filter;
}

function cardFor(one) {
  const card = document.createElement("button");
  card.type = "button";
  card.className = "card";
  card.dataset.case = one.id;
  const picture = document.createElement("img");
  Object.assign(picture, { alt: "", width: 160, height: 120, decoding: "async" });
  showPicture(picture, one.id);
  const holder = one.lock?.user;
  const isOthers = Boolean(holder) && holder !== state.user;
  card.append(
    picture, words("card-name", one.name), words("chip", one.state, { state: one.state }),
    words("card-facts", factsOf(one)),
    words(isOthers ? "card-owner is-other" : "card-owner", isOthers ? `${holder} has it` : one.owner ?? ""),
  );
  card.addEventListener("click", async () => {
    if (await requireUser()) await openCase(one.id);
  });
  const item = document.createElement("li");
  item.append(card);
  return item;
}

function factsOf(one) {
  const facts = [];
  if (one.num_slices) facts.push(`${one.num_slices} slices`);
  if (one.objects?.length) facts.push(`${one.objects.length} ${one.objects.length === 1 ? "object" : "objects"}`);
  if (one.active_s >= 1) facts.push(one.active_s < 60 ? `${Math.round(one.active_s)} s` : `${Math.round(one.active_s / 60)} min`);
  return facts.join(" · ");
}

function words(className, text, data = {}) {
  const made = document.createElement("span");
  made.className = className;
  made.textContent = text;
  Object.assign(made.dataset, data);
  return made;
}

async function showPicture(picture, id) {
  try {
    if (!pictures.has(id)) pictures.set(id, readThumbnail(id).then((blob) => URL.createObjectURL(blob)));
    picture.src = await pictures.get(id);
  } catch {
    pictures.delete(id);
    picture.classList.add("is-missing");
  }
}

/** Open the time report; behind a key it is saved instead, as a new tab could not send the key. */
async function showReport() {
  if (!hasKey()) {
    window.open(REPORT, "_blank", "noopener");
    return;
  }
  try {
    saveFile(await (await ask("GET", REPORT)).blob(), "report.html");
  } catch (error) {
    sayFault(error);
  }
}
