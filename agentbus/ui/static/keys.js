// What the keyboard does: one letter for each screen, and steps through the rows of a list.

import { h } from "./dom.js";

const SCREENS = { o: "", q: "questions", a: "agents", t: "tasks", c: "cost", n: "new" };
const HELP = [
  ["o", "Overview"],
  ["q", "Questions"],
  ["a", "Agents"],
  ["t", "Tasks"],
  ["c", "Cost"],
  ["n", "New task"],
  ["j, k", "Next row, the one before"],
  ["Enter", "Open the row"],
  ["?", "This help"],
];

function step(by) {
  const links = [...document.querySelectorAll("main .row a.open")];
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  links[Math.max(0, Math.min(links.length - 1, at < 0 ? 0 : at + by))].focus();
}

export const keys = {
  listen(page) {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !page.me) return;
      if (event.target.closest("input, textarea, select, dialog, [contenteditable]")) return;
      if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
      else if (event.key === "?") keys.help();
      else if (event.key in SCREENS) page.go(SCREENS[event.key]);
      else return;
      event.preventDefault();
    });
  },
  help() {
    const dialog = h(
      "dialog",
      { "aria-label": "Keyboard", onclose: () => dialog.remove() },
      h("h2", {}, "Keyboard"),
      h("dl", { class: "keys" }, HELP.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
      h("form", { method: "dialog", class: "actions" }, h("button", { class: "first" }, "Close")),
    );
    document.body.append(dialog);
    dialog.showModal();
  },
};
