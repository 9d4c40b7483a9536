// One thing after the other: steps wait in a queue, and the one under way says what it does and can be stopped.

const SILENT = 250; // ms before anything is shown: most clicks take less
const POLL = 400; // ms

const WHAT = {
  reading: () => "Reading the image",
  window: (number) => `Looking at part ${number + 1} of the image`,
  "warming up": () => "Preparing the model",
};

export class Work {
  // told: {busy(text or null, waiting), failed(error, what)}
  constructor(server, told) {
    this.server = server;
    this.told = told;
    this.queue = [];
    this.running = null;
  }

  // job: async function. The promise holds its value, or undefined where it failed or was dropped.
  add(what, job) {
    return new Promise((done) => {
      this.queue.push({ what, job, done });
      if (!this.running) this.#run();
    });
  }

  get waiting() {
    return this.queue.length;
  }

  async cancel() {
    this.drop();
    if (!this.running) return;
    try {
      await this.server.json("POST", "/api/cancel", {});
    } catch {
      // the step that runs will say what is wrong
    }
  }

  drop() {
    for (const { done } of this.queue.splice(0)) done(undefined);
  }

  async #run() {
    while (this.queue.length) {
      const step = this.queue.shift();
      this.running = step;
      const watch = this.#watch(step);
      let value;
      try {
        value = await step.job();
      } catch (error) {
        this.drop(); // what was asked for after it assumed that it works
        this.told.failed(error, step.what);
      }
      watch.stop();
      this.running = null;
      step.done(value);
    }
    this.told.busy(null, 0);
  }

  #watch(step) {
    const start = performance.now();
    let what = step.what;
    let over = false;
    const show = () => {
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      if (!over) this.told.busy(`${what}… ${seconds} s`, this.waiting);
    };
    const look = async () => {
      try {
        const told = await this.server.json("GET", "/api/progress");
        what = WHAT[told.what]?.(told.number) ?? step.what;
      } catch {
        // not worth a word: the step itself will fail too
      }
    };
    let ticking;
    let looking;
    const first = setTimeout(() => {
      look().then(show);
      ticking = setInterval(show, 100);
      looking = setInterval(look, POLL);
    }, SILENT);
    return {
      stop: () => {
        over = true;
        clearTimeout(first);
        clearInterval(ticking);
        clearInterval(looking);
      },
    };
  }
}
