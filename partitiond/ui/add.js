// Adding a model: the form first shows whether it fits, then lets it be added.

import { post } from "./api.js";
import { h, table, toast } from "./dom.js";
import { bytes, deviceName, partition, plural } from "./format.js";
import { frontierPlot } from "./charts.js";
import { changed, look, state } from "./state.js";

const fresh = () => ({ fit: null, of: "", busy: false, saving: false, problem: null });
let known = fresh();
let form = null;

/** What is asked and answered is for nobody else who logs in; an answer that comes later is written where nobody reads it. */
export function leaveAdd() {
  known = fresh();
  form = null;
}

export function addView() {
  const current = form && document.contains(form) ? JSON.stringify(body(form)) : "";
  const checked = known.fit && known.of === current;
  return [
    h("h1", {}, "Add a model"),
    h("div", { class: "columns even" },
      formView(),
      h("section", { class: "panel", "aria-labelledby": "fit-h", "aria-live": "polite" },
        h("h2", { id: "fit-h" }, "Does it fit?"),
        known.busy ? h("p", { class: "working" }, "Plans with it…") : null,
        known.problem ? h("p", { class: "problem", role: "alert" }, `${known.problem.message} ${known.problem.hint ?? ""}`) : null,
        known.fit && !known.busy ? fitView(known.fit, checked) : null,
        !known.fit && !known.busy && !known.problem ? h("p", { class: "muted" },
          "Check first: the plan is made with it as if it were here. Nothing is registered, started or moved by that.") : null,
        h("div", { class: "buttons" },
          h("button", { id: "add-model", class: checked && known.fit.fits ? "primary" : "", disabled: !checked || known.busy || known.saving, on: { click: save } },
            checked && !known.fit.fits ? "Add it all the same" : "Add the model")))),
    browse(),
  ];
}

const catalog = () => state.session.catalog ?? [];

function browse() {
  return h("details", { key: "catalog", class: "panel" }, h("summary", {}, `The catalog: ${catalog().length} models`),
    table("the catalog", ["Model", ["Parameters", "num"], "For", [h("span", { class: "unseen" }, "Check"), "buttons"]], catalog().map((one) => ({ key: one.name, cells: [
      one.name, one.parameters, one.purpose,
      h("button", { "aria-label": `Does ${one.name} fit?`, on: { click: () => { form.elements.model.value = one.name; form.requestSubmit(); window.scrollTo(0, 0); } } }, "Does it fit?")] }))));
}

