// Tasks, the last changed first: of one agent or of all, in one state or in any, a part at a time.

import { page } from "../app.js";
import * as data from "../data.js";
import { fill, h } from "../dom.js";
import { time } from "../format.js";
import { taskRow } from "../parts.js";

const STATES = ["queued", "working", "completed", "failed", "needs_approval", "cancelled"];
const MOST_SHOWN = 500;

export function tasksScreen(main, path) {
  const wanted = Object.fromEntries(["agent", "state", "group", "text"].map((name) => [name, path.search.get(name) ?? ""]));
  const list = h("ul", { class: "rows" });
  const said = h("p", { class: "empty" }, "Reading …");
  const rest = h("p", { class: "more" });
  const change = (name) => (event) => {
    const next = { ...wanted, [name]: event.target.value.trim() };
    page.go(`tasks?${new URLSearchParams(Object.entries(next).filter(([, value]) => value))}`);
  };
  main.append(
    h("h1", {}, "Tasks"),
    h(
      "div",
      { class: "filters" },
      h("label", {}, "Agent ", h("input", { type: "text", value: wanted.agent, list: "agents-known", size: 16, onchange: change("agent") })),
      h("datalist", { id: "agents-known" }, page.section("agents").order.map((name) => h("option", { value: name }))),
      h("label", {}, "State ", h("select", { onchange: change("state") }, h("option", { value: "" }, "any"), STATES.map((state) => h("option", { value: state, selected: state === wanted.state }, state.replace("_", " "))))),
      h("label", {}, "Group ", h("input", { type: "text", value: wanted.group, size: 12, onchange: change("group") })),
      h("label", {}, "Text ", h("input", { type: "search", value: wanted.text, size: 16, onchange: change("text") })),
    ),
    list,
    said,
    rest,
  );
  let left = false;
  async function read(cursor) {
    try {
      const found = await data.tasks({ ...wanted, cursor });
      if (left) return;
      for (const row of found.tasks ?? []) list.append(taskRow(row));
      said.hidden = list.children.length > 0;
      said.textContent = found.cursor ? "None among the last changes." : "There are none.";
      fill(rest, found.partial ? ["Searched back to ", time(found.reached), ". "] : undefined, found.cursor && list.children.length < MOST_SHOWN ? button(found.cursor) : undefined);
    } catch (error) {
      if (error.status === 401) page.signedOut(error);
      else {
        said.hidden = false;
        said.textContent = error.message;
      }
    }
  }
  const button = (cursor) =>
    h(
      "button",
      {
        type: "button",
        onclick: (event) => {
          event.target.disabled = true;
          read(cursor);
        },
      },
      "Older tasks",
    );
  read();
  return {
    title: "Tasks",
    leave: () => {
      left = true;
    },
  };
}
