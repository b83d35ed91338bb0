// The page: who is signed in, which screen is shown, and what is common to all screens.

import * as data from "./data.js";
import { fill, h } from "./dom.js";
import { many, serverTime, tick } from "./format.js";
import { keys } from "./keys.js";
import { agentsScreen } from "./screens/agents.js";
import { costScreen } from "./screens/cost.js";
import { newTaskScreen } from "./screens/new_task.js";
import { overviewScreen } from "./screens/overview.js";
import { questionsScreen } from "./screens/questions.js";
import { signInScreen } from "./screens/sign_in.js";
import { taskScreen } from "./screens/task.js";
import { tasksScreen } from "./screens/tasks.js";

const SCREENS = {
  "": overviewScreen,
  agents: agentsScreen,
  questions: questionsScreen,
  tasks: tasksScreen,
  cost: costScreen,
  new: newTaskScreen,
  task: taskScreen,
};
const NAVIGATION = [
  ["", "Overview"],
  ["questions", "Questions"],
  ["agents", "Agents"],
  ["tasks", "Tasks"],
  ["cost", "Cost"],
];

export const page = {
  me: undefined,
  sections: {}, // by name: {order, rows}
  screen: undefined,
  stream: undefined,
  connected: true,

  section(name) {
    return page.sections[name] ?? { order: [], rows: {} };
  },
  row(section) {
    const { order, rows } = page.section(section);
    return rows[order[0]] ?? {};
  },
  counts() {
    return page.row("head").counts ?? {};
  },
  go(path) {
    location.hash = `#/${path}`;
  },
  say(text, kind = "done") {
    const note = h("div", { class: `note ${kind}` }, h("span", {}, text), h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => note.remove() }, "×"));
    const notes = document.getElementById("notes");
    while (notes.children.length >= 3) notes.firstElementChild.remove();
    notes.append(note);
    if (kind === "done") setTimeout(() => note.remove(), 6000);
  },
  // Does something for a person: tells what came of it, and holds the button meanwhile.
  async act(button, action, fields, done) {
    button.disabled = true;
    try {
      const found = await data.act(action, fields);
      if (done) page.say(done(found) ?? "Done");
      return found;
    } catch (error) {
      if (error.status === 401) page.signedOut(error);
      else page.say(error.message, "fault");
      return undefined;
    } finally {
      button.disabled = false;
    }
  },
  signedOut(error) {
    page.stream?.close();
    page.me = undefined;
    document.body.dataset.screen = "sign-in";
    fill(document.getElementById("head"));
    fill(document.getElementById("banner"));
    signInScreen(document.getElementById("main"), error, start);
  },
};

