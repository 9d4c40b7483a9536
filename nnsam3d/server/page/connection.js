// The session with the server: connecting, losing the connection, reconnecting.

import { ServerError } from "./api.js";
import { choose, fillContrasts, setFill } from "./choices.js";
import { listCases, openCase } from "./files.js";
import { buildHelp } from "./keys.js";
import { recall } from "./memory.js";
import { $, buildLabels, count, countPrompts, nameOf } from "./panel.js";
import { empty, hideNotice, notice, say, show, summary } from "./show.js";
import { isUnsure, keepWaiting, restore, sendWaiting } from "./steps.js";
import { BACKGROUND, everyPrompt, isUnsaved, page, server, viewer, work } from "./state.js";
import { buildTools } from "./tools.js";

export async function connect() {
  let info, first;
  try {
    info = await server.claim();
    if (info.folder) first = await firstCase();
  } catch (error) {
    server.release(); // the next attempt begins anew
    empty("Not connected.");
    say("Not connected.");
    if (error.status === 401) return notice("The server requires a key: open the address printed by the server.");
    return notice(error.message, "Try again", connect);
  }
  page.info = info;
  const { model } = info;
  hideNotice();
  const [trainer, , configuration] = model.name.split("__"); // nnU-Net's names; an exported folder may have another
  $("model").textContent = configuration ? `${trainer}, ${configuration}` : model.name;
  $("model").title = `Model ${model.name}`;
  buildHelp(info.version, model.name, info.tools);
  page.label = Object.keys(model.labels).find((name) => model.labels[name] > 0) ?? BACKGROUND;
  buildLabels(model.labels, page.label, (name) => choose(name));
  setFill(Object.keys(model.labels).length > 2 ? "pattern" : "solid");
  fillContrasts(model.channels);
  buildTools();
  $("open").hidden = !info.upload;
  $("cases-row").hidden = !info.folder;
  $("save").hidden = $("save-next").hidden = !info.saves;
  $("next").hidden = !info.folder || info.saves;
  show();
  say("Connected.");
  if (info.folder) {
    if (first) return openCase(first);
    empty(info.upload ? "The server's folder contains no cases. Open a file, or drop one here." : "The server's folder contains no cases.");
  } else {
    empty(info.upload ? "Open an image, or drop one here." : "This model needs several channels: start the server with nnsam3d serve --images FOLDER.");
  }
}

// The case that was open last, if it is still there, else the next one to do.
async function firstCase() {
  await listCases();
  const last = recall("case");
  return page.cases.some((one) => one.case === last) ? last : ((await server.next()) ?? page.cases[0]?.case);
}

// Statuses of requests that may succeed if they are sent again: no connection, a busy server, or one behind a proxy that is away.
const TEMPORARY = [0, 408, 429, 502, 503, 504];

export function failed(error, what) {
  if (error.status === 410) lost(error);
  page.unsure ||= isUnsure(error);
  const temporary = TEMPORARY.includes(error.status);
  const kept = temporary && !page.restoring ? keepWaiting() : 0;
  const name = nameOf(page.waiting);
  page.flat = null;
  if (!kept) page.waiting = [];
  show();
  if (error.status === 410) return undefined;
  if (error.status === 409 && work.stopping) return say(`Stopped: ${what}.`);
  if (!(error instanceof ServerError)) console.error(error);
  if (temporary && page.restoring) return notice(error.message, "Try again", reconnect);
  if (!kept) return notice(error.message);
  const those = kept === 1 ? `The ${name} is` : `${count(kept, name)} are`;
  return notice(`${error.message} ${those} not lost.`, kept === 1 ? "Retry" : `Retry ${count(kept, name)}`, sendWaiting);
}

export function lost(error) {
  // if reconnecting is interrupted, the next attempt restores the same state
  page.restoring ??= page.source && { source: page.source, base: page.base, prompts: everyPrompt(), dirty: isUnsaved() };
  const prompts = page.restoring?.prompts ?? [];
  const restores = page.restoring ? ` and restore ${prompts.length ? countPrompts(prompts) : "the image"}` : "";
  notice(`The server has closed this session: ${error.message}`, `Reconnect${restores}`, reconnect);
}

async function reconnect() {
  hideNotice();
  if (!page.restoring) return connect();
  const { source } = page.restoring;
  return work.add("Reconnecting", async () => {
    await server.claim();
    const image = source.case ? await server.openCase(source.case) : await server.upload(source.file);
    await viewer.replace(await server.mask(image.case));
    page.waiting = [];
    page.unsure = false;
    await restore(image, page.restoring);
    page.restoring = null;
    say(`Reconnected. ${summary()}`);
  });
}
