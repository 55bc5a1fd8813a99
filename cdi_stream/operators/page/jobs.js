// The refinement queue: its jobs, with changes for those who hold the token.

import {getJson, post, session} from "./api.js";
import {byId, clock, element, plain, setText} from "./text.js";

const EVERY_MS = 2000;
const ACTIONS = {ready: ["raise", "cancel"], leased: ["cancel"], failed: ["retry", "cancel"], cancelled: ["retry"]};
const NAMES = {raise: "take first", cancel: "cancel", retry: "try again"};
const STATES = {ready: "waits", leased: "is refined", computed: "to be published", done: "done", failed: "failed",
  cancelled: "cancelled"};
const TONES = {failed: "bad", leased: "busy", cancelled: "warn"};
let shownText = "";

async function change(job, action) {
  try {
    const {is_changed: isChanged} = await post(`queue/${job.id}/${action}`);
    setText(byId("jobs-note"), isChanged ? "" : `job ${job.id} is in another state by now`);
  } catch (error) {
    setText(byId("jobs-note"), error.message);
  }
  refreshJobs();
}

// How far a refinement is: the share of its time limit, and its stage.
function progress({share, stage}, name) {
  const percent = Math.round(100 * share);
  return [element("progress", "", {max: 100, value: percent, "aria-label": `time limit used by the refinement of ${name}, percent`}),
    element("span", `${percent} % of its time limit, ${stage}`, {class: "note"})];
}

function row(job) {
  const made = element("tr", "", {"data-tone": TONES[job.state] ?? "idle", "data-job": job.id});
  const name = job.scan_id === null ? `run ${job.raw_uid.slice(0, 8)}` : `scan ${job.scan_id}`;
  const state = element("td", STATES[job.state] ?? job.state);
  if (job.progress) state.append(...progress(job.progress, name));
  made.append(element("td", name), element("td", plain(job.method)), state, element("td", clock(job.created_s)));
  const buttons = element("td");
  for (const action of session.can_write ? ACTIONS[job.state] ?? [] : []) {
    const button = element("button", NAMES[action], {"aria-label": `${NAMES[action]}: ${name}, ${plain(job.method)}`});
    button.onclick = () => change(job, action);
    buttons.append(button);
  }
  if (job.error) buttons.append(element("span", job.error, {class: "note"}));
  made.append(buttons);
  return made;
}

async function refreshJobs() {
  if (!session.has_queue) return;
  try {
    const {jobs} = await getJson("queue?limit=30");
    const text = JSON.stringify(jobs);
    if (text !== shownText) byId("jobs").replaceChildren(...jobs.map(row));
    shownText = text;
    byId("jobs").closest("table").hidden = jobs.length === 0;
  } catch (error) {
    setText(byId("jobs-note"), error.message);
  }
}

export function connectJobs() {
  setInterval(refreshJobs, EVERY_MS);
  refreshJobs();
}
