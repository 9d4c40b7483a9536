// The server's routes and the format of its responses. The only module that sends requests.
// Addresses are relative to the page's: the server may be behind a proxy, under a path of its own.

export class ServerError extends Error {
  // status: of HTTP; 0 if the server cannot be reached
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export class Server {
  // key: the server's key, from the page's address; onLost: called if a heartbeat finds that the session has ended
  constructor(key, onLost) {
    this.key = key;
    this.onLost = onLost;
    this.onAlive = () => {}; // called with the answer to every heartbeat
    this.lease = null;
    this.clock = new Worker(new URL("clock.js", import.meta.url));
    this.clock.addEventListener("message", () => this.lease && this.heartbeat());
  }

  async claim() {
    const info = await this.json("POST", "api/claim", {});
    this.lease = info.lease_token;
    return info;
  }

  async heartbeat() {
    try {
      this.onAlive(await this.json("POST", "api/heartbeat", {}));
    } catch (error) {
      // only the server itself can end the session: other errors may be temporary
      if (error.status !== 410) return;
      this.lease = null;
      this.onLost(error);
    }
  }

  // Called when the page is closed, where only a beacon is still sent.
  release() {
    if (!this.lease) return;
    const query = new URLSearchParams({ lease: this.lease, ...(this.key && { key: this.key }) });
    navigator.sendBeacon(`api/release?${query}`);
    this.lease = null;
  }

  // Returns the body of the answer, which is part of it: the connection may end in its middle.
  async send(method, path, body) {
    const headers = {};
    if (this.lease) headers["X-Lease-Token"] = this.lease;
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    let response;
    let content;
    try {
      response = await fetch(path, { method, headers, body, cache: "no-store" });
      content = await response.arrayBuffer();
    } catch {
      throw new ServerError(0, "The server cannot be reached. Is it still running?");
    }
    if (!response.ok) throw new ServerError(response.status, reason(response.status, content));
    return content;
  }

  async json(method, path, body) {
    return parsed(await this.send(method, path, body === undefined ? undefined : JSON.stringify(body)));
  }

  bytes(path) {
    return this.send("GET", path);
  }

  // A step of the session: sends JSON and receives a change.
  async change(path, body) {
    return changeOf(await this.send("POST", path, JSON.stringify(body ?? {})));
  }

  // Sends a file of the user. The server stores it under another name, which the errors do not mention.
  async file(path, file) {
    try {
      return await this.send("POST", `${path}?name=${encodeURIComponent(file.name)}`, file);
    } catch (error) {
      error.message = error.message.replace(/[\w.-]*_0000\.(nii|nrrd|mha)(\.gz)?/g, file.name);
      throw error;
    }
  }

  cases() {
    return this.json("GET", "api/cases");
  }

  // The name of the next case to do, or null.
  async next() {
    return (await this.json("GET", "api/next")).next;
  }

  // saved: what was saved, instead of one's own draft
  openCase(name, saved = false) {
    return this.json("POST", "api/open", { case: name, saved });
  }

  async upload(file) {
    return parsed(await this.file("api/upload", file));
  }

  image(number, name) {
    return this.bytes(`api/image/${number}/${encodeURIComponent(name)}`);
  }

  mask(name) {
    return this.bytes(`api/mask/${encodeURIComponent(name)}.nii.gz`);
  }

  prompts(name) {
    return this.bytes(`api/prompts/${encodeURIComponent(name)}.json`);
  }

  // entry: as in a prompt file; replace: in place of the last prompt
  prompt(entry, space = "voxel", replace = false) {
    return this.change("api/prompt", { ...entry, space, replace });
  }

  remove(number) {
    return this.change("api/remove", { number });
  }

  // entry: as in a prompt file, in place of the prompt with this number
  replace(number, entry, space) {
    return this.change("api/replace", { number, ...entry, space });
  }

  load(file) {
    return this.file("api/prompts", file).then(changeOf);
  }

  segmentation(file) {
    return this.file("api/segmentation", file).then(changeOf);
  }
}

function parsed(content) {
  return JSON.parse(new TextDecoder().decode(content));
}

// A change: JSON, and the labels in the changed box (i fastest).
function changeOf(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  return { ...parsed(new Uint8Array(buffer, 4, length)), voxels: new Uint8Array(buffer, 4 + length) };
}

function reason(status, content) {
  try {
    return plain(parsed(content).detail);
  } catch {
    return `The server answered with status ${status}.`;
  }
}

// What a reader's library adds, and folders, tell the user nothing: those of uploads are temporary.
export function plain(text) {
  return text
    .replace(/[:,]?\s*(Exception thrown in|ITK ERROR|itk::|sitk::)[^]*/, "")
    .replace(/(?<![\w.:/\\])(?:[A-Za-z]:)?(?:[\\/][^\s\\/"':]+)+[\\/]([^\s\\/"':]*)/g, "$1");
}
