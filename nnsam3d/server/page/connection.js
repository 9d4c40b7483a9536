// The session with the server: begun, lost, found again.

import { ServerError } from "./api.js";
import { choose, fillContrasts, setFill } from "./choices.js";
import { listCases, openCase } from "./files.js";
import { buildHelp } from "./keys.js";
import { $, buildLabels, count } from "./panel.js";
import { empty, hideNotice, notice, say, show, summary } from "./show.js";
import { resend } from "./steps.js";
import { BACKGROUND, everyClick, page, server, viewer, work } from "./state.js";

export async function connect() {
  let told;
  try {
    told = await server.claim();
  } catch (error) {
    empty("Not connected.");
    if (error.status === 401) return notice("The server wants its key: open the address that it printed when it started.");
    return notice(error.message, "Try again", connect);
  }
  page.told = told;
  const { model } = told;
  hideNotice();
  $("model").textContent = model.name;
  $("model").title = `Model ${model.name}`;
  buildHelp(told.version, model.name);
  page.label = Object.keys(model.labels).find((name) => model.labels[name] > 0) ?? BACKGROUND;
  buildLabels(model.labels, page.label, (name) => choose(name));
  setFill(Object.keys(model.labels).length > 2 ? "pattern" : "solid");
  fillContrasts(model.channels);
  $("open").hidden = !told.upload;
  $("cases-row").hidden = !told.folder;
  $("save").hidden = $("save-next").hidden = !told.saves;
  $("next").hidden = !told.folder || told.saves;
  show();
  if (told.folder) {
    await listCases();
    const first = page.cases.find((one) => !one.saved) ?? page.cases[0];
    if (first) return openCase(first.case);
    empty(told.upload ? "The server's folder holds no case. Open a file, or drop one here." : "The server's folder holds no case.");
  } else {
    empty(told.upload ? "Open an image, or drop one here." : "Models of several channels need a folder: nnsam3d serve --images.");
  }
  say("Connected.");
}

export function failed(error, what) {
  if (error.status === 410) lost(error);
  page.unsure ||= ![400, 409, 410].includes(error.status);
  page.waiting = [];
  show();
  if (error.status === 410) return undefined;
  if (error.status === 409) return say(`Stopped: ${what}.`);
  if (!(error instanceof ServerError)) console.error(error);
  if (error.status === 0 && page.restoring) return notice(error.message, "Try again", reconnect);
  return notice(error.message);
}

export function lost(error) {
  // a reconnection that is cut off starts from the same
  page.restoring ??= page.source && { source: page.source, base: page.base, clicks: everyClick() };
  const clicks = page.restoring?.clicks.length ?? 0;
  const restores = page.restoring ? ` and restore ${clicks ? count(clicks, "click") : "the image"}` : "";
  notice(`The server has closed this session: ${error.message}`, `Reconnect${restores}`, reconnect);
}

async function reconnect() {
  hideNotice();
  if (!page.restoring) return connect();
  const { source, base, clicks } = page.restoring;
  return work.add("Reconnecting", async () => {
    await server.claim();
    if (source.case) await server.openCase(source.case);
    else await server.upload(source.file);
    viewer.clear();
    page.clicks = [];
    await resend(clicks, base);
    page.restoring = null;
    say(`Connected again. ${summary()}`);
  });
}
