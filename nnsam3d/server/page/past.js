// The page's place in the server's history, which undo and redo walk through. It tells what is not saved, and what the mask
// starts from.

import { page } from "./state.js";

export const OPENED = "opened"; // a base that only the server has: what a saved case starts from, beneath its prompts

// An image was opened. base: a file, null, or OPENED
export function startPast(base) {
  page.past = { at: 0, bases: { 0: base } };
  page.base = base;
  markSaved();
}

// The server took a new step, after which the mask starts from base.
export function stepped(base) {
  const { past } = page;
  past.at += 1;
  if (past.saved >= past.at) past.saved = null; // redo does not lead back to what was saved
  past.bases[past.at] = base;
  page.base = base;
}

// by: -1 for undo, 1 for redo
export function moved(by) {
  page.past.at += by;
  page.base = page.past.bases[page.past.at] ?? OPENED;
}

export function markSaved() {
  Object.assign(page.past, { saved: page.past.at, print: print() });
  page.dirty = false;
}

// The history is no longer known: an answer was lost, or what was saved is not in it.
export function forgetSaved() {
  page.past.saved = null;
  page.dirty = true;
}

export function isDirty() {
  return page.past.saved !== page.past.at || page.past.print !== print();
}

function print() {
  return JSON.stringify(page.prompts.map(({ entry }) => entry));
}
