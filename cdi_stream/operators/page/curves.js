// Names of curves (scan number, sample, motors), and their order.

import {plain} from "./text.js";

const MAX_CURVES = 400;
const runs = new Map(); // by uid: facts about the run from any message, and its curves
const order = []; // keys of the curves, in order of their first message

export const keyOf = (header) => `${header.raw_uid} ${header.curve_index}`;

// Place of a curve in the order of first messages; -1 for an unknown curve.
export const rank = (key) => order.indexOf(key);

// Note the facts that a message states about its curve.  A refinement of an unknown curve belongs to an old curve.
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

// "scan 54", with the number of the curve if the scan has several; the uid for a run without a scan number.
export function nameOf(header) {
  const run = runOf(header);
  const number = header.scan_id ?? run.scan_id;
  const name = number === null || number === undefined
    ? `run ${String(header.raw_uid ?? "–").slice(0, 8)}` : `scan ${plain(number)}`;
  return run.curves.size > 1 || header.curve_index > 0 ? `${name}, curve ${plain(header.curve_index)}` : name;
}
