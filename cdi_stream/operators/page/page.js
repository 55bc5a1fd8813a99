// The operators' page: shows the feed.

import {openSession, session} from "./api.js";
import {connectHistory} from "./archive.js";
import {isSeen, showItems} from "./attention.js";
import {connectCrystal} from "./crystal.js";
import {keyOf, nameOf, note, rank, runOf} from "./curves.js";
import {COLOURS, paintLegend} from "./draw.js";
import {connect, connection, notePlace, read} from "./feed.js";
import {showFrame, showProgress} from "./frames.js";
import {SILENT_MS, isMeasuring, isPending, isStale, lastFinal, ofNewest, page, publicationOf, signed, silentMs, toneOf,
  verdictOf} from "./model.js";
import {connectJobs} from "./jobs.js";
import {showHistory, showPast, showResult} from "./result.js";
import {connectPlots, followScans, noteFrame} from "./series.js";
import {lag, noteCounters, seeCounters, showState} from "./service.js";
import {byId, capital, clock, count, plain, seconds, setList, setText, setTone} from "./text.js";

const KEPT_ROWS = 50;

// ---- lamp, alarms, band, head line ---------------------------------------------------------------------

function lamp() {
  if (connection.state === "closed") {
    const wait = Math.max(0, Math.ceil((connection.retryAt - performance.now()) / 1000));
    return ["bad", `disconnected from the dashboard, trying again in ${wait} s`];
  }
  if (connection.state === "connecting") return ["idle", "connecting"];
  if (page.heardAt === null) return ["idle", "no message from the service yet"];
  return silentMs() > SILENT_MS
    ? ["bad", `no message from the service for ${Math.floor(silentMs() / 1000)} s`] : ["good", "connected"];
}

const verdictKey = (h) => `verdict ${keyOf(h)} ${h.stage} ${h.verdict}`;

// Items that are wrong now, worst first: alarms of the service, missing frames, publications, and the last verdict.
function troubles() {
  const alarms = Array.isArray(page.state?.alarms) ? page.state.alarms : [];
  const found = alarms.map((alarm) => ({key: `alarm ${alarm.key} ${alarm.since_s}`, tone: "bad",
    text: `${plain(alarm.text)}, since ${clock(alarm.since_s)}`}));
  const {progress: p} = page;
  if (p?.missing > 0) {
    found.push({key: `missing ${keyOf(p)} ${p.missing}`, tone: "bad",
      text: `${count(p.missing)} of ${count(p.expected)} frames missing in ${nameOf(p)}`});
  }
  for (const {header: h} of ofNewest()) {
    const text = publicationOf(h);
    if (text) found.push({key: `publication ${keyOf(h)} ${h.stage} ${text}`, tone: "bad", text: `${nameOf(h)}, ${h.stage}: ${text}`});
  }
  const last = lastFinal();
  if (last && last.verdict !== "good") {
    const why = last.reasons?.length ? `: ${plain(last.reasons[0])}` : "";
    found.push({key: verdictKey(last), tone: toneOf(last), text: `${nameOf(last)} ${plain(last.verdict)}${why}`});
  }
  return found;
}

// The present activity, in one line.
function headline() {
  const {progress: p} = page;
  if (isStale() && page.heardAt !== null) return ["bad", `${lamp()[1]}: the page shows old data`];
  if (isStale()) return ["idle", lamp()[1]];
  if (isMeasuring()) {
    const frames = p.expected > 0 ? `${count(p.received)} of ${count(p.expected)} frames` : `${count(p.received)} frames`;
    return ["busy", `measuring ${nameOf(p)}: ${frames}`];
  }
  if (isPending()) return ["busy", `${nameOf(p)} is measured, its crystal is being reconstructed`];
  const header = ofNewest().at(-1)?.header;
  if (!header) return ["idle", "waiting for the first scan"];
  if (verdictOf(header) === "preliminary") return ["busy", `${nameOf(header)}: preliminary, being reconstructed`];
  return [isSeen(verdictKey(header)) ? "idle" : toneOf(header), `${nameOf(header)}: ${signed(header)}`];
}

