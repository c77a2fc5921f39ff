// What happened and why, as it happens.

import { h, table } from "./dom.js";
import { day } from "./format.js";
import { changed, state } from "./state.js";

let filter;
export const leaveEvents = () => { filter = { kind: "", words: "" }; };
leaveEvents();

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
      h("label", {}, "Holds ", h("input", { id: "words", type: "search", value: filter.words, placeholder: "model, replica, person…",
        on: { input: (e) => { filter.words = e.target.value; changed(); } } })),
      h("span", { class: "muted", role: "status" }, `${found.length} shown, newest first`)),
    table("events", [["When", "nowrap"], ["Kind", "nowrap"], "Subject", "What", ["Who", "nowrap"]], found.slice(0, 200).map((e) => ({ key: e.id, cells: [
      h("time", { datetime: e.at }, day(e.at)), e.kind, e.subject, e.message,
      e.actor || h("span", { class: "muted" }, "partitiond")] })), { head: -1, class: "event-table" }),
  ];
}
