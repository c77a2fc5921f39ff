// The frame: logging in, the bar on top, and which view is shown.

import { SESSION, call, get, keepSession, post } from "./api.js";
import { dialog, h, morph } from "./dom.js";
import { forget, look, onChange, state } from "./state.js";
import { fleetView } from "./fleet.js";
import { modelView } from "./model.js";
import { addView, leaveAdd } from "./add.js";
import { leaveTry, tryView } from "./try.js";
import { leavePlan, planView } from "./plan.js";
import { jobsView } from "./jobs.js";
import { eventsView, leaveEvents } from "./events.js";
import { keysView, leaveKeys } from "./keys.js";

const VIEWS = [
  ["#/", "Fleet"], ["#/try", "Try a prompt"], ["#/add", "Add a model"], ["#/plan", "Plan"], ["#/jobs", "Jobs"],
  ["#/events", "Events"], ["#/keys", "Keys"],
];
const THEMES = { auto: "As the system", light: "Light", dark: "Dark" };
const app = document.getElementById("app");
let asked = false;

function route() {
  const hash = location.hash.startsWith("#/") ? location.hash : "#/";
  return hash.replace(/\/$/, "") === "#" ? "#/" : hash;
}

function view(at) {
  if (at.startsWith("#/models/")) return modelView(written(at.slice("#/models/".length)));
  if (at === "#/try" || at.startsWith("#/try/")) return tryView(written(at.slice("#/try/".length)));
  switch (at) {
    case "#/add": return addView();
    case "#/plan": return planView();
    case "#/jobs": return jobsView();
    case "#/events": return eventsView();
    case "#/keys": return keysView();
    default: return fleetView();
  }
}

