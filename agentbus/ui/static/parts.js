// Parts that several screens show: rows of tasks, states, and questions with their buttons.

import { page } from "./app.js";
import { h } from "./dom.js";
import { count, dollars, many, time } from "./format.js";

const STATES = {
  queued: ["◷", "queued"],
  working: ["▶", "running"],
  completed: ["✓", "completed"],
  failed: ["✕", "failed"],
  needs_approval: ["?", "asks"],
  cancelled: ["–", "cancelled"],
};

export function stateChip(row) {
  const [sign, word] = STATES[row.state] ?? ["·", row.state];
  const lost = row.lost || row.worker_gone;
  const more = row.code ? ` · ${row.code}` : lost ? " · lost" : row.cancelling ? " · cancelling" : row.asks ? " · asks" : "";
  return h("span", { class: `chip state ${lost ? "failed" : row.state}` }, h("span", { "aria-hidden": "true" }, sign), ` ${word}${more}`);
}

export const taskPath = (name) => `#/task/${name.split("/").map(encodeURIComponent).join("/")}`;

export const agentName = (agent) => h("a", { class: "agent", href: `#/tasks?agent=${encodeURIComponent(agent)}` }, agent);

export function taskRow(row, { when } = {}) {
  const said = row.told?.last ?? row.error ?? (row.lost ? row.lost : row.waits_for ? `waits for its ${row.waits_for}` : undefined);
  return h(
    "li",
    { class: "row task" },
    h("span", { class: "lead" }, stateChip(row), h("span", { class: "agent" }, row.agent)),
    h(
      "span",
      { class: "what" },
      h("a", { class: "open", href: taskPath(row.name), "data-focus": "open" }, row.id),
      row.owner && row.owner !== page.me.coordinator ? h("span", { class: "dim" }, ` of ${row.owner}`) : undefined,
      row.attempt ? h("span", { class: "dim" }, ` attempt ${row.attempt}`) : undefined,
      row.group ? h("a", { class: "chip", href: `#/tasks?group=${encodeURIComponent(row.group)}`, title: "Its group" }, row.group) : undefined,
      h("span", { class: "said" }, row.about ? h("span", { class: "about" }, row.about) : undefined, said ? h("span", { class: "told" }, said) : undefined),
    ),
    h("span", { class: "figures" }, row.cost_usd !== undefined ? h("span", { class: "cost" }, dollars(row.cost_usd)) : undefined, when ?? time(row.changed_at)),
  );
}

export function listOf(title, id, { empty, make, countOf, more } = {}) {
  const number = h("span", { class: "count" });
  const list = h("ul", { class: "rows" });
  const nothing = h("p", { class: "empty" }, empty);
  const rest = h("p", { class: "more" });
  const element = h("section", { id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title, " ", number), list, nothing, rest);
  return { element, list, number, nothing, rest, make, countOf, more };
}

// A question with its buttons. Where the list holds a part of it only, the buttons are on the page of its task.
export function questionCard(row, { linked = true } = {}) {
  const comment = h("textarea", { rows: 2, maxlength: 2000, "data-focus": "comment", "aria-label": `Comment for ${row.agent}`, placeholder: "A comment for the agent (optional)" });
  const answer = async (event, approve) => {
    const buttons = event.target.closest(".actions").querySelectorAll("button");
    for (const button of buttons) button.disabled = true;
    const done = await page.act(event.target, "answer", { id: row.id, approve, comment: comment.value }, (found) => `${approve ? "Approved" : "Denied"}${found.follow_up ? ": the agent goes on with a follow-up" : ""}`);
    if (done) {
      card.classList.add("answered");
      page.screen?.again?.();
    } else for (const button of buttons) button.disabled = false;
  };
  const may = !page.me.read_only && !(linked && row.cut);
  const card = h(
    "li",
    { class: "row question" },
    h(
      "p",
      { class: "lead" },
      h("span", { class: "chip state needs_approval" }, h("span", { "aria-hidden": "true" }, "?"), row.kind === "permission" ? " wants to" : " asks"),
      h("b", { class: "agent" }, row.agent),
      row.operation ? h("code", { class: "operation" }, row.operation) : undefined,
      h("span", { class: "figures" }, row.until ? time(row.until, "left") : time(row.asked_at)),
    ),
    row.arguments ? h("pre", { class: "asked", tabindex: "0", role: "group", "aria-label": "What is asked for" }, row.arguments) : undefined,
    row.text ? h("p", { class: "text" }, row.text) : undefined,
    h(
      "p",
      { class: "dim" },
      linked ? h("a", { class: "open", href: taskPath(row.name), "data-focus": "open" }, row.name) : undefined,
      row.folder ? ` in ${row.folder}` : "",
      row.state === "interrupted" ? " · the run was interrupted; the answer is kept for the next attempt" : "",
      row.arguments_bytes ? ` · ${count(row.arguments_bytes)} bytes of arguments, of which the bus keeps the beginning` : "",
    ),
    linked && row.cut ? h("p", {}, h("a", { class: "button", href: taskPath(row.name) }, "Read all of it and decide")) : undefined,
    may
      ? h(
          "div",
          { class: "answering" },
          comment,
          h(
            "div",
            { class: "actions" },
            h("button", { type: "button", class: "approve", "data-focus": "approve", onclick: (event) => answer(event, true) }, "Approve"),
            h("button", { type: "button", class: "deny", "data-focus": "deny", onclick: (event) => answer(event, false) }, "Deny"),
          ),
        )
      : undefined,
  );
  return card;
}

export function confirmDialog({ title, text, label, field, danger }) {
  return new Promise((resolve) => {
    const input = field ? h("input", { type: "text", maxlength: 500, "aria-label": field, placeholder: field }) : undefined;
    const dialog = h(
      "dialog",
      {
        "aria-label": title,
        onclose: () => {
          resolve(dialog.returnValue === "yes" ? (input?.value ?? "") : undefined);
          dialog.remove();
        },
      },
      h("h2", {}, title),
      h("p", {}, text),
      h(
        "form",
        { method: "dialog" },
        input,
        h("div", { class: "actions" }, h("button", { value: "yes", class: danger ? "deny" : "first" }, label), h("button", { value: "no" }, "Back")),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

export { many };
