// What happened and why, as it happens.

import { h } from "./dom.js";
import { day } from "./format.js";
import { changed, state } from "./state.js";

const filter = { kind: "", words: "" };

export function eventsView() {
  const kinds = [...new Set(state.events.map((e) => e.kind))].sort();
  const words = filter.words.toLowerCase();
  const found = state.events.filter((e) => (!filter.kind || e.kind === filter.kind) &&
    (!words || `${e.subject} ${e.message} ${e.actor ?? ""}`.toLowerCase().includes(words))).reverse();
  return [
    h("h1", {}, "Events"),
    h("div", { class: "filters" },
      h("label", {}, "Kind ", h("select", { id: "kind", on: { change: (e) => { filter.kind = e.target.value; changed(); } } },
        h("option", { value: "", selected: !filter.kind }, "all"), kinds.map((k) => h("option", { value: k, selected: k === filter.kind }, k)))),
      h("label", {}, "Holds ", h("input", { id: "words", type: "search", placeholder: "model, replica, person…",
        on: { input: (e) => { filter.words = e.target.value; changed(); } } })),
      h("span", { class: "muted", role: "status" }, `${found.length} shown, newest first`)),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of events" }, h("table", { class: "event-table" },
      h("caption", { class: "unseen" }, "Events"),
      h("thead", {}, h("tr", {}, ["When", "Kind", "Subject", "What", "Who"].map((n) => h("th", { scope: "col" }, n)))),
      h("tbody", {}, found.slice(0, 200).map((e) => h("tr", { key: e.id },
        h("td", { class: "nowrap" }, h("time", { datetime: e.at }, day(e.at))), h("td", { class: "nowrap" }, e.kind), h("td", {}, e.subject),
        h("td", {}, e.message), h("td", { class: "nowrap" }, e.actor || h("span", { class: "muted" }, "partitiond"))))))),
  ];
}
