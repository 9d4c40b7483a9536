// What the page knows, and the parts it works with.

import { Server } from "./api.js";
import { $ } from "./panel.js";
import { Viewer } from "./viewer.js";
import { Work } from "./work.js";

export const BACKGROUND = "background";

export const on = {}; // who listens to the parts below: app.js says it

const key = new URLSearchParams(location.search).get("key") ?? "";
export const server = new Server(key, (error) => on.lost(error));
export const work = new Work(server, { busy: (...told) => on.busy(...told), failed: (...told) => on.failed(...told) });
export const viewer = new Viewer($("view"), {
  click: (...told) => on.click(...told),
  drawn: () => on.drawn(),
  moved: () => on.moved(),
});

export const page = {
  ready: false, // the first image is open, or there is none to open
  told: null, // what the server said of itself
  source: null, // {case} or {file}: where the image came from
  image: null, // what the server said of it
  cases: [],
  label: "",
  clicks: [], // [{ras, position, label, value, seconds}]
  waiting: [], // clicks that have not been answered
  facts: {},
  base: null, // the file of a segmentation to start from
  beforeReset: null, // {clicks, base}
  remarks: [],
  unsure: false, // whether the mask that is shown is the server's
  restoring: null, // {source, base, clicks} of a session that the server has closed
  can: { undo: false, redo: false },
  dirty: false, // something that is not saved or downloaded
};

// A step on the image that is open now: it is dropped where another one has been opened before its turn comes.
export function later(what, job) {
  const { image } = page;
  return work.add(what, async () => (page.image === image ? job() : undefined));
}

export function canSave() {
  return Boolean(page.told?.saves && page.source?.case && page.image);
}

export function everyClick() {
  return [...page.clicks, ...page.waiting];
}
