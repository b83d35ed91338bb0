// The overview, in the order in which a person looks: needs you, runs, is queued, was settled; streams only when wrong.

import { page } from "../app.js";
import { arrange, fill, h } from "../dom.js";
import { count, size, time } from "../format.js";
import { listOf, questionCard, taskRow } from "../parts.js";

export function overviewScreen(main) {
  const needs = listOf("Needs you", "needs", { empty: "Nothing waits for you." });
  const running = listOf("Running", "running", { empty: "Nothing runs." });
  const queued = listOf("Queued", "queued", { empty: "Nothing is queued." });
  const settled = listOf("Settled", "settled", { empty: "No task was settled yet." });
  const streams = h("section", { id: "streams", "aria-label": "Streams", hidden: true });
  main.append(h("h1", { class: "unseen" }, "Overview"), needs.element, running.element, queued.element, settled.element, streams);
  settled.more = h("a", { href: "#/tasks" }, "All tasks");
  fill(settled.rest, settled.more);

  function put(part, order, rows, make, total = order.length) {
    fill(part.number, total ? count(total) : "");
    part.element.classList.toggle("some", order.length > 0);
    part.nothing.hidden = order.length > 0;
    arrange(part.list, order, rows, make);
  }

  function draw() {
    const [questions, trouble] = [page.section("questions"), page.section("trouble")];
    const loaded = page.section("head").order.length > 0;
    needs.nothing.textContent = loaded ? "Nothing waits for you." : "Reading the bus …";
    const rows = { ...questions.rows, ...trouble.rows };
    const named = trouble.order.length;
    const all = Object.entries(page.counts()).reduce((sum, [name, count]) => (name.startsWith("needs_") && !["needs_question", "needs_approval"].includes(name) ? sum + count : sum), 0);
    put(needs, [...questions.order, ...trouble.order], rows, (row) => (row.kind === "failed" ? failedRow(row) : row.kind === "lost" ? lostRow(row) : row.kind in AGENTS ? agentTrouble(row) : questionCard(row)), questions.order.length + Math.max(all, named));
    const counts = page.counts();
    const part = (name) => [page.section(name).order, page.section(name).rows];
    put(running, ...part("running"), (row) => taskRow(row, { when: time(row.since ?? row.changed_at, "for") }), Math.max(counts.running ?? 0, page.section("running").order.length));
    put(queued, ...part("queued"), (row) => queuedRow(row), Math.max(counts.queued ?? 0, page.section("queued").order.length));
    put(settled, ...part("settled"), (row) => taskRow(row), 0);
    fill(queued.rest, more(counts.queued, page.section("queued").order.length, "queued"));
    fill(running.rest, more(counts.running, page.section("running").order.length, "working"));
    const bus = page.row("head");
    streams.hidden = !(bus.warnings || bus.missing);
    if (!streams.hidden) drawStreams(streams, bus);
  }
  draw();
  return { title: "Overview", draw };
}

const more = (total, shown, state) => (total > shown ? h("a", { href: `#/tasks?state=${state}` }, `All ${count(total)}`) : undefined);

function queuedRow(row) {
  const agent = page.section("agents").rows[row.agent];
  const idle = agent && !agent.online;
  const note = idle ? "no worker is alive" : agent?.paused_by ? "paused by hand" : agent?.paused ? "its workers are paused" : undefined;
  return taskRow(note ? { ...row, told: { last: note } } : row, { when: time(row.created_at ?? row.changed_at, "for") });
}

const AGENTS = { paused: "paused", no_worker: "no worker" };

function agentTrouble(row) {
  const resume = (event) => page.act(event.target, "resume", { agent: row.agent }, () => `${row.agent} takes tasks again`);
  return h(
    "li",
    { class: "row trouble" },
    h("span", { class: "lead" }, h("span", { class: "chip state failed" }, h("span", { "aria-hidden": "true" }, "!"), ` ${AGENTS[row.kind]}`), h("span", { class: "agent" }, row.agent)),
    h("span", { class: "what" }, h("a", { class: "open", href: "#/agents", "data-focus": "open" }, "See the agent"), h("span", { class: "said" }, h("span", { class: "told" }, row.why))),
    h("span", { class: "figures" }, row.kind === "paused" && !page.me.read_only ? h("button", { type: "button", onclick: resume }, "Resume") : undefined),
  );
}

const lostRow = (row) => taskRow({ ...row, worker_gone: true, told: { last: row.why } });

function failedRow(row) {
  const element = taskRow(row);
  if (!page.me.read_only) {
    const retry = async (event) => {
      const found = await page.act(event.target, "retry", { name: row.name }, () => "Published again");
      if (found) page.go(`task/${found.name}`);
    };
    element.querySelector(".figures").append(h("button", { type: "button", "data-focus": "retry", onclick: retry, "aria-label": `Retry ${row.id}` }, "Retry"));
  }
  return element;
}

function drawStreams(place, bus) {
  fill(
    place,
    h("h2", {}, "Streams"),
    (bus.warnings ?? []).map((text) => h("p", { class: "fault" }, text)),
    bus.missing ? h("p", { class: "fault" }, `Missing: ${bus.missing.join(", ")}. An administrator can run: agentbus setup`) : undefined,
    bus.streams
      ? h(
          "table",
          {},
          h("thead", {}, h("tr", {}, ["Stream", "Messages", "Size", "Limit"].map((text) => h("th", { scope: "col" }, text)))),
          h("tbody", {}, bus.streams.map((one) => h("tr", {}, h("th", { scope: "row" }, one.name), h("td", {}, count(one.messages)), h("td", {}, size(one.bytes)), h("td", {}, one.max_bytes ? size(one.max_bytes) : "none")))),
        )
      : undefined,
  );
}
