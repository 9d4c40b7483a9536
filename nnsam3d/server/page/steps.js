// Steps of the user: each is sent to the server, and the response is displayed.

import { count } from "./panel.js";
import { say, show, summary } from "./show.js";
import { BACKGROUND, later, page, server, viewer } from "./state.js";

export function clicked(ras, negative) {
  if (!page.image) return;
  const label = negative ? BACKGROUND : page.label;
  const click = { ras, label, value: page.info.model.labels[label], waiting: true };
  page.waiting.push(click);
  show();
  const received = () => (page.waiting = page.waiting.filter((one) => one !== click));
  later(`Click ${page.clicks.length + page.waiting.length}`, async () => {
    const began = performance.now();
    const change = await server.click(ras, label, "ras");
    received();
    await apply(change);
    const whole = (performance.now() - began) / 1000;
    page.clicks.at(-1).seconds = change.seconds;
    page.beforeReset = null;
    say(`Click ${page.clicks.length}: ${change.seconds.toFixed(2)} s, ${whole.toFixed(2)} s in total. ${summary()}`);
  }).then(() => {
    received();
    show();
  });
}

export function undo() {
  if (!page.can.undo && page.beforeReset) return restoreReset();
  if (page.can.undo || page.waiting.length) step("Undo", "/api/undo", "Undone.");
}

export function redo() {
  if (page.can.redo) step("Redo", "/api/redo", "Redone.");
}

function step(what, path, done) {
  later(what, async () => {
    await apply(await server.change(path));
    say(`${done} ${summary()}`);
  });
}

export function reset() {
  if (!page.clicks.length && !page.base) return;
  later("Reset", async () => {
    const before = { clicks: page.clicks, base: page.base };
    await apply(await server.change("/api/reset"));
    Object.assign(page, { beforeReset: before, base: null });
    show();
    say(`${before.base ? "Clicks and the earlier segmentation" : "All clicks"} removed. Undo restores them.`);
  });
}

function restoreReset() {
  const before = page.beforeReset;
  page.beforeReset = null; // or a second key press would restore them twice
  later("Restoring the clicks", async () => {
    try {
      await resend(before.clicks, before.base);
    } catch (error) {
      page.beforeReset = before;
      throw error;
    }
    show();
    say(`${count(before.clicks.length, "click")} restored. ${summary()}`);
  });
}

// Sends the same clicks again, also to a server that has just opened the image, which starts from a saved mask.
export async function resend(clicks, base) {
  await apply(base ? await server.segmentation(base) : await server.change("/api/reset"));
  page.base = base;
  for (const { position, ras, label } of clicks) {
    const change = position ? await server.click(position, label, "voxel") : await server.click(ras, label, "ras");
    await apply(change);
    page.clicks.at(-1).seconds = change.seconds;
  }
}

export function correct(file) {
  later("Loading the segmentation", async () => {
    await apply(await server.segmentation(file));
    Object.assign(page, { base: file, beforeReset: null });
    say(`${file.name} loaded; clicks correct it. ${summary()}`);
  });
}

export function loadClicks(file) {
  later("Loading the clicks", async () => {
    await apply(await server.clicks(file));
    page.beforeReset = null;
    say(`${count(page.clicks.length, "click")} loaded from ${file.name}. ${summary()}`);
  });
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
  const { labels } = page.info.model;
  page.clicks = change.clicks.map((click, n) => ({ ...click, value: labels[click.label], seconds: times[n] }));
  page.can = { undo: change.can_undo, redo: change.can_redo };
  page.facts = change.facts;
  page.remarks = change.remarks;
  page.dirty = page.clicks.length > 0 || page.base !== page.saved;
  show();
}
