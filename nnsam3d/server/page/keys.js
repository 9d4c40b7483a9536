// The keyboard shortcuts, and the help that lists them.

import { recall, remember } from "./memory.js";
import { $, element } from "./panel.js";

let characters = true; // letters, digits and signs are shortcuts: speech input and stray keys would trigger them

// does: {name: function}; canvas: must have the focus for keys that move the crosshair
export function bindKeys(does, canvas) {
  window.addEventListener(
    "keydown",
    (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      const on = document.activeElement;
      if (on?.matches("select, input:not([type=radio], [type=range]), textarea")) return;
      if (!characters && event.key.length === 1) return;
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
  $("letters").addEventListener("change", ({ target }) => {
    remember("letters", target.checked ? "on" : "off");
    announceKeys(target.checked);
  });
  announceKeys(recall("letters") !== "off");
}

// Whether single characters are keys; also for buttons that were made since.
export function announceKeys(on = characters) {
  characters = on;
  $("letters").checked = on;
  document.body.classList.toggle("no-letters", !on);
  for (const button of document.querySelectorAll("button[aria-keyshortcuts], button[data-key]")) {
    button.dataset.key ??= button.getAttribute("aria-keyshortcuts");
    if (on || button.dataset.key.length > 1) button.setAttribute("aria-keyshortcuts", button.dataset.key);
    else button.removeAttribute("aria-keyshortcuts");
  }
}

const LETTERS = {
  z: "undo", y: "redo", r: "reset", s: "save", n: "next", o: "open", l: "load", m: "mask", p: "prompts", v: "view",
  f: "fit", h: "hide", q: "automatic", k: "skip", u: "unsure", g: "flag", "?": "help", Escape: "cancel", "[": "labelBefore", "]": "labelAfter", "+": "zoomIn", "=": "zoomIn", "-": "zoomOut",
};
const MOVES = {
  ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1],
};

function actionOf(key, shift, free) {
  if (/^\d$/.test(key)) return ["label", Number(key)];
  if (key in LETTERS) return [LETTERS[key]];
  const tool = [...document.querySelectorAll("#tools [data-tool]")].find((button) => button.dataset.key.toLowerCase() === key);
  if (tool) return ["tool", tool.dataset.tool];
  if (free && key in MOVES) return ["step", ...MOVES[key].map((n) => n * (shift ? 5 : 1))];
  if (free && key === "Enter") return ["clickHere", shift];
  return null;
}

const MOUSE = [
  ["Click", "add a click with the selected label"],
  ["Right-click, or Shift-click", "add a background click"],
  ["Drag", "draw with the chosen tool, or move the crosshair; in 3D, rotate"],
  ["Drag a click", "move it (with the tool Click)"],
  ["Shift-drag", "draw around, or through, background"],
  ["Wheel", "change the slice; in 3D, zoom"],
  ["Ctrl+wheel", "zoom"],
  ["Middle button, drag", "pan"],
  ["Right button, drag", "change the contrast"],
];
const KEYS = [
  ["1 … 9", "select a label"],
  ["0", "background"],
  ["[ ]", "previous, next label"],
  ["Z Y", "undo, redo"],
  ["R", "reset: remove prompts and loaded mask (Z restores them)"],
  ["S", "save the case, or download the mask"],
  ["N", "save and open the next case"],
  ["K U G", "skip the case, mark it as unsure, flag it"],
  ["Q", "the model's answer without prompts"],
  ["O L", "open an image, load a segmentation or prompts"],
  ["M P", "download the mask, the prompts"],
  ["Arrows", "move the crosshair (Shift: by 5)"],
  ["PageUp PageDown", "change the slice"],
  ["Enter", "click at the crosshair (Shift: background)"],
  ["+ - F", "zoom in, zoom out, fit"],
  ["V", "next view"],
  ["H", "hide or show the mask"],
  ["Esc", "cancel the computation, or what is being drawn or moved"],
  ["?", "this help"],
];

// tools: as the server describes them
export function buildHelp(version, model, tools) {
  const choose = [tools.map(({ key }) => key).join(" "), `tools: ${tools.map(({ kind }) => kind).join(", ")}`];
  for (const [id, title, rows] of [["help-mouse", "Mouse", MOUSE], ["help-keys", "Keys", [...KEYS.slice(0, 3), choose, ...KEYS.slice(3)]]]) {
    const body = rows.map(([keys, does]) => {
      const cell = element("th", { scope: "row" });
      if (id === "help-mouse") cell.textContent = keys;
      else cell.append(...keys.split(" ").map((key) => (key === "…" ? " … " : element("kbd", { text: key }))));
      return element("tr", {}, cell, element("td", { text: does }));
    });
    $(id).replaceChildren(element("caption", { text: title }), ...body);
  }
  $("about").textContent = `nnsam3d ${version}, model ${model}. Not a medical device. Rendering by NiiVue.`;
}
