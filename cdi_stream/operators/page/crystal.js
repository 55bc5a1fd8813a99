// The crystal on the page: its surface in 3D, and slices that can be moved where the results folder is at hand.

import {getArrays, pictureOf, scanPath, session} from "./api.js";
import {COLOURS, paintLegend, reach, slice} from "./draw.js";
import {keyOf} from "./curves.js";
import {SIDES, SurfaceView} from "./surface.js";
import {byId, element, number, setText} from "./text.js";

const AXES = ["z", "y", "x"];
const QUANTITIES = {phase: "phase", displacement: "displacement along Q", strain: "strain along Q"};
const [TRIES, AGAIN_MS, STILL_MS] = [3, 1500, 80];

const view = {key: "", result: null, quantity: "phase", images: {}, scales: {}, surface: null};

const keyOfResult = (result) => (result ? `${keyOf(result.header)} ${result.header.stage} ${result.header.run_uid} ${
  result.header.time_s}` : "");
const isStored = (header) => session.has_archive && header.published !== false && header.verdict !== undefined;

// Show a result; nothing is done if it is on the page already.
export function showCrystal(result, reason) {
  if (keyOfResult(result) === view.key && result) return;
  Object.assign(view, {key: keyOfResult(result), result, images: {...result?.images}, scales: {}});
  showSlices(reason);
  loadSurface(view.key, TRIES);
  if (result && session.has_archive && (view.quantity !== "phase" || !view.images.amplitude_z)) loadSlices(reason);
}

// ---- surface -------------------------------------------------------------------------------------------

function note(text) {
  setText(byId("surface-note"), text);
  byId("crystal3d").parentElement.dataset.empty = text !== "";
}

async function loadSurface(key, tries) {
  const header = view.result?.header;
  if (!header) return note("no result yet");
  if (!isStored(header)) return note(session.has_archive ? "the result is not on disk" : "no results folder here");
  try {
    const message = await getArrays(`${scanPath(header)}/mesh?${pictureOf(header)}`);
    if (key !== view.key) return undefined;
    view.surface ??= new SurfaceView(byId("crystal3d"));
    view.surface.show(message);
    Object.assign(view.scales, message.header.scales);
    note("");
    showColours();
  } catch (error) {
    if (key !== view.key) return undefined;
    if (tries > 1) setTimeout(() => loadSurface(key, tries - 1), AGAIN_MS); // the file may be a moment late
    else {
      view.surface?.clear();
      note(`no surface: ${error.message}`);
    }
  }
  return undefined;
}

function showColours() {
  view.surface?.colour(view.quantity);
  paintLegend("phase-colours", COLOURS[view.quantity], 1);
  const scale = view.scales[view.quantity];
  const isPhase = view.quantity === "phase";
  const unit = scale?.unit && !isPhase ? ` ${scale.unit}` : "";
  setText(byId("quantity-low"), isPhase ? "−π" : scale ? number(scale.low) + unit : "–");
  setText(byId("quantity-high"), isPhase ? "π" : scale ? number(scale.high) + unit : "–");
  setText(byId("quantity-name"), QUANTITIES[view.quantity]);
}

// ---- slices --------------------------------------------------------------------------------------------

function slider(axis) {
  const image = view.images[`amplitude_${axis === "z" ? "y" : "z"}`]; // holds this axis
  const n = image?.shape[axis === "x" ? 1 : 0] ?? 0;
  const made = element("input", "", {type: "range", min: 0, max: Math.max(n - 1, 0), "data-axis": axis,
    "aria-label": `place of the slice along ${axis}, voxel`});
  made.value = n >> 1;
  made.disabled = !view.result || !isStored(view.result.header);
  made.oninput = () => {
    clearTimeout(view.timer);
    view.timer = setTimeout(() => moveSlice(axis, Number(made.value)), STILL_MS);
  };
  return made;
}

function showSlices(reason = "") {
  const names = ["amplitude", view.quantity];
  const all = AXES.flatMap((axis) => names.map((kind) => view.images[`${kind}_${axis}`])).filter(Boolean);
  if (!all.length) {
    byId("slices").replaceChildren(element("p", reason, {class: "empty"}));
    return;
  }
  view.half = reach(all);
  byId("slices").replaceChildren(...AXES.map((axis) => {
    const row = element("div", "", {class: "row", "data-axis": axis});
    row.append(...pictures(axis), slider(axis));
    return row;
  }));
}

function pictures(axis) {
  const voxelM = view.result.header.scalars?.voxel_size_m;
  return ["amplitude", view.quantity].filter((kind) => view.images[`${kind}_${axis}`])
    .map((kind) => slice(kind, axis, view.images[`${kind}_${axis}`], view.half, voxelM));
}

async function fetched(axis, quantity, index) {
  const {header} = view.result;
  const place = index === undefined ? "" : `&index=${index}`;
  const message = await getArrays(`${scanPath(header)}/slice?axis=${axis}&quantity=${quantity}&${pictureOf(header)}${place}`);
  if (quantity !== "amplitude") view.scales[quantity] = message.header;
  return message.images.slice;
}

async function moveSlice(axis, index) {
  const {key} = view;
  try {
    const [amplitude, other] = await Promise.all([fetched(axis, "amplitude", index), fetched(axis, view.quantity, index)]);
    if (key !== view.key) return;
    Object.assign(view.images, {[`amplitude_${axis}`]: amplitude, [`${view.quantity}_${axis}`]: other});
    const row = document.querySelector(`#slices [data-axis="${axis}"]`);
    for (const figure of row.querySelectorAll("figure")) figure.remove();
    row.prepend(...pictures(axis));
  } catch (error) {
    note(error.message);
  }
}

async function loadSlices(reason) {
  const {key, quantity} = view;
  try {
    const found = await Promise.all(AXES.flatMap((axis) => ["amplitude", quantity].map(async (kind) =>
      [`${kind}_${axis}`, await fetched(axis, kind)])));
    if (key !== view.key || quantity !== view.quantity) return;
    Object.assign(view.images, Object.fromEntries(found));
    showSlices(reason);
    showColours();
  } catch (error) {
    if (key === view.key) showSlices(`no slices: ${error.message}`);
  }
}

export function connectCrystal() {
  byId("quantity").onchange = (event) => {
    view.quantity = event.target.value;
    showColours();
    if (view.result && isStored(view.result.header)) loadSlices("");
    else showSlices("the slices of this quantity need the results folder");
  };
  for (const [axis, side] of Object.entries(SIDES)) byId(`look-${axis}`).onclick = () => view.surface?.look(side);
  showColours();
}
