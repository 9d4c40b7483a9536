// The entry point: connects keys, buttons and mouse to their actions, and starts the page.

import { bindCases } from "./cases.js";
import { chooseNeighbour, chooseValue, setContrast, setFill, setHidden, setView } from "./choices.js";
import { connect, failed, lost } from "./connection.js";
import { annotate, askFirst, download, next, openFile, readAhead, save, showChannel, skip, toggle } from "./files.js";
import { bindKeys } from "./keys.js";
import { markerAt } from "./markers.js";
import { $ } from "./panel.js";
import { busy, empty, hideNotice, markers, say, where } from "./show.js";
import { isUnsaved, on, page, server, viewer, work } from "./state.js";
import { recall, remember } from "./memory.js";
import { clicked, correct, drew, giveUpLost, loadPrompts, move, redo, remove, reset, sketch, startAutomatically, undo } from "./steps.js";
import { bindTools, chooseTool, dab } from "./tools.js";
import { VIEWS } from "./viewer.js";

Object.assign(on, {
  lost, busy, failed, sketch, remove, drawn: markers, moved: where,
  click: visibly(click),
  stroke: visibly(drew),
  move: visibly(move),
  grab: (x, y) => markerAt(viewer, page.prompts, x, y),
  missed: () => say("Nothing was clicked: click inside the image, in one of the three planes. The 3D view only rotates."),
});

async function start() {
  if (!window.WebGL2RenderingContext) return empty("This browser does not support WebGL 2, or it is disabled.");
  try {
    await viewer.start();
  } catch (error) {
    return empty(`The viewer cannot start: ${error.message}`);
  }
  await connect();
  page.ready = true;
}

function open() {
  if (!page.info) return say("Not connected.");
  if (page.info.upload) return $("image-file").click();
  return say("This model needs several images per case: select a case of the server's folder (nnsam3d serve --images).");
}

function click(mm, negative) {
  const stroke = dab(mm);
  if (stroke) drew(stroke, negative);
  else clicked(mm, negative);
}

// Shows the mask before an action: what that does would not be seen.
function visibly(action) {
  return (...given) => {
    if (viewer.hidden) setHidden(false);
    action(...given);
  };
}

function isImage(file) {
  return /\.(nii|nii\.gz|nrrd|mha)$/i.test(file.name);
}

function cancel() {
  if ($("display-button").ariaExpanded === "true") {
    expandDisplay(false);
    return $("display-button").focus();
  }
  if (viewer.pointer.drop()) return undefined;
  giveUpLost();
  return work.cancel();
}

// In a narrow window, the settings of the display are in a menu.
function expandDisplay(open) {
  $("display-button").setAttribute("aria-expanded", String(open));
}

const does = {
  undo, redo, reset, next, skip,
  help: () => $("help").showModal(),
  automatic: startAutomatically,
  unsure: () => toggle("unsure"),
  flag: () => toggle("flag"),
  save: () => save(),
  mask: () => download("mask"),
  prompts: () => download("prompts"),
  open,
  load: () => (page.image ? $("segmentation-file").click() : say("Open an image first.")),
  cancel,
  hide: () => viewer.image && setHidden(!viewer.hidden),
  label: chooseValue,
  tool: (name) => chooseTool(name),
  labelBefore: () => chooseNeighbour(-1),
  labelAfter: () => chooseNeighbour(1),
  step: (...move) => viewer.image && viewer.step(...move),
  clickHere: (negative) => viewer.image && on.click(viewer.mm, negative),
  zoomIn: () => viewer.zoom(1.2),
  zoomOut: () => viewer.zoom(1 / 1.2),
  fit: () => viewer.fit(),
  view: () => setView(VIEWS[(VIEWS.indexOf(viewer.view) + 1) % VIEWS.length]),
};
bindKeys(does, $("view"));
bindCases();
bindTools();
const BUTTONS = [
  "undo", "redo", "reset", "save", "save-next", "next", "mask", "prompts", "open", "load", "cancel", "help-button", "hide", "automatic",
  "skip", "unsure", "flag",
];
const OTHERWISE = { "save-next": "next", "help-button": "help" };
for (const id of BUTTONS) $(id).addEventListener("click", () => does[OTHERWISE[id] ?? id]());
$("display-button").addEventListener("click", ({ target }) => expandDisplay(target.ariaExpanded !== "true"));
window.addEventListener("pointerdown", ({ target }) => target.closest("#display, #display-button") || expandDisplay(false));
$("comment").addEventListener("change", ({ target }) => annotate({ comment: target.value }));
$("annotator").value = recall("annotator") ?? "";
$("annotator").addEventListener("change", ({ target }) => remember("annotator", target.value.trim()));
let lesson = ""; // what the model has learned last
server.onAlive = ({ learning }) => {
  if ((learning?.said ?? "") !== lesson) readAhead(); // another case may be next
  lesson = learning?.said ?? "";
  $("learning").hidden = !(learning?.now || learning?.said);
  $("learning").textContent = [learning?.said, learning?.now ? "Learning from saved cases…" : ""].filter(Boolean).join(". ");
};
$("notice-close").addEventListener("click", hideNotice);
$("image-file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (file) askFirst(() => openFile(file));
});
$("segmentation-file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (file) (isImage(file) ? correct : loadPrompts)(file);
});
$("views").addEventListener("click", ({ target }) => target.dataset.view && setView(target.dataset.view));
$("slab").addEventListener("change", ({ target }) => viewer.setSlab(target.value));
$("fill").addEventListener("change", ({ target }) => setFill(target.value));
$("contrast").addEventListener("change", setContrast);
$("channel").addEventListener("change", ({ target }) => showChannel(Number(target.value)));
$("opacity").addEventListener("input", ({ target }) => viewer.setOpacity(target.value / 100));

// After a choice with the mouse, return the keyboard focus to the image.
for (const select of document.querySelectorAll("select")) {
  select.addEventListener("change", () => select.matches(":focus-visible") || $("view").focus());
}

for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
$("stage").addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file && page.image && !isImage(file)) loadPrompts(file);
  else if (file && page.info?.upload) askFirst(() => openFile(file));
});
window.addEventListener("beforeunload", (event) => isUnsaved() && event.preventDefault());
window.addEventListener("pagehide", () => server.release());
window.addEventListener("pageshow", (event) => event.persisted && location.reload());
new ResizeObserver(() => viewer.image && markers()).observe($("stage"));

// for tests and debugging
window.nnsam3d = { page, viewer, work, server };
start();
