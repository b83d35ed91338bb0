// All that waits for an answer: what asks among the last changes, and, when asked for, what has waited for longer.

import { page } from "../app.js";
import * as data from "../data.js";
import { arrange, fill, h } from "../dom.js";
import { time } from "../format.js";
import { questionCard } from "../parts.js";

export function questionsScreen(main) {
  const list = h("ul", { class: "rows" });
  const older = h("ul", { class: "rows" });
  const nothing = h("p", { class: "empty" }, "No agent asks anything.");
  const rest = h("p", { class: "more" });
  main.append(h("h1", {}, "Questions"), list, nothing, older, rest);
  let searched = false;

  async function search(button, cursor) {
    button.disabled = true;
    searched = true;
    try {
      const found = await data.questions(cursor);
      const shown = page.section("questions").rows;
      for (const row of found.questions ?? []) if (!shown[row.id]) older.append(questionCard(row));
      fill(rest, found.cursor ? ["Searched back to ", time(found.reached), ". ", more(found.cursor)] : "There are no older ones.");
    } catch (error) {
      if (error.status === 401) page.signedOut(error);
      else fill(rest, error.message, " ", more(cursor));
    }
  }
  const more = (cursor) => h("button", { type: "button", onclick: (event) => search(event.target, cursor) }, "Look further back");

  function draw() {
    const { order, rows } = page.section("questions");
    nothing.hidden = order.length > 0 || older.children.length > 0;
    if (!searched) fill(rest, page.row("asking").more ? ["Of the tasks that changed last. ", more()] : undefined);
    arrange(list, order, rows, (row) => questionCard(row));
  }
  draw();
  return { title: "Questions", draw };
}
