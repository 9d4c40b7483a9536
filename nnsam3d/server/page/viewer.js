// Displays the image and the mask, and maps canvas positions to image positions. The only module that uses NiiVue.

import { DRAG_MODE, Niivue, NVImage, SLICE_TYPE } from "./niivue.js";
import { colourTable, paint, period } from "./palette.js";
import { Pointer } from "./pointer.js";

const RENDER = SLICE_TYPE.RENDER;
export const PLANES = { axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL, sagittal: SLICE_TYPE.SAGITTAL };
const GAP = 0.004; // share of the canvas: black gap between the tiles
const HALF = (1 - GAP) / 2;
const FAR = HALF + GAP;
const TILES = [
  { name: "axial", sliceType: PLANES.axial, position: [0, 0, HALF, HALF] },
  { name: "sagittal", sliceType: PLANES.sagittal, position: [FAR, 0, HALF, HALF] },
  { name: "coronal", sliceType: PLANES.coronal, position: [0, FAR, HALF, HALF] },
  { name: "3D", sliceType: RENDER, position: [FAR, FAR, HALF, HALF] },
];
export const VIEWS = ["all", "axial", "coronal", "sagittal", "3D"];
// for each plane, the axes (R, A, S) to the right, up, and across the slices
export const AXES = { [PLANES.axial]: [0, 1, 2], [PLANES.coronal]: [0, 2, 1], [PLANES.sagittal]: [1, 2, 0] };
const SLAB = 0.08; // half the thickness, as a share of the image
// azimuth and elevation of clip planes that keep what is above -depth and below depth along an axis
const SLABS = {
  axial: { axis: 2, above: [0, -90], below: [0, 90] },
  coronal: { axis: 1, above: [0, 0], below: [180, 0] },
  sagittal: { axis: 0, above: [270, 0], below: [90, 0] },
};
const NEVER = [2, 0, 0]; // a clip plane outside the image
const ZOOMS = [0.5, 12];

export class Viewer {
  #drawNow; // NiiVue's own drawScene
  #coming = false; // a redraw has been requested

  // callbacks: {click(mm, negative), stroke(stroke, negative), grab(x, y), move(prompt, mm), missed(), drawn(), moved()};
  // the first five from Pointer. grab returns the click that can be moved from there, if any.
  constructor(canvas, callbacks) {
    this.canvas = canvas;
    this.callbacks = callbacks;
    this.view = "all";
    this.slab = "whole";
    this.fill = "solid";
    this.opacity = 0.45;
    this.hidden = false; // the mask is not shown
    this.plane = PLANES.axial; // in which the arrow keys move
    this.labels = null; // of all voxels, in the file's order
    this.nv = new Niivue({
      dragAndDropEnabled: false,
      isForceMouseClickToVoxelCenters: true,
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      showAllOrientationMarkers: true,
      show3Dcrosshair: true,
      crosshairColor: [0.35, 0.78, 1, 0.6],
      crosshairWidth: 0.25,
      crosshairWidthUnit: "percent",
      crosshairGap: 10,
      fontColor: [0.75, 0.78, 0.82, 1],
      backColor: [0, 0, 0, 1],
      clipPlaneColor: [0, 0, 0, 0],
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
      viewModeHotKey: "",
      loadingText: "",
      logLevel: "error",
      mouseEventConfig: {
        leftButton: { primary: DRAG_MODE.crosshair, withShift: DRAG_MODE.crosshair, withCtrl: DRAG_MODE.crosshair },
        rightButton: DRAG_MODE.windowing,
        centerButton: DRAG_MODE.pan,
      },
    });
    this.pointer = new Pointer(this);
  }

