// What a run does, line by line, as it goes on: the end of it, of a bounded length.

import { h } from "../dom.js";
import { span } from "../format.js";

const MOST_LINES = 400;
const SIGNS = { start: "▷", text: "", tool: "→", tool_end: "←", retry: "…", question: "?", usage: "", notice: "!", dropped: "⋯" };

export function logView(onRuns) {
  const list = h("ol", { class: "log", tabindex: "0", "aria-label": "What the agent does" });
  const element = h("section", { "aria-labelledby": "log-title", hidden: true }, h("h2", { id: "log-title" }, "Log"), list);
  const view = { element, take, runs: new Map(), count: 0 };

  function take(found) {
    if (found.again) {
      list.replaceChildren();
      view.runs.clear();
      view.count = 0;
    }
    const lines = found.lines ?? [];
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    if (found.missed) list.append(h("li", { class: "dropped" }, `${found.missed} lines are not shown here`));
    for (const line of lines) {
      note(line);
      if (line.kind !== "usage") list.append(item(line));
    }
    while (list.children.length > MOST_LINES) list.firstElementChild.remove();
    view.count += lines.length;
    if (lines.length) {
      element.hidden = false;
      onRuns();
    }
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  // When each attempt began and was last heard of, for the timeline.
  function note(line) {
    const at = Date.parse(line.at ?? "");
    if (Number.isNaN(at)) return;
    const key = line.attempt ?? 1;
    const run = view.runs.get(key) ?? { from: at - (line.t ?? 0) * 1000, to: at };
    run.to = Math.max(run.to, at);
    view.runs.set(key, run);
    if (view.runs.size > 50) view.runs.delete(view.runs.keys().next().value);
  }
  return view;
}

function item(line) {
  const failed = line.ok === false;
  const words = line.kind === "tool" || line.kind === "tool_end" || line.kind === "question" ? h("code", {}, line.name ?? "tool") : undefined;
  return h(
    "li",
    { class: [line.kind, line.stderr ? "stderr" : "", failed ? "failed" : ""].filter(Boolean).join(" ") },
    h("span", { class: "t" }, line.t === undefined ? "" : span(line.t)),
    h("span", { class: "sign", "aria-hidden": "true" }, failed ? "✕" : (SIGNS[line.kind] ?? "")),
    h("span", { class: "words" }, words, words ? " " : undefined, line.text ?? (failed ? "failed" : line.kind === "tool_end" ? "done" : "")),
  );
}
