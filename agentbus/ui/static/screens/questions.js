// All that waits for an answer.

import { page } from "../app.js";
import { arrange, h } from "../dom.js";
import { questionCard } from "../parts.js";

export function questionsScreen(main) {
  const list = h("ul", { class: "rows" });
  const nothing = h("p", { class: "empty" }, "No agent asks anything.");
  const rest = h("p", { class: "more", hidden: true }, "There are more; they show once some of these are answered.");
  main.append(h("h1", {}, "Questions"), list, nothing, rest);
  function draw() {
    const { order, rows } = page.section("questions");
    nothing.hidden = order.length > 0;
    rest.hidden = !page.row("asking").more;
    arrange(list, order, rows, (row) => questionCard(row));
  }
  draw();
  return { title: "Questions", draw };
}