  async start() {
    await this.nv.attachToCanvas(this.canvas);
    this.#drawNow = this.nv.drawScene.bind(this.nv);
    // A click requests five redraws: draw once per frame.
    this.nv.drawScene = () => {
      if (this.#coming) return;
      this.#coming = true;
      requestAnimationFrame(() => this.draw());
    };
    this.nv.onLocationChange = () => this.callbacks.moved();
    this.show("all");
  }

  // Draws now if a redraw has been requested.
  draw() {
    if (!this.#coming) return;
    this.#coming = false;
    this.#placeSlab();
    this.#drawNow();
    this.callbacks.drawn();
  }

  get image() {
    return this.nv.volumes[0];
  }

  get mask() {
    return this.nv.volumes[1];
  }

  // ---------------------------------------------------------------- image and mask

  // image: bytes of a file named name; mask: bytes of a NIfTI file on the same grid
  async load(image, name, mask) {
    const above = await NVImage.loadFromUrl({ url: mask, name: "mask.nii.gz" });
    const below = await NVImage.loadFromUrl({ url: image, name });
    if (below.hdr.dims.slice(1, 4).join() !== above.hdr.dims.slice(1, 4).join()) {
      throw new Error("its size in the browser differs from its size on the server");
    }
    // Headers can contain several grids or none: use the grid that the server uses.
    below.hdr.affine = above.hdr.affine.map((row) => [...row]);
    below.calculateRAS();
    above.img = Uint8Array.from(above.img);
    above.setColormapLabel(colourTable());
    above.opacity = this.hidden ? 0 : this.opacity;
    this.unload();
    this.nv.addVolume(below);
    this.nv.addVolume(above);
    this.range = [below.cal_min, below.cal_max];
    this.labels = Uint8Array.from(above.img);
    this.nv.scene.crosshairPos = this.nv.vox2frac(this.nv.frac2vox([0.5, 0.5, 0.5]));
    this.fit();
    this.repaint();
  }

  unload() {
    for (const volume of [...this.nv.volumes].reverse()) this.nv.removeVolume(volume);
  }

  get shape_ijk() {
    return [...this.image.hdr.dims.slice(1, 4)];
  }

  get spacing_ijk() {
    return [...this.image.hdr.pixDims.slice(1, 4)].map(Math.abs);
  }

  // Replaces the labels in a box (i fastest).
  change(box, voxels) {
    const [[i0, i1], [j0, j1], [k0, k1]] = box;
    const [ni, nj] = this.shape_ijk;
    let from = 0;
    for (let k = k0; k < k1; k++) {
      for (let j = j0; j < j1; j++) {
        this.labels.set(voxels.subarray(from, from + i1 - i0), i0 + ni * (j + nj * k));
        from += i1 - i0;
      }
    }
    // one voxel more: outlines depend on the neighbours
    this.#paint(box.map(([from, to], axis) => [Math.max(from - 1, 0), Math.min(to + 1, this.shape_ijk[axis])]));
  }

  // mask: bytes of a NIfTI file on the grid of the current mask
  async replace(mask) {
    this.labels = Uint8Array.from((await NVImage.loadFromUrl({ url: mask, name: "mask.nii.gz" })).img);
    this.repaint();
  }

  repaint() {
    if (this.mask) this.#paint(this.shape_ijk.map((n) => [0, n]));
  }

  #paint(box) {
    const { shape_ijk, spacing_ijk } = this;
    const steps = spacing_ijk.map((step) => step / period(shape_ijk, spacing_ijk));
    paint(this.labels, this.mask.img, shape_ijk, box, steps, this.fill);
    // updates the mask only, because uploading the image to the GPU is slow
    this.nv.refreshLayers(this.mask, 1);
    this.nv.drawScene();
  }

  // fill: "solid", "pattern" or "outline"
  setFill(fill) {
    this.fill = fill;
    this.repaint();
  }

  setHidden(hidden) {
    this.hidden = hidden;
    this.setOpacity(this.opacity);
  }

  setOpacity(share) {
    this.opacity = share;
    if (!this.mask) return;
    this.mask.opacity = this.hidden ? 0 : share;
    this.#paint([[0, 0], [0, 0], [0, 0]]);
  }

  // range: [low, high] in the image's units; null for the initial range
  setContrast(range, inverted = false) {
    if (!this.image) return;
    [this.image.cal_min, this.image.cal_max] = range ?? this.range;
    this.image.colormapInvert = inverted;
    this.nv.updateGLVolume();
  }

  // ---------------------------------------------------------------- views

  show(view) {
    this.view = view;
    if (view === "all") {
      this.nv.setSliceType(SLICE_TYPE.MULTIPLANAR); // a rendering would ignore the layout
      this.nv.setCustomLayout(TILES);
    } else {
      this.nv.clearCustomLayout();
      this.nv.setSliceType(PLANES[view] ?? RENDER);
    }
    if (view in PLANES) this.plane = PLANES[view];
    this.callbacks.drawn();
  }

  setSlab(slab) {
    this.slab = slab;
    this.nv.drawScene();
  }

  // Two clip planes around the crosshair, after one that clips nothing: dragging rotates the first plane if it clips, and
  // otherwise the view.
  #placeSlab() {
    const { scene } = this.nv;
    const slab = SLABS[this.slab];
    scene.clipPlaneDepthAziElevs = [NEVER];
    if (!slab) return;
    const depth = scene.crosshairPos[slab.axis] - 0.5;
    scene.clipPlaneDepthAziElevs.push([SLAB - depth, ...slab.above], [SLAB + depth, ...slab.below]);
  }

  fit() {
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
  }

