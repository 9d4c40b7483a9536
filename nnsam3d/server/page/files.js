// Opening images (cases of the server, files of the user), saving and downloading results.

import { ServerError } from "./api.js";
import { setContrast } from "./choices.js";
import { isOpen, showCases } from "./cases.js";
import { recall, remember } from "./memory.js";
import { $ } from "./panel.js";
import { forgetSaved, markSaved, OPENED, startPast } from "./past.js";
import { ask, empty, hideNotice, say, show } from "./show.js";
import { canSave, isUnsaved, later, page, server, viewer, work } from "./state.js";
import { after, startAutomatically } from "./steps.js";

const AHEAD = 3000; // ms after a case was opened: its first prompts come first
let brought = null; // {version, bytes}: the file of the case that is probably the next

export async function listCases() {
  page.cases = await server.cases();
  listed();
}

function listed() {
  showCases(page.cases, page.source?.case, (name) => askFirst(() => openCase(name)));
}

export function openCase(name, saved = false) {
  return work.add(`Opening ${name}`, () => shown(server.openCase(name, saved), { case: name }));
}

export function openFile(file) {
  return work.add(`Opening ${file.name}`, () => shown(server.upload(file), { file }));
}

// The server has another image than the page, or may have: what is done to the one on the page would reach the other.
function showNone(text) {
  Object.assign(page, { image: null, source: null, prompts: [], waiting: [], moving: [], flat: null, facts: {}, remarks: [], also: 0 });
  Object.assign(page, { can: { undo: false, redo: false }, restoring: null });
  startPast(null);
  viewer.unload();
  $("image-name").textContent = "No image";
  $("image-facts").textContent = "";
  $("notes").hidden = $("channel-row").hidden = true;
  listed();
  empty(text);
}

// Whether the server may have done what it was asked to: its answer was lost, perhaps by a proxy. It refuses with 503, too.
function isLost({ status }) {
  return !status || (status >= 500 && status !== 503);
}

// answer: to the request to open an image
async function shown(answer, source) {
  const again = source.file ? "open it again" : "select it again";
  const missing = `${source.case ?? source.file.name} could not be shown: ${again}.`;
  let image, bytes, mask;
  try {
    image = await answer;
    const there = image.version && brought?.version === image.version ? brought.bytes : null;
    brought = null;
    [bytes, mask] = await Promise.all([
      source.file ? source.file.arrayBuffer() : (there ?? server.image(0, image.channels[0])),
      server.mask(image.case),
    ]);
  } catch (error) {
    if (image || isLost(error) || (source.case && !page.image)) showNone(missing);
    throw error;
  }
  try {
    await viewer.load(bytes, source.file?.name ?? image.channels[0], mask);
  } catch (error) {
    showNone("This image cannot be displayed.");
    throw new ServerError(400, `This image cannot be displayed: ${error.message}`);
  }
  const prompts = image.prompts ?? [];
  const started = image.started ?? image.saved;
  Object.assign(page, { image, source, prompts, waiting: [], moving: [], flat: null, restoring: null, unsure: false, facts: image.facts });
  Object.assign(page, { remarks: image.remarks, also: image.also_open ?? 0 });
  page.can = { undo: Boolean(image.can_undo), redo: Boolean(image.can_redo) };
  // beneath prompts, the mask from which a saved case starts is not visible
  startPast(!started ? null : prompts.length ? OPENED : new File([mask], `${image.case}.nii.gz`));
  if (image.draft) forgetSaved();
  if (source.case) remember("case", source.case);
  if (source.case) setTimeout(readAhead, AHEAD, image);
  hideNotice();
  $("empty").hidden = true;
  const [z, y, x] = image.shape;
  $("image-name").textContent = image.case;
  const spacing = [...image.spacing].reverse().map((mm) => +mm.toFixed(2)).join(" × ");
  $("image-facts").textContent = `${x} × ${y} × ${z} · ${spacing} mm`;
  $("channel-row").hidden = image.channels.length < 2;
  $("channel").replaceChildren(...image.channels.map((_, n) => new Option(page.info.model.channels[n] ?? n, n)));
  setContrast();
  listed();
  showNote(image);
  $("comment").value = image.comment ?? "";
  show();
  say(image.draft ? `Opened the draft of ${image.case}.` : `Opened ${image.case}.`);
  if (page.info.learns && image.automatic && image.state === "todo") startAutomatically();
}

