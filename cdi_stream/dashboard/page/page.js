// The operators' page: shows the feed.

import {COLOURS, paint, paintLegend, reach, slice} from "./draw.js?QUERY";
import {byId, clock, count, element, isNumber, keyOf, number, plain, run, seconds, setList, setTone, size} from
  "./text.js?QUERY";

const SILENT_MS = 3000;
const RISEN_MS = 60000; // how long a counter stays red after it rose
const RETRY_MS = 500; // doubles with each failure, up to 10 s
const KEPT_ROWS = 50;
const STAGES = ["inference", "reconstruction", "refinement"];
const TROUBLE = /malformed|stale|drop|lost|refus|fail|error|bad|missing|late/;
const TONES = {good: "good", doubtful: "warn", failed: "bad"};
const SIGNS = {good: "✔", doubtful: "▲", failed: "✖"};

const page = {
  socket: "connecting", retryMs: RETRY_MS, retryAt: 0,
  state: null, stateAt: null, risen: new Map(), // when each counter rose last
  progress: null, frame: null, frameAt: null,
  results: new Map(), newest: null, pinned: null, // newest by stage; key of the newest curve; stage that was clicked
  history: [], unreadable: 0,
};

// ---- progress and frame --------------------------------------------------------------------------------

function showProgress() {
  const p = page.progress;
  const names = ["expected", "received", "missing", "awaited", "duplicate", "late", "bad"];
  const tone = (name) => (p?.[name] > 0 ? {missing: "bad", bad: "bad", duplicate: "warn", late: "warn"}[name] : "");
  setList("counts", names.map((name) => [name, count(p?.[name]), tone(name)]));
  const strip = String(p?.strip ?? "");
  byId("strip-note").textContent = p && !strip ? "the number of frames was not announced" : "";
  const colours = {"#": [70, 160, 105], x: [255, 50, 60], ".": [44, 50, 60]};
  const data = Uint8Array.from(strip || ".", (letter) => letter.charCodeAt(0));
  const table = Array.from({length: 256}, (_, i) => colours[String.fromCharCode(i)] ?? colours["."]);
  paint(byId("strip"), {shape: [1, data.length], data}, table, false);
}

function showFrame() {
  const {header, images} = page.frame;
  if (images.frame) paint(byId("frame"), images.frame, COLOURS.frame, false);
  byId("frame-largest").textContent = count(header.largest_counts);
  const shape = Array.isArray(header.shape) ? header.shape.join("\u00a0×\u00a0") : "–";
  byId("frame-label").textContent =
    `series ${plain(header.series)} · image ${plain(header.image_id)} · largest ${count(header.largest_counts)} counts ·` +
    ` ${shape}\u00a0pixels`;
}

// ---- crystal -------------------------------------------------------------------------------------------

const ofNewest = () => STAGES.map((s) => page.results.get(s)).filter((r) => r && keyOf(r.header) === page.newest);
const shown = () => page.results.get(page.pinned) ?? ofNewest().at(-1);

function showStages() {
  const now = shown();
  byId("stages").replaceChildren(...STAGES.map((stage) => {
    const found = page.results.get(stage);
    const isOld = found && keyOf(found.header) !== page.newest;
    const label = isOld ? `${stage} (of curve ${plain(found.header.curve_index)})` : stage;
    const button = element("button", label, {"aria-pressed": found !== undefined && found === now, "data-stage": stage});
    button.disabled = !found;
    button.onclick = () => { page.pinned = stage; showResult(); };
    return button;
  }));
}

function showSlices(result) {
  const names = ["amplitude", "phase"].flatMap((kind) => ["z", "y", "x"].map((axis) => [kind, axis]));
  const images = result?.images ?? {};
  const found = names.filter(([kind, axis]) => images[`${kind}_${axis}`]);
  const half = found.length ? reach(found.map(([kind, axis]) => images[`${kind}_${axis}`])) : 0;
  const reason = result ? `no crystal: the ${result.header.stage} of curve ${plain(result.header.curve_index)} ${
    result.header.verdict === "failed" ? "failed" : "came without pictures"}` : "no result yet";
  const voxelM = result?.header.scalars?.voxel_size_m;
  byId("slices").replaceChildren(...(found.length
    ? found.map(([kind, axis]) => slice(kind, axis, images[`${kind}_${axis}`], half, voxelM))
    : [element("p", reason, {class: "empty"})]));
}