function lastLine() {
  const last = lastFinal();
  const isTold = !isPending() && last && keyOf(last) === page.newest && !isStale();
  return last && !isTold ? `last result: ${nameOf(last)}, ${plain(last.stage)} ${signed(last)}, ${clock(last.time_s)}` : "";
}

function showPlace() {
  const header = isPending() ? page.progress : ofNewest().at(-1)?.header;
  const run = runOf(header);
  const entries = [["scan", header ? nameOf(header).replace(/^scan /, "") : "–"], ["sample", plain(run.sample)],
    ["motor", plain(run.motors)], ["run", String(header?.raw_uid ?? "–").slice(0, 8)]];
  if (isMeasuring() && page.frameAt !== null) {
    entries.push(["newest frame", `${seconds((performance.now() - page.frameAt) / 1000)} ago`]);
  }
  setList("place", [...entries, lag()]);
}

function showWhole() {
  setTone("lamp", ...lamp());
  const open = showItems(troubles(), showWhole);
  const [tone, text] = headline();
  byId("band").dataset.tone = tone;
  setText(byId("now"), capital(text));
  setText(byId("last"), lastLine());
  const tones = [tone, ...open.map((item) => item.tone)];
  document.body.dataset.tone = ["bad", "warn"].find((t) => tones.includes(t)) ?? tone;
  document.body.dataset.stale = isStale() && (page.heardAt !== null || page.newest !== null);
  showPast();
  showPlace();
}

// ---- the feed ------------------------------------------------------------------------------------------

// Time at which a message came; messages of the first snapshot came ``age_s`` seconds ago.
const heardAt = (header) => performance.now() - 1000 * (header.age_s ?? 0);

function forgetEarlierService({service}) {
  if (page.progress && page.progress.service !== service) {
    page.progress = null; // the curve of the earlier service is no longer measured
    showProgress();
  }
}

const TAKE = {
  history({header}) {
    if (header.results.length) page.history = header.results.toReversed(); // a dashboard that began anew has none
    page.history.toReversed().forEach(note);
    showHistory();
  },
  progress({header}) {
    note(header);
    page.progress = header;
    showProgress();
  },
  frame(message) {
    Object.assign(page, {frame: message, frameAt: heardAt(message.header)});
    showFrame();
    noteFrame(message.header);
  },
  state({header}) {
    forgetEarlierService(header);
    noteCounters(page.state, header);
    page.state = header;
    showState();
  },
  result(message) {
    const {header} = message;
    note(header);
    const isLater = rank(keyOf(header)) > rank(page.newest);
    if (isLater) Object.assign(page, {newest: keyOf(header), pinned: null});
    page.results.set(header.stage, message);
    if (!("age_s" in header) && header.stage !== "preview") { // those of the snapshot are in the history already
      page.history = [header, ...page.history].slice(0, KEPT_ROWS);
      showHistory();
    }
    showResult();
  },
};

function take(data) {
  try {
    const message = read(data);
    const {header} = message;
    notePlace(header);
    TAKE[header.kind](message);
    const isFromService = header.kind !== "history" && !(header.kind === "result" && "age_s" in header);
    if (isFromService) page.heardAt = Math.max(page.heardAt ?? -Infinity, heardAt(header));
  } catch (error) {
    page.unreadable += 1;
    console.error(error);
    showState();
  }
  showWhole();
}

byId("counters-seen").onclick = seeCounters;
byId("live").onclick = () => {
  Object.assign(page, {past: null, pinned: null});
  showResult();
};
for (const [kind, first] of [["frame", 0], ["amplitude", 0], ["phase", 1]]) {
  paintLegend(`${kind}-colours`, COLOURS[kind], first);
}
connectCrystal();
for (const show of [showProgress, showResult, showHistory, showState, showWhole]) show();
matchMedia("(prefers-color-scheme: light)").addEventListener("change", showProgress);
setInterval(() => { showState(); showWhole(); }, 500);
connectPlots();
openSession().catch(console.error).finally(() => {
  document.body.dataset.archive = session.has_archive;
  byId("again").hidden = !session.can_reconstruct;
  connectHistory(showResult, followScans);
  connectJobs();
  connect(take, showWhole);
});
