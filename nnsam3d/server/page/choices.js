// Settings that do not involve the server: the label of the next click, and the display.

import { $, chooseLabel } from "./panel.js";
import { say } from "./show.js";
import { BACKGROUND, page, viewer } from "./state.js";

const CONTRASTS = [["auto", "automatic"], ["inverted", "automatic, inverted"]];
const CT_CONTRASTS = [["-160,240", "soft tissue"], ["-1350,150", "lung"], ["-450,1050", "bone"], ["0,80", "brain"]]; // HU

export function choose(name) {
  page.label = name;
  chooseLabel(name);
  const negative = name === BACKGROUND;
  $("stage").classList.toggle("negative", negative);
  say(negative ? "Label of the next prompt: background (not this)." : `Label of the next prompt: ${name}.`);
}

export function chooseValue(value) {
  const found = Object.entries(page.info?.model.labels ?? {}).find(([, one]) => one === value);
  if (found) choose(found[0]);
}

export function chooseNeighbour(by) {
  const names = Object.keys(page.info?.model.labels ?? {});
  if (names.length) choose(names[(names.indexOf(page.label) + by + names.length) % names.length]);
}

export function setFill(fill) {
  $("fill").value = fill;
  viewer.setFill(fill);
}

export function setHidden(hidden) {
  viewer.setHidden(hidden);
  $("hide").setAttribute("aria-pressed", String(hidden));
  if (viewer.image) say(hidden ? "The mask is hidden." : "The mask is shown.");
}

export function fillContrasts(channels) {
  const ct = channels.some((name) => name.toUpperCase() === "CT");
  const options = [...CONTRASTS, ...(ct ? CT_CONTRASTS : [])];
  $("contrast").replaceChildren(...options.map(([value, text]) => new Option(text, value)));
}

export function setContrast() {
  const value = $("contrast").value;
  const range = value.includes(",") ? value.split(",").map(Number) : null;
  viewer.setContrast(range, value === "inverted");
}

export function setView(view) {
  viewer.show(view);
  for (const button of document.querySelectorAll("#views button")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }
}
