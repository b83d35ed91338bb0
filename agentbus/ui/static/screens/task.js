// One task: what was asked, when it waited and ran, what it does, its answer, its cost, its work, and how it goes on.

import { page } from "../app.js";
import * as data from "../data.js";
import { fill, h, refill } from "../dom.js";
import { count, dollars, many, size, span, time } from "../format.js";
import { agentName, confirmDialog, questionCard, stateChip, taskPath } from "../parts.js";
import { logView } from "./log.js";
import { newTaskId } from "./new_task.js";
import { patchView } from "./patch.js";
import { timeline } from "./timeline.js";

const AGAIN_MS = 4000;

export function taskScreen(main, path) {
  const name = path.rest;
  const place = Object.fromEntries(["top", "questions", "line", "talk", "prompt", "log", "answer", "work", "facts", "later", "follow"].map((key) => [key, h("div", { class: `part part-${key}` })]));
  const log = logView(() => drawLine());
  main.append(...Object.values(place));
  place.log.append(log.element);
  const screen = { title: name, follows: name, leave, again: read, log: took, draw };
  let task;
  let timer;
  let left = false;
  let saidState;

  async function read() {
    clearTimeout(timer);
    try {
      const found = await data.task(name);
      if (left) return;
      show(found);
    } catch (error) {
      if (left) return;
      if (error.status === 401) page.signedOut(error);
      else if (!task) fill(place.top, h("h1", {}, name), h("p", { class: "fault" }, error.message));
    }
    if (!left && !document.hidden && !(task && settled(task))) timer = setTimeout(read, AGAIN_MS);
  }

  function took(found) {
    log.take(found);
    if (found.ended || (found.lines ?? []).some((one) => one.kind === "question")) read();
  }

  // The board tells sooner than the next look that something has changed.
  function draw() {
    for (const section of ["running", "queued", "settled"]) {
      const row = page.section(section).rows[name];
      if (row && row.state !== saidState) {
        saidState = row.state;
        if (!task || task.state !== row.state) read();
      }
    }
  }

  function drawLine() {
    if (task) fill(place.line, timeline(task, log.runs));
  }

  function show(found) {
    const before = task;
    task = found;
    if (before && JSON.stringify(before) === JSON.stringify(found)) return;
    screen.title = `${task.id} · ${task.agent}`;
    document.title = `${screen.title} · agentbus`;
    refill(place.top, top(task));
    drawLine();
    const asked = JSON.stringify(task.questions ?? []);
    if (place.questions.dataset.asked !== asked) {
      place.questions.dataset.asked = asked;
      fill(place.questions, task.questions ? h("section", { "aria-label": "Questions" }, h("ul", { class: "rows" }, task.questions.map((row) => questionCard(row, { linked: false })))) : undefined);
    }
    if (!before) {
      fill(place.talk, conversation("talk", "The conversation before", task.conversation));
      fill(place.prompt, textPart("Prompt", "prompt", task));
    } else if (!before.prompt && task.prompt) fill(place.prompt, textPart("Prompt", "prompt", task));
    fill(place.answer, answer(task));
    if (!before || JSON.stringify(before.later) !== JSON.stringify(task.later)) fill(place.later, conversation("later", "How it went on", task.later, task.later_more));
    log.element.hidden = log.count === 0 && settled(task);
    fill(place.facts, facts(task));
    if (!before || JSON.stringify(before.work) !== JSON.stringify(task.work)) fill(place.work, work(task));
    if (!place.follow.querySelector("textarea:focus") && !place.follow.querySelector("textarea")?.value) fill(place.follow, followUp(task));
  }

  function leave() {
    left = true;
    clearTimeout(timer);
  }

  const top = (row) => [
    h("p", { class: "lead" }, stateChip(row), agentName(row.agent), h("span", { class: "figures" }, row.cost_usd !== undefined ? h("span", { class: "cost" }, dollars(row.cost_usd)) : undefined, row.state === "working" && row.since ? time(row.since, "for") : time(row.changed_at))),
    h("h1", { class: "id" }, row.id),
    h(
      "p",
      { class: "dim" },
      `${row.type} from ${row.sent_by}`,
      row.owner !== page.me.coordinator ? ` (of ${row.owner})` : "",
      row.created_at ? [" · published ", time(row.created_at)] : "",
      row.attempt ? ` · attempt ${row.attempt}` : "",
      row.worker ? ` · on ${row.worker}` : "",
      row.group ? [" · in ", h("a", { href: `#/tasks?group=${encodeURIComponent(row.group)}` }, row.group)] : "",
      row.waits_for ? ` · waits for its ${row.waits_for}` : "",
    ),
    row.lost ? h("p", { class: "fault" }, `This task ${row.lost}`) : undefined,
    row.cancel ? h("p", { class: "dim" }, `Cancelled by ${row.cancel.by}${row.cancel.reason ? `: ${row.cancel.reason}` : ""}`) : undefined,
    row.last_failure ? h("p", { class: "dim" }, `The last attempt: ${row.last_failure}`) : undefined,
    row.answered_by ? h("p", {}, "Answered: ", h("a", { href: taskPath(row.answered_by) }, row.answered_by)) : undefined,
    page.me.read_only || !row.can ? undefined : h("div", { class: "actions" }, row.can.map((one) => ACTIONS[one]?.(row))),
  ];

  const ACTIONS = {
    cancel: (row) =>
      h(
        "button",
        {
          type: "button",
          class: "deny",
          "data-focus": "cancel",
          onclick: async (event) => {
            const button = event.target;
            const reason = await confirmDialog({ title: "Cancel this task?", text: "A queued task never starts; of one that runs, the processes are ended.", label: "Cancel the task", field: "Why (optional)", danger: true });
            if (reason === undefined) return;
            if (await page.act(button, "cancel", { name: row.name, reason }, () => "The cancellation is requested")) read();
          },
        },
        "Cancel",
      ),
    retry: (row) =>
      h(
        "button",
        {
          type: "button",
          "data-focus": "retry",
          onclick: async (event) => {
            const found = await page.act(event.target, "retry", { name: row.name }, () => "Published again, as a new task");
            if (found) page.go(`task/${found.name}`);
          },
        },
        "Retry",
      ),
  };

  function answer(row) {
    const failure = row.failure;
    return [
      failure
        ? h("section", { "aria-labelledby": "failure-title" }, h("h2", { id: "failure-title" }, "Why it failed"), h("p", { class: "fault" }, failure.code ? h("b", {}, `${failure.code} `) : undefined, failure.error), failure.retry_after_s ? h("p", { class: "dim" }, `Its model answers again after ${span(failure.retry_after_s)}.`) : undefined)
        : undefined,
      row.answer ? textPart("Answer", "answer", row) : undefined,
      row.remark ? h("p", { class: "dim" }, row.remark) : undefined,
    ];
  }

  function followUp(row) {
    if (page.me.read_only || !(row.can ?? []).includes("follow_up")) return undefined;
    let id = newTaskId();
    const field = h("textarea", { rows: 3, required: true, id: "follow-up", placeholder: "Go on with this conversation …" });
    const send = async (event) => {
      event.preventDefault();
      const found = await page.act(form.querySelector("button"), "follow-up", { name: row.name, content: field.value, task_id: id }, (done) => done.note ?? "Published");
      if (!found) return;
      id = newTaskId();
      field.value = "";
      page.go(`task/${found.name}`);
    };
    const form = h("form", { onsubmit: send }, h("label", { for: "follow-up" }, "Follow up"), field, h("div", { class: "actions" }, h("button", { class: "first" }, "Send")));
    return h("section", { "aria-label": "Follow up" }, form);
  }

  read();
  return screen;
}

