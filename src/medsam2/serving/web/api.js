/** Requests to the server; one that fails says why in a sentence. */

const KEY_NAME = "medsam2.key";

/** A request that failed; the message is a sentence for people. */
export class ApiError extends Error {
  /**
   * @param {number} status  0 where no answer came.
   * @param {string} text
   */
  constructor(status, text) {
    super(text);
    this.status = status;
  }

  /** Whether the server could not be reached. */
  get isAway() {
    return this.status === 0;
  }
}

/**
 * Send a request.
 * @param {string} method
 * @param {string} path
 * @param {{json?: unknown, body?: BodyInit, signal?: AbortSignal, keepalive?: boolean}} [options]
 * @returns {Promise<Response>}
 */
export async function request(method, path, { json, body, signal, keepalive } = {}) {
  /** @type {Record<string, string>} */
  const headers = {};
  const key = sessionStorage.getItem(KEY_NAME);
  if (key) headers["Authorization"] = `Bearer ${key}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  else if (body !== undefined) headers["Content-Type"] = "application/octet-stream";
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, keepalive, body: json === undefined ? body : JSON.stringify(json),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "The server does not answer. Your work is kept. The page goes on when the server is back.");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** Send a request whose answer is JSON. */
export async function requestJson(method, path, options = {}) {
  const response = await request(method, path, options);
  return response.status === 204 ? null : response.json();
}

/**
 * Send a POST whose answer is a stream of events.
 * @param {string} path
 * @param {AbortSignal} signal
 * @param {(event: string, data: any) => void} onEvent
 */
export async function requestEvents(path, signal, onEvent) {
  const response = await request("POST", path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const blocks = (text + value.replaceAll("\r\n", "\n")).split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) readEvent(block, onEvent);
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError(0, "The connection to the server broke.");
  }
}

/** Store the key that the server needs, as long as this tab is open. */
export function storeKey(key) {
  sessionStorage.setItem(KEY_NAME, key);
}

/** Whether requests carry a key. */
export const hasKey = () => sessionStorage.getItem(KEY_NAME) !== null;

/** A text with a capital letter and a full stop. */
export function sentence(text) {
  const upper = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}

function readEvent(block, onEvent) {
  let event = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data += line.slice(5).trim();
  }
  if (!data) return;
  const value = JSON.parse(data);
  if (event === "error") throw new ApiError(value.status, sentence(value.error));
  onEvent(event, value);
}

async function errorOf(response) {
  // An answer that is not JSON comes from a proxy between page and server.
  const answer = await response.json().catch(() => null);
  return new ApiError(response.status, sentence(answer?.error ?? `The server answered ${response.status}.`));
}
