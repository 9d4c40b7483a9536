// The tools: what dragging with the left button draws on a slice, and the prompts that strokes become.
// Voxels are NiiVue's (vox, towards R, A, S), until a prompt is made, which has those of the file.

import { $ } from "./panel.js";
import { say } from "./show.js";
import { page, viewer } from "./state.js";

export const TOOLS = {
  click: { title: "Click", hint: "Click on a slice. Dragging moves the crosshair." },
  box: { title: "Box", hint: "Drag a rectangle around the target; then drag in another plane to give it a depth." },
  line: { title: "Line", hint: "Drag across the target, from border to border." },
  scribble: { title: "Scribble", hint: "Drag through the target." },
  lasso: { title: "Lasso", hint: "Drag around the target; the ends are joined." },
};

export function bindTools() {
  $("tools").addEventListener("click", ({ target }) => {
    const button = target.closest("[data-tool]");
    if (button) chooseTool(button.dataset.tool);
    $("view").focus();
  });
}

// Tools for which the model was not trained cannot be used, and say so.
export function offerTools() {
  for (const button of document.querySelectorAll("#tools [data-tool]")) {
    const { title, hint } = TOOLS[button.dataset.tool];
    const refused = refusal(button.dataset.tool);
    button.disabled = Boolean(refused);
    button.title = refused || `${title}: ${hint}`;
  }
  chooseTool(refusal(page.tool) ? "click" : page.tool, true);
}

function refusal(tool) {
  if (tool === "click" || !page.info || page.info.model.kinds.includes(tool)) return "";
  return `This model was not trained with prompts of type ${tool}.`;
}

export function chooseTool(tool, silent = false) {
  const refused = refusal(tool);
  if (refused) return say(refused);
  page.tool = tool;
  viewer.pointer.draws = tool !== "click";
  for (const button of document.querySelectorAll("#tools [data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  }
  $("tool-hint").textContent = TOOLS[tool].hint;
  if (!silent) say(`Tool: ${TOOLS[tool].title.toLowerCase()}. ${TOOLS[tool].hint}`);
}

// ---------------------------------------------------------------- strokes

// What a stroke says: {entry, ras, flat, deepens}, or null if it is too small to say anything.
// entry: keys and values for the server; ras: positions to draw; flat: of a box on a slice, for a further drag that gives
// it a depth; deepens: this one has done so
export function shapeOf(tool, stroke, last) {
  if (tool === "box") return boxOf(stroke, last);
  const points = thinned(stroke.points).map((point) => onSlice(point, stroke));
  const [start, end] = [points[0], points.at(-1)];
  const index = points.map((vox) => viewer.toFile(vox).map(rounded));
  if (tool === "line") {
    if (start.join() === end.join()) return null;
    return { entry: { type: tool, start: index[0], end: index.at(-1) }, ras: [start, end].map((vox) => viewer.toWorld(vox)) };
  }
  if (tool === "lasso" && area(points, stroke.across) < 0.5) return null;
  return { entry: { type: tool, points: index }, ras: points.map((vox) => viewer.toWorld(vox)) };
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
function boxOf({ points, across, slice }, last) {
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
  const entry = { type: "box", low, high };
  return { entry, ras: faces.map((vox) => viewer.toWorld(vox)), flat: deepens ? null : { across, ends }, deepens: Boolean(deepens) };
}
