// The plan: what is applied, what a fresh one would change, and applying it after a confirmation.

import { get, plan as makePlan, post } from "./api.js";
import { dialog, h, table, toast } from "./dom.js";
import { bytes, number, partition, plural, seconds } from "./format.js";
import { changed, colour, deviceAt, letter, look, onChange, state } from "./state.js";

const OBJECTIVES = {
  "": "as set", "min-devices": "fewest devices", "min-price": "least price",
  "min-energy": "least charge in watts", "max-goodput": "most goodput", "max-min": "fairest",
};
/** The plan that was applied here, until it runs, fails or gives way to another; `asking` while it is asked what replaced it. */
const NOBODY = { id: "", asking: false };
let asked, applied, waiting, followed;

/** What is asked and answered is for nobody else who logs in; an answer that comes later is written where nobody reads it. */
export function leavePlan() {
  asked?.abort?.abort();
  asked = { objective: "", outage: false, busy: false, progress: null, preview: null, problem: null, abort: null };
  applied = { id: null, plan: null };
  waiting = { id: "", preview: null };
  followed = NOBODY;
}
leavePlan();

export function planView() {
  refresh();
  return [
    h("h1", {}, "Plan"),
    h("section", { class: "panel", "aria-labelledby": "applied-h" }, h("h2", { id: "applied-h" }, "Applied"),
      applied.plan ? [summary(applied.plan), howFar(state.overview.convergence)] : h("p", { class: "muted" }, "No plan is applied yet.")),
    waiting.preview && !asked.preview ? h("section", { class: "panel", "aria-labelledby": "waiting-h", key: "waiting" },
      h("h2", { id: "waiting-h" }, "Waits for you"), preview(waiting.preview)) : null,
    h("section", { class: "panel", "aria-labelledby": "fresh-h", key: "fresh" },
      h("h2", { id: "fresh-h" }, "A fresh plan"),
      h("div", { class: "filters" },
        h("label", {}, "Good at ", h("select", { id: "objective", on: { change: (e) => { asked.objective = e.target.value; } } },
          Object.entries(OBJECTIVES).map(([value, label]) => h("option", { value, selected: value === asked.objective }, label)))),
        h("label", {}, h("input", { type: "checkbox", id: "allow-outage", checked: asked.outage, on: { change: (e) => { asked.outage = e.target.checked; } } }),
          " A model may be without a replica for a while"),
        h("button", { class: asked.preview ? "" : "primary", id: "make-plan", disabled: asked.busy, on: { click: make } }, asked.preview ? "Plan again" : "Make a plan"),
        asked.busy ? h("button", { class: "quiet", on: { click: () => asked.abort?.abort() } }, "Stop") : null),
      asked.busy ? h("p", { role: "status" }, working(asked.progress)) : null,
      asked.problem ? h("p", { class: "problem", role: "alert" }, `${asked.problem.message} ${asked.problem.hint ?? ""}`) : null,
      asked.preview ? preview(asked.preview) : h("p", { class: "muted" }, "Nothing changes until it is applied.")),
  ];
}

function refresh() {
  const { plan_id: id, waiting_plan_id: waits } = state.overview;
  if (applied.id !== id) {
    const mine = applied = { id, plan: id ? applied.plan : null };
    if (id) get("/plan").then((found) => { mine.plan = found; changed(); }).catch(() => { mine.id = null; });
  }
  if (waiting.id !== waits) {
    const mine = waiting = { id: waits, preview: null };
    if (waits) get("/plan/waiting").then((found) => { mine.preview = found; changed(); }).catch(() => { mine.id = null; });
  }
}

/** How far the applied plan is, as the daemon says. */
function howFar(c) {
  if (!c?.plan_id) return null;
  const failed = c.replicas.filter((r) => r.standing === "failed");
  return h("div", { key: "how-far", id: "how-far" },
    h("p", { role: "status" }, served(c), c.state === "converging" && c.why ? `: ${c.why}` : "."),
    c.state === "converging" ? h("progress", { max: 1, value: c.fraction, "aria-label": `${c.plan_id}, ${served(c)}` }) : null,
    failed.length ? h("ul", { class: "problem" }, failed.map((r) => h("li", { key: r.replica_id }, `${r.replica_id} ${r.why}`))) : null);
}