const settled = (row) => !["queued", "working"].includes(row.state);

// A text of an agent or of a person, cut where it is long, with what shows all of it.
function textPart(title, part, row) {
  const found = row[part];
  if (!found?.text) return undefined;
  const pre = h("pre", { class: "text", tabindex: "0", role: "group", "aria-label": title }, found.text);
  const all = async (event) => {
    event.target.disabled = true;
    try {
      pre.textContent = await data.text(row.name, part);
      event.target.parentElement.remove();
    } catch (error) {
      page.say(error.message, "fault");
      event.target.disabled = false;
    }
  };
  return h(
    "section",
    { "aria-labelledby": `${part}-title` },
    h("h2", { id: `${part}-title` }, title),
    pre,
    found.chars ? h("p", { class: "more" }, `${count(found.text.length)} of ${count(found.chars)} characters. `, h("button", { type: "button", onclick: all }, "Show all")) : undefined,
  );
}

// Who said what in turns of the conversation, before the task or after it.
function conversation(key, title, turns, more) {
  if (!turns && !more) return undefined;
  const turn = (one) =>
    h(
      "li",
      {},
      h("p", { class: "dim" }, h("a", { href: taskPath(one.name) }, one.name), ` ${one.state}`),
      one.prompt ? h("pre", { class: "said-by person" }, one.prompt.text) : undefined,
      one.answer ? h("pre", { class: "said-by agent" }, one.answer.text) : undefined,
    );
  const note = more ? h("p", { class: "dim" }, "There may be more: what changed since was looked at for a moment only. ", h("a", { href: "#/tasks" }, "All tasks")) : undefined;
  return h("section", { "aria-labelledby": `${key}-title` }, h("h2", { id: `${key}-title` }, title), turns ? h("ol", { class: "talk" }, turns.map(turn)) : undefined, note);
}

