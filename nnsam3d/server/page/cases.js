// The list of the server's cases, with a search and a filter.

import { $, count, element } from "./panel.js";

const STATES = { all: ["All", () => true], todo: ["To do", (one) => !one.saved], done: ["Done", (one) => one.saved] };
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

// cases: [{case, saved}]; current: the name of the open one; open(name): called for a selected one
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
    const [title, has] = STATES[button.dataset.state];
    button.textContent = `${title} ${cases.filter(has).length}`;
    button.setAttribute("aria-pressed", String(button.dataset.state === wanted.state));
  }
  const [, has] = STATES[wanted.state];
  const rows = cases.filter((one) => has(one) && one.case.toLowerCase().includes(wanted.text)).map(rowOf);
  const chosen = rows.find((row) => row.getAttribute("aria-selected") === "true") ?? rows[0];
  if (chosen) chosen.tabIndex = 0;
  $("cases").replaceChildren(...rows);
  $("no-cases").hidden = rows.length > 0;
  chosen?.scrollIntoView({ block: "nearest" });
}

function rowOf({ case: name, saved }) {
  const { current, open } = given;
  const row = element("li", { role: "option", tabindex: "-1", "aria-selected": String(name === current) });
  row.append(element("span", { class: "name", text: name }), element("span", { class: "facts", text: saved ? "✓ saved" : "" }));
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
