// The state of the page, and its components.

import { Server } from "./api.js";
import { $ } from "./panel.js";
import { Viewer } from "./viewer.js";
import { Work } from "./work.js";

export const BACKGROUND = "background";

export const on = {}; // callbacks of the components below, set by app.js

const key = new URLSearchParams(location.search).get("key") ?? "";
export const server = new Server(key, (error) => on.lost(error));
export const work = new Work(server, on);
export const viewer = new Viewer($("view"), on);

export const page = {
  ready: false, // the first image has been opened, or there is none
  info: null, // about server and model, from the server
  source: null, // of the image: {case} or {file}
  image: null, // about the image, from the server
  cases: [],
  label: "",
  tool: "click", // of tools.js
  moving: [], // [{prompt, ras}]: clicks that are moved, without a response yet
  prompts: [], // [{entry, text, ras, drawn, label, value, seconds}]: entry as in a prompt file, ras: positions to draw, and how
  waiting: [], // prompts without a response yet: {queued}, {sent} if the server may have it, {lost} by the network,
  // {replaces} the one before, {space} of the entry, if it is not the file's voxels
  flat: null, // the box on a slice that was drawn last, if nothing was done since: a further drag gives it a depth
  facts: {},
  base: null, // the file of the initial segmentation; OPENED if only the server has it
  past: { at: 0, bases: {} }, // of past.js
  also: 0, // other clients that have the case open
  remarks: [],
  unsure: false, // the displayed mask may differ from the server's
  restoring: null, // {source, base, prompts, dirty} of a session that the server has ended
  can: { undo: false, redo: false },
  dirty: false, // there are unsaved changes
};

// Queues a step on the current image. It is dropped if another image is opened before it runs.
export function later(what, job) {
  const { image } = page;
  return work.add(what, async () => (page.image === image ? job() : undefined));
}

export function canSave() {
  return Boolean(page.info?.saves && page.source?.case && page.image);
}

// Whether leaving the image loses work.
export function isUnsaved() {
  return Boolean(page.image) && (page.dirty || page.waiting.length > 0 || page.moving.length > 0);
}

// What makes a prompt the same one after a step.
export function keyOf(prompt) {
  return JSON.stringify(prompt?.entry);
}

export function everyPrompt() {
  const made = [...page.prompts];
  for (const one of page.waiting) {
    if (one.replaces) made.pop();
    made.push(one);
  }
  return made;
}
