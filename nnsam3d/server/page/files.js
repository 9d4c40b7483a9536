// Opening images (cases of the server, files of the user), saving and downloading results.

import { ServerError } from "./api.js";
import { setContrast } from "./choices.js";
import { $, showCases } from "./panel.js";
import { empty, say, show } from "./show.js";
import { canSave, later, page, server, viewer, work } from "./state.js";

export async function listCases() {
  page.cases = await server.cases();
  listed();
}

function listed() {
  showCases(page.cases, page.source?.case, (name) => askFirst(() => openCase(name)));
}

export function openCase(name) {
  return work.add(`Opening ${name}`, async () => shown(await server.openCase(name), { case: name }));
}

export function openFile(file) {
  return work.add(`Opening ${file.name}`, async () => shown(await server.upload(file), { file }));
}

async function shown(image, source) {
  const name = image.channels[0];
  const [bytes, mask] = await Promise.all([
    source.file ? source.file.arrayBuffer() : server.image(0, name),
    server.mask(image.case),
  ]);
  try {
    await viewer.load(bytes, source.file?.name ?? name, mask);
  } catch (error) {
    Object.assign(page, { image: null, source: null, clicks: [], facts: {}, dirty: false });
    viewer.unload();
    empty("This image cannot be displayed.");
    throw new ServerError(400, `This image cannot be displayed: ${error.message}`);
  }
  const base = image.saved ? new File([mask], `${image.case}.nii.gz`) : null; // Undo after Reset sends it again
  Object.assign(page, { image, source, clicks: [], waiting: [], beforeReset: null, restoring: null, dirty: false });
  Object.assign(page, { base, saved: base, facts: image.facts });
  page.can = { undo: false, redo: false };
  page.remarks = image.remarks;
  $("empty").hidden = true;
  const [z, y, x] = image.shape;
  $("image-name").textContent = image.case;
  const spacing = [...image.spacing].reverse().map((mm) => +mm.toFixed(2)).join(" × ");
  $("image-facts").textContent = `${x} × ${y} × ${z} · ${spacing} mm`;
  $("channel-row").hidden = image.channels.length < 2;
  $("channel").replaceChildren(...image.channels.map((_, n) => new Option(page.info.model.channels[n] ?? n, n)));
  setContrast();
  listed();
  show();
  say(`Opened ${image.case}.`);
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
  if (!page.dirty || !page.image) return then();
  const dialog = $("unsaved");
  $("unsaved-text").textContent = `The segmentation of ${page.image.case} is not saved.`;
  $("unsaved-save").hidden = !canSave();
  dialog.returnValue = "stay";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  if (dialog.returnValue === "save" && !(await save())) return undefined;
  if (dialog.returnValue === "stay") return undefined;
  return then();
}

function isEmpty() {
  return !viewer.labels.some((value) => value);
}

export async function save() {
  if (!canSave()) return download("mask");
  if (isEmpty() && !confirm(`The mask of ${page.image.case} is empty. Save it as a case without any label?`)) return false;
  return later("Saving", async () => {
    const { saved } = await server.json("POST", "/api/save", {});
    page.dirty = false;
    await listCases();
    show();
    say(`Saved: ${saved.join(", ")}`);
    return true;
  });
}

// A case in which nothing was segmented is skipped, not saved.
export async function next() {
  if (!page.info) return say("Not connected.");
  if (!page.info.folder) return say("There are no further cases: the server was started without --images.");
  if (!page.dirty && page.image && isEmpty()) return followUp();
  if (canSave() && (page.dirty || !page.cases.some((one) => one.case === page.source.case && one.saved))) {
    if (!(await save())) return;
    followUp();
  } else {
    askFirst(followUp);
  }
}

function followUp() {
  const names = page.cases.map((one) => one.case);
  const at = names.indexOf(page.source?.case);
  const order = [...page.cases.slice(at + 1), ...page.cases.slice(0, Math.max(at, 0))];
  const following = page.info.saves ? order.find((one) => !one.saved) : order[0];
  if (following) openCase(following.case);
  else say(page.info.saves ? "All cases are saved." : "There are no other cases.");
}

export function download(what) {
  if (!page.image) return undefined;
  if (what === "prompts" && !page.clicks.length) return say("There are no clicks to download.");
  const name = page.image.case;
  return later(what === "mask" ? "Preparing the mask" : "Preparing the clicks", async () => {
    const bytes = what === "mask" ? await server.mask(name) : await server.prompts(name);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes]));
    link.download = what === "mask" ? `${name}.nii.gz` : `${name}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    page.dirty = false;
    say(`Downloaded ${link.download}.`);
    return true;
  });
}
