// A worker with a timer: browsers throttle timers of background pages, but not of workers.

setInterval(() => postMessage("tick"), 20_000);
