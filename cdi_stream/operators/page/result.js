// The crystal with its verdict and numbers, and the last results.

import {keyOf, nameOf, runOf} from "./curves.js";
import {showCrystal} from "./crystal.js";
import {STAGES, isPending, page, publicationOf, resultsNow, shown, signed, toneOf} from "./model.js";
import {showRocking} from "./series.js";
import {byId, clock, element, isNumber, number, plain, seconds, setChildren, setList, setText, setTone, size}
  from "./text.js";

function stageButton() {
  const made = element("button");
  made.onclick = () => { page.pinned = made.dataset.stage; showResult(); };
  return made;
}

function showStages() {
  const now = shown();
  setChildren(byId("stages"), STAGES, stageButton).forEach((button, i) => {
    const stage = STAGES[i];
    const found = resultsNow().get(stage);
    button.dataset.stage = stage;
    button.disabled = !found;
    button.setAttribute("aria-pressed", found !== undefined && found === now);
    setText(button, found && !page.past && keyOf(found.header) !== page.newest ? `${stage} (of ${nameOf(found.header)})` : stage);
  });
}

function reasonOf(result) {
  return result ? `no crystal: the ${result.header.stage} of ${nameOf(result.header)} ${
    result.header.verdict === "failed" ? "failed" : "came without pictures"}` : "no result yet";
}

const LABELS = {support_fraction: "support fraction", strain_low: "strain, 1st percentile", strain_high: "strain, 99th",
  dark_share: "intensity not measured", background_share: "background of the counts"};

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
    ["coherence x × y × z", size(scalars, "coherence"), ` nm (± ${number(100 * scalars.coherence_error, 2)} %)`],
    ["latency", seconds(scalars.latency_s)],
    ...latencies.map(([name, value]) => [`· ${name.slice(8, -2)}`, seconds(value)]),
    ["method", plain(header.method)],
    ["recipe", plain(header.recipe)],
  ].filter(([, value]) => value !== "–").map(([name, value, unit = ""]) => [name, value + unit]);
}

// While a curve is measured, the page shows the verdict of an earlier curve: say so.
export function showPast() {
  const isPast = isPending() && page.newest !== null && keyOf(page.progress) !== page.newest;
  byId("verdict").dataset.past = isPast;
  setText(byId("past"), isPast ? `of an earlier curve: ${nameOf(page.progress)} ${
    page.progress.is_over ? "awaits its result" : "is being measured"}` : "");
}

export function showResult() {
  const result = shown();
  const {header} = result ?? {};
  showStages();
  showCrystal(result, reasonOf(result));
  showRocking();
  const of = header ? `${nameOf(header)}, ${plain(header.stage)}` : "";
  byId("past-bar").hidden = !page.past;
  setText(byId("past-name"), page.past ? `${page.past.name} of ${clock(page.past.time_s)}, from the history` : "");
  setText(byId("shown"), header ? `${of}, run ${String(header.raw_uid).slice(0, 8)}` : "");
  setText(byId("judged"), header ? `${of}, ${clock(header.time_s)}` : "");
  setTone("badge", header ? toneOf(header) : "idle", header ? signed(header) : "no result yet");
  setText(byId("publication"), header ? publicationOf(header) : "");
  const reasons = Array.isArray(header?.reasons) ? header.reasons : [];
  byId("reasons").replaceChildren(...reasons.map((reason) => element("li", plain(reason))));
  setList("numbers", header ? numbersOf(header) : []);
}

export function showHistory() {
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
