// Small drawings: a line of the last minutes, and a model's frontier.

import { h } from "./dom.js";
import { number, seconds } from "./format.js";

/** The last minutes of one figure. Decoration: the figure itself stands beside it. */
export function spark(values, className = "") {
  const known = values.filter((v) => v !== null && v !== undefined);
  const width = 120;
  const height = 30;
  if (known.length < 2) return h("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const top = Math.max(...known, 1e-9) * 1.08;
  const slots = Math.max(values.length - 1, 30);
  const x = (i) => width - ((values.length - 1 - i) / slots) * width;
  const y = (v) => height - 1 - (v / top) * (height - 3);
  let pen = "M";
  let line = "";
  let first = null;
  let last = null;
  values.forEach((v, i) => {
    if (v === null || v === undefined) return;
    line += `${pen}${x(i).toFixed(1)},${y(v).toFixed(1)}`;
    pen = "L";
    first ??= i;
    last = i;
  });
  return h("svg", { class: `spark ${className}`, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    h("path", { class: "area", d: `${line}L${x(last).toFixed(1)},${height}L${x(first).toFixed(1)},${height}Z` }),
    h("path", { class: "line", d: line }));
}

const PLOT = { width: 560, height: 300, left: 58, right: 16, top: 18, bottom: 42 };

/** What is drawn over the batch size; `below` says how it goes on under the smallest batch. */
const THROUGHPUT = {
  name: "Throughput", unit: "tokens/s", of: (p) => p.output_tokens_per_s, interval: (p) => p.interval,
  measured: (m) => m.output_tokens_per_s, below: (first, batch) => (first.output_tokens_per_s * batch) / first.batch,
};
const TPOT = {
  name: "Time per output token", unit: "ms", of: (p) => 1000 * p.tpot_p95_seconds, interval: () => 0,
  measured: (m) => (m.tpot_seconds === null ? null : 1000 * m.tpot_seconds), below: (first) => 1000 * first.tpot_p95_seconds,
};

/**
 * Throughput over batch size with the knee, the batch that is planned, and where replicas work now.
 *
 * `measured` is what replicas did, to be seen beside what was predicted.
 */
export const frontierPlot = (view, measured = []) => plot(view, measured, THROUGHPUT);

/** The same of the time per output token, its 95th percentile as predicted. */
export const tpotPlot = (view, measured = []) => plot(view, measured, TPOT);

function plot(view, replicas, what) {
  const points = view.points;
  if (!points.length) return h("p", { class: "muted" }, "No operating point is known.");
  const { width, height, left, right, top, bottom } = PLOT;
  const measured = replicas.map((m) => [m.mean_batch, what.measured(m)]).filter(([, v]) => v !== null);
  const least = Math.min(points[0].batch, view.working_batch || Infinity, ...measured.map(([b]) => b));
  const low = Math.log2(Math.max(0.25, least));
  const high = Math.max(Math.log2(points.at(-1).batch), low + 1);
  const most = Math.max(...points.map((p) => what.of(p) + what.interval(p)), ...measured.map(([, v]) => v)) * 1.12;
  const x = (b) => left + ((Math.log2(Math.max(b, 2 ** low)) - low) / (high - low)) * (width - left - right);
  const y = (v) => height - bottom - (v / most) * (height - top - bottom);
  const at = { x, y, points, what };
  const name = `${what.name} by batch size, ${view.size} of ${view.hardware}. ${words(view)}`;
  return h("figure", { class: "plot", key: `${what.unit} ${view.profile_id}` },
    h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name },
      yTicks(most).map((v) => h("g", { class: "tick" },
        h("line", { x1: left, x2: width - right, y1: y(v), y2: y(v) }),
        h("text", { x: left - 8, y: y(v) + 4, "text-anchor": "end" }, number(v)))),
      xTicks(points, x).map((b) => h("text", { class: "tick-text", x: x(b), y: height - bottom + 18, "text-anchor": "middle" }, b)),
      h("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
      h("text", { class: "axis-name", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, "sequences at once (batch)"),
      h("text", { class: "axis-name", x: 6, y: 12 }, what.unit),
      band(at),
      h("path", { class: "curve", d: points.map((p, i) => `${i ? "L" : "M"}${x(p.batch)},${y(what.of(p))}`).join("") }),
      points.map((p) => h("circle", { class: "point", cx: x(p.batch), cy: y(what.of(p)), r: 3 },
        h("title", {}, `batch ${p.batch}: ${number(p.output_tokens_per_s)} tokens/s, TPOT p95 ${seconds(p.tpot_p95_seconds)}, TTFT p95 ${seconds(p.ttft_p95_seconds)}`))),
      mark("knee", view.knee_batch, "knee", at, 0),
      mark("planned", view.planned_batch, "planned", at, 1),
      mark("working", view.working_batch, "now", at, 2),
      measured.map(([b, v]) => h("circle", { class: "measured", cx: x(b), cy: y(v), r: 5 },
        h("title", {}, `measured: ${number(v)} ${what.unit} at ${number(b)} sequences`)))),
    h("figcaption", {}, legend(view, measured.length)));
}

function words(view) {
  const parts = [];
  parts.push(view.knee_batch === null ? "It has no knee." : `Knee at batch ${view.knee_batch}.`);
  if (view.planned_batch !== null) parts.push(`Planned at batch ${view.planned_batch}.`);
  if (view.working_batch !== null) parts.push(`Works at ${number(view.working_batch, 2)} sequences now.`);
  return parts.join(" ");
}

function legend(view, measured) {
  const entry = (kind, text) => h("span", { class: `key ${kind}` }, text);
  return h("div", { class: "legend" },
    view.knee_batch === null ? null : entry("knee", `knee ${view.knee_batch}`),
    view.planned_batch === null ? null : entry("planned", `planned ${view.planned_batch}`),
    view.working_batch === null ? null : entry("working", `working point ${number(view.working_batch, 2)}`),
    measured ? entry("measured", "replicas, measured") : null,
    h("span", { class: `pill ${view.kind}` }, view.kind));
}

/** The value at a batch on the curve, straight between points. */
function onCurve({ points, what }, batch) {
  if (batch <= points[0].batch) return what.below(points[0], batch);
  for (let i = 1; i < points.length; i += 1) {
    const [a, b] = [points[i - 1], points[i]];
    if (batch <= b.batch) {
      const share = (batch - a.batch) / (b.batch - a.batch);
      return what.of(a) + share * (what.of(b) - what.of(a));
    }
  }
  return what.of(points.at(-1));
}

function mark(kind, batch, label, at, row) {
  if (batch === null || batch === undefined) return null;
  const x = at.x(batch);
  const y = at.y(onCurve(at, batch));
  const size = kind === "working" ? 6 : 7;
  const side = x > PLOT.width * 0.75 ? "end" : "start";
  return h("g", { class: `mark ${kind}` },
    h("line", { x1: x, x2: x, y1: PLOT.top, y2: PLOT.height - PLOT.bottom }),
    kind === "planned"
      ? h("polygon", { points: `${x},${y - size} ${x + size},${y} ${x},${y + size} ${x - size},${y}` })
      : kind === "working" ? h("circle", { cx: x, cy: y, r: size }) : null,
    h("text", { x: x + (side === "end" ? -6 : 6), y: PLOT.height - PLOT.bottom - 10 - row * 16, "text-anchor": side }, label));
}

function band({ points, what, x, y }) {
  if (!points.some((p) => what.interval(p) > 0)) return null;
  const up = points.map((p, i) => `${i ? "L" : "M"}${x(p.batch)},${y(what.of(p) + what.interval(p))}`);
  const down = [...points].reverse().map((p) => `L${x(p.batch)},${y(Math.max(0, what.of(p) - what.interval(p)))}`);
  return h("path", { class: "band", d: `${up.join("")}${down.join("")}Z` });
}

function yTicks(most) {
  const raw = most / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw) ?? raw;
  const ticks = [];
  for (let t = 0; t < most; t += step) ticks.push(t);
  return ticks;
}

function xTicks(points, x) {
  const kept = [];
  for (const { batch } of points) if (!kept.length || x(batch) - x(kept.at(-1)) > 30) kept.push(batch);
  return kept;
}
