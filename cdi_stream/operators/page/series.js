// Plots: the rocking curve of the curve that is shown, and the trends over the scans of the history.

import {getJson, session} from "./api.js";
import {isMeasuring, page, shown} from "./model.js";
import {plot} from "./plot.js";
import {byId, element} from "./text.js";

const TRENDS = {
  size: {label: "size / nm", lines: [["x", "size_lab_x_nm"], ["y", "size_lab_y_nm"], ["z", "size_lab_z_nm"]]},
  strain: {label: "strain, 1st and 99th percentile", lines: [["low", "strain_low"], ["high", "strain_high"]]},
  chi2: {label: "chi2", lines: [["chi2", "chi2"]]},
  volume: {label: "volume / nm³", lines: [["volume", "support_volume_nm3"]]},
  spacing: {label: "spacing of the planes / m", lines: [["d", "d_spacing_m"]]},
  latency: {label: "last frame to document / s", lines: [["latency", "latency_s"]]},
};

const measured = new Map(); // counts of the frames that the page has seen, by image, of the series that is measured
let series = null;
let filter = ""; // query of the scans that the history shows

// Note the counts of a frame of the feed.
export function noteFrame({series: name, image_id: image, total_counts: total}) {
  if (name !== series) measured.clear();
  series = name;
  if (Number.isFinite(total)) measured.set(image, total);
  showRocking();
}

export function showRocking() {
  const whole = page.past ? page.past.frameSums : shown()?.header.frame_sums ?? [];
  const isLive = !page.past && (isMeasuring() || !whole.length);
  const points = isLive ? [...measured].sort((a, b) => a[0] - b[0]) : whole.map((total, i) => [i, total]);
  plot(byId("rocking"), {lines: [{name: "counts", points}], x: isLive ? "image" : "frame", y: "counts", isWhole: true,
    title: `rocking curve: counts of each frame, ${points.length} frames`});
}

// The quantity that is chosen: a number of the results, or a reading of the runs.
function chosen() {
  const choice = byId("trend").selectedOptions[0];
  if (choice?.dataset.unit === undefined) return {...TRENDS[choice.value], kind: "result"};
  const name = choice.value.slice("reading ".length);
  return {label: choice.dataset.unit ? `${name} / ${choice.dataset.unit}` : name, lines: [[name, name]], kind: "reading"};
}

// Offer the readings that differ between the scans; the choice stays.
async function offerReadings() {
  const {units} = await getJson(`readings?${filter}`);
  const group = byId("readings");
  const names = Object.keys(units);
  if (names.join() === Array.from(group.children, (option) => option.textContent).join()) return;
  const {value} = byId("trend");
  group.replaceChildren(...names.map((name) => element("option", name, {value: `reading ${name}`, "data-unit": units[name]})));
  group.hidden = names.length === 0;
  byId("trend").value = value;
  if (byId("trend").selectedIndex < 0) byId("trend").selectedIndex = 0;
}

export async function showTrends() {
  const {label, lines: wanted, kind} = chosen();
  const of = async ([name, key]) => {
    const {points} = await getJson(`trend?${filter}&kind=${kind}&name=${encodeURIComponent(key)}`);
    return {name, points};
  };
  const found = session.has_archive ? await Promise.all(wanted.map(of)) : [];
  if (chosen().label === label) drawTrends(label, found);
}

function drawTrends(label, found) {
  const longest = found.reduce((a, b) => (b.points.length > a.length ? b.points : a), []);
  const areNumbered = longest.every((p, i) => p.scan_id !== null && (i === 0 || p.scan_id > longest[i - 1].scan_id));
  const place = new Map(longest.map((p, i) => [`${p.uid} ${p.curve_index}`, areNumbered ? p.scan_id : i + 1]));
  const lines = found.map(({name, points}) => ({name,
    points: points.map((p) => [place.get(`${p.uid} ${p.curve_index}`), p.value]).filter(([x]) => x !== undefined)}));
  const names = lines.length > 1 ? ` (${lines.map((line) => line.name).join(", ")})` : "";
  plot(byId("trend-plot"), {lines, x: areNumbered ? "scan" : "curves in order of time", y: label + names, isWhole: true,
    title: `${label} of ${longest.length} curves`});
}

// Show the trends of the scans that the history shows.
export async function followScans(query) {
  filter = query;
  await offerReadings();
  await showTrends();
}

export function connectPlots() {
  byId("trend").onchange = () => showTrends().catch(console.error);
  showRocking();
  drawTrends(chosen().label, []);
}
