// The operators' page: shows the feed.

import {isSeen, see, showItems} from "./attention.js?QUERY";
import {keyOf, nameOf, note, rank, runOf} from "./curves.js?QUERY";
import {COLOURS, paint, paintLegend, paintStrip, reach, slice} from "./draw.js?QUERY";
import {connect, connection, read} from "./feed.js?QUERY";
import {byId, capital, clock, count, element, isNumber, number, plain, seconds, setChildren, setList, setText, setTone, size}
  from "./text.js?QUERY";

const SILENT_MS = 5000; // the service tells its state every second
const RISEN_MS = 60000; // how long a counter stays red after it rose
const KEPT_ROWS = 50;
const MAX_LISTED = 12; // missing frames that are listed by number
const STAGES = ["inference", "reconstruction", "refinement"];
const TROUBLE = /malformed|stale|drop|lost|refus|fail|error|bad|missing|late/;
const TONES = {good: "good", doubtful: "warn", failed: "bad", preliminary: "busy"};
const SIGNS = {good: "✔", doubtful: "▲", failed: "✖", preliminary: "…"};
const QUEUE = {ready: "waiting", leased: "being refined", computed: "to be published"};
const COUNTERS = {messages: "messages of the detector", malformed: "messages that cannot be read",
  stale: "messages of no known series"};

const page = {
  openedAt: performance.now(), heardAt: null, // last message of the service
  state: null, risen: new Map(), // when each counter rose last
  progress: null, frame: null, frameAt: null,
  results: new Map(), newest: null, pinned: null, // newest by stage; key of the newest curve; stage that was clicked
  history: [], unreadable: 0,
};

// ---- what is so ----------------------------------------------------------------------------------------

const ofNewest = () => STAGES.map((s) => page.results.get(s)).filter((r) => r && keyOf(r.header) === page.newest);
const shown = () => page.results.get(page.pinned) ?? ofNewest().at(-1);
const isPending = () => page.progress !== null && rank(keyOf(page.progress)) > rank(page.newest); // no result yet
const isMeasuring = () => isPending() && !page.progress.is_over;
const silentMs = () => performance.now() - (page.heardAt ?? page.openedAt);
const isStale = () => connection.state === "closed" || silentMs() > SILENT_MS ||
  (page.heardAt === null && page.newest !== null); // results of an earlier dashboard, and no service

// An inference is never the last word: the reconstruction of the same curve follows.
const verdictOf = (h) => (h.stage === "inference" && h.verdict !== "failed" ? "preliminary" : plain(h.verdict));
const toneOf = (h) => TONES[verdictOf(h)] ?? "bad";
const signed = (h) => `${SIGNS[verdictOf(h)] ?? "?"} ${verdictOf(h)}`;

// The last result that is more than preliminary; refinements of earlier curves are no news.
const lastFinal = () => page.history.find((h) => verdictOf(h) !== "preliminary" &&
  (h.stage !== "refinement" || keyOf(h) === page.newest));

function publicationOf(h) {
  if (h.published === false) return `not published: ${plain(h.problem)}`;
  return h.problem ? `published, but ${plain(h.problem)}` : "";
}

// ---- progress and frame --------------------------------------------------------------------------------

function stripNote(p) {
  const strip = String(p?.strip ?? "");
  if (p && !strip) return "the number of frames was not announced";
  if (p?.expected > strip.length) return `each mark stands for the worst of about ${Math.ceil(p.expected / strip.length)} frames`;
  const missing = Array.from(strip, (letter, i) => (letter === "x" ? i : -1)).filter((i) => i >= 0);
  if (!missing.length) return "";
  const more = missing.length > MAX_LISTED ? ` and ${missing.length - MAX_LISTED} more` : "";
  return `missing, counted from 0: ${missing.slice(0, MAX_LISTED).join(", ")}${more}`;
}

function showProgress() {
  const p = page.progress;
  const names = ["expected", "received", "missing", "awaited", "duplicate", "late", "bad"];
  const tone = (name) => (p?.[name] > 0 ? {missing: "bad", bad: "bad", duplicate: "warn", late: "warn"}[name] : "");
  setList("counts", names.map((name) => [name, count(p?.[name]), tone(name)]));
  setText(byId("strip-note"), stripNote(p));
  byId("strip").setAttribute("aria-label", p ? `frames: ${count(p.received)} there, ${count(p.missing)} missing, ${
    count(p.awaited)} awaited` : "no frames yet");
  paintStrip(byId("strip"), String(p?.strip ?? ""));
}

