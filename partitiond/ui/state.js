// What the page knows: the last overview, what happened, and the last minutes of each figure.

import { get } from "./api.js";
import { deviceName } from "./format.js";

const WINDOW_SECONDS = 15;
const POLL_MILLISECONDS = 2000;
const KEPT = 150;
const KEPT_EVENTS = 500;

export const state = {
  session: null,
  overview: null,
  events: [],
  problem: null,
  history: remembered(),
  letters: new Map(),
};

/** The last minutes as this tab saw them before it was loaded again. */
function remembered() {
  try {
    const { at, values } = JSON.parse(sessionStorage.getItem("history"));
    return new Map(Date.now() - at < KEPT * POLL_MILLISECONDS ? values : []);
  } catch { return new Map(); }
}

window.addEventListener("pagehide", () => {
  if (!state.session) return;
  try { sessionStorage.setItem("history", JSON.stringify({ at: Date.now(), values: [...state.history] })); } catch { /* a browser that keeps nothing */ }
});

const listeners = new Set();
export const changed = () => listeners.forEach((tell) => tell());
export const onChange = (tell) => listeners.add(tell);

let timer = 0;
let looking = false;

/** Look now, and again and again while the page is seen. */
export async function look() {
  clearTimeout(timer);
  if (looking || !state.session) return;
  looking = true;
  try {
    const overview = await get(`/overview?window_seconds=${WINDOW_SECONDS}`);
    await news(overview.last_event);
    if (!state.session) return; // logged out meanwhile
    take(overview);
    state.problem = null;
  } catch (error) {
    if (error.status === 401) forget(); // it ended, or the daemon was started anew
    else state.problem = error;
  } finally {
    looking = false;
  }
  changed();
  if (state.session && !document.hidden) timer = setTimeout(look, POLL_MILLISECONDS);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });

/** Who is not logged in sees nothing, and what comes next may be another daemon's. */
export function forget() {
  Object.assign(state, { session: null, overview: null, events: [], problem: null });
  state.history.clear();
  try { sessionStorage.removeItem("history"); } catch { /* a browser that keeps nothing */ }
}

async function news(last) {
  if (last < (state.events.at(-1)?.id ?? 0)) state.events = []; // its store is another one
  const known = state.events.at(-1)?.id ?? 0;
  if (last <= known) return;
  const fresh = await get(known ? `/events?after=${known}&limit=1000` : "/events?limit=200");
  state.events = [...state.events, ...fresh].slice(-KEPT_EVENTS);
}

function take(overview) {
  state.overview = overview;
  for (const model of overview.models) {
    if (!state.letters.has(model.name)) state.letters.set(model.name, state.letters.size);
  }
  const total = { tokens: 0, requests: 0, flight: 0 };
  for (const model of overview.models) {
    const traffic = model.traffic;
    if (!traffic) continue;
    total.tokens += traffic.output_tokens_per_s;
    total.requests += traffic.req_per_s;
    total.flight += traffic.in_flight + traffic.waiting;
    keep(`${model.name} tokens`, traffic.output_tokens_per_s);
    keep(`${model.name} requests`, traffic.req_per_s);
    keep(`${model.name} ttft`, traffic.ttft_seconds);
    keep(`${model.name} waiting`, traffic.waiting);
  }
  const told = overview.devices.filter((d) => d.watts !== null);
  keep("tokens", total.tokens);
  keep("requests", total.requests);
  keep("flight", total.flight);
  keep("watts", told.length ? told.reduce((sum, d) => sum + d.watts, 0) : null);
}

function keep(name, value) {
  const kept = state.history.get(name) ?? [];
  kept.push(value);
  if (kept.length > KEPT) kept.shift();
  state.history.set(name, kept);
}

export const history = (name) => state.history.get(name) ?? [];

/** A letter and a colour for each model, the same on every view. */
export function letter(model) {
  const index = state.letters.get(model) ?? 0;
  return index < 26 ? String.fromCharCode(65 + index) : `${index}`;
}
export const colour = (model) => `c${(state.letters.get(model) ?? 0) % 20}`;

/** A device for people; with its host if there are several. */
export function deviceAt(id) {
  const o = state.overview;
  const found = o?.hosts.length ? o.devices.find((one) => one.device.id === id) : null;
  return found ? `${deviceName(id)} on ${found.device.host}` : deviceName(id);
}
