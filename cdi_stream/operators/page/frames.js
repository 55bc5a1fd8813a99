// Progress of a curve, and the newest frame.

import {COLOURS, paint, paintStrip} from "./draw.js";
import {page} from "./model.js";
import {byId, count, plain, setList, setText} from "./text.js";

const MAX_LISTED = 12; // missing frames that are listed by number

function stripNote(p) {
  const strip = String(p?.strip ?? "");
  if (p && !strip) return "the number of frames was not announced";
  if (p?.expected > strip.length) return `each mark shows the worst of about ${Math.ceil(p.expected / strip.length)} frames`;
  const missing = Array.from(strip, (letter, i) => (letter === "x" ? i : -1)).filter((i) => i >= 0);
  if (!missing.length) return "";
  const more = missing.length > MAX_LISTED ? ` and ${missing.length - MAX_LISTED} more` : "";
  return `missing, counted from 0: ${missing.slice(0, MAX_LISTED).join(", ")}${more}`;
}

export function showProgress() {
  const p = page.progress;
  const names = ["expected", "received", "missing", "awaited", "duplicate", "late", "bad"];
  const tone = (name) => (p?.[name] > 0 ? {missing: "bad", bad: "bad", duplicate: "warn", late: "warn"}[name] : "");
  setList("counts", names.map((name) => [name, count(p?.[name]), tone(name)]));
  setText(byId("strip-note"), stripNote(p));
  byId("strip").setAttribute("aria-label", p ? `frames: ${count(p.received)} received, ${count(p.missing)} missing, ${
    count(p.awaited)} awaited` : "no frames yet");
  paintStrip(byId("strip"), String(p?.strip ?? ""));
}

export function showFrame() {
  const {header, images} = page.frame;
  if (images.frame) paint(byId("frame"), images.frame, COLOURS.frame, false);
  setText(byId("frame-largest"), count(header.largest_counts));
  const shape = Array.isArray(header.shape) ? header.shape.join("\u00a0×\u00a0") : "–";
  setText(byId("frame-label"), `series ${plain(header.series)} · image ${plain(header.image_id)} · largest ${
    count(header.largest_counts)} counts · ${shape}\u00a0pixels`);
}