function showFrame() {
  const {header, images} = page.frame;
  if (images.frame) paint(byId("frame"), images.frame, COLOURS.frame, false);
  setText(byId("frame-largest"), count(header.largest_counts));
  const shape = Array.isArray(header.shape) ? header.shape.join("\u00a0×\u00a0") : "–";
  setText(byId("frame-label"), `series ${plain(header.series)} · image ${plain(header.image_id)} · largest ${
    count(header.largest_counts)} counts · ${shape}\u00a0pixels`);
}

// ---- crystal -------------------------------------------------------------------------------------------

function stageButton() {
  const made = element("button");
  made.onclick = () => { page.pinned = made.dataset.stage; showResult(); };
  return made;
}

function showStages() {
  const now = shown();
  setChildren(byId("stages"), STAGES, stageButton).forEach((button, i) => {
    const stage = STAGES[i];
    const found = page.results.get(stage);
    button.dataset.stage = stage;
    button.disabled = !found;
    button.setAttribute("aria-pressed", found !== undefined && found === now);
    setText(button, found && keyOf(found.header) !== page.newest ? `${stage} (of ${nameOf(found.header)})` : stage);
  });
}

function showSlices(result) {
  const names = ["amplitude", "phase"].flatMap((kind) => ["z", "y", "x"].map((axis) => [kind, axis]));
  const images = result?.images ?? {};
  const found = names.filter(([kind, axis]) => images[`${kind}_${axis}`]);
  const half = found.length ? reach(found.map(([kind, axis]) => images[`${kind}_${axis}`])) : 0;
  const reason = result ? `no crystal: the ${result.header.stage} of ${nameOf(result.header)} ${
    result.header.verdict === "failed" ? "failed" : "came without pictures"}` : "no result yet";
  const voxelM = result?.header.scalars?.voxel_size_m;
  byId("slices").replaceChildren(...(found.length
    ? found.map(([kind, axis]) => slice(kind, axis, images[`${kind}_${axis}`], half, voxelM))
    : [element("p", reason, {class: "empty"})]));
}

const LABELS = {support_fraction: "support fraction", strain_low: "strain, 1st percentile", strain_high: "strain, 99th"};

function numbersOf(header) {
  const scalars = header.scalars ?? {};
  const latencies = Object.entries(scalars).filter(([name]) => /^latency_.+_s$/.test(name));
  const floor = isNumber(scalars.chi2_floor) ? ` (noise floor ${number(scalars.chi2_floor)})` : "";
  return [
    ["chi2", number(scalars.chi2), floor],
    ["r_p", number(scalars.r_p, 4)],
    ["size x × y × z", size(scalars), " nm"],
    ["voxel", number(1e9 * scalars.voxel_size_m), " nm"],
    ...Object.entries(LABELS).map(([name, label]) => [label, number(scalars[name])]),
    ["latency", seconds(scalars.latency_s)],
    ...latencies.map(([name, value]) => [`· ${name.slice(8, -2)}`, seconds(value)]),
    ["method", plain(header.method)],
    ["recipe", plain(header.recipe)],
  ].filter(([, value]) => value !== "–").map(([name, value, unit = ""]) => [name, value + unit]);
}

// While a curve is measured the verdict is an earlier one's: say so, lest it is taken for its own.
function showPast() {
  const isPast = isPending() && page.newest !== null;
  byId("verdict").dataset.past = isPast;
  setText(byId("past"), isPast ? `of an earlier curve: ${nameOf(page.progress)} ${
    page.progress.is_over ? "awaits its result" : "is being measured"}` : "");
}

function showResult() {
  const result = shown();
  const {header} = result ?? {};
  showStages();
  showSlices(result);
  const of = header ? `${nameOf(header)}, ${plain(header.stage)}` : "";
  setText(byId("shown"), header ? `${of}, run ${String(header.raw_uid).slice(0, 8)}` : "");
  setText(byId("judged"), header ? `${of}, ${clock(header.time_s)}` : "");
  setTone("badge", header ? toneOf(header) : "idle", header ? signed(header) : "no result yet");
  setText(byId("publication"), header ? publicationOf(header) : "");
  const reasons = Array.isArray(header?.reasons) ? header.reasons : [];
  byId("reasons").replaceChildren(...reasons.map((reason) => element("li", plain(reason))));
  setList("numbers", header ? numbersOf(header) : []);
}

