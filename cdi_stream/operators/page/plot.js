// Line plots in SVG, with axes, units and a title that a screen reader reads.

import {number} from "./text.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [460, 180];
const MARGIN = {left: 58, right: 12, top: 22, bottom: 34};

function node(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// Round steps between two values: at most n + 1 of them.
export function ticks(low, high, n) {
  const raw = (high - low) / n;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = size * [1, 2, 5, 10].find((f) => f * size >= raw);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({length: Math.floor(high / step + 1e-9) - first + 1}, (_, i) => (first + i) * step);
}

// A value on an axis, short enough for the margin.
const tick = (value) => (Math.abs(value) >= 1e5 ? value.toExponential().replace("e+", "e") : number(value, 6));

function spread(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - margin, high + margin];
}

// Draw lines into an element.  ``lines``: {name, points: [[x, y], ...]}; each gets its own mark.
export function plot(parent, {lines, x, y, title, isWhole = false}) {
  const points = lines.flatMap((line) => line.points);
  const svg = node("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "plot"});
  svg.append(node("title", {}, title));
  if (!points.length) {
    svg.append(node("text", {x: WIDTH / 2, y: HEIGHT / 2, class: "none"}, "nothing to plot yet"));
    parent.replaceChildren(svg);
    return;
  }
  const [lowX, highX] = spread(points.map((p) => p[0]));
  const [lowY, highY] = spread(points.map((p) => p[1]));
  const toX = (v) => MARGIN.left + ((v - lowX) / (highX - lowX)) * (WIDTH - MARGIN.left - MARGIN.right);
  const toY = (v) => HEIGHT - MARGIN.bottom - ((v - lowY) / (highY - lowY)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  for (const value of ticks(lowY, highY, 4)) {
    svg.append(node("line", {x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: toY(value), y2: toY(value), class: "grid"}));
    svg.append(node("text", {x: MARGIN.left - 6, y: toY(value) + 4, class: "tick-y"}, tick(value)));
  }
  for (const value of ticks(lowX, highX, 6).filter((v) => !isWhole || Number.isInteger(v))) {
    svg.append(node("text", {x: toX(value), y: HEIGHT - MARGIN.bottom + 16, class: "tick-x"}, tick(value)));
  }
  svg.append(node("text", {x: WIDTH - MARGIN.right, y: HEIGHT - 3, class: "label-x"}, x));
  svg.append(node("text", {x: MARGIN.left + 4, y: 12, class: "label-y"}, y));
  lines.forEach((line, i) => {
    const path = line.points.map(([px, py]) => `${toX(px).toFixed(1)},${toY(py).toFixed(1)}`).join(" ");
    svg.append(node("polyline", {points: path, class: `line line-${i}`}));
    if (line.points.length <= 60) {
      for (const [px, py] of line.points) {
        const mark = node(i === 1 ? "rect" : "circle", i === 1
          ? {x: toX(px) - 3, y: toY(py) - 3, width: 6, height: 6, class: `mark line-${i}`}
          : {cx: toX(px), cy: toY(py), r: 3.5, class: `mark line-${i}`});
        mark.append(node("title", {}, `${line.name}: ${number(py)} at ${number(px, 6)}`));
        svg.append(mark);
      }
    }
  });
  parent.replaceChildren(svg);
}
