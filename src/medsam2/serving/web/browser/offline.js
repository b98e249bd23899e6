/**
 * The page without a network: a service worker keeps all files, and adds the headers that threads need.
 *
 * Threads share memory, which browsers allow only to pages that are isolated from other origins. Plain file servers
 * send no headers that say so; the service worker adds them. The page must be loaded once more for them to count.
 */

import { showNotice } from "../page.js";

const SCRIPT = new URL("../../service-worker.js", import.meta.url);
const RELOADED = "medsam2.reloaded";
const WAIT_MS = 10_000;

/** Register the service worker; where threads are possible only then, load the page once more. */
export async function startOffline() {
  // Browsers have service workers on https and on this machine only; elsewhere the page works without.
  if (!navigator.serviceWorker) return;
  let registration;
  try {
    registration = await navigator.serviceWorker.register(SCRIPT, { updateViaCache: "none" });
    await isControlled();
  } catch (error) {
    console.warn("The page cannot be kept for work without a network.", error);
    return;
  }
  if (!window.crossOriginIsolated && navigator.serviceWorker.controller && !sessionStorage.getItem(RELOADED)) {
    sessionStorage.setItem(RELOADED, "yes");
    location.reload();
    await new Promise(() => {});
  }
  sessionStorage.removeItem(RELOADED);
  keepFiles();
  // A newer one waits until all tabs are closed; without a network there is none.
  registration.update().catch(() => {});
}

async function isControlled() {
  if (navigator.serviceWorker.controller) return;
  await new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
    setTimeout(resolve, WAIT_MS);
  });
}

/** Have all files kept, and say so the first time. */
async function keepFiles() {
  const channel = new MessageChannel();
  channel.port1.addEventListener("message", ({ data }) => {
    document.body.dataset.offline = data.isKept ? "yes" : "no";
    if (data.isNew) showNotice("The page is stored in this browser. It works without a network from now on.");
  });
  channel.port1.start();
  navigator.serviceWorker.controller?.postMessage({ keep: true }, [channel.port2]);
}
