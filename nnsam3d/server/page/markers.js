// Draws the prompts over the planes. Clicks: a circle with a plus for a label, a square with a minus for background.
// Others: their lines where they cross the displayed slice, and faintly those of the nearest slices.

import { css } from "./palette.js";

const NEAR = 0.6; // slices: up to this distance, a click is in the displayed slice
const SEEN = 3.5; // slices: up to this distance, it is shown small
const RADIUS = 8; // CSS pixels
const SIGN = 3.5;
const DOT = 1.5;
const NEGATIVE = "#ff5d5d";
const GROUND = "rgb(0 0 0 / 75%)";
const FAINT = 0.4;
// the corners of a box are numbered by three bits, one for each axis; an edge changes one of them
const EDGES = [0, 1, 2, 3, 4, 5, 6, 7].flatMap((one) => [1, 2, 4].filter((bit) => !(one & bit)).map((bit) => [one, one | bit]));

// prompts: [{entry, ras, drawn, value, waiting}]; value 0 is background
export function drawMarkers(canvas, viewer, prompts) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  if (!viewer.image) return;
  const { screens } = viewer;
  prompts.forEach((prompt, number) => {
    if (prompt.entry.type === "click") {
      for (const { x, y, slices } of viewer.project(prompt.ras[0])) {
        if (slices <= SEEN) drawClick(pen, x, y, prompt, number + 1, slices <= NEAR);
      }
      return;
    }
    for (const { area, place } of screens) {
      pen.save();
      pen.beginPath();
      pen.rect(...area);
      pen.clip();
      drawShape(pen, prompt, prompt.ras.map(place), number + 1);
      pen.restore();
    }
  });
}

// The click of page.prompts whose marker is at a place on the canvas, in CSS pixels; undefined if there is none.
export function markerAt(viewer, prompts, x, y) {
  const screen = viewer.screens.find(({ area: [left, top, width, height] }) => x >= left && x <= left + width && y >= top && y <= top + height);
  return screen && prompts.findLast(({ entry, ras }) => {
    const at = screen.place(ras[0]);
    return entry.type === "click" && Math.abs(at.through) <= NEAR && Math.hypot(at.x - x, at.y - y) <= RADIUS;
  });
}

// In the prompt's colour, on a dark ground.
function drawLine(pen, path, { value }) {
  for (const [style, width] of [[GROUND, 3.6], [value ? css(value) : NEGATIVE, 1.8]]) {
    pen.strokeStyle = style;
    pen.lineWidth = width;
    pen.stroke(path);
  }
}

// ---------------------------------------------------------------- shapes

// points: [{x, y, through}]
function drawShape(pen, prompt, points, number) {
  const paths = prompt.drawn === "solid" ? cutBox(points) : lines(prompt.drawn, points);
  pen.lineCap = pen.lineJoin = "round";
  pen.setLineDash(prompt.waiting ? [3, 3] : []);
  for (const [path, alpha] of [[paths.far, FAINT], [paths.near, 1]]) {
    pen.globalAlpha = alpha;
    drawLine(pen, path, prompt);
  }
  pen.globalAlpha = 1;
  pen.setLineDash([]);
  if (paths.at) drawText(pen, prompt.value ? number : `− ${number}`, paths.at.x + 4, paths.at.y - 5);
}

// Paths on the displayed slice and near it, and where to write the number: the highest point of those on the slice.
function newPaths() {
  return { near: new Path2D(), far: new Path2D(), at: null };
}

function add(paths, distance, draw, ...points) {
  if (distance > SEEN) return;
  draw(distance <= NEAR ? paths.near : paths.far);
  if (distance > NEAR) return;
  for (const point of points) if (!paths.at || point.y < paths.at.y) paths.at = point;
}

// drawn: "points", "path" or "ring"
function lines(drawn, points) {
  const paths = newPaths();
  if (drawn === "points") {
    for (const point of points) {
      add(paths, Math.abs(point.through), (path) => path.rect(point.x - DOT, point.y - DOT, 2 * DOT, 2 * DOT), point);
    }
    return paths;
  }
  if (points.length === 1) points = [points[0], points[0]];
  const ends = drawn === "ring" ? [...points, points[0]] : points;
  ends.slice(1).forEach((end, n) => {
    const parts = Math.min(200, Math.ceil(Math.abs(end.through - ends[n].through)) + 1);
    for (let part = 0; part < parts; part++) {
      const [from, to] = [part / parts, (part + 1) / parts].map((share) => between(ends[n], end, share));
      add(paths, Math.abs(from.through + to.through) / 2, (path) => {
        path.moveTo(from.x, from.y);
        path.lineTo(to.x, to.y);
      }, from, to);
    }
  });
  return paths;
}

function between(one, other, share) {
  const [x, y, through] = ["x", "y", "through"].map((key) => one[key] + share * (other[key] - one[key]));
  return { x, y, through };
}

// The box's section with the displayed slice, or with the one of its slices that is nearest to that.
function cutBox(corners) {
  const depths = corners.map((corner) => corner.through);
  const [low, high] = [Math.min(...depths), Math.max(...depths)];
  const at = low > 0 ? low + 1e-4 : high < 0 ? high - 1e-4 : 0;
  const cut = EDGES.map(([a, b]) => [corners[a], corners[b]])
    .filter(([a, b]) => a.through < at !== b.through < at)
    .map(([a, b]) => between(a, b, (at - a.through) / (b.through - a.through)));
  const paths = newPaths();
  if (!cut.length) return paths;
  const [x, y] = ["x", "y"].map((key) => cut.reduce((sum, point) => sum + point[key], 0) / cut.length);
  cut.sort((a, b) => Math.atan2(a.y - y, a.x - x) - Math.atan2(b.y - y, b.x - x));
  add(paths, at ? Math.abs(at) + NEAR : 0, (path) => {
    cut.forEach((point, n) => (n ? path.lineTo(point.x, point.y) : path.moveTo(point.x, point.y)));
    path.closePath();
  }, ...cut);
  return paths;
}

// ---------------------------------------------------------------- clicks

function drawClick(pen, x, y, prompt, number, here) {
  const { value, waiting } = prompt;
  const radius = here ? RADIUS : RADIUS / 2;
  pen.globalAlpha = here ? 1 : 0.55;
  pen.setLineDash(waiting ? [3, 3] : []);
  const shape = new Path2D();
  if (value) shape.arc(x, y, radius, 0, 2 * Math.PI);
  else shape.rect(x - radius + 1, y - radius + 1, 2 * radius - 2, 2 * radius - 2);
  pen.fillStyle = "rgb(0 0 0 / 40%)";
  pen.fill(shape);
  drawLine(pen, shape, prompt);
  if (!here) return;
  pen.setLineDash([]);
  const sign = new Path2D();
  sign.moveTo(x - SIGN, y);
  sign.lineTo(x + SIGN, y);
  if (value) {
    sign.moveTo(x, y - SIGN);
    sign.lineTo(x, y + SIGN);
  }
  pen.strokeStyle = "#fff";
  pen.lineWidth = 1.8;
  pen.stroke(sign);
  drawText(pen, number, x + radius + 2, y - radius + 3);
}

function drawText(pen, text, x, y) {
  pen.font = "600 11px system-ui, sans-serif";
  pen.lineWidth = 3;
  pen.strokeStyle = GROUND;
  pen.strokeText(text, x, y);
  pen.fillStyle = "#fff";
  pen.fillText(text, x, y);
}
