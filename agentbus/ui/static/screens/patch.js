// What a task changed, as a patch by files.

import * as data from "../data.js";
import { fill, h } from "../dom.js";

const HEADS = ["index ", "new file ", "deleted file ", "old mode ", "new mode ", "rename ", "copy ", "similarity ", "dissimilarity ", "--- ", "+++ "];

export function patchView(name) {
  const place = h("div", { class: "patch" });
  const show = async (event) => {
    event.target.disabled = true;
    try {
      const found = await data.patch(name);
      fill(place, files(found.lines ?? []), found.cut ? h("p", { class: "dim" }, "The patch is longer: ", h("code", {}, `agentbus work diff ${name}`)) : undefined);
    } catch (error) {
      event.target.disabled = false;
      fill(place, h("p", { class: "fault" }, error.message), event.target);
    }
  };
  place.append(h("button", { type: "button", onclick: show }, "Show the changes"));
  return place;
}

function files(lines) {
  const found = [];
  for (const line of lines) {
    if (line.startsWith("diff --git ")) found.push({ title: line.slice("diff --git ".length).replace(/^a\/(.*) b\/\1$/, "$1"), lines: [] });
    else if (found.length) found.at(-1).lines.push(line);
  }
  return found.map((file, at) => h("details", { open: at < 10 }, h("summary", {}, file.title), h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": file.title }, h("pre", { class: "diff" }, diffLines(file.lines)))));
}

function diffLines(lines) {
  let inside = false;
  return lines.map((line) => {
    inside ||= line.startsWith("@@");
    const kind = line.startsWith("@@") ? "hunk" : !inside && HEADS.some((head) => line.startsWith(head)) ? "meta" : line.startsWith("+") ? "added" : line.startsWith("-") ? "removed" : undefined;
    return h("span", { class: kind }, `${line}\n`);
  });
}
