// The service: its queue, its counters, and its lag behind the detector.

import {isSeen, see} from "./attention.js";
import {nameOf} from "./curves.js";
import {isMeasuring, isStale, page} from "./model.js";
import {byId, clock, count, isNumber, plain, seconds, setList} from "./text.js";

const RISEN_MS = 60000; // how long a counter stays red after it rose
const TROUBLE = /malformed|stale|(?<!previews_)drop|lost|refus|fail|error|bad|missing|late|unusable/;
const QUEUE = {ready: "waiting", leased: "being refined", computed: "to be published"};
const COUNTERS = {messages: "messages of the detector", malformed: "messages that cannot be read",
  stale: "messages of unknown series", documents: "documents of the RunEngine",
  documents_unusable: "documents that cannot be used", previews: "previews",
  previews_dropped: "previews dropped for want of time",
  work_again: "curves whose last frames moved the peak"};

// Note the counters that have risen; counters start again with each start of the service.
export function noteCounters(before, now) {
  if (before?.service !== now.service) page.risen.clear();
  else {
    for (const [name, value] of Object.entries(now.counters ?? {})) {
      if (value > (before.counters?.[name] ?? 0)) page.risen.set(name, performance.now());
    }
  }
}

const counterKey = (name, value) => `counter ${page.state?.service} ${name} ${value}`;

// Tone of a counter of errors: red for a minute after it rose, then amber until it is marked as seen.
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

export function showState() {
  const {queue, waiting} = page.state ?? {};
  const entries = Object.entries(queue ?? {}).filter(([name, jobs]) => name !== "cancelled" || jobs > 0);
  const tone = ([name, jobs]) => (TROUBLE.test(name) && jobs > 0 ? "bad" : "");
  const jobs = entries.map((entry) => [entry[0], plain(entry[1]), tone(entry), QUEUE[entry[0]]]);
  setList("queue", jobs.length ? jobs : [["jobs", "–"]]);
  setList("work", [["refining", workNow(), "", "being refined"],
    ["waiting", plain(waiting), "", "curves that wait for their crystal"], lag()]);
  showCounters();
}

// Lag of the crystals behind the detector; while no curve is measured, the time since when the service is idle.
export function lag() {
  const {lag_s: lagS, time_s: timeS, waiting} = page.state ?? {};
  if (isStale() || page.state === null) return ["lag", "–"];
  if (isMeasuring() || waiting > 0) return ["lag", seconds(lagS), "", "behind the detector"];
  return ["idle", isNumber(lagS) ? clock(timeS - lagS) : "the service's start", "", "idle since"];
}

// Mark the present values of the counters as seen.
export function seeCounters() {
  see(Object.entries(page.state?.counters ?? {}).filter(counterTone).map(([name, value]) => counterKey(name, value)));
  showCounters();
}
