/** The page before a scan is open: the project's cases, rounds of fine-tuning, files that are dropped or chosen. */

import { hasKey, sentence } from "./api.js";
import { droppedFiles, saveFile, zipFiles } from "./files.js";
import { openCase, openFile } from "./opening.js";
import { byId, make, makeButton, showError, showNotice } from "./page.js";
import { changeRounds, readProject, readReport, readRounds, readThumbnail, showReport } from "./routes.js";
import { isInBrowser } from "./sessions.js";
import { change, state, watch } from "./state.js";
import { requireUser } from "./user.js";

const REFRESH_MS = 10_000;
const ALL = "all";
const READ_EVERY_MS = 3000;

/** The states of a round in words. Running is not among them: the message of the round says enough. */
const STATES = { ready: "New weights are ready. ", stopped: "Stopped. ", failed: "Failed. " };

/** @type {Map<string, Promise<string>>} Addresses of pictures by case. */
const pictures = new Map();
let filter = ALL;
let roundTimer = 0;

/** Show the list, and refresh it while it is visible. */
export function showCases() {
  const select = byId("filter");
  select.addEventListener("change", () => {
    filter = select.value;
    draw();
  });
  byId("report").addEventListener("click", openReport);
  watch(["project", "user", "opened"], draw);
  setInterval(refresh, REFRESH_MS);
}

/** Accept files that are dropped on the page or chosen. */
export function acceptFiles() {
  const input = byId("file");
  byId("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", async () => {
    const files = [...input.files];
    input.value = "";
    await openFiles(files);
  });
  let depth = 0;
  const markDrag = (newDepth) => {
    depth = newDepth;
    document.body.classList.toggle("is-dragging", depth > 0);
  };
  document.addEventListener("dragenter", () => markDrag(depth + 1));
  document.addEventListener("dragleave", () => markDrag(depth - 1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    markDrag(0);
    await openFiles(await droppedFiles(event.dataTransfer));
  });
}

async function openFiles(files) {
  const visible = files.filter((file) => !file.name.startsWith(".") && file.name !== "DICOMDIR");
  if (!visible.length) showNotice("The drop contains no file.", "error");
  else if (visible.length === 1) await openFile(visible[0], visible[0].name);
  else await openFile(await zipFiles(visible), `${visible.length} files.zip`);
}

async function refresh() {
  if (!state.project || state.opened || document.hidden || state.isServerAway) return;
  try {
    const project = await readProject();
    if (JSON.stringify(project) !== JSON.stringify(state.project)) change({ project });
  } catch {
    // What the user does next will show the error.
  }
}

function draw() {
  const { project } = state;
  const title = byId("start-title");
  const text = byId("start-text");
  for (const id of ["cases", "filter-label", "report"]) byId(id).hidden = project === null;
  if (!project) {
    title.textContent = "Open a scan";
    text.textContent = isInBrowser
      ? "Your scan stays on this computer: this page has no server, and sends nothing. Export your masks to keep them."
      : "The server was started without a folder. Export your masks: no project keeps them.";
    if (isInBrowser) byId("formats").textContent = "NIfTI, NRRD, a DICOM folder or a zip of one";
    return;
  }
  const count = project.cases.length;
  const finished = project.cases.filter((one) => one.state === "done" || one.state === "reviewed").length;
  title.textContent = project.name;
  text.textContent = count
    ? `${count} ${count === 1 ? "case" : "cases"}, ${finished} done.`
    : "This folder has no scans. Put scans there and start the server again, or drop a scan here.";
  fillFilter(project.cases);
  const shown = project.cases.filter((one) => filter === ALL || one.state === filter);
  byId("cases").replaceChildren(...shown.map((one) => make("li", {}, cardFor(one))));
}

function fillFilter(cases) {
  const select = byId("filter");
  const choices = [ALL, ...[...new Set(cases.map((one) => one.state))].sort()];
  if (!choices.includes(filter)) filter = ALL;
  select.replaceChildren(...choices.map((choice) => new Option(choice === ALL ? "all cases" : choice, choice)));
  select.value = filter;
}

