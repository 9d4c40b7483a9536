// The tools: what dragging with the left button draws on a slice, and the prompts that strokes become.
// Voxels are NiiVue's (vox, towards R, A, S), until a prompt is made, which has those of the file.

import { announceKeys } from "./keys.js";
import { $, element } from "./panel.js";
import { say } from "./show.js";
import { page, viewer } from "./state.js";

const CLICK = "click"; // needs no training

export function toolOf(kind) {
  return page.info.tools.find((tool) => tool.kind === kind);
}

export function bindTools() {
  $("tools").addEventListener("click", ({ target }) => {
    const button = target.closest("[data-tool]");
    if (button) chooseTool(button.dataset.tool);
    $("view").focus();
  });
}

// Buttons for the tools of the server. Those for which the model was not trained cannot be used, and say so.
export function buildTools() {
  const buttons = page.info.tools.map(({ kind, title, key, hint }) => {
    const button = element("button", { type: "button", "data-tool": kind, "data-key": key }, `${title} `, element("kbd", { text: key }));
    button.disabled = Boolean(refusal(kind));
    button.title = refusal(kind) || `${title}: ${hint}`;
    return button;
  });
  $("tool-buttons").replaceChildren(...buttons);
  announceKeys();
  chooseTool(refusal(page.tool) ? CLICK : page.tool, true);
}

function refusal(tool) {
  if (tool === CLICK || page.info.model.kinds.includes(tool)) return "";
  return `This model was not trained with prompts of type ${tool}.`;
}

export function chooseTool(kind, silent = false) {
  const refused = refusal(kind);
  if (refused) return say(refused);
  const tool = toolOf(kind);
  page.tool = kind;
  viewer.pointer.draws = tool.gesture !== "click";
  for (const button of document.querySelectorAll("#tools [data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === kind));
  }
  $("tool-hint").textContent = tool.hint;
  if (!silent) say(`Tool: ${kind}. ${tool.hint}`);
}

// ---------------------------------------------------------------- strokes

// What a stroke says: {entry, ras, drawn, flat, deepens}, or null if it is too small to say anything.
// entry: keys and values for the server; ras: positions to draw; flat: of a box on a slice, for a further drag that gives
// it a depth; deepens: this one has done so
export function shapeOf(kind, stroke, last) {
  const { gesture, keys, drawn } = toolOf(kind);
  if (gesture === "rectangle") return { drawn, ...boxOf(kind, keys, stroke, last) };
  const points = thinned(stroke.points).map((point) => onSlice(point, stroke));
  const index = points.map((vox) => viewer.toFile(vox).map(rounded));
  if (gesture === "ends") {
    const ends = [points[0], points.at(-1)];
    if (ends[0].join() === ends[1].join()) return null;
    const entry = { type: kind, [keys[0]]: index[0], [keys[1]]: index.at(-1) };
    return { entry, ras: ends.map((vox) => viewer.toWorld(vox)), drawn };
  }
  if (drawn === "ring" && area(points, stroke.across) < 0.5) return null;
  const entry = { type: kind, [keys[0]]: index };
  return { entry, ras: points.map((vox) => viewer.toWorld(vox)), drawn: drawn === "ring" ? drawn : "path" };
}

const MOST = 500; // points of a stroke

function thinned(points) {
  if (points.length <= MOST) return points;
  return Array.from({ length: MOST }, (_, n) => points[Math.round((n * (points.length - 1)) / (MOST - 1))]);
}

function onSlice(point, { across, slice }) {
  return point.map((n, axis) => (axis === across ? slice : n));
}

function rounded(n) {
  return Math.round(n * 100) / 100;
}

// In pixels, of a closed curve.
function area(points, across) {
  const [u, v] = [0, 1, 2].filter((axis) => axis !== across);
  let twice = 0;
  points.forEach((point, n) => {
    const next = points[(n + 1) % points.length];
    twice += point[u] * next[v] - next[u] * point[v];
  });
  return Math.abs(twice) / 2;
}

// A rectangle has both corner pixels. Drawn across the last one in another plane, it gives that one a depth.
function boxOf(kind, keys, { points, across, slice }, last) {
  const corners = [points[0], points.at(-1)];
  const ends = viewer.dims.map((n, axis) => {
    if (axis === across) return [slice, slice];
    const found = corners.map((point) => Math.min(n - 1, Math.floor(point[axis] + 0.5)));
    return [Math.min(...found), Math.max(...found)];
  });
  const deepens = last && last.across !== across && ends.every(([low, high], axis) => low <= last.ends[axis][1] && high >= last.ends[axis][0]);
  if (deepens) {
    const depth = ends[last.across];
    last.ends.forEach(([low, high], axis) => (ends[axis] = axis === last.across ? depth : [low, high]));
  }
  const [low, high] = [0, 1].map((end) => viewer.toFile(ends.map((pair) => pair[end])));
  const faces = [0, 1, 2, 3, 4, 5, 6, 7].map((corner) =>
    ends.map(([from, to], axis) => (corner & (4 >> axis) ? to + 0.5 : from - 0.5)),
  );
  const entry = { type: kind, [keys[0]]: low, [keys[1]]: high };
  return { entry, ras: faces.map((vox) => viewer.toWorld(vox)), flat: deepens ? null : { across, ends }, deepens: Boolean(deepens) };
}
