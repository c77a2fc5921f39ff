// The first view: what the fleet does, what the devices hold, and what each model gets.

import { call } from "./api.js";
import { dialog, h, table, toast } from "./dom.js";
import { bytes, clock, deviceName, gib, number, partition, percent, plural, seconds, watts } from "./format.js";
import { spark } from "./charts.js";
import { colour, history, letter, look, state } from "./state.js";
import { jobRow } from "./jobs.js";

export function fleetView() {
  const o = state.overview;
  return [
    h("h1", { class: "unseen" }, "Fleet"),
    tiles(o),
    h("div", { class: "columns" },
      h("div", { class: "wide" }, devices(o), models(o)),
      h("aside", { class: "side", "aria-label": "What happens" }, jobs(o), events())),
  ];
}

function tiles(o) {
  const traffic = o.models.map((m) => m.traffic).filter(Boolean);
  const sum = (pick) => traffic.reduce((total, t) => total + pick(t), 0);
  const any = traffic.length > 0;
  const ttft = traffic.map((t) => t.ttft_p95_seconds).filter((v) => v !== null);
  const told = o.devices.filter((d) => d.watts !== null);
  const used = new Set(o.replicas.map((r) => r.device_id)).size;
  const { serving, wanted, asleep } = o.convergence;
  return h("section", { class: "tiles", "aria-label": "Now" },
    tile("Throughput", any ? number(sum((t) => t.output_tokens_per_s)) : "–", "tokens/s", spark(history("tokens"))),
    tile("Requests", any ? number(sum((t) => t.req_per_s)) : "–", "per second", spark(history("requests"), "two")),
    tile("In flight", any ? number(sum((t) => t.in_flight)) : "–", any ? `${number(sum((t) => t.waiting))} wait` : "", spark(history("flight"), "three")),
    tile("Worst TTFT p95", ttft.length ? seconds(Math.max(...ttft)) : "–", "at most, by model"),
    tile("Power", told.length ? watts(told.reduce((total, d) => total + d.watts, 0)) : "–", told.length ? "all devices" : "not told here", spark(history("watts"), "four")),
    tile("Replicas", `${serving} of ${wanted - asleep}`, `serve as planned, on ${used} of ${plural(o.devices.length, "device")}`));
}

function tile(name, value, unit, drawing = null) {
  return h("div", { class: "tile", key: name },
    h("h2", {}, name), h("p", { class: "figure" }, value), h("p", { class: "unit" }, unit), drawing);
}

// --- devices ------------------------------------------------------------------------------------

function devices(o) {
  return h("section", { "aria-labelledby": "devices-h" },
    h("div", { class: "heading" }, h("h2", { id: "devices-h" }, "Devices"),
      h("p", { class: "bar-legend", "aria-hidden": "true" }, h("span", { class: "legend-kept" }), "kept free",
        h("span", { class: "legend-used" }), "in use, says the driver")),
    o.hosts.length ? o.hosts.map((one) => host(one, o)) : cards(o.devices, o.replicas));
}

/** One of several hosts: whether it answers, and its devices. */
function host(one, o) {
  const own = o.devices.filter((d) => d.device.host === one.name);
  const engines = o.replicas.filter((r) => r.host === one.name && r.held_bytes > 0).length;
  const id = `host-${one.name}`;
  return h("section", { class: `host ${one.state}`, key: one.name, "aria-labelledby": id },
    h("div", { class: "host-head" },
      h("h3", { id }, one.name), one.is_head ? h("span", { class: "pill" }, "head") : null,
      one.state === "fine" ? null : h("span", { class: `pill ${HOST_PILLS[one.state] ?? "bad"}` }, one.state),
      h("span", { class: "muted" }, [one.address, plural(one.gpus, "GPU"), plural(engines, "engine"),
        one.silent_seconds ? `last word ${seconds(one.silent_seconds)} ago` : ""].filter(Boolean).join(" · "))),
    one.reason ? h("p", { class: "problem" }, one.reason) : null,
    own.length ? cards(own, o.replicas, "h4") : h("p", { class: "empty-devices" }, "No devices are known."));
}

