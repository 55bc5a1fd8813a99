// Elements and texts.  Data from outside is set as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Set the text of a node; an unchanged node is not touched, so that the reader keeps selection and focus.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Show one child for each key; existing children stay the same elements, so that they keep the focus.
export function setChildren(parent, keys, make) {
  const old = new Map(Array.from(parent.children, (child) => [child.dataset.name, child]));
  const children = keys.map((key) => old.get(key) ?? make());
  for (const child of old.values()) if (!children.includes(child)) child.remove();
  children.forEach((child, i) => {
    child.dataset.name = keys[i];
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
  });
  return children;
}

function entry() {
  const made = element("div");
  made.append(element("dt"), element("dd"));
  return made;
}

// Show [name, value, tone, label] entries in a <dl>; the label is the name if there is none.
export function setList(id, entries) {
  setChildren(byId(id), entries.map(([name]) => name), entry).forEach((child, i) => {
    const [name, value, tone = "", label = name] = entries[i];
    child.dataset.tone = tone;
    setText(child.firstChild, label);
    setText(child.lastChild, value);
  });
}

export function setTone(id, tone, text) {
  byId(id).dataset.tone = tone;
  setText(byId(id), text);
}

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
export const number = (value, digits = 3) => (isNumber(value) ? String(Number(value.toPrecision(digits))) : "–");
export const count = (value) => (isNumber(value) ? value.toLocaleString("en").replaceAll(",", "\u202f") : "–");
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// Time of day; with the date if it is not today.
export function clock(epochS) {
  if (!isNumber(epochS)) return "–";
  const then = new Date(1000 * epochS);
  if (then.toDateString() === new Date().toDateString()) return then.toLocaleTimeString("en-GB");
  return then.toLocaleString("en-GB", {day: "numeric", month: "short", hour: "2-digit", minute: "2-digit"});
}

export function seconds(value) {
  if (!isNumber(value)) return "–";
  if (Math.abs(value) < 1) return `${Math.round(1000 * value)} ms`;
  return value < 120 ? `${value.toFixed(1)} s` : `${Math.round(value / 60)} min`;
}

export function plain(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (Array.isArray(value)) return value.length ? value.map(plain).join(", ") : "–";
  if (typeof value === "object") return Object.entries(value).map(([k, v]) => `${k} ${plain(v)}`).join(", ");
  return isNumber(value) && !Number.isInteger(value) ? number(value) : String(value);
}

export function size(scalars, quantity = "size") {
  const sides = ["x", "y", "z"].map((axis) => scalars[`${quantity}_lab_${axis}_nm`]);
  return sides.every(isNumber) ? sides.map((nm) => nm.toFixed(0)).join(" × ") : "–";
}
