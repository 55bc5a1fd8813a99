// Elements and texts.  What comes from outside is set as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Replace the content of a <dl> by [name, value, tone] entries.
export function setList(id, entries) {
  byId(id).replaceChildren(...entries.map(([name, value, tone = ""]) => {
    const entry = element("div", "", {"data-name": name, "data-tone": tone});
    entry.append(element("dt", name), element("dd", value));
    return entry;
  }));
}

export function setTone(id, tone, text) {
  byId(id).dataset.tone = tone;
  byId(id).textContent = text;
}

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
export const number = (value, digits = 3) => (isNumber(value) ? String(Number(value.toPrecision(digits))) : "–");
export const count = (value) => (isNumber(value) ? value.toLocaleString("en").replaceAll(",", "\u202f") : "–");
export const run = (uid) => String(uid ?? "–").slice(0, 8);
export const keyOf = (header) => `${header.raw_uid} ${header.curve_index}`;
export const clock = (epochS) => (isNumber(epochS) ? new Date(1000 * epochS).toLocaleTimeString("en-GB") : "–");

export function seconds(value) {
  if (!isNumber(value)) return "–";
  if (Math.abs(value) < 1) return `${Math.round(1000 * value)} ms`;
  return value < 120 ? `${value.toFixed(1)} s` : `${Math.round(value / 60)} min`;
}

export function plain(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (Array.isArray(value)) return value.map(plain).join(", ");
  if (typeof value === "object") return Object.entries(value).map(([k, v]) => `${k} ${plain(v)}`).join(", ");
  return isNumber(value) && !Number.isInteger(value) ? number(value) : String(value);
}

export function size(scalars) {
  const sides = ["x", "y", "z"].map((axis) => scalars[`size_lab_${axis}_nm`]);
  return sides.every(isNumber) ? sides.map((nm) => nm.toFixed(0)).join(" × ") : "–";
}