const served = (c) => `${c.serving} of ${plural(c.wanted - c.asleep, "replica")} ${c.serving === 1 ? "serves" : "serve"}${c.asleep ? `, ${c.asleep} asleep` : ""}`;

onChange(() => {
  const c = state.overview?.convergence;
  const { id, asking } = followed;
  if (!id || !c) return;
  if (c.plan_id !== id) {
    if (!asking) whatReplaced(id);
    return;
  }
  if (c.state === "failed") toast(`${id}: ${served(c)}. ${c.why}`, "bad");
  else if (c.state === "converged") toast(`${id} runs: ${served(c)}.`);
  else return;
  followed = NOBODY;
});

/** Goes on with the plan that took the place of the one that is followed, unless somebody else chose another one. */
async function whatReplaced(id) {
  followed = { id, asking: true };
  try {
    const { why, replaced } = await get(`/plan/convergence?plan_id=${encodeURIComponent(id)}`);
    if (followed.id !== id) return;
    const lost = replaced?.actor && !replaced.same;
    if (lost) toast(`${why}, before all of it ran.`, "bad");
    followed = lost ? NOBODY : { id: replaced?.plan_id ?? id, asking: false };
  } catch {
    if (followed.id === id) followed = { id, asking: false };
  }
}

function working(progress) {
  if (!progress) return "Planning…";
  const value = progress.value === null ? "" : `, best so far ${number(progress.value)}`;
  return `Planning: ${progress.title}${value}, ${seconds(progress.seconds)}`;
}

async function make() {
  const mine = Object.assign(asked, { busy: true, progress: null, preview: null, problem: null, abort: new AbortController() });
  changed();
  try {
    const question = { allow_outage: mine.outage, ...(mine.objective ? { objective: mine.objective } : {}) };
    mine.preview = await makePlan(question, (p) => { mine.progress = p; changed(); }, mine.abort.signal);
  } catch (error) {
    if (error.name !== "AbortError") mine.problem = error;
  }
  mine.busy = false;
  changed();
}

function summary(plan) {
  const c = plan.certificate;
  const most = c.objective === "max-min" ? "the most that the worst served can get" : "the most that can be served";
  const best = c.partial ? most : "optimal";
  const proof = c.status === "optimal" ? (c.for_estimates ? `${best} for these estimates` : `proven ${best}`) : c.status === "feasible" ? `at most ${number(100 * c.gap)} % from optimal` : c.status;
  const used = new Set(plan.placements.map((p) => p.device_id)).size;
  return h("div", { key: plan.id },
    h("p", {}, h("strong", {}, plan.id), ` ${c.objective}${c.among ? ` ${c.among}` : ""}: ${plural(plan.placements.length, "replica")} on ${used} of ${plural(plan.devices.length, "device")}, ${proof}.`),
    plan.unplaced.length ? h("ul", { class: "problem" }, plan.unplaced.map((u) => h("li", {}, `${u.reason} ${u.remedy}`))) : null,
    plan.held_back.length ? h("ul", { class: "problem held-back" }, plan.held_back.map((m) => h("li", { key: m.model },
      m.seconds ? `${m.model} stays as it runs: its change would leave it without a replica for about ${seconds(m.seconds)}.` : `${m.model} stays as it runs until models with an outage are changed.`,
      m.missing_req_per_s ? ` Until then it lacks ${number(m.missing_req_per_s)} requests/s.` : ""))) : null,
    h("details", { key: "why" }, h("summary", {}, "Why"), h("ul", {}, plan.explanation.map((line) => h("li", {}, line)))));
}

