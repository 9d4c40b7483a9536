// Every key in one table: what the help shows is what the page listens to.

import { $, element } from "./panel.js";

// does: {name: function}; canvas: has the focus for keys that move the crosshair
export function bindKeys(does, canvas) {
  window.addEventListener(
    "keydown",
    (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      const on = document.activeElement;
      if (on?.matches("select, input:not([type=radio], [type=range]), textarea")) return;
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      const free = on === canvas || on === document.body || on === null;
      const ranged = on?.matches("input[type=radio], input[type=range]");
      const action = actionOf(key, event.shiftKey, free && !ranged);
      if (!action) return;
      event.preventDefault();
      does[action[0]](...action.slice(1));
    },
    { capture: true },
  );
}

const LETTERS = {
  z: "undo", y: "redo", r: "reset", s: "save", n: "next", o: "open", l: "load", m: "mask", p: "prompts", v: "view",
  f: "fit", "?": "help", Escape: "cancel", "[": "labelBefore", "]": "labelAfter", "+": "zoomIn", "=": "zoomIn", "-": "zoomOut",
};
const MOVES = {
  ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1],
};

function actionOf(key, shift, free) {
  if (/^\d$/.test(key)) return ["label", Number(key)];
  if (key in LETTERS) return [LETTERS[key]];
  if (free && key in MOVES) return ["step", ...MOVES[key].map((n) => n * (shift ? 5 : 1))];
  if (free && key === "Enter") return ["clickHere", shift];
  return null;
}

const MOUSE = [
  ["Click", "this is the chosen label"],
  ["Right click, or Shift and click", "this is background"],
  ["Drag", "move the crosshair; in 3D, turn"],
  ["Wheel", "through the slices; in 3D, zoom"],
  ["Ctrl and wheel", "zoom"],
  ["Drag with the middle button", "pan"],
  ["Drag with the right button", "contrast"],
];
const KEYS = [
  ["1 … 9", "choose a label"],
  ["0", "background"],
  ["[ ]", "label before, after"],
  ["Z Y", "undo, redo"],
  ["R", "reset: all clicks away, Z brings them back"],
  ["S", "save; without a folder, download the mask"],
  ["N", "save, next case"],
  ["O L", "open an image, load a segmentation"],
  ["M P", "download the mask, the clicks"],
  ["Arrows", "move the crosshair (Shift: by 5)"],
  ["PageUp PageDown", "through the slices"],
  ["Enter", "click at the crosshair (Shift: background)"],
  ["+ - F", "zoom in, out, fit"],
  ["V", "next view"],
  ["Esc", "stop the computation"],
  ["?", "this help"],
];

export function buildHelp(version, model) {
  for (const [id, title, rows] of [["help-mouse", "Mouse", MOUSE], ["help-keys", "Keys", KEYS]]) {
    const body = rows.map(([keys, does]) => {
      const cell = element("th", { scope: "row" });
      if (id === "help-mouse") cell.textContent = keys;
      else cell.append(...keys.split(" ").map((key) => (key === "…" ? " … " : element("kbd", { text: key }))));
      return element("tr", {}, cell, element("td", { text: does }));
    });
    $(id).replaceChildren(element("caption", { text: title }), ...body);
  }
  $("about").textContent = `nnsam3d ${version}, model ${model}. Not a medical device. Images drawn by NiiVue.`;
}
