// Gives an agent a task.

import { page } from "../app.js";
import { h } from "../dom.js";

// The id is made here, so that sending the same form again after a lost answer makes no second task.
export function newTaskId() {
  const letters = "abcdefghijklmnopqrstuvwxyz234567";
  const random = crypto.getRandomValues(new Uint8Array(20));
  const day = new Date().toISOString().slice(0, 10).replaceAll("-", "");
  return `task-${day}-${[...random].map((byte) => letters[byte % 32]).join("")}`;
}

export function newTaskScreen(main, path) {
  if (page.me.read_only) {
    main.append(h("h1", {}, "New task"), h("p", { class: "empty" }, "This page only shows: it was started with --read-only."));
    return { title: "New task" };
  }
  let id = newTaskId();
  const agents = h("datalist", { id: "agents-known" });
  const agent = h("input", { type: "text", id: "agent", list: "agents-known", required: true, autocomplete: "off", spellcheck: false, value: path.search.get("agent") ?? "" });
  const content = h("textarea", { id: "content", rows: 10, required: true });
  const type = h("input", { type: "text", id: "type", maxlength: 128, placeholder: "task" });
  const group = h("input", { type: "text", id: "group", maxlength: 64, autocomplete: "off" });
  const send = async (event) => {
    event.preventDefault();
    const fields = { to: agent.value.trim(), content: content.value, task_type: type.value.trim(), group: group.value.trim(), task_id: id };
    const known = page.section("agents").rows[fields.to];
    const note = known && !known.online ? `Published. No worker of ${fields.to} is alive now: the task waits.` : "Published";
    const found = await page.act(form.querySelector("button.first"), "publish", fields);
    if (found) {
      if (found.note) page.say(`Published, but ${found.note}`, "fault"); // it stays until it was read
      else page.say(note);
      id = newTaskId();
      page.go(`task/${found.name}`);
    }
  };
  const form = h(
    "form",
    { class: "new-task", onsubmit: send },
    h("label", { for: "agent" }, "Agent"),
    agent,
    agents,
    h("label", { for: "content" }, "What it is to do"),
    content,
    h("details", {}, h("summary", {}, "More"), h("label", { for: "group" }, "Group"), group, h("label", { for: "type" }, "Type"), type),
    h("div", { class: "actions" }, h("button", { class: "first" }, "Publish")),
  );
  content.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  main.append(h("h1", {}, "New task"), form);
  function draw() {
    const { order, rows } = page.section("agents");
    if (agents.children.length !== order.length) agents.replaceChildren(...order.map((name) => h("option", { value: name }, rows[name].online ? "" : "no worker")));
    if (!agent.value && order.length === 1) agent.value = order[0];
  }
  draw();
  (agent.value ? content : agent).focus();
  return { title: "New task", draw };
}