// Brings the next case while nothing else is done. If that fails, opening it says why.
export async function readAhead(image = page.image) {
  if (!image || page.image !== image || !page.cases.some((one) => isOpen(one) && one.case !== page.source.case)) return;
  if (work.running) return setTimeout(readAhead, AHEAD, image);
  try {
    const { next, version, file } = await server.json("POST", "api/ahead", {});
    if (!next || page.image !== image || brought?.version === version) return;
    brought = null;
    const bytes = await server.bytes(`api/ahead/${encodeURIComponent(file)}`);
    if (page.image === image) brought = { version, bytes };
  } catch {
    // only time is lost
  }
}

// Not the comment: an answer that arrives would replace what is being typed.
function showNote({ state, flagged }) {
  $("notes").hidden = !canSave();
  $("unsure").setAttribute("aria-pressed", String(state === "unsure"));
  $("flag").setAttribute("aria-pressed", String(Boolean(flagged)));
}

// Marks, flags or comments the open case: {mark}, {flagged} or {comment}. Returns whether that has succeeded.
export function annotate(values) {
  if (!canSave()) return undefined;
  return later("Writing the note", async () => {
    const row = await server.json("POST", "api/note", values);
    page.image.state = row.state;
    page.cases = page.cases.map((one) => (one.case === row.case ? row : one));
    listed();
    showNote(row);
    return true;
  });
}

export function toggle(what) {
  const on = $(what).getAttribute("aria-pressed") !== "true";
  const said = { unsure: on ? "Marked as unsure." : "No longer unsure.", flag: on ? "Flagged." : "Flag removed." }[what];
  annotate(what === "flag" ? { flagged: on } : { mark: on ? "unsure" : "" })?.then((done) => done && say(said));
}

export async function skip() {
  if (canSave() && (await annotate({ mark: "skipped" }))) askFirst(followUp);
}

export function showChannel(number) {
  return later("Loading the channel", async () => {
    const name = page.image.channels[number];
    const [bytes, mask] = [await server.image(number, name), await server.mask(page.image.case)];
    const mm = viewer.mm;
    await viewer.load(bytes, name, mask);
    viewer.goTo(mm);
    setContrast();
  });
}

// Asks for confirmation if unsaved work would be lost.
export async function askFirst(then) {
  if (!isUnsaved()) return then();
  $("unsaved-save").hidden = !canSave();
  const answer = await ask("unsaved", `The segmentation of ${page.image.case} is not saved.`);
  if (answer === "stay" || (answer === "save" && !(await save()))) return undefined;
  return then();
}

function isEmpty() {
  return !page.waiting.length && !viewer.labels.some((value) => value);
}

// Returns whether the case has been saved.
export async function save() {
  if (!canSave()) return download("mask");
  const name = page.image.case;
  if (isEmpty() && !confirm(`The mask of ${name} is empty. Save it as a case without any label?`)) return false;
  const { saved, conflict } = (await store("api/save")) ?? {};
  if (!conflict) return Boolean(saved);
  const answer = await ask("conflict", conflict);
  if (answer === "overwrite") return Boolean((await store("api/save?overwrite=1"))?.saved);
  if (answer === "reload") openCase(name, true);
  return false;
}

// {saved}, or {conflict} if somebody else saved the case since it was opened; undefined if it failed
function store(path) {
  return after("Saving", async () => {
    try {
      const { saved } = await server.json("POST", path, { annotator: recall("annotator") ?? "" });
      markSaved();
      await listCases();
      show();
      say(`Saved: ${saved.join(", ")}`);
      return { saved: true };
    } catch (error) {
      if (error.status === 409 && !work.stopping) return { conflict: error.message };
      throw error;
    }
  });
}

// A case in which nothing was segmented is skipped, not saved.
export async function next() {
  if (!page.info) return say("Not connected.");
  if (!page.info.folder) return say("There are no further cases: the server was started without --images.");
  if (!isUnsaved() && page.image && isEmpty()) return followUp();
  if (canSave() && (isUnsaved() || !page.cases.some((one) => one.case === page.source.case && one.saved))) {
    if (!(await save())) return;
    followUp();
  } else {
    askFirst(followUp);
  }
}

function followUp() {
  return later("Opening the next case", async () => {
    const following = await server.next();
    if (following) await shown(server.openCase(following), { case: following });
    else say(!page.info.saves || page.cases.some(isOpen) ? "There are no other cases." : "All cases are done.");
  });
}

export function download(what) {
  if (!page.image) return undefined;
  if (what === "prompts" && !page.prompts.length && !page.waiting.length) return say("There are no prompts to download.");
  const name = page.image.case;
  return after(what === "mask" ? "Preparing the mask" : "Preparing the prompts", async () => {
    const bytes = what === "mask" ? await server.mask(name) : await server.prompts(name);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes]));
    link.download = what === "mask" ? `${name}.nii.gz` : `${name}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    if (what === "mask" && !canSave()) markSaved();
    show();
    say(`Downloaded ${link.download}.`);
    return true;
  });
}
