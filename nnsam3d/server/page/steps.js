// Steps of the user: each is sent to the server, and the response is displayed.

import { ServerError } from "./api.js";
import { count } from "./panel.js";
import { forgetSaved, isDirty, moved, OPENED, startPast, stepped } from "./past.js";
import { hideNotice, say, show, summary } from "./show.js";
import { BACKGROUND, later, page, server, viewer } from "./state.js";

// ---------------------------------------------------------------- clicks

export function clicked(ras, negative) {
  if (!page.image) return;
  if (page.restoring) return say("Nothing was clicked: reconnect first.");
  const label = negative ? BACKGROUND : page.label;
  page.waiting.push({ ras, label, value: page.info.model.labels[label], waiting: true });
  sendWaiting();
  show();
}

// Queues the clicks that are not queued: a new one, and before it those that the network has lost.
export function sendWaiting() {
  if (page.waiting.some((one) => one.lost)) hideNotice();
  for (const click of page.waiting.filter((one) => !one.queued)) queue(click);
}

function queue(click) {
  Object.assign(click, { queued: true, lost: false });
  later(`Click ${page.clicks.length + page.waiting.indexOf(click) + 1}`, async () => {
    const began = performance.now();
    const change = await changed(once(click));
    answered(click);
    stepped(page.base);
    await apply(change);
    const whole = (performance.now() - began) / 1000;
    page.clicks.at(-1).seconds = change.seconds;
    say(`Click ${page.clicks.length}: ${change.seconds.toFixed(2)} s, ${whole.toFixed(2)} s in total. ${summary()}`);
  }).then(() => {
    click.queued = false;
    if (!click.lost) answered(click);
    show();
  });
}

function answered(click) {
  page.waiting = page.waiting.filter((one) => one !== click);
}

// Sends a click. If the network lost the answer to it before, but not the click itself, the server now has it twice.
async function once(click) {
  const again = click.sent;
  click.sent = true;
  let change = await server.click(click.ras, click.label, "ras");
  while (again && change.clicks.length > page.clicks.length + 1) change = await server.change("api/undo");
  return change;
}

// Clicks that the network has lost stay in the list, until they are sent again or given up. Returns how many there are.
export function keepWaiting() {
  for (const click of page.waiting) click.lost = true;
  return page.waiting.length;
}

export function giveUpLost() {
  if (!page.waiting.some((one) => one.lost)) return;
  page.waiting = page.waiting.filter((one) => !one.lost);
  hideNotice();
  show();
}

// ---------------------------------------------------------------- other steps

// Queues a step after the clicks before it.
export function after(what, job) {
  sendWaiting();
  return later(what, job);
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

export function reset() {
  if (!page.clicks.length && !page.waiting.length && !page.base) return;
  after("Reset", async () => {
    const { base } = page;
    const change = await changed(server.change("api/reset"));
    stepped(null);
    await apply(change);
    say(`${base ? "Clicks and the earlier segmentation" : "All clicks"} removed. Undo restores them.`);
  });
}

export function correct(file) {
  after("Loading the segmentation", async () => {
    const change = await changed(server.segmentation(file));
    stepped(file);
    await apply(change);
    say(`${file.name} loaded; clicks correct it. ${summary()}`);
  });
}

export function loadClicks(file) {
  after("Loading the clicks", async () => {
    const change = await changed(server.clicks(file));
    stepped(change.started === false ? null : page.base);
    await apply(change);
    say(`${count(page.clicks.length, "click")} loaded from ${file.name}. ${summary()}`);
  });
}

// ---------------------------------------------------------------- the server's state

// Brings a session back. image: what the server said when it opened the image again; clicks, base, dirty: as they were
export async function restore(image, { clicks, base, dirty }) {
  page.clicks = withValues(image.clicks ?? []);
  page.can = { undo: Boolean(image.can_undo), redo: Boolean(image.can_redo) };
  if (base === OPENED) {
    while (!leadTo(clicks) && page.can.undo) await apply(await server.change("api/undo"));
    if (!leadTo(clicks)) throw new ServerError(400, "The clicks cannot be restored: the case was saved with other clicks since.");
  } else {
    if (!base || page.clicks.length) await apply(await server.change("api/reset"));
    if (base) await apply(await server.segmentation(base));
  }
  for (const { position, ras, label } of clicks.slice(page.clicks.length)) {
    const change = position ? await server.click(position, label, "voxel") : await server.click(ras, label, "ras");
    await apply(change);
    page.clicks.at(-1).seconds = change.seconds;
  }
  startPast(base);
  if (dirty) forgetSaved();
  show();
}

// Whether the clicks that the server has are the first of these.
function leadTo(clicks) {
  return page.clicks.every(({ label, position }, n) => label === clicks[n]?.label && `${position}` === `${clicks[n].position}`);
}

export function withValues(clicks) {
  return clicks.map((click) => ({ ...click, value: page.info.model.labels[click.label] }));
}

async function apply(change) {
  if (page.unsure) {
    // a response was lost, and the changes in it
    await viewer.replace(await server.mask(page.image.case));
    page.unsure = false;
  } else if (change.box) {
    viewer.change(change.box, change.voxels);
  }
  const times = page.clicks.map((click) => click.seconds);
  page.clicks = withValues(change.clicks).map((click, n) => ({ ...click, seconds: times[n] }));
  page.can = { undo: change.can_undo, redo: change.can_redo };
  page.facts = change.facts;
  page.remarks = change.remarks;
  page.also = change.also_open ?? page.also;
  if (change.started === false) page.base = null;
  page.dirty = isDirty();
  show();
}