const HOST_PILLS = { late: "estimated", silent: "estimated" };

function cards(views, replicas, heading = "h3") {
  const busy = views.filter((d) => replicas.some((r) => r.device_id === d.device.id) || d.cordoned || d.device.foreign.length);
  const empty = views.filter((d) => !busy.includes(d));
  return [
    h("div", { class: "devices" }, busy.map((d) => deviceCard(d, replicas, heading))),
    empty.length ? h("p", { class: "empty-devices" }, h("strong", {}, `${plural(empty.length, "device")} empty: `),
      empty.map((d) => h("button", { class: "chip", key: d.device.id, title: `${d.device.hardware}, ${bytes(d.device.memory_bytes)}; cordon it`, on: { click: () => cordon(d) } },
        index(d.device), deviceName(d.device.id)))) : null];
}

function deviceCard(view, replicas, heading) {
  const d = view.device;
  const here = replicas.filter((r) => r.device_id === d.id);
  const now = here.filter((r) => r.held_bytes > 0);
  const coming = here.filter((r) => r.coming_bytes > 0);
  const mode = here[0]?.partition.mode ?? "";
  return h("article", { class: `device ${view.cordoned ? "cordoned" : ""}`, key: d.id, "aria-label": `${deviceName(d.id)}, ${d.hardware}` },
    h("header", {},
      h(heading, {}, index(d), deviceName(d.id)), h("span", { class: "muted" }, d.hardware),
      mode ? h("span", { class: "pill" }, mode === "cores" ? "cores" : mode) : null,
      d.health !== "fine" ? h("span", { class: "pill bad" }, d.health) : null,
      h("span", { class: "gauges" },
        view.busy_share === null ? null : h("span", { title: "busy" }, `${percent(view.busy_share)} busy`),
        view.watts === null ? null : h("span", { title: "drawn now" }, watts(view.watts)),
        view.celsius === null ? null : h("span", { title: "temperature" }, `${number(view.celsius)} °C`))),
    view.cordoned ? h("p", { class: "problem" }, `Nothing is placed here: ${view.cordoned}`) : null,
    bar("Memory", now.map((r) => memory(r, r.held_bytes, d)), `${gib(view.held_bytes)} of ${gib(d.memory_bytes)} GiB`,
      view.used_bytes === null ? null : { share: view.used_bytes / d.memory_bytes, label: `${gib(view.used_bytes)} GiB in use` },
      view.room_bytes / d.memory_bytes),
    coming.length ? bar("To come", coming.map((r) => memory(r, r.coming_bytes, d)), `${gib(view.coming_bytes)} GiB`) : null,
    bar("Compute", now.map((r) => ({ engine: r, share: r.compute_share, words: percent(r.compute_share) })),
      percent(Math.min(1, now.reduce((sum, r) => sum + r.compute_share, 0)))),
    mode === "mig" || d.mig_instances.length ? slices(d, now) : null,
    h("ul", { class: "replicas" }, here.map((r) => h("li", { key: r.engine },
      h("a", { href: `#/models/${encodeURIComponent(r.model)}` },
        h("span", { class: `swatch ${colour(r.model)}`, "aria-hidden": "true" }, letter(r.model)), r.engine),
      h("span", { class: "muted" }, `${partition(r.partition)} · ${bytes(r.memory_bytes)}`),
      r.state === "serving" ? h("span", { class: "muted" }, `${number(r.in_flight ?? r.measured?.in_flight ?? 0)}/${r.limit}`)
        : h("span", { class: `pill ${r.state}` }, r.state)))),
    h("button", { class: "quiet", "aria-label": `${view.cordoned ? "Uncordon" : "Cordon"} ${deviceName(d.id)}`, on: { click: () => cordon(view) } }, view.cordoned ? "Uncordon" : "Cordon…"));
}

