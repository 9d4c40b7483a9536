// The appearance of labels: each has a colour and a pattern, so that colour vision is not required.

// Okabe and Ito's palette, brightened for a dark background. Consecutive labels also differ in brightness.
const COLOURS = [
  [255, 176, 0], [86, 180, 233], [0, 190, 130], [230, 110, 190], [240, 228, 66], [254, 97, 0], [120, 140, 255], [220, 220, 220],
];
const PATTERNS = ["solid", "stripes", "checks", "bands"];
const SHADE = 0.35; // brightness of a pattern's dark parts
// Labels in the table: each takes two of 256 entries, light and dark. Further ones look like the first ones, so that this is a
// multiple of the numbers of colours and patterns.
const MOST = 120;
const STRIPES_ACROSS = 48; // the image's longest side

export function colour(value) {
  return COLOURS[(value - 1) % COLOURS.length];
}

export function css(value) {
  return `rgb(${colour(value).join(" ")})`;
}

export function pattern(value) {
  return PATTERNS[(value - 1) % PATTERNS.length];
}

// The colour table for NiiVue: entry 2 v + 1 is the light part of label v, 2 v + 2 its dark part. Entries 1 and 2 are
// transparent like 0, because NiiVue's shader interpolates 0 between them.
export function colourTable() {
  const none = () => [0, 0, 0];
  const table = { R: none(), G: none(), B: none(), A: none(), I: [0, 1, 2], labels: ["", "", ""] };
  for (let value = 1; value <= MOST; value++) {
    for (const [index, share] of [[2 * value + 1, 1], [2 * value + 2, SHADE]]) {
      const [r, g, b] = colour(value).map((c) => Math.round(c * share));
      table.R.push(r);
      table.G.push(g);
      table.B.push(b);
      table.A.push(255);
      table.I.push(index);
      table.labels.push(String(value));
    }
  }
  return table;
}

// Width of the stripes in mm. Thick slices need wider stripes, which would otherwise change from slice to slice.
export function period(shape_ijk, spacing_ijk) {
  const longest = Math.max(...shape_ijk.map((n, axis) => n * spacing_ijk[axis]));
  return Math.max(longest / STRIPES_ACROSS, 1.5 * Math.max(...spacing_ijk));
}

const DARK = {
  solid: () => false,
  stripes: (a, b, c) => (Math.floor(a + b + c) & 1) === 1,
  checks: (a, b, c) => ((Math.floor(a) + Math.floor(b) + Math.floor(c)) & 1) === 1,
  bands: (a, b, c) => (Math.floor((a + b + c) / 3) & 1) === 1,
};

// Sets the colour table entry of every voxel of a box (i fastest).
// fill: "solid", "pattern", or "outline": the rim of each label in the slices of the file
export function paint(labels, shown, shape_ijk, box, steps_ijk, fill) {
  const patterned = fill === "pattern";
  const outline = fill === "outline";
  const [[i0, i1], [j0, j1], [k0, k1]] = box;
  const [ni, nj] = shape_ijk;
  for (let k = k0; k < k1; k++) {
    for (let j = j0; j < j1; j++) {
      const row = ni * (j + nj * k);
      for (let i = i0; i < i1; i++) {
        const label = labels[row + i];
        if (label === 0 || (outline && !isRim(labels, row + i, i, j, ni, nj))) {
          shown[row + i] = 0;
          continue;
        }
        const dark = patterned && DARK[pattern(label)](i * steps_ijk[0], j * steps_ijk[1], k * steps_ijk[2]);
        shown[row + i] = 2 * (((label - 1) % MOST) + 1) + (dark ? 2 : 1);
      }
    }
  }
}

// Whether a neighbour in the slice has another label, or there is none.
function isRim(labels, at, i, j, ni, nj) {
  const label = labels[at];
  const within = i > 0 && i < ni - 1 && j > 0 && j < nj - 1;
  return !within || labels[at - 1] !== label || labels[at + 1] !== label || labels[at - ni] !== label || labels[at + ni] !== label;
}