function preview(p) {
  if (p.infeasible) {
    return h("div", {}, h("p", { class: "problem" }, p.infeasible.reasons.join("; ")), h("ul", {}, p.infeasible.remedies.map((r) => h("li", {}, r))));
  }
  const { start, stop, move, keep } = p.diff;
  const nothing = !(start.length || stop.length || move.length);
  return h("div", { key: p.plan.id },
    summary(p.plan),
    h("p", { class: "counts" },
      count("starts", start.length, "+"), count("moves", move.length, "→"), count("stops", stop.length, "–"), count("keeps", keep.length, "=")),
    nothing ? h("p", {}, "It is what runs already.") : [steps(p), cost(p), outages(p),
      h("div", { class: "buttons" }, h("button", { class: "primary", id: "apply", on: { click: () => confirm(p) } }, "Apply…"))]);
}

const count = (word, n, sign) => h("span", { class: `count ${word} ${n ? "" : "none"}`, key: word }, h("span", { "aria-hidden": "true" }, `${sign} `), `${word} ${n}`);

function steps(p) {
  const places = new Map([...p.diff.start, ...p.diff.stop, ...p.diff.move.map(([, n]) => n)].map((one) => [one.replica_id, one]));
  const known = p.answers.diff?.steps ?? [];
  return table("changes", [[h("span", { class: "unseen" }, "Change"), "step-cell"], "Replica", "Device", "Partition", ["Batch", "num"], ["Takes", "num"], "Room"], known.map((s) => {
    const place = places.get(s.replica_id);
    return { key: `${s.kind} ${s.replica_id}`, class: s.kind, cells: [
      h("span", { class: `step ${s.kind}` }, s.kind),
      [h("span", { class: `swatch ${colour(s.model)}`, "aria-hidden": "true" }, letter(s.model)), s.replica_id],
      s.kind === "move" && s.from_device_id !== s.device_id ? `${deviceAt(s.from_device_id)} → ${deviceAt(s.device_id)}` : deviceAt(s.device_id),
      place ? `${partition(place.partition)}, ${bytes(place.partition.memory_bytes)}` : "",
      place?.candidate.batch ?? "",
      s.kind === "stop" ? "" : `${s.measured ? "" : "~"}${seconds(s.seconds)}`,
      s.makes_way ? "the old one makes way first" : ""] };
  }), { head: 1, class: "diff" });
}

function cost(p) {
  const d = p.answers.diff;
  if (!d) return null;
  return h("p", {}, `Until the last engine serves: about ${seconds(d.seconds)}. ${bytes(d.load_bytes)} of weights to load.`,
    d.peak_extra_bytes ? ` Old and new side by side need ${bytes(d.peak_extra_bytes)} more on a device for a while.` : "");
}

/** Models that nobody serves for a while, where old and new do not fit side by side. */
function outages(p) {
  const found = p.answers.diff?.outages ?? [];
  if (!found.length) return null;
  return h("div", { class: "banner bad" }, h("strong", {}, "Without a replica meanwhile: "),
    h("ul", {}, found.map((o) => h("li", { key: o.model }, outage(o)))));
}

const outage = (o) => `${o.model}, from about ${seconds(o.from_seconds)} to ${seconds(o.to_seconds)} after Apply`;

async function confirm(p) {
  const { start, stop, move } = p.diff;
  const found = p.answers.diff?.outages ?? [];
  const sure = await dialog(`Apply ${p.plan.id}?`, [
    h("p", {}, `It starts ${start.length}, moves ${move.length} and stops ${stop.length}. Requests that run are finished first.`),
    found.length ? h("p", { class: "problem" }, `Nobody serves ${found.map(outage).join("; ")}.`)
      : p.answers.diff?.steps.some((s) => s.makes_way) ? h("p", { class: "problem" }, "Some replicas make way before their successors serve.") : h("p", {}, "New replicas serve before old ones stop."),
  ], [{ label: "Cancel" }, { label: "Apply", kind: "primary", value: "yes", id: "confirm-apply" }]);
  if (sure !== "yes") return;
  const mine = asked;
  try {
    await post("/plan/apply", { plan_id: p.plan.id });
    if (mine !== asked) return;
    followed = { id: p.plan.id, asking: false };
    Object.assign(mine, { preview: null, problem: null });
    toast(`${p.plan.id} is applied; replicas follow it now.`);
  } catch (error) {
    mine.problem = error;
  }
  changed();
  look();
}
