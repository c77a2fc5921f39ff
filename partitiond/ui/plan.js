// The plan: what is applied, what a fresh one would change, and applying it after a confirmation.

import { get, plan as makePlan, post } from "./api.js";
import { dialog, h, toast } from "./dom.js";
import { bytes, deviceName, number, partition, plural, seconds } from "./format.js";
import { changed, colour, letter, look, state } from "./state.js";

const OBJECTIVES = {
  "": "as set", "min-devices": "fewest devices", "min-price": "least price", "min-power": "least provided power",
  "min-energy": "least energy", "max-goodput": "most goodput", "max-min": "fairest", "max-headroom": "most headroom",
};
const asked = { objective: "", busy: false, progress: null, preview: null, problem: null, abort: null };
let applied = { id: null, plan: null };

export function planView() {
  refresh();
  return [
    h("h1", {}, "Plan"),
    h("section", { class: "panel", "aria-labelledby": "applied-h" }, h("h2", { id: "applied-h" }, "Applied"),
      applied.plan ? summary(applied.plan) : h("p", { class: "muted" }, "No plan is applied yet.")),
    h("section", { class: "panel", "aria-labelledby": "fresh-h" },
      h("h2", { id: "fresh-h" }, "A fresh plan"),
      h("div", { class: "filters" },
        h("label", {}, "Good at ", h("select", { id: "objective", on: { change: (e) => { asked.objective = e.target.value; } } },
          Object.entries(OBJECTIVES).map(([value, label]) => h("option", { value, selected: value === asked.objective }, label)))),
        h("button", { class: asked.preview ? "" : "primary", id: "make-plan", disabled: asked.busy, on: { click: make } }, asked.preview ? "Plan again" : "Make a plan"),
        asked.busy ? h("button", { class: "quiet", on: { click: () => asked.abort?.abort() } }, "Stop") : null),
      asked.busy ? h("p", { role: "status" }, working(asked.progress)) : null,
      asked.problem ? h("p", { class: "problem", role: "alert" }, `${asked.problem.message} ${asked.problem.hint ?? ""}`) : null,
      asked.preview ? preview(asked.preview) : h("p", { class: "muted" }, waits(), "Nothing changes until it is applied.")),
  ];
}

function refresh() {
  const id = state.overview.plan_id;
  if (applied.id === id) return;
  applied = { id, plan: applied.plan };
  if (!id) { applied.plan = null; return; }
  get("/plan").then((found) => { applied = { id, plan: found }; changed(); }).catch(() => { applied.id = null; });
}

/** Plans are made anew for who looks: what waits may be outdated by now. */
function waits() {
  const id = state.overview.waiting_plan_id;
  return id ? `${id} waits to be applied: make a plan to see what it changes as things are now. ` : "";
}

function working(progress) {
  if (!progress) return "Planning…";
  const value = progress.value === null ? "" : `, best so far ${number(progress.value)}`;
  return `Planning: ${progress.title}${value}, ${seconds(progress.seconds)}`;
}

async function make() {
  Object.assign(asked, { busy: true, progress: null, preview: null, problem: null, abort: new AbortController() });
  changed();
  try {
    const question = asked.objective ? { objective: asked.objective } : {};
    asked.preview = await makePlan(question, (p) => { asked.progress = p; changed(); }, asked.abort.signal);
  } catch (error) {
    if (error.name !== "AbortError") asked.problem = error;
  }
  asked.busy = false;
  changed();
}

function summary(plan) {
  const c = plan.certificate;
  const proof = c.status === "optimal" ? "proven optimal" : c.status === "feasible" ? `at most ${number(100 * c.gap)} % from optimal` : c.status;
  const used = new Set(plan.placements.map((p) => p.device_id)).size;
  return h("div", { key: plan.id },
    h("p", {}, h("strong", {}, plan.id), ` ${c.objective}: ${plural(plan.placements.length, "replica")} on ${used} of ${plural(plan.devices.length, "device")}, ${proof}.`),
    plan.unplaced.length ? h("ul", { class: "problem" }, plan.unplaced.map((u) => h("li", {}, `${u.reason} ${u.remedy}`))) : null,
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
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Changes" }, h("table", { class: "diff" },
    h("caption", { class: "unseen" }, "What applying it changes"),
    h("thead", {}, h("tr", {}, ["", "Replica", "Device", "Partition", "Batch", "Takes", "Room"].map((n, i) => h("th", { scope: "col", class: i === 4 || i === 5 ? "num" : "" }, n || h("span", { class: "unseen" }, "Change"))))),
    h("tbody", {}, known.map((s) => {
      const place = places.get(s.replica_id);
      return h("tr", { key: `${s.kind} ${s.replica_id}`, class: s.kind },
        h("td", {}, h("span", { class: `step ${s.kind}` }, s.kind)),
        h("th", { scope: "row" }, h("span", { class: `swatch ${colour(s.model)}`, "aria-hidden": "true" }, letter(s.model)), s.replica_id),
        h("td", {}, s.kind === "move" && s.from_device_id !== s.device_id ? `${deviceName(s.from_device_id)} → ${deviceName(s.device_id)}` : deviceName(s.device_id)),
        h("td", {}, place ? `${partition(place.partition)}, ${bytes(place.partition.memory_bytes)}` : ""),
        h("td", { class: "num" }, place?.candidate.batch ?? ""),
        h("td", { class: "num" }, s.kind === "stop" ? "" : `${s.measured ? "" : "~"}${seconds(s.seconds)}`),
        h("td", {}, s.makes_way ? "the old one makes way first" : ""));
    }))));
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
  try {
    await post("/plan/apply", { plan_id: p.plan.id });
    asked.preview = null;
    asked.problem = null;
    toast(`${p.plan.id} is applied; replicas follow it now.`);
  } catch (error) {
    asked.problem = error;
  }
  changed();
  look();
}
