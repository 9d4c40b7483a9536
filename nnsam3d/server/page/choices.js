// Settings that do not involve the server: the label of the next click, and the display.

import { $, chooseLabel } from "./panel.js";
import { say } from "./show.js";
import { BACKGROUND, page, viewer } from "./state.js";

const CONTRASTS = [["auto", "automatic"], ["inverted", "automatic, inverted"]];
const CT_CONTRASTS = [["-160,240", "soft tissue"], ["-1350,150", "lung"], ["-450,1050", "bone"], ["0,80", "brain"]]; // HU
const OTHER_CONTRASTS = [["1-99", "percentiles 1 to 99"], ["full", "full range"]];
const SAMPLE = 100_000; // voxels that are looked at
const AIR = [-4096, -500]; // HU of the lowest value of a CT image: air, or what lies outside of the scanner's circle
const samples = new WeakMap(); // image -> sorted values of some voxels
let declared = false; // whether the model is one for CT

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

// channels: names of the model's, one of which may be CT
export function fillContrasts(channels) {
  declared = channels.some((name) => name.toUpperCase() === "CT");
  offer(declared);
}

// Offers the windows of CT or those of other images. What was chosen stays, if it is still offered.
function offer(ct) {
  const options = [...CONTRASTS, ...(ct ? CT_CONTRASTS : OTHER_CONTRASTS)];
  const list = $("contrast"), chosen = list.value;
  if ([...list.options].map((one) => one.value).join() === options.map(([value]) => value).join()) return;
  list.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  list.value = options.some(([value]) => value === chosen) ? chosen : options[0][0];
}

// Of voxels at equal distances, ascending.
function sample(image) {
  if (!samples.has(image)) {
    const step = Math.max(1, Math.floor(image.img.length / SAMPLE)) | 1; // odd: not the same columns in every row
    const values = new Float64Array(Math.ceil(image.img.length / step));
    for (let n = 0; n < values.length; n++) values[n] = image.intensityRaw2Scaled(image.img[n * step]);
    samples.set(image, values.filter(Number.isFinite).sort());
  }
  return samples.get(image);
}

// Whether the values look like Hounsfield units: whole numbers that begin at air.
function looksLikeCt(image) {
  const values = sample(image);
  return values[0] >= AIR[0] && values[0] <= AIR[1] && values.every(Number.isInteger);
}

function rangeOf(image, value) {
  if (value.includes(",")) return value.split(",").map(Number);
  if (value === "1-99") {
    const values = sample(image);
    return [0.01, 0.99].map((share) => values[Math.round(share * (values.length - 1))]);
  }
  if (value !== "full") return null;
  let [low, high] = [Infinity, -Infinity];
  for (const raw of image.img) {
    if (raw < low) low = raw;
    if (raw > high) high = raw;
  }
  return [low, high].map((raw) => image.intensityRaw2Scaled(raw));
}

// Shows the open image, which may be a new one, with the chosen contrast.
export function setContrast() {
  const { image } = viewer;
  if (!image) return;
  offer(declared || looksLikeCt(image));
  const { value } = $("contrast");
  viewer.setContrast(rangeOf(image, value), value === "inverted");
}

export function setView(view) {
  viewer.show(view);
  for (const button of document.querySelectorAll("#views button")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }
}
