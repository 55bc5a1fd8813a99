// Items that need attention, and the items that an operator has marked as seen.

import {byId, element, setChildren, setText} from "./text.js";

const STORE = "cdi-stream seen";
const MAX_SEEN = 200;

function stored() {
  try {
    const keys = JSON.parse(localStorage.getItem(STORE));
    return Array.isArray(keys) ? keys.map(String) : [];
  } catch {
    return []; // the browser stores nothing
  }
}

let seen = stored();

export const isSeen = (key) => seen.includes(key);

// Mark keys as seen; the mark stays when the page is loaded again.
export function see(keys) {
  seen = [...seen.filter((key) => !keys.includes(key)), ...keys].slice(-MAX_SEEN);
  try {
    localStorage.setItem(STORE, JSON.stringify(seen));
  } catch (error) {
    console.warn(error);
  }
}

function row(onSeen) {
  return () => {
    const made = element("li");
    const button = element("button", "Seen");
    button.onclick = () => {
      const next = made.nextElementSibling ?? made.previousElementSibling;
      see([made.dataset.name]);
      onSeen();
      next?.querySelector("button").focus();
    };
    made.append(element("span"), button);
    return made;
  };
}

// Show items {key, tone, text}: unseen ones with a button, seen ones in a quiet list.  Returns the unseen ones.
export function showItems(items, onSeen) {
  const [open, quiet] = [items.filter((item) => !isSeen(item.key)), items.filter((item) => isSeen(item.key))];
  setChildren(byId("alarms"), open.map((item) => item.key), row(onSeen)).forEach((child, i) => {
    child.dataset.tone = open[i].tone;
    setText(child.firstChild, `${open[i].tone === "bad" ? "✖" : "▲"} ${open[i].text}`);
  });
  byId("standing-heading").hidden = quiet.length === 0;
  setChildren(byId("standing"), quiet.map((item) => item.key), () => element("li")).forEach((child, i) => {
    setText(child, quiet[i].text);
  });
  return open;
}
