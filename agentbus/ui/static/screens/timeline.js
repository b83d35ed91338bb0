// When a task waited and when it ran, as one bar and in words.

import { h, setWidth } from "../dom.js";
import { now, span } from "../format.js";

export function timeline(task, runs) {
  const parts = partsOf(task, runs);
  const whole = parts.reduce((sum, part) => sum + part.ms, 0);
  if (!parts.length || whole <= 0) return undefined;
  const label = parts.map((part) => `${part.label} ${span(part.ms / 1000)}`).join(", ");
  return h(
    "figure",
    { class: "timeline" },
    h("div", { class: "bar", role: "img", "aria-label": label }, parts.map((part) => setWidth(h("span", { class: part.kind, title: `${part.label} ${span(part.ms / 1000)}` }), Math.max(part.ms / whole, 0.005)))),
    h("figcaption", {}, parts.map((part) => h("span", {}, h("i", { class: part.kind, "aria-hidden": "true" }), `${part.label} ${span(part.ms / 1000)}`))),
  );
}

export function partsOf(task, runs) {
  const created = Date.parse(task.created_at ?? "");
  if (Number.isNaN(created)) return [];
  const done = !["queued", "working"].includes(task.state);
  const end = Math.max(created, done ? Date.parse(task.completed_at ?? task.changed_at) : now());
  const spans = [...runs.entries()].sort(([one], [other]) => one - other).map(([attempt, run]) => ({ attempt, ...run }));
  const since = Date.parse(task.since ?? "");
  if (task.state === "working" && !Number.isNaN(since)) {
    const last = spans.at(-1);
    if (!last || last.to < since) spans.push({ attempt: task.attempt ?? 1, from: since, to: end });
    else {
      last.from = Math.min(last.from, since);
      last.to = end;
    }
  } else if (done && spans.length) spans.at(-1).to = Math.max(spans.at(-1).to, end);
  const found = [];
  let at = created;
  for (const run of spans) {
    const from = Math.min(Math.max(run.from, at), end);
    const to = Math.min(Math.max(run.to, from), end);
    if (from - at > 500) found.push({ kind: "waited", label: "waited", ms: from - at });
    found.push({ kind: "ran", label: spans.length > 1 ? `attempt ${run.attempt}` : "ran", ms: Math.max(to - from, 1) });
    at = to;
  }
  if (end - at > 500 || !found.length) {
    const label = !done ? "waits" : spans.length ? "waited" : "in all";
    found.push({ kind: done && !spans.length ? "all" : "waited", label, ms: Math.max(end - at, 1) });
  }
  return found;
}
