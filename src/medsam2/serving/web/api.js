/** Ask the server, and say in words why it did not answer. */

const KEY_NAME = "medsam2.key";

/** A request that failed; the message is a sentence for people. */
export class ApiError extends Error {
  /**
   * @param {number} status  0 where no answer came.
   * @param {string} text
   * @param {unknown} answer  The answer's JSON.
   */
  constructor(status, text, answer = null) {
    super(text);
    this.status = status;
    this.answer = answer;
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
export async function ask(method, path, { json, body, signal, keepalive } = {}) {
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
    throw new ApiError(0, "The server does not answer. What you did so far is kept; it goes on when the server is back.");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

/** Send a request whose answer is JSON. */
export async function askJson(method, path, options = {}) {
  const response = await ask(method, path, options);
  return response.status === 204 ? null : response.json();
}

/**
 * Send a POST and hand on each event of its stream.
 * @param {string} path
 * @param {AbortSignal} signal
 * @param {(event: string, data: any) => void} take
 */
export async function askEvents(path, signal, take) {
  const response = await ask("POST", path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const blocks = (text + value.replaceAll("\r\n", "\n")).split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) takeBlock(block, take);
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError(0, "The server went away while it worked.");
  }
}

/** Keep the key that the server asks for, as long as this tab is open. */
export function keepKey(key) {
  sessionStorage.setItem(KEY_NAME, key);
}

/** Whether requests need to carry a key. */
export const hasKey = () => sessionStorage.getItem(KEY_NAME) !== null;

function takeBlock(block, take) {
  let event = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data += line.slice(5).trim();
  }
  if (!data) return;
  const value = JSON.parse(data);
  if (event === "error") throw new ApiError(value.status, sentence(value.error), value);
  take(event, value);
}

async function failure(response) {
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    // An answer that is no JSON is a proxy's; its status has to do.
  }
  return new ApiError(response.status, sentence(answer?.error ?? `The server answered ${response.status}.`), answer);
}

function sentence(text) {
  const upper = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}
