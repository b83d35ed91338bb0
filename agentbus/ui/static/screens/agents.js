// The agents, their workers, and what waits for them; pausing and resuming.

import { page } from "../app.js";
import { arrange, fill, h } from "../dom.js";
import { count, many, time } from "../format.js";
import { confirmDialog, taskPath } from "../parts.js";

export function agentsScreen(main) {
  const list = h("ul", { class: "rows agents" });
  const nothing = h("p", { class: "empty" }, "No agent is known on this bus yet. A worker makes itself known: agentbus worker run");
  const rest = h("p", { class: "more" });
  main.append(h("h1", {}, "Agents"), list, nothing, rest);
  function draw() {
    const { order, rows } = page.section("agents");
    const total = page.counts().agents ?? 0;
    nothing.hidden = order.length > 0;
    fill(rest, total > order.length ? `${count(total - order.length)} more: agentbus agent list` : "");
    arrange(list, order, rows, agentCard);
  }
  draw();
  return { title: "Agents", draw };
}

function agentCard(row) {
  const paused = Boolean(row.paused_by || row.paused);
  const state = row.paused_by ? "paused by hand" : row.paused ? "paused" : row.online ? "online" : "no worker";
  const kind = row.online && !paused ? "completed" : paused ? "needs_approval" : "failed";
  return h(
    "li",
    { class: "row agent-card" },
    h(
      "div",
      { class: "lead" },
      h("h2", {}, row.agent),
      h("span", { class: `chip state ${kind}` }, h("span", { "aria-hidden": "true" }, row.online && !paused ? "●" : "○"), ` ${state}`),
      h("span", { class: "figures" }, facts(row)),
      page.me.read_only ? undefined : buttons(row, paused),
    ),
    row.description ? h("p", { class: "text" }, row.description) : undefined,
    row.paused_by ? h("p", { class: "fault" }, row.paused_by) : undefined,
    (row.troubles ?? []).map((text) => h("p", { class: "fault" }, text)),
    row.workers ? h("ul", { class: "workers" }, row.workers.map((worker) => workerLine(row.agent, worker)), row.more_workers ? h("li", { class: "dim" }, `and ${many(row.more_workers, "more worker")}`) : undefined) : undefined,
  );
}

function facts(row) {
  return [
    row.slots === undefined ? undefined : `${count(row.free)} of ${many(row.slots, "slot")} free`,
    row.waiting ? `${count(row.waiting)} waiting` : undefined,
  ]
    .filter(Boolean)
    .join(" · ");
}

function workerLine(agent, worker) {
  return h(
    "li",
    {},
    h("span", { class: "host" }, worker.host),
    h("span", { class: "dim" }, ` ${worker.command ?? ""} · agentbus ${worker.version} · since `, time(worker.started_at)),
    worker.paused ? h("span", { class: "fault" }, ` ${worker.paused}`) : undefined,
    worker.running ? h("span", {}, " runs ", worker.running.map((id, at) => [at ? ", " : "", h("a", { href: taskPath(`${agent}/${id}`) }, id)])) : undefined,
  );
}

function buttons(row, paused) {
  if (paused) {
    return h("button", { type: "button", "data-focus": "resume", onclick: (event) => page.act(event.target, "resume", { agent: row.agent }, () => `${row.agent} takes tasks again`) }, "Resume");
  }
  const pause = async (event) => {
    const reason = await confirmDialog({ title: `Pause ${row.agent}?`, text: "Its workers take no more tasks, until someone resumes it. What runs goes on.", label: "Pause", field: "Why (all see it)" });
    if (reason !== undefined) await page.act(event.target, "pause", { agent: row.agent, reason }, () => `${row.agent} is paused`);
  };
  return h("button", { type: "button", "data-focus": "pause", onclick: pause }, "Pause");
}