function cardFor(one) {
  const open = async () => {
    if (await requireUser()) await openCase(one.id);
  };
  const picture = make("img", { alt: "", width: 160, height: 120, decoding: "async" });
  showPicture(picture, one.id);
  const user = one.lock?.user;
  const isOthers = Boolean(user) && user !== state.user;
  const card = makeButton("", open, { className: "card", dataset: { case: one.id } });
  card.append(
    picture,
    make("span", { className: "card-name" }, one.name),
    make("span", { className: "chip", dataset: { state: one.state } }, one.state),
    make("span", { className: "card-facts" }, factsOf(one)),
    make("span", { className: isOthers ? "card-owner is-other" : "card-owner" }, isOthers ? `${user} has it` : one.owner ?? ""),
  );
  return card;
}

function factsOf(one) {
  const facts = [];
  if (one.num_slices) facts.push(`${one.num_slices} slices`);
  if (one.objects?.length) facts.push(`${one.objects.length} ${one.objects.length === 1 ? "object" : "objects"}`);
  if (one.active_s >= 1) facts.push(one.active_s < 60 ? `${Math.round(one.active_s)} s` : `${Math.round(one.active_s / 60)} min`);
  return facts.join(" · ");
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

/** Open the time report; with a key it is saved instead, as a new tab cannot send the key. */
async function openReport() {
  if (!hasKey()) {
    showReport();
    return;
  }
  try {
    saveFile(await readReport(), "report.html");
  } catch (error) {
    showError(error);
  }
}

/** Show the latest round on the start page. */
export function showRounds() {
  const done = "The model is fine-tuned on the done cases in the background. You can go on working.";
  byId("improve").addEventListener("click", () => actOnRound("start", undefined, done));
  watch(["project", "opened"], () => {
    byId("improve").hidden = state.project === null;
    if (state.project && !state.opened) followRounds();
    else clearTimeout(roundTimer);
  });
}

async function actOnRound(action, round, done) {
  if (!(await requireUser())) return;
  try {
    await changeRounds(action, state.user, round);
    showNotice(done);
  } catch (error) {
    showError(error);
  }
  followRounds();
}

async function followRounds() {
  clearTimeout(roundTimer);
  const place = byId("round");
  const improve = byId("improve");
  try {
    const { rounds, obstacle } = await readRounds();
    improve.disabled = Boolean(obstacle);
    improve.title = obstacle ?? "Fine-tune the model on the done cases, in the background";
    const latest = rounds.at(-1);
    const isRunning = latest?.state === "running";
    byId("obstacle").hidden = !obstacle || isRunning;
    byId("obstacle").textContent = obstacle ? `To improve the model: ${obstacle}.` : "";
    // The way back from the weights in use stays, whatever became of a newer round.
    const inUse = rounds.find((one) => one.in_use && one !== latest);
    place.hidden = !latest;
    place.replaceChildren(...[latest, inUse].filter(Boolean).map(rowFor));
    if (isRunning) roundTimer = setTimeout(followRounds, READ_EVERY_MS);
  } catch (error) {
    place.hidden = true;
    // A server without training has no rounds.
    improve.hidden ||= error.status === 404;
  }
}

function rowFor(round) {
  const message = round.message ? `${sentence(round.message)} ` : "";
  const row = make("p", {}, make("span", {}, `Round ${round.round}: ${STATES[round.state] ?? ""}${message}${comparisonOf(round)}`));
  const addButton = (label, action, done) => row.append(makeButton(label, () => actOnRound(action, round.round, done)));
  if (round.state === "running") {
    row.append(make("progress", { max: 1, value: round.progress ?? 0, "aria-label": "Progress of the round" }));
  }
  if (round.state === "stopped") addButton("Go on", "go on", "The round goes on where it stopped.");
  if (round.state === "ready" && round.in_use) {
    addButton("Go back to the old weights", "back", "The old weights are in use again.");
  } else if (round.state === "ready") {
    addButton(isWorse(round) ? "Use the new weights anyway" : "Use the new weights", "use", "The new weights make the next proposals.");
  }
  return row;
}

const isWorse = ({ before, after }) => Boolean(before && after) && after.Dice < before.Dice;

/** The measures on held-out cases with the old and with the new weights. */
function comparisonOf(round) {
  const { before, after } = round;
  const parts = Object.keys(after ?? {})
    .filter((measure) => before && measure in before)
    .map((measure) => `${measure} ${before[measure].toFixed(3)} before, ${after[measure].toFixed(3)} after`);
  if (!parts.length) return "";
  return `On held-out cases: ${parts.join("; ")}.${isWorse(round) ? " The new weights are worse there." : ""}`;
}
