// The history: past scans from the results folder, with search, filter, pictures and a comparison of two.

import {getArrays, getJson, post, scanPath, session} from "./api.js";
import {page, signed, toneOf} from "./model.js";
import {SurfaceView} from "./surface.js";
import {byId, clock, element, number, plain, setText, size} from "./text.js";

const [EVERY_MS, TYPED_MS] = [4000, 250];
const KEPT = 100;
const state = {scans: [], compared: [], text: "", views: []};

const nameOfScan = (scan) => (scan.scan_id === null ? `run ${scan.uid.slice(0, 8)}` : `scan ${scan.scan_id}`);
const headerOf = (scan, result = scan) => ({...result, raw_uid: scan.uid, scan_id: scan.scan_id, sample: scan.sample,
  plan_name: scan.plan_name, motors: scan.motors ? scan.motors.split(" ") : [], curve_index: result.curve_index ?? 0});

// Show a curve of a past scan, by default the last, until the operator goes back to the live one.
export async function openScan(uid, onChange, wanted) {
  const scan = await getJson(scanPath({raw_uid: uid}));
  const curves = [...new Set(scan.results.map((result) => result.curve_index))].sort((a, b) => a - b);
  const curve = wanted ?? curves.at(-1);
  const results = new Map();
  for (const result of scan.results.filter((r) => r.curve_index === curve)) {
    results.set(result.stage, {header: headerOf(scan, result), images: {}});
  }
  const sums = await getJson(`${scanPath({raw_uid: uid})}/rocking?curve=${curve}`).catch(() => ({frame_sums: []}));
  page.past = {uid, name: nameOfScan(scan), results, time_s: scan.time_s, frameSums: sums.frame_sums};
  page.pinned = [...results.keys()].includes(scan.stage) ? scan.stage : null;
  offerCurves(curves, curve, (chosen) => openScan(uid, onChange, chosen));
  onChange();
}

// Offer the curves of the scan that is shown, if there are several.
function offerCurves(curves, shown, onChoice) {
  const choice = byId("curve");
  choice.replaceChildren(...curves.map((k) => element("option", `curve ${k}`, {value: k})));
  choice.value = shown;
  choice.hidden = curves.length < 2;
  choice.onchange = () => onChoice(Number(choice.value)).catch((error) => setText(byId("history-note"), error.message));
}

function thumbnail(scan) {
  if (scan.verdict === "failed") return element("span", "", {class: "thumbnail"});
  const made = element("img", "", {alt: "", class: "thumbnail", loading: "lazy", width: 48, height: 48,
    // The browser keeps a picture by its address, and a later result has another picture.
    src: `api/v1/${scanPath({raw_uid: scan.uid})}/thumbnail.png?results=${scan.n_results}`});
  made.onerror = () => made.replaceWith(element("span", "–", {class: "thumbnail"}));
  return made;
}

function compareBox(scan) {
  const made = element("input", "", {type: "checkbox", "aria-label": `compare ${nameOfScan(scan)}`});
  made.checked = state.compared.includes(scan.uid);
  made.onchange = () => {
    state.compared = state.compared.filter((uid) => uid !== scan.uid);
    if (made.checked) state.compared = [...state.compared, scan.uid].slice(-2);
    for (const box of byId("scans").querySelectorAll("input")) box.checked = state.compared.includes(box.dataset.uid);
    showComparison();
  };
  made.dataset.uid = scan.uid;
  return made;
}

function row(scan, onChange) {
  const header = headerOf(scan);
  const made = element("tr", "", {"data-tone": toneOf(header), "data-uid": scan.uid});
  const curves = scan.n_curves > 1 ? `, ${scan.n_curves} curves` : "";
  const open = element("button", nameOfScan(scan) + curves, {class: "link"});
  open.onclick = () => openScan(scan.uid, onChange).catch((error) => setText(byId("history-note"), error.message));
  const cells = [thumbnail(scan), open, clock(scan.time_s), signed(header), plain(scan.stage)];
  const more = [plain(scan.sample), plain(scan.motors), number(scan.scalars.chi2), size(scan.scalars)];
  const cell = (content, attributes) => {
    const td = element("td", "", attributes);
    td.append(content);
    return td;
  };
  made.append(...cells.map((content) => cell(content)), ...more.map((text) => cell(text, {class: "more"})),
    cell(plain(scan.reasons), {class: "reasons", title: plain(scan.reasons)}), cell(compareBox(scan)));
  return made;
}

