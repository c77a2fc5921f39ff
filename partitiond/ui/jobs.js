// Long-running work, with its progress.

import { call } from "./api.js";
import { h, toast } from "./dom.js";
import { day, percent, seconds } from "./format.js";
import { deviceAt, look, state } from "./state.js";

export function jobsView() {
  const jobs = state.overview.jobs;
  return [
    h("h1", {}, "Jobs"),
    jobs.length ? h("ul", { class: "jobs panel" }, jobs.map((job) => jobRow(job, true)))
      : h("p", { class: "panel" }, "No job ran yet. A model that is registered with the chain on is measured by itself; each model's page has a button for it."),
  ];
}

export function jobRow(job, whole = false) {
  const { progress } = job;
  const open = job.state === "running" || job.state === "queued";
  const fraction = progress.fraction ?? null;
  return h("li", { key: job.id, class: "job" },
    h("div", { class: "job-head" },
      h("strong", {}, `${job.kind} ${job.subject}`), h("span", { class: "muted" }, job.device_id && job.state !== "queued" ? `${job.id} on ${deviceAt(job.device_id)}` : job.id),
      h("span", { class: `pill ${job.state}` }, job.state),
      open ? h("button", { class: "quiet", "aria-label": `Cancel ${job.id}`, on: { click: () => cancel(job.id) } }, "Cancel") : null),
    open && fraction !== null ? h("progress", { max: 1, value: fraction, "aria-label": `${job.id}, ${percent(fraction)}` }) : null,
    h("p", { class: "muted" }, open ? [progress.message || progress.phase || "", progress.seconds_left ? `, about ${seconds(progress.seconds_left)} left` : ""]
      : job.error ? h("span", { class: "problem" }, job.error.split("\n")[0]) : job.result ? `made ${job.result}` : ""),
    job.reason ? h("p", { class: "muted" }, `Why: ${job.reason}`) : null,
    whole ? h("p", { class: "muted" }, `asked ${day(job.created_at)}`) : null);
}

async function cancel(id) {
  try {
    await call("DELETE", `/jobs/${encodeURIComponent(id)}`);
    toast(`${id} is cancelled.`);
  } catch (error) {
    toast(`${error.message} ${error.hint}`, "bad");
  }
  look();
}
