// Plots: the rocking curve of the curve that is shown, and the trends over the scans of the history.

import {isMeasuring, page, shown} from "./model.js";
import {plot} from "./plot.js";
import {byId} from "./text.js";

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
let scans = [];

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

export function showTrends(newScans = scans) {
  scans = newScans;
  const chosen = TRENDS[byId("trend").value];
  const inOrder = scans.filter((scan) => scan.verdict !== "failed").toReversed();
  const areNumbered = inOrder.every((scan, i) => scan.scan_id !== null && (i === 0 || scan.scan_id > inOrder[i - 1].scan_id));
  const lines = chosen.lines.map(([name, key]) => ({name,
    points: inOrder.map((scan, i) => [areNumbered ? scan.scan_id : i + 1, scan.scalars[key]])
      .filter(([, y]) => Number.isFinite(y))}));
  const names = lines.length > 1 ? ` (${lines.map((line) => line.name).join(", ")})` : "";
  plot(byId("trend-plot"), {lines, x: areNumbered ? "scan" : "scans in order of time", y: chosen.label + names, isWhole: true,
    title: `${chosen.label} of ${inOrder.length} scans`});
}

export function connectPlots() {
  byId("trend").onchange = () => showTrends();
  showRocking();
  showTrends();
}
