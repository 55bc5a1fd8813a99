// The HTTP interface: JSON, arrays and writes.

import {read} from "./feed.js";

export const session = {can_write: false, csrf: null, has_archive: false, has_queue: false, can_reconstruct: false};

async function ask(path, options = {}) {
  const answer = await fetch(`api/v1/${path}`, options);
  if (answer.status === 401) location.assign("login");
  if (answer.ok) return answer;
  const {detail} = await answer.json().catch(() => ({}));
  throw new Error(typeof detail === "string" ? detail : `${path}: status ${answer.status}`);
}

export const getJson = async (path) => (await ask(path)).json();
export const getArrays = async (path) => read(await (await ask(path)).arrayBuffer());

export async function post(path, body = {}) {
  const headers = {"Content-Type": "application/json", "X-CSRF-Token": session.csrf ?? ""};
  return (await ask(path, {method: "POST", headers, body: JSON.stringify(body)})).json();
}

export async function openSession() {
  Object.assign(session, await getJson("session"));
}

// Query of the pictures of a result.
export const pictureOf = (h) => `stage=${encodeURIComponent(h.stage)}&curve=${Number(h.curve_index) || 0}`;
export const scanPath = (h) => `scans/${encodeURIComponent(h.raw_uid)}`;