  // Zooms around the crosshair.
  zoom(factor) {
    if (!this.image) return;
    const [x, y, z, old] = this.nv.scene.pan2Dxyzmm;
    const zoom = Math.min(ZOOMS[1], Math.max(ZOOMS[0], old * factor));
    const mm = this.nv.frac2mm(this.nv.scene.crosshairPos);
    const change = old - zoom;
    this.nv.setPan2Dxyzmm([x + change * mm[0], y + change * mm[1], z + change * mm[2], zoom]);
  }

  // ---------------------------------------------------------------- places

  // The crosshair in RAS mm: world coordinates, not those of the drawn planes, which ignore oblique directions.
  get mm() {
    return [...this.nv.frac2mm(this.nv.scene.crosshairPos, 0, true).slice(0, 3)];
  }

  // The label under the crosshair.
  get label() {
    const [i, j, k] = this.toFile(this.nv.frac2vox(this.nv.scene.crosshairPos));
    const [ni, nj] = this.shape_ijk;
    return this.labels[i + ni * (j + nj * k)];
  }

  get value() {
    const [x, y, z] = this.nv.frac2vox(this.nv.scene.crosshairPos);
    return this.image.getValue(x, y, z, 0);
  }

  // NiiVue's voxels, which increase towards R, A, S -> those of the file, which may not.
  toFile(vox) {
    const { permRAS, dimsRAS } = this.image;
    const index = [0, 0, 0];
    permRAS.forEach((signed, axis) => {
      index[Math.abs(signed) - 1] = signed > 0 ? vox[axis] : dimsRAS[axis + 1] - 1 - vox[axis];
    });
    return index;
  }

  // NiiVue's voxels -> RAS mm
  toWorld(vox) {
    return [...this.nv.frac2mm(vox.map((n, axis) => (n + 0.5) / this.dims[axis]), 0, true).slice(0, 3)];
  }

  // RAS mm -> NiiVue's voxels
  toVoxel(mm) {
    return [...this.nv.frac2vox(this.nv.mm2frac(mm, 0, true))];
  }

  isSameVoxel(mm, other) {
    return this.toVoxel(mm).join() === this.toVoxel(other).join();
  }

  // mm along NiiVue's axes
  get voxelSize() {
    const origin = this.toWorld([0, 0, 0]);
    return [0, 1, 2].map((axis) => Math.hypot(...this.toWorld([0, 1, 2].map((n) => Number(n === axis))).map((mm, n) => mm - origin[n])));
  }

  // The size in NiiVue's voxels.
  get dims() {
    return [...this.image.dimsRAS.slice(1, 4)];
  }

  goTo(mm) {
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm, 0, true);
    this.nv.drawScene();
    this.callbacks.moved();
  }

  // Moves the crosshair by voxels: within the plane (right, up) and across its slices.
  step(right, up, through) {
    const axes = AXES[this.plane];
    const mirrored = this.plane === PLANES.sagittal ? this.nv.opts.sagittalNoseLeft : this.nv.opts.isRadiologicalConvention;
    const move = [0, 0, 0];
    move[axes[0]] += mirrored ? -right : right;
    move[axes[1]] += up;
    move[axes[2]] += through;
    this.nv.moveCrosshairInVox(...move);
  }

  // The displayed planes: their area in CSS pixels, and where a position is in it; through: signed distance in slices
  // from the displayed slice.
  get screens() {
    const ratio = this.nv.uiData.dpr;
    return this.nv.screenSlices.filter((tile) => tile.axCorSag in AXES).map((tile) => {
      const [right, up, across] = AXES[tile.axCorSag];
      const [left, top, width, height] = tile.leftTopWidthHeight;
      const place = (mm) => {
        const frac = this.nv.mm2frac(mm, 0, true);
        const flat = this.nv.frac2mm(frac);
        const x = (flat[right] - tile.leftTopMM[0]) / tile.fovMM[0];
        const y = (flat[up] - tile.leftTopMM[1]) / tile.fovMM[1];
        return {
          x: (left + (width < 0 ? (1 - x) * width : x * width)) / ratio,
          y: (top + (1 - y) * height) / ratio,
          through: this.dims[across] * (frac[across] - this.nv.scene.crosshairPos[across]),
        };
      };
      return { area: [Math.min(left, left + width), top, Math.abs(width), height].map((n) => n / ratio), place };
    });
  }

  // The position in each displayed plane that contains it, and the distance from the displayed slice in slices.
  project(mm) {
    const found = [];
    for (const { area: [left, top, width, height], place } of this.screens) {
      const { x, y, through } = place(mm);
      if (x >= left && x <= left + width && y >= top && y <= top + height) found.push({ x, y, slices: Math.abs(through) });
    }
    return found;
  }

  // Names of the tiles, and their positions as shares of the canvas: left, top, width, height.
  get tiles() {
    return this.view === "all" ? TILES : [{ name: this.view, position: [0, 0, 1, 1] }];
  }
}