const LABELS = {support_fraction: "support fraction", strain_low: "strain, 1st percentile", strain_high: "strain, 99th"};

function numbersOf(scalars) {
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
  ].filter(([, value]) => value !== "–").map(([name, value, unit = ""]) => [name, value + unit]);
}

// While a curve is measured the verdict is an earlier one's: say so, lest it is taken for its own.
function showPast() {
  const {progress: p, newest} = page;
  const isPast = p !== null && newest !== null && keyOf(p) !== newest;
  byId("result").dataset.past = isPast;
  byId("past").textContent = isPast
    ? `of an earlier curve: curve ${plain(p.curve_index)} ${p.is_over ? "awaits its result" : "is being measured"}` : "";
}

function showResult() {
  const result = shown();
  const {header} = result ?? {};
  showStages();
  showSlices(result);
  const of = header ? `curve ${plain(header.curve_index)}, ${plain(header.stage)}` : "";
  byId("shown").textContent = header ? `${of}, run ${run(header.raw_uid)}` : "";
  byId("judged").textContent = header ? `${of}, ${clock(header.time_s)}` : "";
  const verdict = plain(header?.verdict);
  setTone("badge", header ? TONES[verdict] ?? "bad" : "idle", header ? `${SIGNS[verdict] ?? "?"} ${verdict}` : "no result yet");
  const reasons = Array.isArray(header?.reasons) ? header.reasons : [];
  byId("reasons").replaceChildren(...reasons.map((reason) => element("li", plain(reason))));
  setList("numbers", header ? numbersOf(header.scalars ?? {}) : []);
}

