// Numbers and times for people. Relative times are kept up to date by one timer for the whole page.

import { h } from "./dom.js";

let skewMs = 0; // what the clock of the server is ahead of ours

export function serverTime(now) {
  const at = Date.parse(now);
  if (!Number.isNaN(at)) skewMs = at - Date.now();
}

export const now = () => Date.now() + skewMs;

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function shortSpan(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

const shown = {
  ago: (ms) => `${shortSpan((now() - ms) / 1000)} ago`,
  for: (ms) => span((now() - ms) / 1000),
  left: (ms) => (ms > now() ? `${span((ms - now()) / 1000)} left` : "time is over"),
};

export function time(iso, kind = "ago") {
  const ms = Date.parse(iso ?? "");
  if (Number.isNaN(ms)) return "";
  const date = new Date(ms);
  return h("time", { datetime: date.toISOString(), title: date.toLocaleString(), "data-tick": kind }, shown[kind](ms));
}

export function tick() {
  for (const element of document.querySelectorAll("time[data-tick]")) {
    const text = shown[element.dataset.tick](Date.parse(element.dateTime));
    if (element.textContent !== text) element.textContent = text;
  }
}

export const dollars = (value) =>
  value === undefined ? "" : value >= 100 ? `$${value.toFixed(0)}` : value >= 0.01 || value === 0 ? `$${value.toFixed(2)}` : `$${value.toFixed(4)}`;

export const count = (value) => Number(value).toLocaleString("en");

export function short(value) {
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(0)}k`;
  return count(value);
}

export function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 ** 2) return `${(bytes / 1024).toFixed(1)} KiB`;
  if (bytes < 1024 ** 3) return `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
  return `${(bytes / 1024 ** 3).toFixed(1)} GiB`;
}

export const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;
