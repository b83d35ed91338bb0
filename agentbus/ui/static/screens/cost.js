// What tasks used and cost, by agent and by day, as their agents tell it.

import { page } from "../app.js";
import * as data from "../data.js";
import { fill, h, setWidth } from "../dom.js";
import { count, dollars, many, short, time } from "../format.js";

export function costScreen(main, path) {
  const days = Number(path.search.get("days") ?? 7);
  const place = h("div", {}, h("p", { class: "empty" }, "Adding up …"));
  const choice = [1, 7, 30].map((number) => h("a", { href: `#/cost?days=${number}`, "aria-current": number === days ? "true" : undefined }, number === 1 ? "1 day" : `${number} days`));
  main.append(h("h1", {}, "Cost"), h("div", { class: "filters tabs", role: "group", "aria-label": "How far back" }, choice), place);
  let left = false;
  data
    .cost(days)
    .then((found) => !left && draw(place, found))
    .catch((error) => (error.status === 401 ? page.signedOut(error) : fill(place, h("p", { class: "fault" }, error.message))));
  return {
    title: "Cost",
    leave: () => {
      left = true;
    },
  };
}

function draw(place, found) {
  const total = found.total;
  fill(
    place,
    h(
      "p",
      { class: "total" },
      h("b", {}, total.cost_usd === undefined ? "No cost told" : dollars(total.cost_usd)),
      ` ${many(total.tasks, "task")}`,
      total.input_tokens === undefined ? "" : ` · ${short(total.input_tokens)} tokens in, ${short(total.output_tokens)} out`,
    ),
    found.reached ? h("p", { class: "dim" }, "Added up back to ", time(found.reached), "; there is more than a moment's search: agentbus cost --by agent adds up all.") : undefined,
    table("By agent", "Agent", found.by_agent ?? []),
    table("By day", "Day (UTC)", found.by_day ?? []),
    h("p", { class: "dim" }, "As the agents tell it. ", total.without_cost ? `${many(total.without_cost, "task")} that ran told no cost. ` : "", total.incomplete ? `Of ${many(total.incomplete, "task")}, runs are missing in it.` : ""),
  );
}

function table(title, first, groups) {
  const most = Math.max(...groups.map((one) => one.cost_usd ?? 0), 0);
  const by = most > 0 ? (one) => (one.cost_usd ?? 0) / most : (one) => one.tasks / Math.max(1, ...groups.map((other) => other.tasks));
  return h(
    "section",
    {},
    h("h2", {}, title),
    groups.length
      ? h(
          "div",
          { class: "wide", tabindex: "0", role: "region", "aria-label": title },
          h(
            "table",
            { class: "cost" },
            h("thead", {}, h("tr", {}, [first, "Cost", "Tasks", "Tokens in", "out"].map((text, at) => h("th", { scope: "col", class: at ? "number" : undefined }, text)), h("th", { class: "bar" }, h("span", { class: "unseen" }, "Share")))),
            h(
              "tbody",
              {},
              groups.map((one) =>
                h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, one.name),
                  h("td", { class: "number" }, one.cost_usd === undefined ? "–" : dollars(one.cost_usd)),
                  h("td", { class: "number" }, count(one.tasks)),
                  h("td", { class: "number" }, one.input_tokens === undefined ? "–" : short(one.input_tokens)),
                  h("td", { class: "number" }, one.output_tokens === undefined ? "–" : short(one.output_tokens)),
                  h("td", { class: "bar" }, setWidth(h("span", {}), by(one))),
                ),
              ),
            ),
          ),
        )
      : h("p", { class: "empty" }, "No task was settled in this time."),
  );
}
