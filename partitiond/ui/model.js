// One model: its frontier, where it works, and predicted against measured for each replica.

import { call, get, post } from "./api.js";
import { dialog, h, table, toast } from "./dom.js";
import { bytes, clock, day, number, partition, seconds, watts } from "./format.js";
import { frontierPlot, spark, tpotPlot } from "./charts.js";
import { colour, deviceAt, history, letter, look, state } from "./state.js";

const shown = new Map();

export function modelView(name) {
  const m = state.overview.models.find((one) => one.name === name);
  if (!m) {
    return [h("h1", {}, name), h("p", { class: "panel" }, `No model is registered as ${name}. `, h("a", { href: "#/" }, "All models"))];
  }
  const replicas = state.overview.replicas.filter((r) => r.model === name);
  const idle = m.availability === "asleep" || m.availability === "scaled to zero";
  return [
    h("div", { class: "heading" },
      h("h1", {}, h("span", { class: `swatch ${colour(name)}`, "aria-hidden": "true" }, letter(name)), name,
        h("span", { class: `pill ${m.availability}` }, m.availability)),
      h("div", { class: "buttons" },
        h("a", { class: "button", href: `#/try/${encodeURIComponent(name)}` }, "Try it"),
        h("button", { on: { click: () => requests(name) } }, "Requests"),
        h("button", { id: "change", on: { click: () => change(name) } }, "Change…"),
        idle || m.sleep_mode ? h("button", { on: { click: () => asleep(name, idle ? "wake" : "sleep") } }, idle ? "Wake" : "Sleep") : null,
        h("button", { on: { click: () => rollBack(name) } }, "Roll back…"),
        h("button", { on: { click: () => measure(name) } }, "Measure"),
        h("button", { class: "danger", on: { click: () => remove(name, replicas.length) } }, "Remove…"))),
    m.obstacle ? h("p", { class: "banner bad" }, h("strong", {}, m.obstacle.reason), ` ${m.obstacle.hint}`)
      : m.note ? h("p", { class: "banner" }, m.note) : null,
    m.warning ? h("p", { class: "banner" }, m.warning) : null,
    facts(m, replicas),
    h("div", { class: "columns even" },
      h("section", { "aria-labelledby": "frontier-h" }, h("h2", { id: "frontier-h" }, "Frontier"), frontier(m, replicas)),
      h("section", { "aria-labelledby": "live-h" }, h("h2", { id: "live-h" }, "Last minutes"),
        line("Tokens/s", `${name} tokens`), line("Requests/s", `${name} requests`),
        line("Mean TTFT", `${name} ttft`, seconds), line("Waiting", `${name} waiting`))),
    engines(replicas),
  ];
}

function facts(m, replicas) {
  const t = m.traffic;
  const rows = [
    ["Wanted", m.demand_req_per_s === null ? "as much as there is" : `${number(m.demand_req_per_s)} requests/s`],
    ["Expected", m.forecast_req_per_s === null ? null : `${number(m.forecast_req_per_s)} requests/s`],
    ["Capacity by plan", `${number(m.capacity_req_per_s)} requests/s`],
    ["Now", t ? `${number(t.req_per_s)} requests/s, ${number(t.output_tokens_per_s)} tokens/s` : "nothing is known yet"],
    ["A request", t && t.prompt_tokens !== null ? `${number(t.prompt_tokens)} tokens in, ${number(t.output_tokens)} out` : null],
    ["TTFT", t && t.ttft_seconds !== null ? `${seconds(t.ttft_seconds)} mean, p95 ≤ ${seconds(t.ttft_p95_seconds)}` : null],
    ["Queue", t ? `${number(t.waiting)} wait${t.queue_seconds === null ? "" : `, ${seconds(t.queue_seconds)} mean`}` : null],
    ["Refused", t && t.refused ? `${number(t.refused)}` : null],
    ["Held in a change", t && (t.held || t.turned_away) ? `${number(t.held)}, turned away ${number(t.turned_away)}` : null],
    ["Draw by plan", m.joules_per_s === null ? null : `${watts(m.joules_per_s)} beyond the idle devices`],
    ["Replicas", `${m.replicas_serving} of ${Math.max(m.replicas_planned, replicas.length)} serve`],
  ].filter(([, value]) => value !== null);
  return h("dl", { class: "facts panel" }, rows.map(([k, v]) => h("div", { key: k }, h("dt", {}, k), h("dd", {}, v))));
}

function line(label, name, format = number) {
  const values = history(name);
  const last = values.at(-1);
  return h("div", { class: "line", key: name }, h("span", { class: "line-name" }, label),
    h("span", { class: "line-value" }, last === undefined || last === null ? "–" : format(last)), spark(values, "wide"));
}