function showHistory() {
  byId("rows").replaceChildren(...page.history.map((h) => {
    const row = element("tr", "", {"data-tone": toneOf(h)});
    const [s, run, reasons] = [h.scalars ?? {}, runOf(h), [publicationOf(h), ...(h.reasons ?? [])].filter(Boolean)];
    const texts = [clock(h.time_s), nameOf(h).replace(/^scan /, ""), signed(h), plain(h.stage)];
    const more = [plain(run.sample), plain(run.motors), number(s.chi2), number(s.r_p, 4), size(s), seconds(s.latency_s)];
    row.append(...texts.map((text) => element("td", text)), ...more.map((text) => element("td", text, {class: "more"})),
      element("td", plain(reasons), {title: plain(reasons)}));
    return row;
  }));
}

// ---- service -------------------------------------------------------------------------------------------

// Counters begin anew with each start of the service, so a rise is told within one service only.
function noteCounters(before, now) {
  if (before?.service !== now.service) page.risen.clear();
  else {
    for (const [name, value] of Object.entries(now.counters ?? {})) {
      if (value > (before.counters?.[name] ?? 0)) page.risen.set(name, performance.now());
    }
  }
}

const counterKey = (name, value) => `counter ${page.state?.service} ${name} ${value}`;

// A counter of trouble is red for a minute after it rose, then amber until it was seen.
function counterTone([name, value]) {
  if (!TROUBLE.test(name) || !(value > 0) || isSeen(counterKey(name, value))) return "";
  return performance.now() - (page.risen.get(name) ?? -Infinity) < RISEN_MS ? "bad" : "warn";
}

function showCounters() {
  const counters = Object.entries(page.state?.counters ?? {});
  const rows = counters.map(([name, value]) => [name, count(value), counterTone([name, value]), COUNTERS[name]]);
  if (page.unreadable) rows.push(["unreadable by this page", count(page.unreadable), "bad"]);
  setList("counters", rows.length ? rows : [["none yet", "–"]]);
  byId("counters-seen").hidden = !counters.some((entry) => counterTone(entry));
}

function workNow() {
  const {refinement} = page.state ?? {};
  if (refinement?.raw_uid) return `${plain(refinement.method)}, ${nameOf(refinement)}`;
  return refinement ? plain(refinement) : page.state ? "nothing" : "–";
}

function showState() {
  const {queue, waiting} = page.state ?? {};
  const entries = Object.entries(queue ?? {}).filter(([name, jobs]) => name !== "cancelled" || jobs > 0);
  const tone = ([name, jobs]) => (TROUBLE.test(name) && jobs > 0 ? "bad" : "");
  const jobs = entries.map((entry) => [entry[0], plain(entry[1]), tone(entry), QUEUE[entry[0]]]);
  setList("queue", jobs.length ? jobs : [["jobs", "–"]]);
  setList("work", [["refining", workNow(), "", "being refined"],
    ["waiting", plain(waiting), "", "curves that wait for their crystal"], lag()]);
  showCounters();
}

// ---- the whole: lamp, head line, band ------------------------------------------------------------------

// How far the crystals are behind the detector: a number of the moment, and of none while nothing is measured.
function lag() {
  const {lag_s: lagS, time_s: timeS, waiting} = page.state ?? {};
  if (isStale() || page.state === null) return ["lag", "–"];
  if (isMeasuring() || waiting > 0) return ["lag", seconds(lagS), "", "behind the detector"];
  return ["idle", isNumber(lagS) ? clock(timeS - lagS) : "the service's start", "", "idle since"];
}

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

// What is wrong now, worst first: as the service tells it, and as the frames and the last result show.
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

// What happens now, in one line.
function headline() {
  const {progress: p} = page;
  if (isStale() && page.heardAt !== null) return ["bad", `${lamp()[1]}: what is shown is old`];
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

// What the snapshot brings was heard ``age_s`` ago.
const heardAt = (header) => performance.now() - 1000 * (header.age_s ?? 0);

function forgetEarlierService({service}) {
  if (page.progress && page.progress.service !== service) {
    page.progress = null; // what was measured when it ended is not measured now
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
    if (!("age_s" in header)) { // those of the snapshot are in the history already
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

byId("counters-seen").onclick = () => {
  see(Object.entries(page.state?.counters ?? {}).filter(counterTone).map(([name, value]) => counterKey(name, value)));
  showCounters();
};
for (const [kind, first] of [["frame", 0], ["amplitude", 0], ["phase", 1]]) {
  paintLegend(`${kind}-colours`, COLOURS[kind], first);
}
for (const show of [showProgress, showResult, showHistory, showState, showWhole]) show();
matchMedia("(prefers-color-scheme: light)").addEventListener("change", showProgress);
setInterval(() => { showState(); showWhole(); }, 500);
connect(take, showWhole);
