// Numbers as people read them. Nothing known is a dash.

const DASH = "–";

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  if (value === 0) return "0";
  if (Math.abs(value) >= 10 ** digits) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

export function bytes(value) {
  if (value === null || value === undefined) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let rest = value;
  while (Math.abs(rest) >= 1024 && unit < units.length - 1) { rest /= 1024; unit += 1; }
  return `${number(rest)} ${units[unit]}`;
}

export function gib(value) {
  return value === null || value === undefined ? DASH : number(value / 2 ** 30);
}

export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  if (value < 1) return `${number(value * 1000)} ms`;
  if (value < 120) return `${number(value)} s`;
  if (value < 7200) return `${number(value / 60)} min`;
  return `${number(value / 3600)} h`;
}

export function percent(value) {
  return value === null || value === undefined ? DASH : `${Math.round(value * 100)} %`;
}

export function watts(value) {
  return value === null || value === undefined ? DASH : `${number(value)} W`;
}

export function clock(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? iso : at.toLocaleTimeString("en-GB");
}

export function day(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? iso : at.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

export function plural(count, word) {
  return `${number(count)} ${word}${count === 1 ? "" : "s"}`;
}

/** The beginning of a GPU's UUID says enough: "GPU-32a7e041". */
export function deviceName(id) {
  return id.startsWith("GPU-") ? id.slice(0, 12) : id;
}

export function partition(p) {
  if (p.mode === "cores") return plural(p.cores.length, "core");
  if (p.mode === "mps") return `${p.sm_percent} % of the SMs`;
  if (p.mode === "mig") return `MIG ${p.mig_profile}`;
  return p.mode === "memory" ? "memory share" : "whole device";
}