function showHistory() {
  byId("rows").replaceChildren(...page.history.map((h) => {
    const row = element("tr", "", {"data-tone": TONES[h.verdict] ?? "bad"});
    const [s, reasons] = [h.scalars ?? {}, plain(h.reasons)];
    for (const text of [clock(h.time_s), run(h.raw_uid), plain(h.curve_index), plain(h.stage),
      `${SIGNS[h.verdict] ?? "?"} ${plain(h.verdict)}`, number(s.chi2), number(s.r_p, 4), size(s),
      seconds(s.latency_s), reasons]) row.append(element("td", text));
    row.lastChild.title = reasons;
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

function counterTone([name, value]) {
  if (!TROUBLE.test(name) || !(value > 0)) return "";
  return performance.now() - (page.risen.get(name) ?? -Infinity) < RISEN_MS ? "bad" : "warn";
}

function showState() {
  const {queue, refinement, counters, waiting} = page.state ?? {};
  const entries = Object.entries(queue ?? {}).filter(([name, jobs]) => name !== "cancelled" || jobs > 0);
  const tone = ([name, jobs]) => (TROUBLE.test(name) && jobs > 0 ? "bad" : "");
  setList("queue", entries.length ? entries.map((entry) => [entry[0], plain(entry[1]), tone(entry)]) : [["jobs", "–"]]);
  setList("work", [["refining", refinement ? plain(refinement) : page.state ? "nothing" : "–"],
    ["curves waiting", plain(waiting)], ["lag behind newest frame", lag()]]);
  const rows = Object.entries(counters ?? {}).map((entry) => [entry[0], plain(entry[1]), counterTone(entry)]);
  if (page.unreadable) rows.push(["unreadable by this page", count(page.unreadable), "bad"]);
  setList("counters", rows.length ? rows : [["none yet", "–"]]);
}

// ---- the whole: lamp, head line, band ------------------------------------------------------------------

const silence = () => (page.stateAt === null ? null : performance.now() - page.stateAt);

// The lag is a number of the moment: of a service that is silent it would be a lie.
const lag = () => (silence() > SILENT_MS ? "–" : seconds(page.state?.lag_s));

function lamp() {
  const silentMs = silence();
  if (page.socket !== "open") {
    const wait = Math.max(0, Math.ceil((page.retryAt - performance.now()) / 1000));
    return ["bad", page.socket === "connecting" ? "connecting" : `disconnected, reconnecting in ${wait} s`];
  }
  if (silentMs === null) return ["idle", "connected, waiting for the service"];
  return silentMs > SILENT_MS ? ["warn", `feed silent for ${seconds(silentMs / 1000)}`] : ["good", "connected"];
}

function troubles() {
  const {progress: p} = page;
  const found = [];
  if (p && (p.missing > 0 || String(p.strip).includes("x"))) {
    found.push(["bad", `${count(p.missing)} of ${count(p.expected)} frames missing in curve ${plain(p.curve_index)}`]);
  }
  const header = ofNewest().at(-1)?.header;
  if (header && header.verdict !== "good") {
    const tone = header.verdict === "doubtful" ? "warn" : "bad";
    found.push([tone, `curve ${plain(header.curve_index)}: ${plain(header.verdict)}`]);
  }
  return found;
}

function calm() {
  const header = ofNewest().at(-1)?.header;
  const {progress: p} = page;
  if (p && keyOf(p) !== page.newest && !p.is_over) return ["good", `Measuring curve ${plain(p.curve_index)}`];
  if (header) return ["good", `Curve ${plain(header.curve_index)}: ${plain(header.verdict)}`];
  return ["idle", p ? `Curve ${plain(p.curve_index)} measured` : "Waiting for the first curve"];
}

function showWhole() {
  const [tone, text] = lamp();
  setTone("lamp", tone, text);
  const found = troubles();
  if (tone !== "good" && page.stateAt !== null) found.push(["warn", `what is shown may be old: ${text}`]);
  const worst = found.some(([t]) => t === "bad") ? "bad" : "warn";
  const [bandTone, bandText] = found.length ? [worst, found.map(([, t]) => t).join(" · ")] : calm();
  setTone("band", bandTone, bandText[0].toUpperCase() + bandText.slice(1));
  document.body.dataset.tone = bandTone;
  showPast();
  const place = page.progress ?? ofNewest().at(-1)?.header;
  const age = page.frameAt === null ? "–" : `${seconds((performance.now() - page.frameAt) / 1000)} ago`;
  setList("place", [["run", run(place?.raw_uid)], ["curve", plain(place?.curve_index)],
    ["series", plain(place?.series ?? page.frame?.header.series)], ["newest frame", age],
    ["lag", lag()]]);
}

// ---- the feed ------------------------------------------------------------------------------------------

function read(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const images = {};
  let start = 4 + length;
  for (const {name, shape} of header.images) {
    const n = shape.reduce((product, side) => product * side, 1);
    const data = new Uint8Array(buffer, start, n);
    if (shape.length === 2 && n > 0) images[name] = {shape, data};
    start += n;
  }
  return {header, images};
}

// What the snapshot brings was heard ``age_s`` ago.
const heardAt = (header) => performance.now() - 1000 * (header.age_s ?? 0);

const TAKE = {
  history({header}) {
    if (header.results.length) page.history = header.results.toReversed(); // a dashboard that began anew has none
    showHistory();
  },
  progress({header}) {
    page.progress = header;
    showProgress();
  },
  frame(message) {
    Object.assign(page, {frame: message, frameAt: heardAt(message.header)});
    showFrame();
  },
  state({header}) {
    noteCounters(page.state, header);
    Object.assign(page, {state: header, stateAt: heardAt(header)});
    showState();
  },
  result(message) {
    const {header} = message;
    const isNew = (header.stage !== "refinement" || page.newest === null) && keyOf(header) !== page.newest;
    if (isNew) Object.assign(page, {newest: keyOf(header), pinned: null});
    page.results.set(header.stage, message);
    if (!("age_s" in header)) { // those of the snapshot are in the history already
      page.history = [header, ...page.history].slice(0, KEPT_ROWS);
      showHistory();
    }
    showResult();
  },
};

function take({data}) {
  try {
    const message = read(data);
    TAKE[message.header.kind](message);
  } catch (error) {
    page.unreadable += 1;
    console.error(error);
    showState();
  }
  showWhole();
}

function connect() {
  page.socket = "connecting";
  const socket = new WebSocket(Object.assign(new URL("feed", location.href), {search: location.search}));
  socket.binaryType = "arraybuffer";
  socket.onmessage = take;
  socket.onopen = () => { Object.assign(page, {socket: "open", retryMs: RETRY_MS}); };
  socket.onclose = () => {
    Object.assign(page, {socket: "closed", retryAt: performance.now() + page.retryMs});
    setTimeout(connect, page.retryMs);
    page.retryMs = Math.min(2 * page.retryMs, 10000);
    showWhole();
  };
}

for (const [kind, first] of [["frame", 0], ["amplitude", 0], ["phase", 1]]) {
  paintLegend(`${kind}-colours`, COLOURS[kind], first);
}
for (const show of [showProgress, showResult, showHistory, showState, showWhole]) show();
setInterval(() => { showState(); showWhole(); }, 500);
connect();
