// A worker that only ticks: browsers slow down the timers of pages in the background, and not those of workers.

setInterval(() => postMessage("tick"), 20_000);
