// Steps of the user: each is sent to the server, and the response is displayed.

import { ServerError } from "./api.js";
import { countPrompts } from "./panel.js";
import { forgetSaved, isDirty, moved, OPENED, startPast, stepped } from "./past.js";
import { hideNotice, markers, say, show, summary } from "./show.js";
import { BACKGROUND, everyPrompt, keyOf, later, page, server, viewer } from "./state.js";
import { shapeOf, toolOf } from "./tools.js";

// ---------------------------------------------------------------- prompts

export function clicked(ras, negative) {
  add({ entry: { type: "click", position: ras }, ras: [ras], space: "ras" }, negative);
}

// A stroke of the chosen tool.
export function drew(stroke, negative) {
  const { tool } = page;
  const label = labelOf(negative);
  const shape = shapeOf(tool, stroke, flatOf(label));
  if (!shape) {
    markers();
    return say(`Nothing was drawn: the ${tool} is too small.`);
  }
  const { entry, ras, drawn, flat, deepens } = shape;
  add({ entry, ras, drawn, replaces: deepens }, negative);
  page.flat = flat && page.waiting.length ? { ...flat, label, tool } : null;
  return undefined;
}

// The stroke that is being drawn, as a prompt to show.
export function sketch(stroke) {
  const shape = shapeOf(page.tool, stroke, flatOf(page.label));
  return shape && { ...shape, value: page.info.model.labels[page.label], waiting: true };
}

// The box to which a further drag can give a depth.
function flatOf(label) {
  return page.flat?.label === label && page.flat.tool === page.tool ? page.flat : null;
}

function labelOf(negative) {
  return negative ? BACKGROUND : page.label;
}

function add(prompt, negative) {
  if (!page.image) return;
  if (page.restoring) return say("Nothing was added: reconnect first.");
  page.flat = null;
  const label = labelOf(negative);
  const entry = { ...prompt.entry, label };
  page.waiting.push({ ...prompt, entry, label, value: page.info.model.labels[label], waiting: true });
  sendWaiting();
  show();
}

// Queues the prompts that are not queued: a new one, and before it those that the network has lost.
export function sendWaiting() {
  if (page.waiting.some((one) => one.lost)) hideNotice();
  for (const prompt of page.waiting.filter((one) => !one.queued)) queue(prompt);
}

function queue(prompt) {
  Object.assign(prompt, { queued: true, lost: false });
  const { title } = toolOf(prompt.entry.type);
  later(`${title} ${everyPrompt().indexOf(prompt) + 1}`, async () => {
    const began = performance.now();
    const change = await changed(once(prompt));
    answered(prompt);
    if (prompt.replaces) moved(-1);
    stepped(page.base);
    await apply(change);
    const whole = (performance.now() - began) / 1000;
    page.prompts.at(-1).seconds = change.seconds;
    say(`${title} ${page.prompts.length}: ${change.seconds.toFixed(2)} s, ${whole.toFixed(2)} s in total. ${summary()}`);
  }).then(() => {
    prompt.queued = false;
    if (!prompt.lost) answered(prompt);
    show();
  });
}

function answered(prompt) {
  page.waiting = page.waiting.filter((one) => one !== prompt);
}

// Sends a prompt. If the network lost the answer to it before, but not the prompt itself, the server now has it twice.
async function once(prompt) {
  const again = prompt.sent && !prompt.replaces;
  prompt.sent = true;
  let change = await server.prompt(prompt.entry, prompt.space, prompt.replaces);
  while (again && change.prompts.length > page.prompts.length + 1) change = await server.change("api/undo");
  return change;
}

// Prompts that the network has lost stay in the list, until they are sent again or given up. Returns how many there are.
export function keepWaiting() {
  for (const prompt of page.waiting) prompt.lost = true;
  return page.waiting.length;
}

export function giveUpLost() {
  if (!page.waiting.some((one) => one.lost)) return;
  page.waiting = page.waiting.filter((one) => !one.lost);
  page.flat = null;
  hideNotice();
  show();
}

// ---------------------------------------------------------------- other steps

// Queues a step after the prompts before it.
export function after(what, job) {
  page.flat = null;
  sendWaiting();
  return later(what, job);
}

// Displays the server's answer to a new step. base: the file of the initial segmentation after it
async function step(answer, base = page.base) {
  const change = await changed(answer);
  stepped(base);
  await apply(change);
  return change;
}

// The server's answer to a step that changes the session.
async function changed(answer) {
  try {
    return await answer;
  } catch (error) {
    if (isUnsure(error)) forgetSaved();
    throw error;
  }
}

// Whether the server may have done what it was asked to.
export function isUnsure(error) {
  return ![400, 409, 410].includes(error.status);
}

export function undo() {
  walk("Undo", "api/undo", -1, "Undone.");
}

export function redo() {
  walk("Redo", "api/redo", 1, "Redone.");
}

function walk(what, path, by, done) {
  if (!page.image) return;
  after(what, async () => {
    if (!(by < 0 ? page.can.undo : page.can.redo)) return say(`There is nothing to ${what.toLowerCase()}.`);
    const change = await changed(server.change(path));
    moved(by);
    await apply(change);
    return say(`${done} ${summary()}`);
  });
}

