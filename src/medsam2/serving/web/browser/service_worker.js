/**
 * The service worker of the site: it keeps all files, answers from them, and adds headers.
 *
 * It lies at the top of the site as service-worker.js. `medsam2 export web` puts the facts of the site in.
 */

/** @type {{version: string, files: string[], policy: string}} */
const SITE = { version: "", files: [], policy: "" };

/**
 * Ask the server whether a file that the browser has is still the one: after a new export, the old one may lie in the
 * browser's own cache.
 * @type {RequestInit}
 */
const FRESH = { cache: "no-cache" };

/** Headers of each answer: the page is isolated from other origins, and connects to none. */
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Content-Security-Policy": `${SITE.policy}; frame-ancestors 'self'`,
  "Referrer-Policy": "no-referrer",
};

/** @type {any} */
const scope = self;
// Another site of this kind may lie in another folder of the same server.
const PREFIX = `medsam2 ${scope.registration.scope} `;
const NAME = `${PREFIX}${SITE.version}`;

scope.addEventListener("activate", (event) => {
  event.waitUntil(Promise.all([forgetOld(), scope.clients.claim()]));
});

scope.addEventListener("fetch", (event) => {
  const { request } = event;
  const isOurs = request.url.startsWith(scope.registration.scope);
  // Files are all that there is: what goes elsewhere, or wants to leave something, is no request of this page.
  event.respondWith(isOurs && request.method === "GET" ? answer(request) : Response.error());
});

scope.addEventListener("message", (event) => {
  if (event.data?.keep) event.waitUntil(keepAll(event.ports[0]));
});

async function answer(request) {
  const cache = await caches.open(NAME);
  const url = new URL(request.url);
  url.search = url.hash = "";
  if (url.href === scope.registration.scope) url.pathname += "index.html";
  const kept = await cache.match(url.href);
  if (kept) return withHeaders(kept);
  if (!SITE.files.includes(url.href.slice(scope.registration.scope.length))) return withHeaders(await fetch(request));
  const response = await fetch(url.href, FRESH);
  if (response.ok) await cache.put(url.href, response.clone()).catch(() => {});
  return withHeaders(response);
}

function withHeaders(response) {
  // An answer of status 0 or 304 has no body that could be given on.
  if (response.status < 200 || response.status === 304) return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

/** Fetch the files that are not kept yet, one after the other, so that the page's own requests come first. */
async function keepAll(port) {
  const cache = await caches.open(NAME);
  let isNew = false;
  try {
    for (const file of SITE.files) {
      const address = new URL(file, scope.registration.scope).href;
      if (await cache.match(address)) continue;
      await cache.add(new Request(address, FRESH));
      isNew = true;
    }
    port.postMessage({ isKept: true, isNew });
  } catch {
    port.postMessage({ isKept: false, isNew: false });
  }
}

async function forgetOld() {
  for (const name of await caches.keys()) if (name.startsWith(PREFIX) && name !== NAME) await caches.delete(name);
}
