// Displays the page's state: markers, panel and messages.

import { drawMarkers } from "./markers.js";
import { $, count, element, showFacts, showPrompts, showRemarks, volume } from "./panel.js";
import { canSave, everyPrompt, keyOf, on, page, viewer } from "./state.js";

export function busy(text, waiting) {
  $("busy").hidden = text === null;
  document.body.classList.toggle("working", text !== null);
  if (text !== null) $("busy-text").textContent = waiting ? `${text} (${waiting} waiting)` : text;
}

export function notice(text, action, does) {
  $("notice-text").textContent = text;
  $("notice-action").hidden = !action;
  $("notice-action").textContent = action ?? "";
  $("notice-action").onclick = does ?? null;
  $("notice").hidden = false;
}

export function hideNotice() {
  $("notice").hidden = true;
}

export function empty(text) {
  $("empty").hidden = false;
  $("empty-text").textContent = text;
}

export function say(text) {
  $("status").textContent = text;
  if ($("notice-action").hidden) hideNotice(); // something has worked since
}

// Asks in one of the page's dialogs. Returns the value of the pressed button: "stay" to change nothing.
export async function ask(id, text) {
  const dialog = $(id);
  $(`${id}-text`).textContent = text;
  dialog.returnValue = "stay";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  return dialog.returnValue;
}

export function summary() {
  const parts = Object.entries(page.facts).map(
    ([name, { ml, components }]) => `${name}: ${volume(ml)} in ${count(components, "part")}`,
  );
  return parts.join(", ") || "The mask is empty.";
}

export function markers() {
  const stroke = viewer.pointer.stroke && on.sketch(viewer.pointer.stroke);
  const elsewhere = [...page.moving, viewer.pointer.carried].filter(Boolean); // clicks that are being moved
  const shown = everyPrompt().map((one) => {
    const found = elsewhere.findLast(({ prompt }) => keyOf(prompt) === keyOf(one));
    return found ? { ...one, ras: [found.ras], waiting: true } : one;
  });
  drawMarkers($("marks"), viewer, [...shown, ...(stroke ? [stroke] : [])]);
  const tiles = viewer.image ? viewer.tiles : [];
  const text = JSON.stringify(tiles);
  if ($("tiles").dataset.shown === text) return;
  $("tiles").dataset.shown = text;
  $("tiles").replaceChildren(
    ...tiles.map(({ name, position }) => {
      const made = element("span", { text: name });
      ["left", "top", "width", "height"].forEach((side, n) => (made.style[side] = `${position[n] * 100}%`));
      return made;
    }),
  );
}

export function where() {
  if (!viewer.image) return;
  const name = Object.entries(page.info.model.labels).find(([, value]) => value === viewer.label)?.[0] ?? `label ${viewer.label}`;
  const mm = viewer.mm.map((n) => n.toFixed(1)).join(", ");
  $("where").textContent = `R, A, S: ${mm} mm · value ${+viewer.value.toPrecision(4)} · ${name}`;
}

// A place in the middle of a prompt, on its slice.
function middle({ entry, drawn, ras }) {
  if (drawn === "path" && ras.length > 2) return ras[Math.floor(ras.length / 2)];
  return [0, 1, 2].map((axis) => ras.reduce((sum, point) => sum + point[axis], 0) / ras.length);
}

export function show() {
  const { image, can, prompts, also } = page;
  showPrompts(everyPrompt(), (prompt) => viewer.goTo(middle(prompt)), (prompt) => on.move(prompt, viewer.mm), on.remove);
  if (page.info) showFacts(page.info.model.labels, page.facts);
  showRemarks(page.remarks);
  $("automatic").hidden = !image?.automatic || everyPrompt().length > 0 || page.base !== null;
  $("also").hidden = !also;
  $("also").textContent = `Also open elsewhere${also > 1 ? `, ${also} times` : ""}: nothing is saved over others' work without asking.`;
  const usable = {
    undo: can.undo || page.waiting.length > 0,
    redo: can.redo,
    reset: prompts.length > 0 || page.base !== null,
    save: canSave(),
    "save-next": canSave(),
    mask: image,
    prompts: prompts.length,
    load: image,
    hide: image,
  };
  for (const [id, yes] of Object.entries(usable)) $(id).disabled = !yes;
  document.title = image ? `${page.dirty ? "• " : ""}${image.case} – nnsam3d` : "nnsam3d";
  markers();
  where();
}
