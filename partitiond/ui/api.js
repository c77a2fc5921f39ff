// The control API, from this page's own origin only, with the session of whoever logged in.

export const SESSION = "session";
/** The session where the browser keeps nothing: it ends with the page. */
let unkept = null;
/** A look that takes longer is none: a daemon that hangs must not pass for one that is idle. */
const LOOK_MILLISECONDS = 20_000;

/** A problem as the API tells it: what is wrong, and what to do next. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.error?.message ?? "the daemon does not answer.");
    this.status = status;
    this.hint = body.hint ?? "";
    this.code = body.code ?? "";
  }
}

/** Keep a session for all pages of this origin (scheme, host and port), or forget it: null. */
export function keepSession(value) {
  try {
    if (value === null) localStorage.removeItem(SESSION);
    else localStorage.setItem(SESSION, value);
    unkept = null;
  } catch { unkept = value; }
}

function session() {
  if (unkept !== null) return unkept;
  try { return localStorage.getItem(SESSION); } catch { return null; }
}

/** JSON makes null of what is no number, and null is a wish of its own. */
function finite(name, value) {
  if (typeof value !== "number" || Number.isFinite(value)) return value;
  throw new Problem(0, { detail: `${name} is not a number.`, hint: "Decimals follow a dot, as in 1.5." });
}

export async function call(method, path, body, options = {}) {
  const headers = { ...(options.headers ?? {}) };
  const known = session();
  if (known !== null) headers.Authorization = `Bearer ${known}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const request = {
    method, headers: new Headers(headers), body: body === undefined ? undefined : JSON.stringify(body, finite),
    credentials: "omit", cache: "no-store", signal: options.signal,
  };
  let answer;
  try {
    answer = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "the daemon does not answer.", hint: "Is it running? This page tries again by itself." });
  }
  if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => ({ detail: `status ${answer.status}` })));
  if (options.stream) return answer;
  return answer.status === 204 ? null : answer.json();
}

export const get = (path) => call("GET", path, undefined, { signal: AbortSignal.timeout(LOOK_MILLISECONDS) });
export const post = (path, body) => call("POST", path, body);

/** A plan, told how far it is meanwhile. */
export async function plan(question, onProgress, signal) {
  const answer = await call("POST", "/plan", question, { stream: true, headers: { Accept: "text/event-stream" }, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Problem(0, { detail: "the daemon ended before there was a plan." });
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (name === "progress") onProgress(JSON.parse(data));
      if (name === "plan") return JSON.parse(data);
      if (name === "problem") { const told = JSON.parse(data); throw new Problem(told.status, told); }
    }
  }
}