function frontier(m, replicas) {
  if (!m.frontiers.length) return h("p", { class: "panel" }, "It was neither measured nor estimated here. Measure it.");
  const chosen = m.frontiers.find((f) => f.profile_id === shown.get(m.name)) ?? m.frontiers[0];
  const planned = new Set(m.frontiers.filter((f) => f.planned_batch !== null).map((f) => f.profile_id));
  const single = planned.size === 1 && planned.has(chosen.profile_id);
  const own = single ? replicas : replicas.filter((r) => r.limit === chosen.planned_batch && sizeOf(r) === chosen.size);
  const measured = own.filter((r) => r.measured && r.measured.mean_batch > 0.05)
    .map((r) => r.measured);
  return h("div", { class: "panel" },
    m.frontiers.length > 1 ? h("label", { class: "inline" }, "Partition ",
      h("select", { id: "frontier", on: { change: (e) => { shown.set(m.name, e.target.value); look(); } } },
        m.frontiers.map((f) => h("option", { value: f.profile_id, selected: f === chosen },
          `${f.size} of ${f.hardware}${f.planned_batch === null ? "" : ", planned"}`)))) : h("p", { class: "muted" }, `${chosen.size} of ${chosen.hardware}`),
    frontierPlot(chosen, measured),
    h("h3", {}, "Time per output token, p95"),
    tpotPlot(chosen, measured),
    h("details", { key: "figures" }, h("summary", {}, "The same in figures"),
      table("operating points", ["Batch", "Tokens/s", "±", "TTFT p95", "TPOT p95", "Memory"].map((name) => [name, "num"]),
        chosen.points.map((p) => ({ key: p.batch, class: p.batch === chosen.planned_batch ? "chosen" : "", cells: [
          p.batch, number(p.output_tokens_per_s), p.interval ? number(p.interval) : "–", seconds(p.ttft_p95_seconds),
          seconds(p.tpot_p95_seconds), bytes(p.footprint_bytes)] })), { class: "dense" })));
}

function sizeOf(r) {
  return partition(r.partition);
}

const FIGURES = ["In flight", "Tokens/s", "TPOT", "First token", "Requests/s"];

function engines(replicas) {
  const predicted = (name) => [[name, "num"], ["predicted", "num muted", `${name} predicted`]];
  return h("section", { "aria-labelledby": "replicas-h" },
    h("h2", { id: "replicas-h" }, "Replicas: predicted and measured"),
    h("p", { class: "muted" }, "Predicted at the limit, under the plan's full load; measured at the load of the last seconds. Half idle, a replica gives fewer tokens/s at a shorter TPOT than predicted."),
    replicas.length ? table("replicas", ["Engine", "Device", "Partition", "State", [FIGURES[0], "num"], ...FIGURES.slice(1).flatMap(predicted)], replicas.map(row))
      : h("p", { class: "panel" }, "None is planned."));
}

function row(r) {
  const m = r.measured;
  return { key: r.engine, cells: [
    [r.engine, h("button", { class: "quiet", "aria-label": `Log of ${r.engine}`, on: { click: () => log(r.engine) } }, "Log"), r.drift ? h("span", { class: "note bad" }, r.drift) : null],
    deviceAt(r.device_id), `${partition(r.partition)}, ${bytes(r.memory_bytes)}`, h("span", { class: `pill ${r.state}` }, r.state),
    `${m ? number(m.mean_batch) : r.in_flight ?? "–"} of ${r.limit}`,
    number(m?.output_tokens_per_s), number(r.planned_output_tokens_per_s),
    seconds(m?.tpot_seconds), `≤ ${seconds(r.planned_tpot_p95_seconds)}`,
    seconds(m?.first_seconds), `≤ ${seconds(r.planned_ttft_p95_seconds)}`,
    number(m?.req_per_s), number(r.planned_req_per_s)] };
}

const model = (name) => `/models/${encodeURIComponent(name)}`;

const refused = (error) => toast(`${error.message} ${error.hint}`, "bad");

/** Does it, says so, or says why not. */
async function done(act, said) {
  try {
    await act();
    toast(said);
  } catch (error) {
    refused(error);
  }
  look();
}

const asleep = (name, what) => done(() => post(`${model(name)}/${what}`, {}), what === "wake" ? `${name} wakes.` : `${name} falls asleep.`);

async function log(engine) {
  const found = await get(`/ui/log/${encodeURIComponent(engine)}`).catch((error) => ({ text: `${error.message} ${error.hint}`, path: "" }));
  const shown = h("pre", { class: "log", tabindex: 0 }, found.text);
  const closed = dialog(`Log of ${engine}`, [h("p", { class: "muted" }, found.path), shown], [{ label: "Close", kind: "primary" }]);
  shown.scrollTop = shown.scrollHeight;
  await closed;
}

