/** Take files and folders that are dropped on the page or chosen. */

import { say } from "./notices.js";
import { openFile } from "./opening.js";
import { by } from "./page_parts.js";
import { zipOf } from "./zip.js";

/** Listen for files. */
export function acceptFiles() {
  const input = by("file");
  by("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", async () => {
    const files = [...input.files];
    input.value = "";
    await openAll(files);
  });
  let depth = 0;
  const mark = (by) => {
    depth = by === 0 ? 0 : depth + by;
    document.body.classList.toggle("is-dragging", depth > 0);
  };
  document.addEventListener("dragenter", () => mark(1));
  document.addEventListener("dragleave", () => mark(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    mark(0);
    const items = [...(event.dataTransfer?.items ?? [])].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const plain = [...(event.dataTransfer?.files ?? [])];
    // Some files come without an entry, those of a page's own making for one.
    await openAll(items.length ? (await Promise.all(items.map(filesIn))).flat() : plain);
  });
}

async function openAll(files) {
  const seen = files.filter((file) => !file.name.startsWith(".") && file.name !== "DICOMDIR");
  if (!seen.length) {
    say("There is no file in what was dropped.", "fault");
  } else if (seen.length === 1) {
    await openFile(seen[0], seen[0].name);
  } else {
    await openFile(await zipOf(seen), `${seen.length} files.zip`);
  }
}

/** All files below an entry of what was dropped. */
async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // A reader gives a hundred at a time, and none at the end.
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return found.flat();
    found.push(...(await Promise.all(entries.map(filesIn))));
  }
}