/** Its number on its host, as nvidia-smi counts. */
function index(device) {
  if (device.kind !== "gpu") return null;
  const own = state.overview.devices.filter((d) => d.device.host === device.host && d.device.kind === "gpu");
  return h("span", { class: "muted" }, `#${own.findIndex((d) => d.device.id === device.id)} `);
}

/** The eight memory slices of a GPU under MIG, with the instances where they are. */
function slices(d, now) {
  const used = now.filter((r) => r.partition.mode === "mig").map((r) => ({ engine: r, start: r.partition.slice_start, count: r.partition.slice_count }));
  const free = d.mig_instances.filter((one) => !used.some((u) => u.start === one.slice_start));
  const at = (start, count) => ({ left: `${12.5 * start}%`, width: `${12.5 * count}%` });
  const label = `Slices: ${[...used.map((u) => `${u.engine.engine} ${u.engine.partition.mig_profile} from ${u.start}`), ...free.map((one) => `${one.mig_profile} from ${one.slice_start} without an engine`)].join(", ") || "none"}`;
  return h("div", { class: "bar-row", key: "Slices" }, h("span", { class: "bar-name" }, "Slices"),
    h("div", { class: "fill slices", role: "img", "aria-label": label },
      free.map((one) => h("span", { class: "instance", key: `free-${one.slice_start}`, style: at(one.slice_start, one.slice_count) })),
      used.map((u) => h("span", { class: `segment ${colour(u.engine.model)} ${u.engine.state}`, key: u.engine.engine, title: `${u.engine.engine}: ${u.engine.partition.mig_profile}`,
        style: at(u.start, u.count) }, h("span", {}, letter(u.engine.model))))),
    h("span", { class: "bar-total" }, `${used.reduce((sum, u) => sum + u.count, 0)} of 8`));
}

async function cordon(view) {
  const { id } = view.device;
  const reason = h("input", { id: "cordon-reason", maxlength: 200, autofocus: true });
  if (!view.cordoned) {
    const sure = await dialog(`Cordon ${deviceName(id)}?`, h("div", { class: "field" },
      h("p", {}, "Nothing is placed there any more, and the next plan moves away what is on it."), h("label", { for: "cordon-reason" }, "Why"), reason),
    [{ label: "Cancel" }, { label: "Cordon", kind: "primary", value: "yes" }]);
    if (sure !== "yes") return;
  }
  try {
    const path = `/devices/${encodeURIComponent(id)}/cordon`;
    await (view.cordoned ? call("DELETE", path) : call("PUT", path, reason.value.trim() ? { reason: reason.value.trim() } : {}));
    toast(`${deviceName(id)} is ${view.cordoned ? "in use again" : "cordoned"}.`);
  } catch (error) {
    toast(`${error.message} ${error.hint}`, "bad");
  }
  look();
}

const memory = (engine, size, device) => ({ engine, share: size / device.memory_bytes, words: bytes(size) });

/** One bar to scale; `limit` is where the room for engines ends, `used` what the driver says. */
function bar(name, segments, total, used = null, limit = 1) {
  const scale = Math.max(1, segments.reduce((sum, s) => sum + s.share, 0));
  const label = `${name}: ${total}. ${segments.map((s) => `${s.engine.engine} ${s.words}`).join(", ")}${used ? `. ${used.label}` : ""}`;
  return h("div", { class: "bar-row", key: name },
    h("span", { class: "bar-name" }, name),
    h("div", { class: "fill", role: "img", "aria-label": label },
      segments.map((s) => h("span", {
        class: `segment ${colour(s.engine.model)} ${s.engine.state}`, key: s.engine.engine,
        title: `${s.engine.engine}: ${s.words}, ${s.engine.state}`,
        style: { width: `${(100 * s.share) / scale}%` } }, h("span", {}, letter(s.engine.model)))),
      limit < 1 ? h("span", { class: "kept", title: "kept free: headroom and the driver", style: { width: `${100 * (1 - limit)}%` } }) : null,
      used ? h("span", { class: "used", title: used.label, style: { left: `${Math.min(100, 100 * used.share)}%` } }) : null),
    h("span", { class: "bar-total" }, total));
}

