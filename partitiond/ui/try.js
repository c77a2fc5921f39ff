// A prompt to a model, its answer as it comes, and how fast it came.

import { call } from "./api.js";
import { h } from "./dom.js";
import { number, seconds } from "./format.js";
import { changed, state } from "./state.js";

const NOTHING = Object.freeze({ abort: null, text: "", problem: "", figures: null });
let asked = NOTHING;
let form = null;

/** A prompt and its answer are for nobody else who logs in. */
export function leaveTry() {
  asked.abort?.abort();
  asked = NOTHING;
  form = null;
}

export function tryView(name) {
  const f = asked.figures;
  return [
    h("h1", {}, "Try a prompt"),
    h("div", { class: "columns even" },
      formView(name),
      h("section", { class: "panel", "aria-labelledby": "answer-h" },
        h("h2", { id: "answer-h" }, "Answer"),
        f ? h("dl", { class: "facts" }, [["TTFT", seconds(f.ttft)], ["Output", f.tokens === null ? "–" : `${number(f.tokens)} tokens`],
          ["Tokens/s", number(f.tokens && f.total > f.ttft ? f.tokens / (f.total - f.ttft) : null)], ["Replica", f.replica || "not told"]].map(([k, v]) => h("div", { key: k }, h("dt", {}, k), h("dd", {}, v)))) : null,
        asked.problem ? h("p", { class: "problem", role: "alert" }, asked.problem) : null,
        h("p", { class: "answer", id: "answer" }, asked.text || (asked.abort ? "…" : "")))),
  ];
}

/** Kept as one element while its address is shown: what people typed is theirs. */
function formView(name) {
  const kept = form && document.contains(form) && form.dataset.of === name;
  if (!kept) form = fresh(name);
  form.send.disabled = asked.abort !== null;
  form.stop.disabled = asked.abort === null;
  return kept ? h("form", { "data-own": true, key: "try" }) : form;
}

function fresh(name) {
  return h("form", { class: "panel form", "data-own": true, "data-of": name, key: "try", on: { submit: send } },
    h("div", { class: "row" },
      field("try-model", "Model", h("select", { id: "try-model", name: "model" }, state.overview.models.map((m) => h("option", { value: m.name, selected: m.name === name }, m.name)))),
      field("try-kind", "As", h("select", { id: "try-kind", name: "kind" }, h("option", { value: "chat" }, "a chat"), h("option", { value: "completion" }, "a completion")))),
    field("try-prompt", "Prompt", h("textarea", { id: "try-prompt", name: "prompt", rows: 6, required: true })),
    h("div", { class: "row" },
      field("try-tokens", "At most tokens", h("input", { id: "try-tokens", name: "tokens", type: "number", min: 1, step: 1, value: 256 })),
      field("try-key", "Key", h("input", { id: "try-key", name: "key", type: "password", autocomplete: "off", placeholder: "where keys are required" }))),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary", name: "send", id: "try-send" }, "Send"),
      h("button", { type: "button", name: "stop", on: { click: () => asked.abort?.abort() } }, "Stop")));
}

const field = (id, name, input) => h("div", { class: "field" }, h("label", { for: id }, name), input);

async function send(event) {
  event.preventDefault();
  const { model, kind, prompt, tokens, key } = form;
  const chat = kind.value === "chat";
  const body = { model: model.value, stream: true, stream_options: { include_usage: true }, max_tokens: Number(tokens.value) || 256,
    ...(chat ? { messages: [{ role: "user", content: prompt.value }] } : { prompt: prompt.value }) };
  const mine = asked = { ...NOTHING, abort: new AbortController() };
  changed();
  const begun = performance.now();
  const since = () => (performance.now() - begun) / 1000;
  try {
    const answer = await call("POST", `/ui/try/${kind.value}`, body, { stream: true, signal: mine.abort.signal, headers: key.value ? { "x-endpoint-key": key.value } : {} });
    mine.figures = { ttft: null, tokens: null, total: 0, replica: answer.headers.get("x-partitiond-replica") };
    await read(answer, since, mine);
  } catch (error) {
    if (error.name !== "AbortError") mine.problem = `${error.message} ${error.hint ?? ""}`;
  }
  if (mine.figures) mine.figures.total = since();
  mine.abort = null;
  changed();
}

async function read(answer, since, mine) {
  let rest = "";
  for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + part).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: {")) continue;
      const { choices, usage, error } = JSON.parse(line.slice("data: ".length));
      if (error) mine.problem = error.message;
      if (usage) mine.figures.tokens = usage.completion_tokens;
      const text = choices?.[0]?.delta?.content ?? choices?.[0]?.delta?.reasoning ?? choices?.[0]?.text ?? "";
      if (text) mine.figures.ttft ??= since();
      mine.text += text;
    }
    changed();
  }
}
