// Curves in the words of a beamline: scan number, sample and motors, and which of two came later.

import {plain} from "./text.js?QUERY";

const MAX_CURVES = 400;
const runs = new Map(); // by the uid of the run: what any message told of it, and its curves
const order = []; // keys of the curves, in order of their first message

export const keyOf = (header) => `${header.raw_uid} ${header.curve_index}`;

// How late a curve came first; -1 for none.
export const rank = (key) => order.indexOf(key);

// Note what a message tells of its curve.  Refinements come long after: one of an unknown curve is of an old one.
export function note(header) {
  const run = runs.get(header.raw_uid) ?? {curves: new Set()};
  for (const name of ["scan_id", "sample", "plan_name"]) run[name] = header[name] ?? run[name];
  if (header.motors?.length) run.motors = header.motors;
  run.curves.add(header.curve_index);
  runs.set(header.raw_uid, run);
  const key = keyOf(header);
  if (!order.includes(key)) order[header.stage === "refinement" ? "unshift" : "push"](key);
  while (order.length > MAX_CURVES) order.shift();
  if (runs.size > MAX_CURVES) runs.delete(runs.keys().next().value);
}

export const runOf = (header) => runs.get(header?.raw_uid) ?? {curves: new Set()};

// "scan 54", and which curve of it where it has several; a run without a number goes by its uid.
export function nameOf(header) {
  const run = runOf(header);
  const number = header.scan_id ?? run.scan_id;
  const name = number === null || number === undefined
    ? `run ${String(header.raw_uid ?? "–").slice(0, 8)}` : `scan ${plain(number)}`;
  return run.curves.size > 1 || header.curve_index > 0 ? `${name}, curve ${plain(header.curve_index)}` : name;
}