// --- models -------------------------------------------------------------------------------------

function models(o) {
  return h("section", { "aria-labelledby": "models-h" },
    h("div", { class: "heading" }, h("h2", { id: "models-h" }, "Models"), h("a", { class: "button", href: "#/add" }, "Add a model")),
    o.models.length === 0
      ? h("p", { class: "panel" }, "No model is registered. ", h("a", { href: "#/add" }, "Add one"), " and see whether it fits.")
      : table("models", ["Model", "Replicas", ["Requests/s", "num"], ["of capacity", "num"], ["Tokens/s", "num"],
        ["TTFT mean", "num"], ["p95", "num", "TTFT p95"], ["Queue", "num"], ["Last minutes", "chart"]],
      o.models.map((m) => modelRow(m, o.replicas)), { class: "models" }));
}

function modelRow(m, replicas) {
  const t = m.traffic;
  const load = t && m.capacity_req_per_s > 0 ? t.req_per_s / m.capacity_req_per_s : null;
  const drifts = replicas.some((r) => r.model === m.name && r.drift);
  return { key: m.name, cells: [
    [h("a", { href: `#/models/${encodeURIComponent(m.name)}` },
      h("span", { class: `swatch ${colour(m.name)}`, "aria-hidden": "true" }, letter(m.name)), m.name),
    m.note ? h("span", { class: "note", title: m.note }, m.note) : null],
    [m.obstacle ? h("span", { class: "pill bad", title: m.obstacle.reason }, m.obstacle.kind.replace("-", " ")) : null,
    h("span", { class: `pill ${m.availability}` }, m.availability === "serving"
      ? `${m.replicas_serving} of ${m.replicas_planned}` : m.availability), drifts ? h("span", { class: "pill bad", title: "measured is not what was predicted" }, "drift") : null],
    [t ? number(t.req_per_s) : "–", t && t.refused ? h("span", { class: "pill bad" }, `${t.refused} refused`) : null],
    loadMeter(load, m.capacity_req_per_s),
    t ? number(t.output_tokens_per_s) : "–",
    seconds(t?.ttft_seconds),
    t?.ttft_p95_seconds === null || !t ? "–" : `≤ ${seconds(t.ttft_p95_seconds)}`,
    t ? number(t.waiting) : "–",
    spark(history(`${m.name} tokens`), "wide")] };
}

function loadMeter(load, capacity) {
  if (load === null) return capacity > 0 ? `of ${number(capacity)}` : "–";
  return h("span", { class: "load", title: `of ${number(capacity)} requests/s by plan` },
    h("span", { class: "meter", "aria-hidden": "true" }, h("span", { class: load > 1 ? "over" : "", style: { width: `${Math.min(100, 100 * load)}%` } })),
    percent(load));
}

// --- beside -------------------------------------------------------------------------------------

function jobs(o) {
  const open = o.jobs.filter((job) => job.state === "running" || job.state === "queued");
  if (!open.length) return null;
  return h("section", { "aria-labelledby": "jobs-h" },
    h("div", { class: "heading" }, h("h2", { id: "jobs-h" }, "Jobs"), h("a", { href: "#/jobs" }, "All")),
    h("ul", { class: "jobs" }, open.slice(0, 5).map((job) => jobRow(job))));
}

function events() {
  const last = state.events.slice(-14).reverse();
  return h("section", { "aria-labelledby": "events-h" },
    h("div", { class: "heading" }, h("h2", { id: "events-h" }, "Events"), h("a", { href: "#/events" }, "All")),
    h("ol", { class: "events" }, last.map((e) => h("li", { key: e.id },
      h("div", { class: "what", title: e.message },
      h("time", { datetime: e.at }, clock(e.at)), h("strong", {}, e.subject), " ", e.message,
      e.actor ? h("span", { class: "muted" }, ` by ${e.actor}`) : null)))));
}
