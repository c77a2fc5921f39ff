// Elements by function call, and a live tree brought to a new one without losing focus, selection
// or scroll. Inline styles go through the CSSOM: the page's policy allows no style attribute.

const SVG = new Set(["svg", "g", "path", "line", "circle", "rect", "text", "polygon", "title", "desc"]);
const NAMESPACE = "http://www.w3.org/2000/svg";

/** An element. `on` holds handlers, `style` an object, `key` tells siblings apart. */
export function h(tag, props = {}, ...children) {
  const own = SVG.has(tag) && !(tag === "title" && props.html);
  const element = own ? document.createElementNS(NAMESPACE, tag) : document.createElement(tag);
  element.handlers = {};
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      element.handlers = value;
      for (const type of Object.keys(value)) element.addEventListener(type, dispatch);
    } else if (name === "style") {
      for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    } else if (name === "key") {
      element.setAttribute("data-key", value);
    } else if (name === "value") {
      element.value = value;
      element.setAttribute("value", value);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children) {
    if (child === undefined || child === null || child === false) continue;
    if (Array.isArray(child)) add(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
}

function dispatch(event) {
  return event.currentTarget.handlers[event.type]?.(event);
}

const key = (node) => (node.nodeType === 1 ? node.getAttribute("data-key") : null);
const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);

/** Make `live` look like `next`. An element with the attribute `data-own` looks after itself. */
export function morph(live, next) {
  if (live.nodeType !== 1) {
    if (live.data !== next.data) live.data = next.data;
    return;
  }
  if (live.hasAttribute("data-own") && next.hasAttribute("data-own")) return;
  attributes(live, next);
  for (const type of Object.keys(next.handlers ?? {})) {
    if (!(type in (live.handlers ?? {}))) live.addEventListener(type, dispatch);
  }
  live.handlers = next.handlers;
  nodes(live, next);
}

function attributes(live, next) {
  for (const { name } of [...live.attributes]) {
    if (!next.hasAttribute(name) && name !== "open" && name !== "data-test") live.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (name === "style" || (name === "value" && document.activeElement === live)) continue;
    if (live.getAttribute(name) !== value) live.setAttribute(name, value);
  }
  if (live.style && live.style.cssText !== next.style.cssText) live.style.cssText = next.style.cssText;
}

function nodes(live, next) {
  const keyed = new Map();
  for (const child of live.children) if (key(child)) keyed.set(key(child), child);
  let cursor = live.firstChild;
  for (const child of [...next.childNodes]) {
    const match = key(child) ? keyed.get(key(child)) : cursor;
    keyed.delete(key(child)); // a second one of this key is another element
    if (match && alike(match, child)) {
      if (match === cursor) cursor = cursor.nextSibling;
      else live.insertBefore(match, cursor);
      morph(match, child);
    } else {
      live.insertBefore(child, cursor);
    }
  }
  while (cursor) {
    const gone = cursor;
    cursor = cursor.nextSibling;
    gone.remove();
  }
}

/**
 * A table that scrolls in a frame of its own; on a phone each row is a card, its cells named.
 *
 * A column is its name, or [name, class, name on the card]; "num" stands to the right. A row has its
 * `cells` in order, a `key`, and a `class`. The cell at `head` names its row.
 */
export function table(label, columns, rows, { head = 0, ...props } = {}) {
  const named = columns.map((column) => (Array.isArray(column) ? column : [column]));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Table of ${label}` },
    h("table", { role: "table", ...props },
      h("caption", { class: "unseen" }, label),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, named.map(([name, kind = ""]) => h("th", { scope: "col", role: "columnheader", class: kind }, name)))),
      h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { key: row.key, class: row.class, role: "row" }, row.cells.map((cell, i) => {
        const [name, kind = "", onCard = name] = named[i];
        const own = { class: kind, "data-name": typeof onCard === "string" ? onCard : "" };
        return i === head ? h("th", { ...own, scope: "row", role: "rowheader" }, cell) : h("td", { ...own, role: "cell" }, cell);
      }))))));
}

/** One sentence that a screen reader says and that fades after a while. */
export function toast(text, kind = "info") {
  const note = h("p", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), 8000);
}

/** A modal dialog, closed by Escape; resolves with what its form was ended by. */
export function dialog(title, body, buttons) {
  let acting = false; // pressed twice is asked once
  return new Promise((resolve) => {
    const before = document.activeElement;
    const end = (value) => box.close(value);
    const id = `dialog-${Math.random().toString(36).slice(2)}`;
    const box = h("dialog", { "aria-labelledby": id, on: { close: () => {
      box.remove();
      before?.focus?.();
      resolve(box.returnValue);
    } } },
    h("h2", { id }, title), h("div", { class: "dialog-body" }, body),
    h("div", { class: "buttons" }, buttons.map((b) => h("button", {
      type: "button", class: b.kind ?? "", id: b.id, on: { click: async () => {
        if (acting) return;
        acting = true;
        try {
          if (!b.act || (await b.act(box)) !== false) end(b.value ?? "");
        } finally {
          acting = false;
        }
      } } }, b.label))));
    document.body.append(box);
    box.returnValue = "";
    box.showModal();
  });
}