function readPath() {
  const [screen = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const [name, search = ""] = screen.split("?");
  return { name: SCREENS[name] ? name : "", rest: rest.map(decodeURIComponent).join("/"), search: new URLSearchParams(search) };
}

function show() {
  if (!page.me) return;
  const path = readPath();
  const main = document.getElementById("main");
  page.screen?.leave?.();
  page.screen = undefined;
  fill(main);
  document.body.dataset.screen = path.name || "overview";
  page.screen = SCREENS[path.name](main, path) ?? {};
  page.stream.follow(page.screen.follows);
  head(path.name);
  document.title = `${page.screen.title ?? "agentbus"} · agentbus`;
  main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function head(current = readPath().name) {
  const bus = page.row("head");
  const asking = page.section("questions").order.length;
  // It is drawn anew only where it shows something else: a menu stays open, and what has the focus keeps it.
  const place = document.getElementById("head");
  const shown = JSON.stringify([current, asking, bus.servers, page.me]);
  if (place.dataset.shown === shown && place.firstChild) return;
  place.dataset.shown = shown;
  const links = NAVIGATION.map(([path, label]) =>
    h(
      "a",
      { href: `#/${path}`, "aria-current": path === current ? "page" : undefined },
      label,
      path === "questions" && asking ? h("span", { class: "badge", title: many(asking, "question") }, asking) : undefined,
    ),
  );
  fill(
    place,
    h("a", { class: "brand", href: "#/", "aria-label": "agentbus, overview" }, "agentbus"),
    h(
      "p",
      { class: "where" },
      h("span", { class: "who" }, page.me.coordinator),
      page.me.role === "member" ? " (member)" : undefined,
      bus.servers ? h("span", { class: "bus" }, ` on ${bus.servers}`) : undefined,
      page.me.read_only ? h("span", { class: "chip" }, "read only") : undefined,
    ),
    h("nav", { "aria-label": "Screens" }, links),
    page.me.read_only ? undefined : h("a", { class: "button first", href: "#/new", "aria-current": current === "new" ? "page" : undefined }, "New task"),
    menu(),
  );
}

function menu() {
  const items = [];
  if (!page.me.read_only) items.push(h("button", { type: "button", onclick: otherBrowser }, "Link for another browser"));
  items.push(h("button", { type: "button", onclick: () => keys.help() }, "Keyboard"));
  items.push(
    h(
      "button",
      {
        type: "button",
        onclick: async () => {
          const found = await data.signOut().catch(() => ({}));
          page.signedOut(new data.Refused(`You are signed out. ${found.how ?? ""}`, 401));
        },
      },
      "Sign out",
    ),
  );
  return h("details", { class: "menu" }, h("summary", { "aria-label": "More" }, "⋯"), h("div", { class: "items" }, items));
}

async function otherBrowser(event) {
  event.target.closest("details").open = false;
  try {
    const link = await data.newLink();
    const field = h("input", { type: "text", readonly: true, value: link, "aria-label": "Link" });
    const dialog = h(
      "dialog",
      { "aria-label": "Link for another browser", onclose: () => dialog.remove() },
      h("h2", {}, "Link for another browser"),
      h("p", {}, "It opens this page once, within 15 minutes, as ", h("b", {}, page.me.coordinator), "."),
      field,
      h("form", { method: "dialog", class: "actions" }, h("button", { class: "first" }, "Close")),
    );
    document.body.append(dialog);
    dialog.showModal();
    field.select();
  } catch (error) {
    page.say(error.message, "fault");
  }
}

function banner() {
  const link = page.row("link");
  const faults = Object.values(page.section("fault").rows).map((row) => row.error);
  const said = [];
  if (!page.connected) said.push("agentbus ui does not answer. What is shown may be old; this page tries again by itself.");
  else if (link.connected === false) said.push("The bus is away. What is shown may be old; this page goes on by itself once it is back.");
  const place = document.getElementById("banner");
  if (place.dataset.said === JSON.stringify([said, faults])) return;
  place.dataset.said = JSON.stringify([said, faults]);
  fill(place, said.map((text) => h("p", { class: "away" }, text)), faults.map((text) => h("p", { class: "fault" }, text)));
}

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (!page.me) return;
    head();
    banner();
    page.screen?.draw?.();
  });
}

const listeners = {
  board(found) {
    serverTime(found.now);
    page.sections = {};
    for (const [name, section] of Object.entries(found)) if (section && section.order) page.sections[name] = section;
    draw();
  },
  hello(found) {
    serverTime(found.now);
  },
  rows(name, rows) {
    const section = page.section(name);
    page.sections[name] = { order: section.order, rows: { ...section.rows, ...rows } };
  },
  section(name, order, rows) {
    const all = { ...page.section(name).rows, ...rows };
    page.sections[name] = { order, rows: Object.fromEntries(order.filter((key) => all[key]).map((key) => [key, all[key]])) };
    page.sections[name].order = order.filter((key) => all[key]);
    draw();
  },
  log(found, task) {
    if (page.screen?.follows === task) page.screen.log?.(found);
  },
  state(connected) {
    page.connected = connected;
    if (connected) page.screen?.again?.();
    draw();
  },
  signedOut: (error) => page.signedOut(error),
};

async function start() {
  try {
    page.me = await data.session();
  } catch (error) {
    page.signedOut(error);
    return;
  }
  serverTime(page.me.now);
  page.stream ??= new data.Stream(listeners);
  page.stream.version = undefined;
  show();
}

// Pages of this browser that were signed out, as by a new start of the server, go on once another one is signed in.
const tabs = new BroadcastChannel("agentbus");
tabs.onmessage = () => page.me || start();

// A link brings a token behind the `#`: it is used up at once, and stands in no history.
async function enter() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", "#/");
    try {
      await data.signIn(token);
      tabs.postMessage("signed in");
    } catch (error) {
      try {
        await data.session(); // who is signed in already needs no link
      } catch {
        page.signedOut(error);
        return;
      }
    }
  }
  await start();
}

window.addEventListener("hashchange", () => (new URLSearchParams(location.hash.slice(1)).has("token") ? enter() : show()));
setInterval(tick, 1000);
keys.listen(page);
enter();

