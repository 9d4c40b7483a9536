// Draws the clicks over the planes: a circle with a plus for a label, a square with a minus for background.

import { css } from "./palette.js";

const NEAR = 0.6; // slices: up to this distance, the click is in the displayed slice
const SEEN = 3.5; // slices: up to this distance, the click is shown small
const RADIUS = 8; // CSS pixels
const SIGN = 3.5;
const NEGATIVE = "#ff5d5d";
const GROUND = "rgb(0 0 0 / 75%)";

// clicks: [{ras, value, waiting}]; value 0 is background
export function drawMarkers(canvas, viewer, clicks) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  if (!viewer.image) return;
  clicks.forEach((click, number) => {
    for (const { x, y, slices } of viewer.project(click.ras)) {
      if (slices <= SEEN) drawOne(pen, x, y, click, number + 1, slices <= NEAR);
    }
  });
}

function drawOne(pen, x, y, { value, waiting }, number, here) {
  const radius = here ? RADIUS : RADIUS / 2;
  pen.globalAlpha = here ? 1 : 0.55;
  pen.setLineDash(waiting ? [3, 3] : []);
  const shape = new Path2D();
  if (value) shape.arc(x, y, radius, 0, 2 * Math.PI);
  else shape.rect(x - radius + 1, y - radius + 1, 2 * radius - 2, 2 * radius - 2);
  pen.fillStyle = "rgb(0 0 0 / 40%)";
  pen.fill(shape);
  for (const [style, width] of [[GROUND, 3.6], [value ? css(value) : NEGATIVE, 1.8]]) {
    pen.strokeStyle = style;
    pen.lineWidth = width;
    pen.stroke(shape);
  }
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
  pen.font = "600 11px system-ui, sans-serif";
  pen.lineWidth = 3;
  pen.strokeStyle = GROUND;
  pen.strokeText(number, x + radius + 2, y - radius + 3);
  pen.fillStyle = "#fff";
  pen.fillText(number, x + radius + 2, y - radius + 3);
}
