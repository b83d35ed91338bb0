// Where the page gets its data from and sends its actions to: HTTP and server-sent events. Nothing else in the page
// knows that; a host that has another way, such as a frame in a chat, replaces this module alone.

const HEADER = { "X-Agentbus-Ui": "1", "Content-Type": "application/json" };
const SILENT_MS = 35_000; // two pings are missing
const AGAIN_MS = [500, 1000, 2000, 4000];

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(`api/${path}`, { cache: "no-store", ...options });
  } catch {
    throw new Refused("agentbus ui does not answer. Is it still running?", 0);
  }
  if (answer.ok) return answer;
  const said = await answer.text();
  let text = said.slice(0, 500);
  try {
    text = JSON.parse(said).error ?? text;
  } catch {
    // a plain text
  }
  throw new Refused(text || `The server answered ${answer.status}`, answer.status);
}

const query = (fields) =>
  new URLSearchParams(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null && value !== ""));
const get = async (path, fields = {}) => (await ask(`${path}?${query(fields)}`)).json();
const post = async (path, body) => (await ask(path, { method: "POST", headers: HEADER, body: JSON.stringify(body) })).json();

export const signIn = (token) => post("session", { token });
export const signOut = () => post("sign-out", {});
export const session = () => get("session");
export const newLink = async () => new URL(`./#token=${(await post("link", {})).token}`, document.baseURI).href;
export const board = () => get("board");
export const task = (name) => get("task", { name });
export const text = async (name, part) => (await ask(`text?${query({ name, part })}`)).text();
export const tasks = (wanted) => get("tasks", wanted);
export const questions = (cursor) => get("questions", { cursor });
export const patch = (name) => get("patch", { name });
export const cost = (days) => get("cost", { days });
export const fileAddress = (name, file) => `api/file?${query({ name, file })}`;
export const act = (action, fields) => post(`act/${action}`, fields);

// Follows the board, and the log of a task if there is one to follow. Ended and begun again when the page is hidden and
// shown: a browser has few connections to one server, and a hidden page needs none.
export class Stream {
  constructor(listeners) {
    this.listeners = listeners;
    this.task = undefined;
    this.boot = undefined;
    this.version = undefined;
    this.failures = 0;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
  }

  follow(task) {
    if (task === this.task && this.source) return;
    this.task = task;
    this.open();
  }

  async open() {
    this.close();
    if (document.hidden) return;
    const mine = (this.opened = {});
    try {
      if (this.version === undefined) {
        const first = await board();
        if (this.opened !== mine) return;
        this.boot = first.boot;
        this.listeners.board(first);
        this.version = first.version;
      }
    } catch (error) {
      if (this.opened === mine) this.failed(error);
      return;
    }
    const source = (this.source = new EventSource(`api/events?${query({ task: this.task, since: this.version, boot: this.boot })}`));
    const on = (name, call) =>
      source.addEventListener(name, (event) => {
        this.heard();
        call(JSON.parse(event.data));
      });
    source.addEventListener("open", () => {
      this.failures = 0;
      this.heard();
      this.listeners.state(true);
    });
    on("hello", (data) => {
      if (data.boot !== this.boot) this.restart();
      else this.listeners.hello(data);
    });
    on("rows", (data) => this.listeners.rows(data.section, data.rows));
    on("section", (data) => this.listeners.section(data.section, data.order, data.rows));
    on("version", (data) => (this.version = data.version));
    on("log", (data) => this.listeners.log(data, this.task));
    on("ping", () => {});
    source.addEventListener("error", () => this.failed(new Refused("", 0)));
  }

  restart() {
    this.version = undefined;
    this.open();
  }

  heard() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.failed(new Refused("", 0)), SILENT_MS);
  }

  close() {
    clearTimeout(this.silence);
    clearTimeout(this.again);
    this.opened = undefined;
    this.source?.close();
    this.source = undefined;
  }

  async failed(error) {
    this.close();
    this.listeners.state(false);
    const pause = AGAIN_MS[Math.min(this.failures, AGAIN_MS.length - 1)];
    this.failures += 1;
    this.again = setTimeout(async () => {
      try {
        await session();
        this.open();
      } catch (refusal) {
        if (refusal.status === 401) this.listeners.signedOut(refusal);
        else this.failed(error);
      }
    }, pause);
  }
}
