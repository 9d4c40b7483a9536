// The panel beside the image: labels, prompts, warnings. Only builds elements, without logic.

import { css, pattern } from "./palette.js";

export const $ = (id) => document.getElementById(id);

export function element(tag, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function swatch(value) {
  const made = element("span", { class: value ? `swatch ${pattern(value)}` : "swatch background", "aria-hidden": "true" });
  if (value) made.style.setProperty("--colour", css(value));
  return made;
}

// ---------------------------------------------------------------- labels

// labels: {name: value}
export function buildLabels(labels, chosen, onChoose) {
  const rows = Object.entries(labels).map(([name, value]) => {
    const radio = element("input", { type: "radio", name: "label", value: name });
    radio.checked = name === chosen;
    radio.addEventListener("change", () => onChoose(name));
    const row = element("label", { class: "label" }, radio, swatch(value), element("span", { class: "name", text: name }));
    row.append(element("span", { class: "facts", text: value ? "" : "not this" }));
    if (value < 10) row.append(element("kbd", { text: String(value) }));
    return row;
  });
  rows.push(rows.shift()); // background is listed last
  $("labels").replaceChildren(...rows);
}

export function chooseLabel(name) {
  for (const radio of document.querySelectorAll("#labels input")) radio.checked = radio.value === name;
}

// facts: {name: {ml, components}}
export function showFacts(labels, facts) {
  for (const row of document.querySelectorAll("#labels .label")) {
    const name = row.querySelector("input").value;
    if (labels[name] === 0) continue;
    const fact = facts[name];
    row.querySelector(".facts").textContent = fact ? `${volume(fact.ml)} · ${count(fact.components, "part")}` : "–";
  }
}

export function volume(ml) {
  return `${ml < 10 ? ml.toFixed(2) : ml.toFixed(ml < 100 ? 1 : 0)} ml`;
}

export function count(number, what) {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

// "2 clicks", or "2 prompts" if some are of another type
export function countPrompts(prompts) {
  return count(prompts.length, nameOf(prompts));
}

export function nameOf(prompts) {
  return prompts.every(({ entry }) => entry.type === "click") ? "click" : "prompt";
}

// ---------------------------------------------------------------- prompts and warnings

// prompts: [{entry, text, label, value, seconds, waiting}]
export function showPrompts(prompts, onGo, onMove, onRemove) {
  $("no-clicks").hidden = prompts.length > 0;
  $("clicks").hidden = prompts.length === 0;
  const rows = prompts.map((prompt, number) => {
    const { entry, text = "", label, value, seconds, waiting } = prompt;
    const time = waiting ? "waiting" : seconds === undefined ? "" : `${seconds.toFixed(2)} s`;
    const go = element(
      "button",
      { type: "button", class: "click", title: `Go there: ${entry.type} ${text}` },
      element("span", { class: "number", text: number + 1 }),
      element("span", { class: value ? "sign plus" : "sign minus", text: value ? "+" : "−", "aria-hidden": "true" }),
      element("span", { class: "name", text: label }),
      element("span", { class: "what", text: `${entry.type} ${text}` }),
      element("span", { class: "facts", text: time }),
    );
    if (value) go.style.setProperty("--colour", css(value));
    go.addEventListener("click", () => onGo(prompt));
    const acts = [["✕", "Remove", "", onRemove]];
    if (entry.type === "click") acts.unshift(["✛", "Move", " to the crosshair", onMove]);
    const buttons = acts.map(([text, does, where, act]) => {
      const label = `${does} prompt ${number + 1}${where}`;
      const button = element("button", { type: "button", class: "act", title: `${does}${where}`, "aria-label": label, text });
      button.disabled = Boolean(waiting);
      button.addEventListener("click", () => act(prompt));
      return button;
    });
    return element("li", {}, go, ...buttons);
  });
  $("clicks").replaceChildren(...rows);
  rows.at(-1)?.scrollIntoView({ block: "nearest" });
}

export function showRemarks(remarks) {
  const before = [...$("remarks").children].map((row) => row.textContent).join("\n");
  if (before !== remarks.join("\n")) $("remarks").replaceChildren(...remarks.map((text) => element("li", { text })));
}
