/** Files that were dropped, kept in this browser with the work on them: the server forgets them when it ends. */

const DATABASE = "medsam2";
const STORE = "work";
const LATEST = "latest";

/**
 * @typedef {{kind: "file"|"tour", name: string, blob: Blob, draft: object}} Kept
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

/** Keep a file and the work on it; there is one at a time. */
export const keepWork = (kept) => transact("readwrite", (store) => store.put(kept, LATEST));

/** @returns {Promise<Kept|undefined>} */
export const keptWork = () => transact("readonly", (store) => store.get(LATEST));

export const forgetWork = () => transact("readwrite", (store) => store.delete(LATEST));
