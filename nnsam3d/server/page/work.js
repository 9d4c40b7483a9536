// The queue of steps: one runs at a time, shows its progress and can be cancelled.

const SILENT = 250; // ms before progress is shown: most clicks take less
const POLL = 400; // ms

const WHAT = {
  reading: () => "Reading the image",
  window: (number) => `Segmenting part ${number + 1} of the image`,
  "warming up": () => "Warming up the model",
  waiting: (number) => (number ? `Waiting: ${number} request${number === 1 ? "" : "s"} before this one` : "Waiting"),
};

export class Work {
  // callbacks: {busy(text or null, waiting), failed(error, what)}
  constructor(server, callbacks) {
    this.server = server;
    this.callbacks = callbacks;
    this.queue = [];
    this.running = null;
    this.stopping = false; // the running step is being cancelled
  }

  // job: an async function. The promise resolves to its value, or to undefined if it failed or was dropped.
  add(what, job) {
    return new Promise((done) => {
      this.queue.push({ what, job, done });
      if (!this.running) this.#run();
    });
  }

  async cancel() {
    this.drop();
    if (!this.running) return;
    this.stopping = true;
    try {
      await this.server.json("POST", "api/cancel", {});
    } catch {
      // the running step reports the error
    }
  }

  drop() {
    for (const { done } of this.queue.splice(0)) done(undefined);
  }

  async #run() {
    while (this.queue.length) {
      const step = this.queue.shift();
      this.running = step;
      this.stopping = false;
      const stopWatching = this.#watch(step);
      let value;
      try {
        value = await step.job();
      } catch (error) {
        this.drop(); // later steps assume that this one succeeded
        this.callbacks.failed(error, step.what);
      }
      stopWatching();
      this.running = null;
      step.done(value);
    }
    this.callbacks.busy(null, 0);
  }

  #watch(step) {
    const start = performance.now();
    let what = step.what;
    let over = false;
    const show = () => {
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      if (!over) this.callbacks.busy(`${what}… ${seconds} s`, this.queue.length);
    };
    const look = async () => {
      try {
        const progress = await this.server.json("GET", "api/progress");
        what = WHAT[progress.what]?.(progress.number) ?? step.what;
      } catch {
        // not reported: the step itself fails too
      }
    };
    let ticking;
    let looking;
    const first = setTimeout(() => {
      look().then(show);
      ticking = setInterval(show, 100);
      looking = setInterval(look, POLL);
    }, SILENT);
    return () => {
      over = true;
      clearTimeout(first);
      clearInterval(ticking);
      clearInterval(looking);
    };
  }
}