function work(row) {
  const found = row.work;
  if (!found) return undefined;
  const changes = found.changes;
  const files = (found.files ?? []).map((one) => h("li", {}, h("a", { href: data.fileAddress(row.name, one.file), download: "" }, one.name), h("span", { class: "dim" }, ` ${size(one.bytes)}`)));
  return h(
    "section",
    { "aria-labelledby": "work-title" },
    h("h2", { id: "work-title" }, "Work"),
    changes
      ? [
          h("p", {}, h("code", {}, changes.branch), ` ${many(changes.commits ?? 0, "commit")}, ${many(changes.files ?? 0, "file")} `, h("span", { class: "added" }, `+${count(changes.insertions ?? 0)}`), " ", h("span", { class: "removed" }, `−${count(changes.deletions ?? 0)}`)),
          changes.log ? h("ul", { class: "log-titles" }, changes.log.map((title) => h("li", {}, title))) : undefined,
          (found.files ?? []).some((one) => one.file === "changes.patch") ? patchView(row.name) : undefined,
          h("p", { class: "dim" }, "To take it: ", h("code", {}, `agentbus work apply ${row.name}`)),
        ]
      : undefined,
    files.length ? h("ul", { class: "files" }, files) : undefined,
  );
}

function facts(row) {
  const run = row.run ?? {};
  const usage = row.usage;
  const several = usage && usage.runs > 1;
  const tokens = (one) => (one.input_tokens === undefined ? undefined : `${count(one.input_tokens)} in${one.cached_input_tokens ? ` (${count(one.cached_input_tokens)} cached)` : ""}, ${count(one.output_tokens ?? 0)} out`);
  const pairs = [
    ["Model", run.model],
    ["Agent", [run.kind, run.version].filter(Boolean).join(" ")],
    ["Turns", run.turns],
    ["Tokens", tokens(run)],
    ["Cost", run.cost_usd === undefined ? undefined : dollars(run.cost_usd)],
    [`All ${usage?.runs} runs`, several ? [tokens(usage), usage.cost_usd === undefined ? undefined : dollars(usage.cost_usd)].filter(Boolean).join(" · ") : undefined],
    ["Session", run.session],
    ["Resumed", run.resumed === undefined ? undefined : run.resumed ? "in its session" : "in a new session"],
    ["Denied", (run.denied ?? []).join("; ")],
  ].filter(([, value]) => value !== undefined && value !== "");
  if (!pairs.length) return undefined;
  return h("section", { "aria-labelledby": "facts-title" }, h("h2", { id: "facts-title" }, "Usage"), h("dl", { class: "facts" }, pairs.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value)))));
}