async function requests(name) {
  const found = await get(`/ui/requests/${encodeURIComponent(name)}`).catch(refused);
  if (!found) return;
  await dialog(`Last requests to ${name}`, found.length ? table("requests", ["At", "Outcome", "Replica", ["Tokens in", "num"], ["out", "num"], ["TTFT", "num"], ["Took", "num"], "Key"],
    found.map((r) => ({ key: r.request_id, cells: [clock(r.at), `${r.status} ${r.error ?? r.outcome}`, r.replica ?? "", r.usage?.[0] ?? "–", r.usage?.[1] ?? "–",
      seconds(r.ttft_seconds), seconds(r.seconds), r.key ?? "none"] })), { class: "dense" }) : h("p", {}, "The endpoint's log has none."),
  [{ label: "Close", kind: "primary" }]);
}

async function change(name) {
  const found = await get(model(name)).catch(refused);
  if (!found) return;
  const { spec, version } = found.record;
  const value = (id, label, now, help = "") => {
    const input = h("input", { id: `change-${id}`, value: now ?? "" });
    return [input, h("div", { class: "field" }, h("label", { for: input.id }, label), input, help ? h("p", { class: "help" }, help) : null)];
  };
  const [demand, ...rest] = [value("demand", "Requests/s", spec.demand.req_per_s, "Empty: as much as there is."), value("ttft", "TTFT at most, s", spec.slo?.ttft_seconds, "Both or neither."),
    value("tpot", "TPOT at most, s", spec.slo?.tpot_seconds), value("aliases", "Aliases", spec.aliases.join(", "))];
  const [ttft, tpot, aliases] = rest.map(([input]) => input);
  const said = h("p", { class: "problem", role: "alert" });
  await dialog(`Change ${name}`, h("div", { class: "form" }, demand[1], rest.map(([, field]) => field), said), [{ label: "Cancel" }, { label: "Change", kind: "primary", id: "confirm-change", act: async () => {
    const number = (input) => (input.value.trim() ? Number(input.value) : null);
    const slo = { ttft_seconds: number(ttft), tpot_seconds: number(tpot) };
    const body = { demand: { ...spec.demand, req_per_s: number(demand[0]) }, slo: slo.ttft_seconds === null && slo.tpot_seconds === null ? null : { ...spec.slo, ...slo },
      aliases: aliases.value.split(",").map((text) => text.trim()).filter(Boolean) };
    try {
      await call("PATCH", model(name), body, { headers: { "If-Match": `"${version}"` } });
      toast(`${name} is changed.`);
      look();
      return true;
    } catch (error) {
      said.textContent = `${error.message} ${error.hint}`;
      return false;
    }
  } }]);
}

async function rollBack(name) {
  const all = await get(`${model(name)}/releases`).catch(refused);
  if (!all) return;
  const earlier = all.filter((one) => one.state !== "serving" && one.state !== "coming");
  if (!earlier.length) return toast(`${name} has no earlier release.`);
  const which = h("select", { id: "release" }, earlier.map((one) => h("option", { value: one.version }, `version ${one.version}, ${one.state}, ${day(one.at)}`)));
  const sure = await dialog(`Roll ${name} back?`, h("div", { class: "field" }, h("p", {}, "Engines of the earlier release take the place of those that run. Demand, SLO and names stay."), h("label", { for: "release" }, "To"), which),
    [{ label: "Cancel" }, { label: "Roll back", kind: "primary", value: "yes" }]);
  if (sure === "yes") await done(() => post(`${model(name)}/rollback`, { version: Number(which.value) }), `${name} goes back to version ${which.value}.`);
}

async function measure(name) {
  const sure = await dialog(`Measure ${name}?`,
    h("p", {}, "A job starts an engine of its own and sweeps batch sizes. It takes minutes, and waits for free room: nothing that serves makes way."),
    [{ label: "Cancel" }, { label: "Measure", kind: "primary", value: "yes" }]);
  if (sure !== "yes") return;
  try {
    const job = await post(`/models/${encodeURIComponent(name)}/profile`, {});
    toast(`${job.id} measures ${name}.`);
    location.hash = "#/jobs";
    look();
  } catch (error) {
    refused(error);
  }
}

async function remove(name, count) {
  const sure = await dialog(`Remove ${name}?`,
    h("p", {}, count ? `Its ${count === 1 ? "replica finishes" : `${count} replicas finish`} what runs and stop${count === 1 ? "s" : ""}; clients get an error from then on. Its profiles stay.` : "It has no replica. Its profiles stay."),
    [{ label: "Cancel" }, { label: `Remove ${name}`, kind: "danger", value: "yes" }]);
  if (sure !== "yes") return;
  try {
    await call("DELETE", `/models/${encodeURIComponent(name)}`);
    toast(`${name} is removed.`);
    location.hash = "#/";
    look();
  } catch (error) {
    refused(error);
  }
}

