// The mouse on the planes: clicks, strokes that draw on a slice, and zooming. Everything else is NiiVue's.

import { AXES } from "./viewer.js";

// A pointer that moves farther is dragging. Fingers roll.
const CLICK_PIXELS = { mouse: 3, pen: 5, touch: 7 };
const STROKE_PIXELS = 2; // between points of a stroke

function isDrag(start, { clientX, clientY, pointerType }) {
  return Math.hypot(clientX - start.clientX, clientY - start.clientY) > (CLICK_PIXELS[pointerType] ?? CLICK_PIXELS.mouse);
}

export class Pointer {
  #down = null; // what is pressed

  // viewer: its callbacks are told of clicks and strokes
  constructor(viewer) {
    this.viewer = viewer;
    this.draws = false; // dragging draws a stroke
    this.#listen();
  }

  // The tile with a plane under the pointer, or -1.
  #planeAt(event) {
    const tile = this.viewer.nv.tileIndex(...this.#pixel(event));
    return tile >= 0 && this.viewer.nv.screenSlices[tile].axCorSag in AXES ? tile : -1;
  }

  #pixel({ clientX, clientY }) {
    const rect = this.viewer.canvas.getBoundingClientRect();
    return [clientX - rect.left, clientY - rect.top].map((n) => n * this.viewer.nv.uiData.dpr);
  }

  #tileAt(event) {
    const tile = this.#planeAt(event);
    if (tile < 0) return null;
    const frac = this.viewer.nv.screenXY2TextureFrac(...this.#pixel(event), tile, true);
    if (frac[0] < 0) return null; // outside the image
    return { frac: this.viewer.nv.vox2frac(this.viewer.nv.frac2vox(frac)), plane: this.viewer.nv.screenSlices[tile].axCorSag };
  }

  // A stroke on a slice: points in NiiVue's voxels, all of them in the image; across: the axis of the slices.
  #strokeFrom(event) {
    const tile = this.#planeAt(event);
    if (tile < 0) return null;
    const across = AXES[this.viewer.nv.screenSlices[tile].axCorSag][2];
    const slice = this.viewer.nv.frac2vox(this.viewer.nv.scene.crosshairPos)[across];
    return { tile, across, slice, points: [this.#voxAt(event, tile)], moved: false };
  }

  #voxAt(event, tile) {
    const [left, top, width, height] = this.viewer.nv.screenSlices[tile].leftTopWidthHeight;
    const within = (n, from, size) => Math.min(Math.max(from, from + size) - 0.01, Math.max(Math.min(from, from + size) + 0.01, n));
    const [x, y] = this.#pixel(event);
    const frac = this.viewer.nv.screenXY2TextureFrac(within(x, left, width), within(y, top, height), tile, false);
    return this.viewer.dims.map((n, axis) => Math.min(1, Math.max(0, frac[axis])) * n - 0.5);
  }

  // Moves a click with the pointer, on the slice where it is.
  #carry(down, event) {
    down.moved ||= isDrag(down, event);
    const place = this.#tileAt(event);
    if (place?.plane === down.place.plane) down.at = place.frac;
    if (down.moved) this.viewer.callbacks.drawn();
  }

  #worldAt(frac) {
    return [...this.viewer.nv.frac2mm(frac, 0, true).slice(0, 3)];
  }

  // The stroke that is being drawn.
  get stroke() {
    return this.#down?.stroke?.moved ? this.#down.stroke : null;
  }

  // The click that is being moved, and where it is now: {prompt, ras}.
  get carried() {
    return this.#down?.moved ? { prompt: this.#down.grabbed, ras: this.#worldAt(this.#down.at) } : null;
  }

  // Gives up what is being drawn or moved. Returns whether there was something.
  drop() {
    if (!this.stroke && !this.carried) return false;
    this.#down = null;
    this.viewer.callbacks.drawn();
    return true;
  }

  #listen() {
    const { canvas } = this.viewer;
    canvas.addEventListener("pointerdown", (event) => {
      this.#down = null;
      if (!this.viewer.image || !event.isPrimary) return; // a second finger zooms or scrolls
      // Where the planes are now, not where a slow renderer has drawn them last. And it stays where the pointer went down,
      // whatever is drawn before it goes up.
      this.viewer.draw();
      const range = [this.viewer.image.cal_min, this.viewer.image.cal_max];
      const { pointerId, button, clientX, clientY } = event;
      const stroke = this.draws && button === 0 ? this.#strokeFrom(event) : null;
      const place = this.#tileAt(event);
      const { left, top } = canvas.getBoundingClientRect();
      const grabbed = place && button === 0 && !stroke ? this.viewer.callbacks.grab(clientX - left, clientY - top) : undefined;
      this.#down = { pointerId, button, clientX, clientY, range, image: this.viewer.image, place, stroke, grabbed, at: place?.frac };
      if (stroke || grabbed) canvas.setPointerCapture(pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const down = this.#down;
      if (down?.pointerId !== event.pointerId) return;
      if (down.grabbed) this.#carry(down, event);
      if (!down.stroke) return;
      const { stroke } = down;
      stroke.moved ||= isDrag(down, event);
      const events = event.getCoalescedEvents();
      for (const one of events.length ? events : [event]) {
        if (Math.hypot(one.clientX - (down.lastX ?? down.clientX), one.clientY - (down.lastY ?? down.clientY)) < STROKE_PIXELS) continue;
        [down.lastX, down.lastY] = [one.clientX, one.clientY];
        stroke.points.push(this.#voxAt(one, stroke.tile));
      }
      if (stroke.moved) this.viewer.callbacks.drawn();
    });
    canvas.addEventListener("pointerup", (event) => {
      const start = this.#down;
      this.#down = null;
      if (!start || start.pointerId !== event.pointerId || start.button !== event.button || this.viewer.image !== start.image) return;
      const negative = event.button === 2 || event.shiftKey || event.altKey || event.ctrlKey;
      if (start.stroke?.moved) {
        start.stroke.points.push(this.#voxAt(event, start.stroke.tile));
        this.viewer.callbacks.stroke(start.stroke, negative);
        return;
      }
      if (start.moved) return this.viewer.callbacks.move(start.grabbed, this.#worldAt(start.at));
      if (isDrag(start, event) || event.button === 1) return;
      const { place, range } = start;
      if (event.button === 2 && range.join() !== [this.viewer.image.cal_min, this.viewer.image.cal_max].join()) {
        this.viewer.setContrast(range, this.viewer.image.colormapInvert); // undo the contrast change of a click that moved by a pixel
      }
      if (!place) {
        this.viewer.callbacks.missed();
        return;
      }
      this.viewer.plane = place.plane;
      this.viewer.nv.scene.crosshairPos = place.frac;
      this.viewer.nv.drawScene();
      this.viewer.callbacks.moved();
      this.viewer.callbacks.click(this.viewer.mm, negative);
    });
    canvas.addEventListener("pointercancel", () => {
      this.#down = null;
      this.viewer.callbacks.drawn();
    });
    // NiiVue moves the crosshair with the same events
    for (const name of ["mousedown", "mousemove", "mouseup", "touchstart", "touchmove", "touchend"]) {
      canvas.addEventListener(name, (event) => (this.#down?.stroke || this.#down?.grabbed) && event.stopImmediatePropagation(), { capture: true });
    }
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!this.viewer.image) return;
        const place = this.#tileAt(event);
        if (place) this.viewer.plane = place.plane;
        if (!event.ctrlKey) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        this.viewer.zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1);
      },
      { capture: true, passive: false },
    );
    // disable NiiVue's handlers: they reset the contrast and use keys that have other functions on this page
    for (const name of ["dblclick", "keydown", "keyup"]) {
      canvas.addEventListener(name, (event) => event.stopImmediatePropagation(), { capture: true });
    }
  }
}
