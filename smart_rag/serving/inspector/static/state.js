// What the address says (the fragment, which reaches no log and no Referer) and what the browser remembers.

export const VERSION = "1";
const LONGEST = 8000;

const number = (low, high, whole) => (text) => {
  const value = text.trim() === "" ? NaN : Number(text);
  if (!Number.isFinite(value) || value < low || value > high || (whole && !Number.isInteger(value))) return undefined;
  return value;
};

// How each name in the fragment is read. A reader returns undefined for a value that cannot be used.
const READERS = {
  db: (text) => (/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(text) ? text : undefined),
  q: (text) => text,
  w: (text) => {
    const parts = text.split(",").map(number(0, 1000, false));
    return parts.length === 2 && parts.every((one) => one !== undefined) && parts[0] + parts[1] > 0 ? parts : undefined;
  },
  c: number(1, 100_000, true),
  k: number(1, 1000, true),
  f: (text) => {
    const at = text.indexOf(":");
    return at > 0 ? [text.slice(0, at), text.slice(at + 1)] : undefined;
  },
  img: (text) => (/^[0-9a-f]{64}$/.test(text) ? text : undefined),
  hit: (text) => text || undefined,
  tok: number(0, 100_000, true),
  stage: (text) => (["auto", "terms", "pooled", "exhaustive"].includes(text) ? text : undefined),
  weighting: (text) => (["idf", "none", "contrast"].includes(text) ? text : undefined),
};

// Return {view, values, notices} of a fragment. Unknown names are ignored; what cannot be used is named in a notice.
export function readFragment(hash, names = []) {
  const notices = [];
  if (hash.length > LONGEST) {
    return { view: "", values: {}, notices: ["The address is too long, so it was not used. Start with a new search."] };
  }
  const match = /^#?\/?([a-z]*)(?:\?(.*))?$/s.exec(hash);
  const view = match && (match[1] === "" || names.includes(match[1])) ? match[1] : null;
  if (view === null && hash.length > 1) notices.push("The address names no view of this page, so Search was opened.");
  const values = {};
  let given;
  try {
    given = new URLSearchParams(match?.[2] ?? "");
  } catch {
    given = new URLSearchParams();
  }
  for (const [name, text] of given) {
    const reader = Object.hasOwn(READERS, name) ? READERS[name] : null;
    if (!reader) continue;
    const value = reader(text);
    if (value === undefined) notices.push(`“${name}=${text.slice(0, 40)}” in the address cannot be used and was ignored.`);
    else if (name === "f") (values.f ??= []).push(value);
    else values[name] = value;
  }
  return { view: view ?? "", values, notices };
}

const readable = (text) =>
  encodeURIComponent(text).replace(/%20/g, "+").replace(/%2C/g, ",").replace(/%3A/g, ":").replace(/%2F/g, "/");

// Return the fragment for a view and its values. Values that are undefined, null or empty are left out.
export function fragmentOf(view, values) {
  const parts = [];
  for (const name of Object.keys(READERS)) {
    const value = values[name];
    if (value === undefined || value === null || value === "") continue;
    if (name === "f") for (const [key, text] of value) parts.push(`f=${readable(`${key}:${text}`)}`);
    else parts.push(`${name}=${readable(Array.isArray(value) ? value.join(",") : String(value))}`);
  }
  return `#/${view}${parts.length ? `?${parts.join("&")}&v=${VERSION}` : ""}`;
}

export const fitsAddress = (fragment) => fragment.length <= LONGEST;

// What the browser remembers: theme, switches, weights; never a token, a query or a text.
const PREFIX = "smart_rag.";
export const memory = {
  get(name, otherwise) {
    try {
      const text = localStorage.getItem(PREFIX + name);
      return text === null ? otherwise : JSON.parse(text);
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(PREFIX + name, JSON.stringify(value));
    } catch {
      // A browser may forbid it. Then the page forgets.
    }
  },
};

export function applyTheme(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

// Numbers as people read them.
const counts = new Intl.NumberFormat();
export const countText = (value) => counts.format(value);
export const scoreText = (value) => value.toFixed(3).replace("-", "−");
export const timeText = (ms) => (ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`);
export function bytesText(bytes) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) {
    bytes /= 1024;
    at += 1;
  }
  return at === 0 ? `${countText(bytes)} bytes` : `${bytes.toFixed(1)} ${units[at]}`;
}
export const plural = (count, noun) => `${countText(count)} ${noun}${count === 1 ? "" : "s"}`;
// A long name is cut in the middle: its end says which file it is.
export function shortName(name, longest = 60) {
  const letters = [...name];
  if (letters.length <= longest) return name;
  const half = Math.floor((longest - 1) / 2);
  return `${letters.slice(0, half).join("")}…${letters.slice(-half).join("")}`;
}