export async function refreshHistory(onChange, onScans) {
  if (!session.has_archive) return;
  const query = new URLSearchParams({q: byId("search").value, limit: KEPT});
  if (byId("filter").value) query.set("verdict", byId("filter").value);
  try {
    const {total, scans} = await getJson(`scans?${query}`);
    const text = JSON.stringify(scans);
    setText(byId("history-note"), total > scans.length ? `the newest ${scans.length} of ${total} scans`
      : `${total} scan${total === 1 ? "" : "s"}`);
    if (text !== state.text) {
      Object.assign(state, {text, scans});
      byId("scans").replaceChildren(...scans.map((scan) => row(scan, onChange)));
      await onScans(query.toString());
    }
  } catch (error) {
    setText(byId("history-note"), error.message);
  }
}

// ---- comparison ----------------------------------------------------------------------------------------

const COMPARED = [["verdict", (s) => signed(headerOf(s))], ["sample", (s) => plain(s.sample)],
  ["chi2", (s) => number(s.scalars.chi2)], ["r_p", (s) => number(s.scalars.r_p, 4)],
  ["size x × y × z / nm", (s) => size(s.scalars)], ["strain, low", (s) => number(s.scalars.strain_low)],
  ["strain, high", (s) => number(s.scalars.strain_high)], ["measured", (s) => clock(s.time_s)]];

async function showComparison() {
  byId("compare").hidden = state.compared.length < 2;
  if (byId("compare").hidden) return;
  const scans = state.compared.map((uid) => state.scans.find((scan) => scan.uid === uid)).filter(Boolean);
  byId("compare-names").replaceChildren(element("th", ""), ...scans.map((scan) => element("th", nameOfScan(scan))));
  byId("compare-rows").replaceChildren(...COMPARED.map(([name, of]) => {
    const made = element("tr");
    made.append(element("th", name), ...scans.map((scan) => element("td", of(scan))));
    return made;
  }));
  await Promise.all(scans.map(async (scan, i) => {
    state.views[i] ??= new SurfaceView(byId(`compare-${i}`));
    try {
      const message = await getArrays(`${scanPath({raw_uid: scan.uid})}/mesh`);
      if (state.compared[i] !== scan.uid) return;
      state.views[i].show(message);
      state.views[i].colour(byId("quantity").value);
      byId(`compare-${i}`).setAttribute("aria-label", `surface of ${nameOfScan(scan)}`);
    } catch {
      state.views[i].clear();
    }
  }));
}

// ---- a past scan again ---------------------------------------------------------------------------------

async function reconstructAgain() {
  const text = byId("settings").value;
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const settings = Object.fromEntries(lines.map((line) => line.split("=").map((part) => part.trim())));
  try {
    await post(`${scanPath({raw_uid: page.past.uid})}/reconstruct`, {settings});
    setText(byId("again-note"), "begins");
  } catch (error) {
    setText(byId("again-note"), error.message);
  }
}

async function followReconstruction() {
  if (!session.can_reconstruct || !page.past) return;
  const {uid, is_running: isRunning, text} = await getJson("reconstruction").catch(() => ({}));
  if (uid === page.past.uid) setText(byId("again-note"), isRunning ? `running: ${text}` : text);
}

export function connectHistory(onChange, onScans) {
  let typed;
  const refresh = () => refreshHistory(onChange, onScans);
  byId("search").oninput = () => {
    clearTimeout(typed);
    typed = setTimeout(refresh, TYPED_MS);
  };
  byId("filter").onchange = refresh;
  byId("again-go").onclick = reconstructAgain;
  setInterval(() => { refresh(); followReconstruction(); }, EVERY_MS);
  refresh();
}
