// API keys of the endpoint: making them, giving them another secret, taking them away.

import { call, get, post } from "./api.js";
import { dialog, h, table, toast } from "./dom.js";
import { day, number } from "./format.js";
import { changed, state } from "./state.js";

let keys = null; // until they are known
let used = [];
let asking = false;
let visit = 0; // an answer that comes after its visit is nobody's
let problem = "";

/** Who comes back sees them as they are then. */
export function leaveKeys() {
  visit += 1;
  keys = null;
  used = [];
  asking = false;
  problem = "";
}

async function refresh() {
  const mine = visit;
  asking = true;
  let found = null;
  let said = "";
  try {
    found = await get("/keys");
    used = (await get("/usage")).lines;
  } catch (error) {
    said = `${error.message} ${error.hint ?? ""}`;
  }
  if (mine !== visit) return;
  asking = false;
  problem = said;
  keys = found ?? keys;
  changed();
}

export function keysView() {
  if (keys === null && !asking && !problem) refresh();
  return [
    h("div", { class: "heading" }, h("h1", {}, "API keys"), h("button", { class: "primary", id: "new-key", on: { click: create } }, "New key…")),
    h("p", { class: "muted" }, "For clients of the endpoint. Only a key's fingerprint is kept: the key itself is shown once."),
    problem ? h("p", { class: "problem", role: "alert" }, problem) : null,
    keys === null ? (problem ? null : h("p", { class: "panel" }, "Asks the daemon…"))
      : keys.length === 0 ? h("p", { class: "panel" }, "There is no key. Until keys are required in the settings, the endpoint answers without.")
      : table("keys", ["Label", "Id", "Models", ["Requests/min", "num"], "Expires", "Made", [h("span", { class: "unseen" }, "Actions"), "buttons"]],
        keys.map((k) => ({ key: k.id, cells: [
          k.label || h("span", { class: "muted" }, "no label"), h("code", {}, k.id), k.models.length ? k.models.join(", ") : "all",
          k.rates.requests_per_minute ? number(k.rates.requests_per_minute) : "no limit",
          k.expires_at ? day(k.expires_at) : "never", day(k.created_at),
          [h("button", { "aria-label": `Rotate ${k.label || k.id}`, on: { click: () => rotate(k) } }, "Rotate…"),
            h("button", { class: "danger", "aria-label": `Revoke ${k.label || k.id}`, on: { click: () => revoke(k) } }, "Revoke…")]] }))),
    keys === null ? null : [h("h2", {}, "Used this month"), used.length ? table("usage", ["Key", "Model", ["Requests", "num"], ["failed", "num"], ["Tokens in", "num"], ["out", "num"]],
      used.map((u) => ({ key: `${u.key_id} ${u.model}`, cells: [u.label || u.key_id || h("span", { class: "muted" }, "no key"), u.model, number(u.requests), number(u.failed), number(u.prompt_tokens), number(u.output_tokens)] })))
      : h("p", { class: "panel" }, "Nothing yet: whole hours are counted.")],
  ];
}

async function create() {
  const label = h("input", { id: "key-label", maxlength: 200, autofocus: true });
  const rate = h("input", { id: "key-rate", type: "number", min: 1, step: 1, placeholder: "no limit" });
  const days = h("input", { id: "key-days", type: "number", min: 1, step: 1, placeholder: "never" });
  const boxes = state.overview.models.map((m) => h("input", { type: "checkbox", value: m.name, id: `key-model-${m.name}` }));
  const said = h("p", { class: "problem", role: "alert" });
  await dialog("New key", h("div", { class: "form" },
    field("Label", label, "Who or what uses it."), field("Requests per minute", rate), field("Days until it expires", days),
    h("fieldset", {}, h("legend", {}, "Models (none chosen: all)"), boxes.map((box) => h("label", { class: "check" }, box, box.value))), said),
  [{ label: "Cancel" }, { label: "Create", kind: "primary", id: "create-key", act: async () => {
    const body = { label: label.value.trim(), models: boxes.filter((b) => b.checked).map((b) => b.value) };
    if (rate.value) body.rates = { requests_per_minute: Number(rate.value) };
    if (days.value) body.expires_in_seconds = Number(days.value) * 86400;
    try {
      const made = await post("/keys", body);
      refresh();
      setTimeout(() => secret(`Key ${made.record.label || made.record.id}`, made.key));
      return true;
    } catch (error) {
      said.textContent = `${error.message} ${error.hint}`;
      return false;
    }
  } }]);
}

function field(name, input, help = "") {
  return h("div", { class: "field" }, h("label", { for: input.id }, name), input, help ? h("p", { class: "help" }, help) : null);
}

/** The only time the key is to be seen: it is in this dialog and nowhere else on the page. */
function secret(title, value) {
  const shown = h("input", { id: "secret", readonly: true, value, "aria-label": "The key", class: "secret" });
  return dialog(title, [h("p", {}, "Copy it now: it is not kept and cannot be shown again."), shown],
    [{ label: "Copy", act: async () => {
      shown.select();
      try { await navigator.clipboard.writeText(value); } catch { document.execCommand("copy"); }
      toast("The key is copied.");
      return false;
    } }, { label: "Done", kind: "primary", id: "secret-done" }]);
}

async function rotate(k) {
  const grace = h("select", { id: "grace" }, [[0, "not at all: it leaked"], [3600, "one hour"], [86400, "one day"], [604800, "one week"]]
    .map(([value, label]) => h("option", { value, selected: value === 3600 }, label)));
  const said = h("p", { class: "problem", role: "alert" });
  await dialog(`Another secret for ${k.label || k.id}?`, h("div", { class: "form" },
    h("p", {}, "It keeps its id, its limits and what it has used."), field("The old one is taken for", grace), said),
  [{ label: "Cancel" }, { label: "Rotate", kind: "primary", id: "confirm-rotate", act: async () => {
    try {
      const made = await post(`/keys/${encodeURIComponent(k.id)}/rotate`, { grace_seconds: Number(grace.value) });
      refresh();
      setTimeout(() => secret(`Key ${k.label || k.id}`, made.key));
      return true;
    } catch (error) {
      said.textContent = `${error.message} ${error.hint}`;
      return false;
    }
  } }]);
}

async function revoke(k) {
  const sure = await dialog(`Revoke ${k.label || k.id}?`, h("p", {}, "The endpoint refuses it from now on. This cannot be undone."),
    [{ label: "Cancel" }, { label: "Revoke", kind: "danger", value: "yes", id: "confirm-revoke" }]);
  if (sure !== "yes") return;
  try {
    await call("DELETE", `/keys/${encodeURIComponent(k.id)}`);
    toast(`${k.label || k.id} is revoked.`);
  } catch (error) {
    toast(`${error.message} ${error.hint}`, "bad");
  }
  refresh();
}
