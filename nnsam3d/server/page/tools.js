// The tools: what dragging with the left button draws on a slice, and the prompts that strokes become.
// Voxels are NiiVue's (vox, towards R, A, S), until a prompt is made, which has those of the file.

import { announceKeys } from "./keys.js";
import { $, element } from "./panel.js";
import { say } from "./show.js";
import { page, viewer } from "./state.js";
import { AXES } from "./viewer.js";

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
  if (tool === CLICK || page.info.model.kinds.includes(tool) || !toolOf(tool).trained) return "";
  return `This model was not trained with prompts of type ${tool}.`;
}

export function chooseTool(kind, silent = false) {
  const refused = refusal(kind);
  if (refused) return say(refused);
  const tool = toolOf(kind);
  page.tool = kind;
  viewer.pointer.draws = tool.gesture !== "click";
  $("brush-row").hidden = tool.gesture !== "brush";
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
  if (gesture === "brush") return brushed(kind, keys, stroke);
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

// A click with the brush is a stroke of one point, on the plane used last.
export function dab(mm) {
  if (toolOf(page.tool).gesture !== "brush") return null;
  const vox = viewer.toVoxel(mm);
  const across = AXES[viewer.plane][2];
  return { across, slice: Math.round(vox[across]), points: [vox], moved: true };
}

const MOST_VOXELS = 10_000; // of one prompt

// The voxels of the slice around a stroke. The size of the brush is its radius, in voxels of the slice's finer side.
function brushed(kind, keys, { points, across, slice }) {
  const sides = [0, 1, 2].filter((axis) => axis !== across);
  const steps = sides.map((axis) => viewer.voxelSize[axis]);
  const radius = (Number($("brush").value) - 0.5) * Math.min(...steps);
  const found = new Map();
  thinned(points).forEach((point, n, all) => {
    const before = all[n - 1] ?? point;
    const count = Math.max(1, Math.ceil(Math.max(...sides.map((axis) => Math.abs(point[axis] - before[axis]))) / 0.5));
    for (let part = 1; part <= count; part += 1) {
      const middle = sides.map((axis) => before[axis] + ((point[axis] - before[axis]) * part) / count);
      const ranges = sides.map((axis, side) => {
        const reach = radius / steps[side];
        const ends = [Math.ceil(middle[side] - reach), Math.floor(middle[side] + reach), Math.round(middle[side])];
        return [Math.max(0, Math.min(...ends)), Math.min(viewer.dims[axis] - 1, Math.max(...ends))];
      });
      for (let u = ranges[0][0]; u <= ranges[0][1]; u += 1) {
        for (let v = ranges[1][0]; v <= ranges[1][1]; v += 1) {
          const away = Math.hypot((u - middle[0]) * steps[0], (v - middle[1]) * steps[1]);
          const own = u === Math.round(middle[0]) && v === Math.round(middle[1]);
          if (found.size < MOST_VOXELS && (own || away <= radius)) found.set(`${u} ${v}`, [u, v]);
        }
      }
    }
  });
  const voxels = [...found.values()].map(([u, v]) => [0, 1, 2].map((axis) => (axis === across ? slice : axis === sides[0] ? u : v)));
  const entry = { type: kind, [keys[0]]: voxels.map((vox) => viewer.toFile(vox)) };
  return { entry, ras: thinned(points).map((point) => viewer.toWorld(onSlice(point, { across, slice }))), drawn: "path" };
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
