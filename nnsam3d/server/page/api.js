// The server's routes, and what its answers look like. The only module that sends requests.

export class ServerError extends Error {
  // status 0: the server cannot be reached
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// A change: JSON facts, and the labels of the box that changed (i fastest).
export function decodeChange(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { ...told, voxels: new Uint8Array(buffer, 4 + length) };
}

export class Server {
  // key: the server's, from the page's own address; onLost: called when a heartbeat finds the session gone
  constructor(key, onLost) {
    this.key = key;
    this.onLost = onLost;
    this.lease = null;
    this.clock = new Worker("/page/clock.js");
    this.clock.addEventListener("message", () => this.lease && this.heartbeat());
  }

  async claim() {
    const told = await this.json("POST", "/api/claim", {});
    this.lease = told.lease_token;
    return told;
  }

  async heartbeat() {
    try {
      await this.json("POST", "/api/heartbeat", {});
    } catch (error) {
      // a server that is away for a moment may come back: only what it says itself counts
      if (error.status === 410) this.lost(error);
    }
  }

  lost(error) {
    this.lease = null;
    this.onLost(error);
  }

  // While the page is being closed, when nothing else is sent any more.
  release() {
    if (!this.lease) return;
    const query = new URLSearchParams({ lease: this.lease, ...(this.key && { key: this.key }) });
    navigator.sendBeacon(`/api/release?${query}`);
    this.lease = null;
  }

  async send(method, path, body) {
    const headers = {};
    if (this.lease) headers["X-Lease-Token"] = this.lease;
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    let answer;
    try {
      answer = await fetch(path, { method, headers, body, cache: "no-store" });
    } catch {
      throw new ServerError(0, "The server cannot be reached. Is it still running?");
    }
    if (!answer.ok) throw new ServerError(answer.status, await reason(answer));
    return answer;
  }

  async json(method, path, body) {
    const answer = await this.send(method, path, body === undefined ? undefined : JSON.stringify(body));
    return answer.json();
  }

  async bytes(path) {
    return (await this.send("GET", path)).arrayBuffer();
  }

  // A step of the session: {} or a file's bytes go out, a change comes back.
  async change(path, body) {
    const sent = body instanceof Blob ? body : JSON.stringify(body ?? {});
    return decodeChange(await (await this.send("POST", path, sent)).arrayBuffer());
  }

  cases() {
    return this.json("GET", "/api/cases");
  }

  openCase(name) {
    return this.json("POST", "/api/open", { case: name });
  }

  async upload(file) {
    const answer = await this.send("POST", `/api/upload?name=${encodeURIComponent(file.name)}`, file);
    return answer.json();
  }

  image(number, name) {
    return this.bytes(`/api/image/${number}/${encodeURIComponent(name)}`);
  }

  mask(name) {
    return this.bytes(`/api/mask/${encodeURIComponent(name)}.nii.gz`);
  }

  prompts(name) {
    return this.bytes(`/api/prompts/${encodeURIComponent(name)}.json`);
  }

  click(position, label, space) {
    return this.change("/api/click", { position, label, space });
  }

  segmentation(file) {
    return this.change(`/api/segmentation?name=${encodeURIComponent(file.name)}`, file);
  }
}

async function reason(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The server answered with status ${answer.status}.`;
  }
}
