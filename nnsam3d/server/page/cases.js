// The list of the server's cases, with a search and a filter.

import { $, count, element } from "./panel.js";

const TITLES = { all: "All", todo: "To do", draft: "Draft", done: "Done", skipped: "Skipped", unsure: "Unsure" };
const WORDS = { todo: "", draft: "draft", done: "✓ saved", skipped: "skipped", unsure: "unsure" };
const wanted = { text: "", state: "all" };
let given = { cases: [], current: undefined, open: () => {} };

export function bindCases() {
  $("cases-row").open = matchMedia("(min-width: 701px) and (min-height: 661px)").matches; // otherwise it would hide the labels
  $("cases-search").addEventListener("input", ({ target }) => {
    wanted.text = target.value.trim().toLowerCase();
    list();
  });
  $("cases-search").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "Enter") return;
    event.preventDefault();
    $("cases").firstElementChild?.focus();
  });
  $("cases-filter").addEventListener("click", ({ target }) => {
    if (!target.dataset.state) return;
    wanted.state = target.dataset.state;
    list();
  });
}

function has(state, one) {
  return state === "all" || one.state === state;
}

// Whether there is something left to do.
export function isOpen({ state }) {
  return state === "todo" || state === "draft";
}

// cases: [{case, saved, state, flagged, comment}]; current: the name of the open one; open(name): called for a selected one
export function showCases(cases, current, open) {
  given = { cases, current, open };
  list();
}

// A list with a single tab stop: arrow keys move within it, Enter opens a case.
function list() {
  const { cases, current } = given;
  const saved = cases.filter((one) => one.saved).length;
  $("cases-count").textContent = `${count(cases.length, "case")}, ${saved} saved`;
  for (const button of $("cases-filter").children) {
    const { state } = button.dataset;
    const number = cases.filter((one) => has(state, one)).length;
    button.textContent = `${TITLES[state]} ${number}`;
    button.hidden = !number && !["all", "todo", "done", wanted.state].includes(state);
    button.setAttribute("aria-pressed", String(state === wanted.state));
  }
  const rows = cases.filter((one) => has(wanted.state, one) && one.case.toLowerCase().includes(wanted.text)).map(rowOf);
  const chosen = rows.find((row) => row.getAttribute("aria-selected") === "true") ?? rows[0];
  if (chosen) chosen.tabIndex = 0;
  $("cases").replaceChildren(...rows);
  $("no-cases").hidden = rows.length > 0;
  chosen?.scrollIntoView({ block: "nearest" });
}

function rowOf({ case: name, state, flagged, comment }) {
  const { current, open } = given;
  const row = element("li", { role: "option", tabindex: "-1", "aria-selected": String(name === current) });
  const facts = [flagged ? "⚑" : "", WORDS[state]].filter(Boolean).join(" ");
  row.append(element("span", { class: "name", text: name }), element("span", { class: "facts", text: facts }));
  if (comment) row.title = comment;
  row.addEventListener("click", () => open(name));
  row.addEventListener("keydown", (event) => {
    const to = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
    if (to) to.focus();
    else if (event.key === "Enter" || event.key === " ") open(name);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return row;
}
