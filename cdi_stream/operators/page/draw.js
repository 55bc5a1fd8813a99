// Pictures: colours, canvases and scale bars.

import {byId, element, number} from "./text.js";

const VIEWS = { // by the axis normal to the slice: [axis to the right, axis upwards, direction of view]
  z: ["x", "y", "beam towards you"],
  y: ["x", "z", "up is away from you"],
  x: ["y", "z", "outboard towards you"],
};

// 256 colours, interpolated between evenly spaced stops.
function ramp(stops) {
  return Array.from({length: 256}, (_, i) => {
    const place = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((v, c) => v + (stops[low + 1][c] - v) * (place - low));
  });
}

// Colour wheel of equal lightness (OKLCH), so that no phase looks more important than another.
function wheel(turn) {
  const [a, b] = [0.125 * Math.cos(2 * Math.PI * turn), 0.125 * Math.sin(2 * Math.PI * turn)];
  const [l, m, s] = [0.3963377774 * a + 0.2158037573 * b, -0.1055613458 * a - 0.0638541728 * b,
    -0.0894841775 * a - 1.291485548 * b].map((v) => (0.74 + v) ** 3);
  return [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s, -1.2684380046 * l + 2.6097574011 * m -
    0.3413193965 * s, -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s]
    .map((v) => 255 * Math.max(0, Math.min(1, v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055)));
}

const DARK = [14, 17, 22];

// From blue over white to orange, which readers who cannot tell red from green can tell apart; 0 is outside.
function diverging() {
  const colours = ramp([[5, 48, 97], [67, 147, 195], [247, 247, 247], [224, 130, 20], [127, 59, 8]]);
  return colours.map((colour, i) => (i === 0 ? DARK : colour));
}

export const COLOURS = {
  frame: ramp([[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]]),
  amplitude: ramp([DARK, [68, 30, 110], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]),
  displacement: diverging(),
  strain: diverging(),
  phase: Array.from({length: 256}, (_, i) => (i === 0 ? DARK : wheel((i - 1) / 254))),
};

export function paint(canvas, {shape: [rows, cols], data}, colours, isUpward) {
  Object.assign(canvas, {width: cols, height: rows});
  const picture = canvas.getContext("2d").createImageData(cols, rows);
  for (let row = 0; row < rows; row++) {
    const line = isUpward ? rows - 1 - row : row; // the array's first row lies at the bottom
    for (let col = 0; col < cols; col++) {
      picture.data.set([...colours[data[line * cols + col]], 255], 4 * (row * cols + col));
    }
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
  canvas.hidden = false;
}

// Strip of frames, readable without colour: received low, missing high and striped, awaited a line.
const ROWS = 9;
const MARKS = {"#": (row) => (row >= 3 ? 1 : 0), x: (row) => (row % 3 < 2 ? 2 : 0), ".": (row) => (row === ROWS - 1 ? 3 : 0)};

function colourOf(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

export function paintStrip(canvas, strip) {
  const marks = Array.from(strip || ".", (letter) => MARKS[letter] ?? MARKS["."]);
  const data = Uint8Array.from({length: ROWS * marks.length}, (_, i) => marks[i % marks.length](Math.floor(i / marks.length)));
  paint(canvas, {shape: [ROWS, marks.length], data}, ["--strip", "--there", "--missing", "--awaited"].map(colourOf), false);
}

export function paintLegend(id, colours, first) {
  const data = Uint8Array.from({length: 256 - first}, (_, i) => i + first);
  paint(byId(id), {shape: [1, data.length], data}, colours, false);
}

// Half side of the boxes [voxels]: from the origin to the farthest voxel that is not dark, with a margin.
export function reach(images) {
  let far = 1;
  for (const {shape: [rows, cols], data} of images) {
    data.forEach((value, i) => {
      const away = Math.max(Math.abs(Math.floor(i / cols) - (rows >> 1)), Math.abs((i % cols) - (cols >> 1)));
      if (value > 8 && away > far) far = away;
    });
  }
  return Math.min(1.3 * far + 1, Math.max(...images.flatMap((image) => image.shape)) / 2);
}

function scaleBar(spanNm) {
  const step = 10 ** Math.floor(Math.log10(spanNm / 2.5));
  const nm = step * [5, 2, 1].find((n) => n * step <= spanNm / 2.5);
  const bar = element("span", `${number(nm)} nm`, {class: "bar"});
  bar.style.width = `${(100 * nm) / spanNm}%`;
  return bar;
}

// Box with one slice; the origin voxel N//2 is at its centre for any size of the array.
export function slice(kind, axis, image, half, voxelM) {
  const [rows, cols] = image.shape;
  const [across, up, view] = VIEWS[axis];
  const canvas = element("canvas", "", {id: `${kind}-${axis}`});
  paint(canvas, image, COLOURS[kind], true);
  canvas.style.width = `${(50 * cols) / half}%`;
  canvas.style.left = `${50 - (50 * ((cols >> 1) + 0.5)) / half}%`;
  canvas.style.top = `${50 - (50 * (rows - (rows >> 1) - 0.5)) / half}%`;
  const box = element("div", "", {class: "box"});
  box.append(canvas, element("span", `${up} ↑`, {class: "axis up"}), element("span", `${across} →`, {class: "axis across"}));
  if (voxelM > 0) box.append(scaleBar(2e9 * half * voxelM));
  const figure = element("figure");
  figure.append(box, element("figcaption", `${kind} [${up}, ${across}], ${view}`));
  return figure;
}