// Takes one prompt out, unless an earlier step has done so.
export function remove(prompt) {
  const number = page.prompts.indexOf(prompt);
  if (number < 0) return;
  after(`Removing prompt ${number + 1}`, async () => {
    if (keyOf(page.prompts[number]) !== keyOf(prompt)) return say("It is not there any more.");
    await step(server.remove(number));
    return say(`Prompt ${number + 1} (${prompt.entry.type}) removed. Undo restores it. ${summary()}`);
  });
}

// Puts a click elsewhere.
export function move(prompt, ras) {
  const number = numberOf(prompt);
  if (number < 0) return say("It is not there any more.");
  if (viewer.isSameVoxel(page.prompts[number].ras[0], ras)) return undefined;
  const moving = { prompt, ras };
  page.moving.push(moving);
  show();
  return after(`Moving click ${number + 1}`, async () => {
    const place = numberOf(prompt);
    if (place < 0) return say("It is not there any more.");
    const change = await step(server.replace(place, { ...prompt.entry, position: ras }, "ras"));
    page.prompts[place].seconds = change.seconds;
    return say(`Click ${place + 1} moved: ${change.seconds.toFixed(2)} s. Undo puts it back. ${summary()}`);
  }).then(() => {
    page.moving = page.moving.filter((one) => one !== moving);
    show();
  });
}

// The place of a prompt in page.prompts, which are new objects after every step; -1 if it is gone.
function numberOf(prompt) {
  return page.prompts.findIndex((one) => keyOf(one) === keyOf(prompt));
}

export function reset() {
  if (!page.prompts.length && !page.waiting.length && !page.base) return;
  after("Reset", async () => {
    const { base } = page;
    await step(server.change("api/reset"), null);
    say(`${base ? "Prompts and the earlier segmentation" : "All prompts"} removed. Undo restores them.`);
  });
}

export function correct(file) {
  after("Loading the segmentation", async () => {
    await step(server.segmentation(file), file);
    say(`${file.name} loaded; prompts correct it. ${summary()}`);
  });
}

// The model's answer without prompts becomes what further prompts correct.
export function startAutomatically() {
  if (!page.image?.automatic) return;
  const name = page.image.case;
  after("Segmenting without prompts", async () => {
    const change = await changed(server.change("api/automatic"));
    stepped(new File([await server.mask(name)], `${name}.nii.gz`));
    await apply(change);
    say(`The model's answer without prompts; prompts correct it. ${summary()}`);
  });
}

export function loadPrompts(file) {
  after("Loading the prompts", async () => {
    const change = await changed(server.load(file));
    stepped(change.started === false ? null : page.base);
    await apply(change);
    say(`${countPrompts(page.prompts)} loaded from ${file.name}. ${summary()}`);
  });
}

// ---------------------------------------------------------------- the server's state

// Brings a session back. image: what the server said when it opened the image again; prompts, base, dirty: as they were
export async function restore(image, { prompts, base, dirty }) {
  page.prompts = image.prompts ?? [];
  page.can = { undo: Boolean(image.can_undo), redo: Boolean(image.can_redo) };
  if (base === OPENED) {
    while (!leadTo(prompts) && page.can.undo) await apply(await server.change("api/undo"));
    if (!leadTo(prompts)) throw new ServerError(400, "The prompts cannot be restored: the case was saved with others since.");
  } else {
    if (image.draft && isOfOthers(prompts)) {
      throw new ServerError(400, "The prompts cannot be restored: somebody else has a newer draft of the case. Open it again.");
    }
    if (!base || page.prompts.length) await apply(await server.change("api/reset"));
    if (base) await apply(await server.segmentation(base));
  }
  for (const { entry, space } of prompts.slice(page.prompts.length)) {
    const change = await server.prompt(entry, space);
    await apply(change);
    page.prompts.at(-1).seconds = change.seconds;
  }
  startPast(base);
  if (dirty) forgetSaved();
  show();
}

// Whether the prompts that the server has are the first of these.
function leadTo(prompts) {
  return page.prompts.every((prompt, n) => keyOf(prompt) === keyOf(prompts[n]));
}

// Whether somebody else made prompts that the server has. Not told by the last ones, of which an answer may have been lost.
function isOfOthers(prompts) {
  const known = prompts.filter((one) => !one.waiting).slice(0, page.prompts.length);
  return page.prompts.length > prompts.length || known.some((one, n) => keyOf(one) !== keyOf(page.prompts[n]));
}

async function apply(change) {
  if (page.unsure) {
    // a response was lost, and the changes in it
    await viewer.replace(await server.mask(page.image.case));
    page.unsure = false;
  } else if (change.part) {
    viewer.change(change.part, change.voxels);
  }
  const times = Object.fromEntries(page.prompts.map((prompt) => [keyOf(prompt), prompt.seconds]));
  page.prompts = change.prompts.map((prompt) => ({ ...prompt, seconds: times[keyOf(prompt)] }));
  page.can = { undo: change.can_undo, redo: change.can_redo };
  page.facts = change.facts;
  page.remarks = change.remarks;
  page.also = change.also_open ?? page.also;
  if (change.started === false) page.base = null;
  page.dirty = isDirty();
  show();
}
