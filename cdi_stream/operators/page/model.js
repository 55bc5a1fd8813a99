// State of the page, and the values derived from it.

import {keyOf, rank} from "./curves.js";
import {connection} from "./feed.js";
import {plain} from "./text.js";

export const SILENT_MS = 5000; // the service sends its state every second
export const STAGES = ["preview", "inference", "reconstruction", "refinement"];
const TONES = {good: "good", doubtful: "warn", failed: "bad", preliminary: "busy"};
const SIGNS = {good: "✔", doubtful: "▲", failed: "✖", preliminary: "…"};

export const page = {
  openedAt: performance.now(), heardAt: null, // time of the last message of the service
  state: null, risen: new Map(), // time at which each counter rose last
  progress: null, frame: null, frameAt: null,
  results: new Map(), newest: null, pinned: null, // newest by stage; key of the newest curve; stage that was clicked
  history: [], unreadable: 0,
  past: null, // scan of the history that is shown instead of the live one: uid, name, results by stage, frameSums
};

export const ofNewest = () => STAGES.map((s) => page.results.get(s)).filter((r) => r && keyOf(r.header) === page.newest);
export const resultsNow = () => page.past?.results ?? page.results;
export const shown = () => (page.past ? page.past.results.get(page.pinned) ?? [...page.past.results.values()].at(-1)
  : page.results.get(page.pinned) ?? ofNewest().at(-1));
const hasOnlyPreview = () => keyOf(page.progress) === page.newest && ofNewest().every((r) => r.header.stage === "preview");
export const isPending = () => page.progress !== null && // no result yet but a preview
  (rank(keyOf(page.progress)) > rank(page.newest) || hasOnlyPreview());
export const isMeasuring = () => isPending() && !page.progress.is_over;
export const silentMs = () => performance.now() - (page.heardAt ?? page.openedAt);
export const isStale = () => connection.state === "closed" || silentMs() > SILENT_MS ||
  (page.heardAt === null && page.newest !== null); // results of an earlier dashboard, and no service

// A preview and an inference are preliminary: the reconstruction of the same curve follows.
const isPreliminary = (h) => h.stage === "preview" || (h.stage === "inference" && h.verdict !== "failed");
export const verdictOf = (h) => (isPreliminary(h) ? "preliminary" : plain(h.verdict));
export const toneOf = (h) => TONES[verdictOf(h)] ?? "bad";
export const signed = (h) => `${SIGNS[verdictOf(h)] ?? "?"} ${verdictOf(h)}`;

// The last result that is not preliminary; refinements of earlier curves do not count.
export const lastFinal = () => page.history.find((h) => verdictOf(h) !== "preliminary" &&
  (h.stage !== "refinement" || keyOf(h) === page.newest));

export function publicationOf(h) {
  if (h.published === false) return `not published: ${plain(h.problem)}`;
  return h.problem ? `published, but ${plain(h.problem)}` : "";
}