/** A name in an address, or the text itself where somebody wrote no such thing. */
function written(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function render() {
  if (!asked) return;
  if (!state.session) leave();
  const next = h("div", { id: "app" }, state.session ? page() : loginView());
  morph(app, next);
}

/** With the session everything ends that is kept beside the state: an open dialog, the keys, a trial. */
function leave() {
  leaveAdd();
  leaveEvents();
  leaveKeys();
  leavePlan();
  leaveTry();
  for (const open of document.querySelectorAll("dialog")) open.close();
}

function page() {
  const at = route();
  return [bar(at), banner(), h("main", { id: "main", tabindex: -1, key: at },
    state.overview ? view(at) : h("p", { class: "waiting" }, "Asks the daemon…"))];
}

function bar(at) {
  return h("header", { class: "bar" },
    h("a", { class: "brand", href: "#/", "aria-label": "partitiond, fleet" },
      h("img", { src: "/ui/icon.svg", alt: "", width: 26, height: 26 }), "partitiond"),
    h("nav", { "aria-label": "Views" }, VIEWS.map(([href, label]) => h("a", {
      href, key: href, "aria-current": at === href || (href !== "#/" && at.startsWith(`${href}/`)) ? "page" : undefined }, label.split(" ")[0],
    h("span", { class: "rest" }, label.slice(label.split(" ")[0].length)), badge(href)))),
    h("div", { class: "bar-end" },
      h("label", { class: "theme" }, h("span", { class: "unseen" }, "Colours"),
        h("select", { id: "theme", on: { change: (e) => setTheme(e.target.value) } },
          Object.entries(THEMES).map(([value, label]) => h("option", { value, selected: value === theme() }, label)))),
      h("button", { class: "quiet", on: { click: logOut } }, state.session.name ? `Log out ${state.session.name}` : "Log out")));
}

function badge(href) {
  const o = state.overview;
  if (!o) return null;
  if (href === "#/plan" && o.waiting_plan_id) return h("span", { class: "badge", title: "A plan waits" }, "1");
  const running = o.jobs.filter((job) => job.state === "running").length;
  return href === "#/jobs" && running ? h("span", { class: "badge" }, running) : null;
}

function banner() {
  const lines = [];
  if (state.problem) lines.push(`${state.problem.message} ${state.problem.hint ?? ""}`);
  for (const [part, why] of state.overview?.problems ?? []) lines.push(`${part}: ${why}`);
  for (const one of state.overview?.hosts ?? []) if (one.state !== "fine") lines.push(one.reason.includes(one.name) ? one.reason : `${one.name} is ${one.state}: ${one.reason}`);
  const waiting = state.overview?.waiting_plan_id;
  return h("div", { class: "banners", key: "banners", role: "status" },
    lines.map((line) => h("p", { class: "banner bad" }, line)),
    waiting ? h("p", { class: "banner" }, `${waiting} would move or stop what runs, so it waits for you. `,
      h("a", { href: "#/plan" }, "Look at it")) : null);
}

// --- logging in ---------------------------------------------------------------------------------

let loginProblem = "";

function loginView() {
  return h("main", { id: "main", class: "login", tabindex: -1, key: "login" },
    h("form", { class: "panel", key: "form", on: { submit: logIn } },
      h("img", { src: "/ui/icon.svg", alt: "", width: 48, height: 48 }),
      h("h1", {}, "partitiond"),
      h("label", { for: "token" }, "Admin token"),
      h("input", { id: "token", name: "token", type: "password", required: true, autocomplete: "current-password", autofocus: true,
        "aria-describedby": "token-help", "aria-invalid": loginProblem ? "true" : undefined }),
      h("p", { class: "help", id: "token-help" }, "In the file ", h("code", {}, "admin-token"), " of the daemon's state folder."),
      h("label", { for: "name" }, "Your name ", h("span", { class: "muted" }, "(optional)")),
      h("input", { id: "name", name: "name", maxlength: 64, autocomplete: "username", "aria-describedby": "name-help" }),
      h("p", { class: "help", id: "name-help" }, "Stands beside what you change, in the events."),
      loginProblem ? h("p", { class: "problem", role: "alert" }, loginProblem) : null,
      h("button", { type: "submit", class: "primary" }, "Log in")));
}

async function logIn(event) {
  event.preventDefault();
  const form = event.currentTarget;
  try {
    const begun = await post("/ui/session", { token: form.token.value, name: form.name.value.trim() });
    keepSession(begun.session);
    form.reset();
    loginProblem = "";
    await begin();
    toTop();
  } catch (error) {
    loginProblem = `${error.message} ${error.hint}`.trim();
    render();
    form.token.select();
  }
}

/** The page from its top, header and banners included, with the focus on its content. */
function toTop() {
  window.scrollTo(0, 0);
  document.getElementById("main")?.focus({ preventScroll: true });
}

async function logOut() {
  await call("DELETE", "/ui/session").catch(() => {});
  keepSession(null);
  forget();
  render();
  document.getElementById("token")?.focus();
}

async function begin() {
  try {
    const session = await get("/ui/session");
    if (session.logged_in) state.session = session;
    else forget();
  } catch (error) {
    state.session = null;
    loginProblem = `${error.message} ${error.hint}`.trim();
  }
  asked = true;
  render();
  await look();
}

// --- colours ------------------------------------------------------------------------------------

function theme() {
  try { return localStorage.getItem("theme") ?? "auto"; } catch { return "auto"; }
}

function setTheme(value) {
  try { localStorage.setItem("theme", value); } catch { /* a browser that keeps nothing */ }
  document.documentElement.dataset.theme = value;
}

// --- going --------------------------------------------------------------------------------------

// Another page of this origin logged in or out, and so did this one.
window.addEventListener("storage", (event) => { if (event.key === SESSION || event.key === null) begin(); });
window.addEventListener("hashchange", () => {
  if (route() !== "#/keys") leaveKeys();
  render();
  const heading = document.querySelector("main h1");
  document.title = heading ? `${heading.innerText} · partitiond` : "partitiond";
  if (location.hash.startsWith("#/")) toTop();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main")?.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
  const place = VIEWS[Number(event.key) - 1];
  if (place && state.session) location.hash = place[0];
  if (event.key === "?" && state.session) shortcuts();
});

function shortcuts() {
  dialog("Keyboard", h("dl", { class: "facts" }, VIEWS.flatMap(([, label], i) => [h("dt", {}, h("kbd", {}, i + 1)), h("dd", {}, label)]),
    h("dt", {}, h("kbd", {}, "?")), h("dd", {}, "This list"), h("dt", {}, h("kbd", {}, "Esc")), h("dd", {}, "Close a dialog")),
  [{ label: "Close", kind: "primary" }]);
}

setTheme(theme());
onChange(render);
begin();
