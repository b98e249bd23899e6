/** Files that were dropped, kept in this browser with the work on them: the server forgets them when it ends. */

const DATABASE = "medsam2";
const STORE = "work";
const FILE = "file";
const DRAFT = "draft";

/**
 * @typedef {{kind: "file"|"tour", name: string, blob: Blob}} KeptFile
 */

function database() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function transact(mode, act) {
  const opened = await database();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = opened.transaction(STORE, mode);
      const request = act(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = () => reject(transaction.error);
    });
  } finally {
    opened.close();
  }
}

/**
 * Keep a file, in place of the one before and the work on it.
 * @param {KeptFile} file
 */
export async function keepFile(file) {
  await transact("readwrite", (store) => store.delete(DRAFT));
  await transact("readwrite", (store) => store.put(file, FILE));
}

/** Keep the work on the file. */
export const keepDraft = (draft) => transact("readwrite", (store) => store.put(draft, DRAFT));

/**
 * What was kept, if anything was.
 * @returns {Promise<(KeptFile & {draft: object|null})|null>}
 */
export async function keptWork() {
  const file = await transact("readonly", (store) => store.get(FILE));
  return file ? { ...file, draft: (await transact("readonly", (store) => store.get(DRAFT))) ?? null } : null;
}

export const forgetWork = () => transact("readwrite", (store) => store.clear());
