// The operators' page: shows the feed.  What comes from outside is set as text, never as HTML.

const SILENT_MS = 3000;
const RISEN_MS = 60000; // how long a counter stays red after it rose
const KEPT_ROWS = 50;
const STAGES = ["inference", "reconstruction", "refinement"];
const TROUBLE = /malformed|stale|drop|lost|refus|fail|error|bad|missing|late/;
const TONES = {good: "good", doubtful: "warn", failed: "bad"};
const SIGNS = {good: "✔", doubtful: "▲", failed: "✖"};
const page = {
  socket: "connecting", retryMs: 500, retryAt: 0, // retryMs doubles up to 10 s
  stateAt: null, state: null, service: null, risen: new Map(),
  progress: null, frame: null, frameAt: null,
  results: new Map(), newest: null, pinned: null, history: [], unreadable: 0,
};

// ---- elements ------------------------------------------------------------------------------------------

// ---- text ----------------------------------------------------------------------------------------------

// ---- colours -------------------------------------------------------------------------------------------

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
  const shape = Array.isArray(header.shape) ? header.shape.join(" × ") : "–";
  byId("frame-label").textContent =
    `series ${plain(header.series)} · image ${plain(header.image_id)} · largest ${count(header.largest_counts)} counts ·` +
    ` ${shape} pixels`;
}

// ---- crystal -------------------------------------------------------------------------------------------

const ofNewest = () => STAGES.map((s) => page.results.get(s)).filter((r) => r && keyOf(r.header) === page.newest);
const shown = () => page.results.get(page.pinned) ?? ofNewest().at(-1);

function showStages() {
  const now = shown();
  byId("stages").replaceChildren(...STAGES.map((stage) => {
    const found = page.results.get(stage);
    const isOld = found && keyOf(found.header) !== page.newest;
    const label = isOld ? `${stage} (of curve ${plain(found.header.curve_index)}, ${run(found.header.raw_uid)})` : stage;
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
    ["chi2", number(scalars.chi2) + floor],
    ["r_p", number(scalars.r_p, 4)],
    ["size x × y × z", `${size(scalars)} nm`],
    ["voxel", isNumber(scalars.voxel_size_m) ? `${number(1e9 * scalars.voxel_size_m)} nm` : "–"],
    ...Object.entries(LABELS).filter(([name]) => name in scalars).map(([name, label]) => [label, number(scalars[name])]),
    ["latency", seconds(scalars.latency_s)],
    ...latencies.map(([name, value]) => [`· ${name.slice(8, -2)}`, seconds(value)]),
  ];
}

function showResult() {
  const result = shown();
  const {header} = result ?? {};
  showStages();
  showSlices(result);
  const of = header ? `${plain(header.stage)} of curve ${plain(header.curve_index)}, run ${run(header.raw_uid)}` : "";
  byId("shown").textContent = of;
  byId("judged").textContent = header ? `${plain(header.stage)}, ${clock(header.time_s)}` : "";
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
function noteCounters(state) {
  const before = page.service === state.service ? page.state?.counters ?? {} : null;
  if (before === null) page.risen.clear();
  for (const [name, value] of Object.entries(state.counters ?? {})) {
    if (before && value > (before[name] ?? 0)) page.risen.set(name, performance.now());
  }
  page.service = state.service;
}

function counterTone([name, value]) {
  if (!TROUBLE.test(name) || !(value > 0)) return "";
  return performance.now() - (page.risen.get(name) ?? -Infinity) < RISEN_MS ? "bad" : "warn";
}

function showState() {
  const {queue = {}, refinement, counters = {}, waiting, lag_s: lag} = page.state ?? {};
  const entries = Object.entries(queue ?? {});
  const tone = ([name, jobs]) => (TROUBLE.test(name) && jobs > 0 ? "bad" : "");
  setList("queue", entries.length ? entries.map((entry) => [entry[0], plain(entry[1]), tone(entry)]) : [["jobs", "–"]]);
  setList("work", [["refining", refinement ? plain(refinement) : page.state ? "nothing" : "–"],
    ["curves waiting", plain(waiting)], ["lag behind newest frame", seconds(lag)]]);
  const rows = Object.entries(counters ?? {}).map((entry) => [entry[0], plain(entry[1]), counterTone(entry)]);
  if (page.unreadable) rows.push(["unreadable by this page", count(page.unreadable), "bad"]);
  setList("counters", rows.length ? rows : [["none yet", "–"]]);
}

// ---- the whole: lamp, head line, band ------------------------------------------------------------------

function lamp() {
  const silentMs = page.stateAt === null ? null : performance.now() - page.stateAt;
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
    found.push([tone, `curve ${plain(header.curve_index)} ${plain(header.verdict)}`]);
  }
  return found;
}

function calm() {
  const header = ofNewest().at(-1)?.header;
  const {progress: p} = page;
  if (p && keyOf(p) !== page.newest && !p.is_over) return ["good", `Measuring curve ${plain(p.curve_index)}`];
  if (header) return ["good", `Curve ${plain(header.curve_index)} ${plain(header.verdict)}`];
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
  const place = page.progress ?? ofNewest().at(-1)?.header;
  const age = page.frameAt === null ? "–" : `${seconds((performance.now() - page.frameAt) / 1000)} ago`;
  setList("place", [["run", run(place?.raw_uid)], ["curve", plain(place?.curve_index)],
    ["series", plain(place?.series ?? page.frame?.header.series)], ["newest frame", age],
    ["lag", seconds(page.state?.lag_s)]]);
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

const TAKE = {
  history({header}) {
    page.history = header.results.toReversed();
    page.stateAt = header.state_age_s === null ? null : performance.now() - 1000 * header.state_age_s;
    Object.assign(page, {snapshotState: header.state_age_s !== null});
    showHistory();
  },
  progress({header}) { page.progress = header; showProgress(); },
  frame(message) { Object.assign(page, {frame: message, frameAt: performance.now()}); showFrame(); },
  state({header}) {
    noteCounters(header);
    page.state = header;
    if (!page.snapshotState) page.stateAt = performance.now();
    page.snapshotState = false;
    showState();
  },
  result(message) {
    page.results.set(message.header.stage, message);
    showResult();
  },
};