/** Kept as one element: what people typed is theirs, whatever is drawn again around it. */
function formView() {
  if (form && document.contains(form)) return h("form", { "data-own": true, key: "add" });
  const text = (id, label, help, more = {}) => h("div", { class: "field" }, h("label", { for: id }, label),
    h("input", { id, name: id, ...more }), help ? h("p", { class: "help" }, help) : null);
  form = h("form", { class: "panel form", "data-own": true, key: "add", on: { submit: check, input: changed } },
    h("datalist", { id: "catalog" }, catalog().map(({ name }) => h("option", { value: name }))),
    text("model", "Model", "A catalog name, a Hugging Face id (org/name) or an absolute folder.", { required: true, list: "catalog", autocomplete: "off", placeholder: "qwen2.5-0.5b" }),
    text("name", "Name", "What clients put into “model”; empty takes it from the source.", { autocomplete: "off" }),
    h("div", { class: "row" },
      text("demand", "Requests/s", "Empty: as much as there is.", { type: "number", min: 0, step: "any" }),
      text("max_replicas", "At most replicas", "", { type: "number", min: 1, step: 1 })),
    h("div", { class: "row" },
      text("prompt", "Prompt tokens", "", { type: "number", min: 1, step: 1, placeholder: "of the model" }),
      text("output", "Output tokens", "", { type: "number", min: 1, step: 1, placeholder: "of the model" })),
    h("div", { class: "row" },
      text("ttft", "TTFT at most, s", "Both or neither.", { type: "number", min: 0, step: "any" }),
      text("tpot", "TPOT at most, s", "", { type: "number", min: 0, step: "any" })),
    h("details", {}, h("summary", {}, "More"),
      choice("isolation", "Shares its device", [["shared", "with others"], ["device", "with nobody"], ["hardware", "only behind hardware walls"]]),
      choice("weights", "Weights", [["real", "real"], ["dummy", "random: true speed, no sense"]]),
      choice("engine_kind", "Engine", [["vllm", "vLLM"], ["simulated", "simulated"]]),
      h("label", { class: "check" }, h("input", { type: "checkbox", name: "auto", id: "auto", checked: true }), "Measure, plan and start it by itself")),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary", id: "check-fit" }, "Check whether it fits")));
  return form;
}

function choice(id, label, options) {
  return h("div", { class: "field" }, h("label", { for: id }, label),
    h("select", { id, name: id }, options.map(([value, words]) => h("option", { value }, words))));
}

function body(from) {
  const value = (name) => from.elements[name].value.trim();
  const asked = {
    model: value("model"), weights: value("weights"), engine_kind: value("engine_kind"), isolation: value("isolation"),
    auto: from.elements.auto.checked,
    workload: { prompt_tokens: Number(value("prompt")) || null, output_tokens: Number(value("output")) || null },
  };
  if (value("name")) asked.name = value("name");
  if (value("demand")) asked.demand = { req_per_s: Number(value("demand")) };
  if (value("max_replicas")) asked.max_replicas = Number(value("max_replicas"));
  const bounds = { ttft_seconds: value("ttft"), tpot_seconds: value("tpot") };
  const given = Object.entries(bounds).filter(([, text]) => text).map(([name, text]) => [name, Number(text)]);
  if (given.length) asked.slo = Object.fromEntries(given); // one alone is refused, not forgotten
  return asked;
}

async function check(event) {
  event.preventDefault();
  const asked = body(form);
  const mine = Object.assign(known, { busy: true, problem: null });
  changed();
  try {
    mine.fit = await post("/models/fit", asked);
    mine.of = JSON.stringify(asked);
  } catch (error) {
    Object.assign(mine, { fit: null, problem: error });
  }
  mine.busy = false;
  changed();
}

function fitView(fit, checked) {
  const own = fit.preview.plan.placements.filter((p) => p.model === fit.model);
  const [first] = fit.frontiers;
  return h("div", { class: checked ? "" : "outdated" },
    checked ? null : h("p", { class: "banner" }, "The form has changed since: check again."),
    h("p", { class: `verdict ${fit.fits ? "good" : "bad"}` }, fit.fits ? `${fit.model} fits.` : `${fit.model} does not fit.`),
    fit.registered ? h("p", { class: "problem" }, "A model of this name is registered already; adding it again is refused. Choose another name.") : null,
    h("ul", {}, fit.summary.map((line) => h("li", { key: line }, line))),
    own.length ? [h("p", {}, `${plural(own.length, "replica")} of it`), table("its replicas", ["Device", "Partition", ["Batch", "num"], ["Memory", "num"]],
      own.map((p) => ({ key: p.replica_id, cells: [deviceName(p.device_id), partition(p.partition), p.candidate.batch, bytes(p.partition.memory_bytes)] })), { class: "dense" })] : null,
    first ? [h("h3", {}, `Frontier of ${first.size === "whole device" ? "a" : `${first.size} of`} ${first.hardware}`), frontierPlot(first)] : null);
}

async function save() {
  if (known.saving) return;
  const mine = known;
  mine.saving = true;
  try {
    const record = await post("/models", body(form));
    toast(`${record.spec.name} is registered.`);
    if (mine !== known) return;
    leaveAdd();
    location.hash = `#/models/${encodeURIComponent(record.spec.name)}`;
    look();
  } catch (error) {
    mine.problem = error;
  }
  mine.saving = false;
  changed();
}
