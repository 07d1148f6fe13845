// The shell of the page: the top bar, the views, the address, messages, dialogs, sign-in, and a server that is gone.
import { html, nothing, render } from "./lit-html.js";
import { api, of, Problem } from "./api.js";
import { problemBox } from "./parts.js";
import { applyTheme, fitsAddress, fragmentOf, memory, readFragment } from "./state.js";
import { views } from "./views.js";

const root = document.getElementById("app");
const THEMES = { system: "System", light: "Light", dark: "Dark" };
const NAMES = views.map((one) => one.name);
// Seconds between the tries to reach a server that does not answer.
const PAUSES = [1, 2, 4, 8, 15];

const state = {
  phase: "loading", // loading, sign-in, failed, ready
  view: "search",
  values: {}, // what the address says: db, q, w, c, k, f, img, hit, tok
  db: "",
  indexes: [],
  info: null, // of the index that is shown
  theme: memory.get("theme", "system"),
  singleKeys: memory.get("keys", true),
  notices: [],
  toasts: [],
  gone: false,
  problem: null, // why the page cannot start
  dialog: null,
  signInProblem: null,
};

let waiting = false;
let drawnView = null;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawNow();
  });
}

function drawNow() {
  render(page(), root);
  const current = shown();
  if (drawnView !== current) {
    // What the view before has left behind: an open sheet, and all that was not to be used under it.
    drawnView = current;
    document.body.className = "";
    for (const node of root.querySelectorAll("[inert]")) node.removeAttribute("inert");
  }
  if (state.phase === "ready") current.drawn?.(root, state, actions);
  const dialog = root.querySelector("dialog.ask");
  if (dialog && !dialog.open) dialog.showModal();
  document.title = state.values.q ? `${state.values.q.slice(0, 60)} – smart_rag` : `${current.title} – smart_rag`;
}

const shown = () => views.find((one) => one.name === state.view) ?? views[0];

// ---- what views may do -------------------------------------------------------------------------

export const actions = {
  redraw,
  drawNow,
  api,
  // Address of an endpoint of the index that is shown.
  path: (rest) => of(state.db, rest),
  set(patch) {
    Object.assign(state, patch);
    redraw();
  },
  // Change values of the address. `push` makes a new entry of the history.
  remember(patch, { push = false } = {}) {
    Object.assign(state.values, patch);
    writeAddress(push);
  },
  open(view, patch = {}) {
    state.view = view;
    Object.assign(state.values, patch);
    writeAddress(true);
    shown().opened?.(state, actions);
    redraw();
  },
  notice(text) {
    if (!state.notices.includes(text)) state.notices = [...state.notices, text];
    redraw();
  },
  toast(text, kind = "") {
    const toast = { text, kind };
    state.toasts = [...state.toasts.slice(-3), toast];
    setTimeout(() => {
      state.toasts = state.toasts.filter((one) => one !== toast);
      redraw();
    }, 6000);
    (kind === "bad" ? alarm : announce)(text);
    redraw();
  },
  announce,
  // Handle an error of a request. Return the `Problem` to show, or null if there is nothing to show.
  problem(error) {
    if (error?.name === "AbortError") return null;
    if (!(error instanceof Problem)) {
      console.error(error);
      return new Problem(-1, "The page has an error.", "Load the page again, and report what you did.");
    }
    if (error.isGone) serverGone();
    else if (error.status === 401) actions.set({ phase: "sign-in" });
    alarm(error.sentence);
    return error;
  },
  // Ask before a change. Return a promise of whether to go on.
  confirm(question) {
    const before = document.activeElement;
    return new Promise((resolve) => {
      state.dialog = {
        ...question,
        close(answer) {
          state.dialog = null;
          drawNow();
          before?.focus?.();
          resolve(answer);
        },
      };
      redraw();
    });
  },
  async refreshInfo() {
    try {
      state.info = await api.get(of(state.db, "/info"));
    } catch (error) {
      actions.problem(error);
    }
    redraw();
  },
};

let lastSaid = "";
function announce(text) {
  // The same text twice is said twice only if the node changes.
  lastSaid = text === lastSaid ? `${text}\u00a0` : text;
  document.getElementById("live").textContent = lastSaid;
}

function alarm(text) {
  document.getElementById("alarm").textContent = text;
}

// ---- address -----------------------------------------------------------------------------------

let late = 0;
function writeAddress(push) {
  clearTimeout(late);
  const write = () => {
    const fragment = fragmentOf(state.view, { ...state.values, db: state.indexes.length > 1 ? state.db : undefined });
    if (!fitsAddress(fragment)) {
      actions.notice("This view is too long for an address. The address of the page does not change until it fits.");
      return;
    }
    if (fragment !== location.hash) history[push ? "pushState" : "replaceState"](null, "", fragment);
  };
  if (push) write();
  else late = setTimeout(write, 250);
}

function readAddress() {
  const { view, values, notices } = readFragment(location.hash, NAMES);
  state.view = view || "search";
  state.values = values;
  state.notices = [...state.notices, ...notices];
}

async function addressChanged() {
  clearTimeout(late);
  if (tokenOfAddress() !== null) return start();
  readAddress();
  try {
    const wanted = knownIndex();
    if (wanted !== state.db) await chooseIndex(wanted);
    shown().opened?.(state, actions);
  } catch (error) {
    const problem = actions.problem(error);
    if (problem) actions.toast(`${problem.sentence} ${problem.advice}`, "bad");
  }
  redraw();
}

// The index that the address names, or the first one.
function knownIndex() {
  const wanted = state.values.db;
  if (state.indexes.includes(wanted)) return wanted;
  if (wanted) state.notices = [...state.notices, `There is no index “${wanted}” here, so “${state.indexes[0]}” was opened.`];
  return state.indexes[0];
}

// ---- start, sign-in, the chosen index ----------------------------------------------------------

function tokenOfAddress() {
  const match = /^#token=([^&]*)(?:&(.*))?$/s.exec(location.hash);
  if (!match) return null;
  let token = match[1];
  try {
    token = decodeURIComponent(token);
  } catch {
    // It is taken as it is.
  }
  return { token, rest: match[2] ? `#${match[2].replace(/^#/, "")}` : "#/search" };
}

async function signIn(token) {
  try {
    await api.signIn(token);
    state.signInProblem = null;
    return true;
  } catch (error) {
    state.signInProblem = error;
    return false;
  }
}

async function start() {
  const given = tokenOfAddress();
  if (given) {
    // The token leaves the address and the history before anything else happens.
    history.replaceState(null, "", given.rest);
    if (!(await signIn(given.token))) return actions.set({ phase: "sign-in" });
  }
  readAddress();
  await load();
}

async function load() {
  try {
    state.indexes = (await api.get("/indexes")).indexes;
    await chooseIndex(knownIndex());
    state.phase = "ready";
    state.problem = null;
    shown().opened?.(state, actions);
  } catch (error) {
    if (error instanceof Problem && error.status === 401) state.phase = "sign-in";
    else if (error instanceof Problem) Object.assign(state, { phase: "failed", problem: error });
    else throw error;
    if (error.isGone) serverGone();
  }
  drawNow();
}

async function chooseIndex(name) {
  state.db = name;
  state.info = null;
  state.info = await api.get(of(name, "/info"));
}

async function indexChosen(name) {
  state.values = { db: name };
  try {
    await chooseIndex(name);
    shown().opened?.(state, actions);
    writeAddress(true);
  } catch (error) {
    const problem = actions.problem(error);
    if (problem) actions.toast(`${problem.sentence} ${problem.advice}`, "bad");
  }
  redraw();
}

// ---- a server that does not answer -------------------------------------------------------------

function serverGone() {
  if (state.gone) return;
  state.gone = true;
  let tries = 0;
  const again = async () => {
    try {
      await api.get("/health");
    } catch (error) {
      if (error instanceof Problem && error.isGone) {
        setTimeout(again, 1000 * PAUSES[Math.min(++tries, PAUSES.length - 1)]);
        return;
      }
    }
    state.gone = false;
    actions.toast("The server answers again.", "good");
    if (state.phase !== "ready") load();
    else shown().opened?.(state, actions);
  };
  setTimeout(again, 1000 * PAUSES[0]);
  redraw();
}

// ---- drawing -----------------------------------------------------------------------------------

function page() {
  return html`
    <a class="skip" href="#main" @click=${skip}>Skip to the content</a>
    <header class="bar">
      <a class="brand" href="#/search" @click=${home}
        ><img src="/assets/icon.svg" alt="" width="26" height="26"><span>smart_rag</span></a
      >
      ${state.phase === "ready" ? bar() : nothing}
      <label class="theme"
        ><span class="unseen">Colours</span
        ><select @change=${themeChosen}>
          ${Object.entries(THEMES).map(([value, word]) => html`<option value=${value} ?selected=${state.theme === value}>${word}</option>`)}
        </select></label
      >
    </header>
    ${state.gone ? html`<p class="banner" role="status">The server does not answer. The page tries again by itself.</p>` : nothing}
    ${state.notices.length ? notices() : nothing}
    ${content()}
    <div class="toasts">${state.toasts.map((one) => html`<p class="toast ${one.kind}">${one.text}</p>`)}</div>
    ${state.dialog ? question(state.dialog) : nothing}
  `;
}

function bar() {
  return html`
    ${state.indexes.length > 1
      ? html`<label class="chooser"
          ><span class="unseen">Index</span
          ><select @change=${(event) => indexChosen(event.target.value)}>
            ${state.indexes.map((one) => html`<option value=${one} ?selected=${one === state.db}>${one}</option>`)}
          </select></label
        >`
      : nothing}
    <nav class="tabs" aria-label="Views">
      ${views.map(
        (one) =>
          html`<a href=${fragmentOf(one.name, { db: state.indexes.length > 1 ? state.db : undefined })} aria-current=${one.name === state.view ? "page" : nothing} @click=${(event) => viewChosen(event, one.name)}>${one.title}</a>`,
      )}
    </nav>
    <button class="plain keys" @click=${showKeys} title="Keys (?)" aria-label="List of keys">?</button>
  `;
}

function notices() {
  return html`<div class="notice" role="status">
    <ul>${state.notices.map((text) => html`<li>${text}</li>`)}</ul>
    <button class="plain" @click=${() => actions.set({ notices: [] })}>Close</button>
  </div>`;
}

function content() {
  if (state.phase === "loading") return html`<main id="main" class="view" tabindex="-1" aria-busy="true"></main>`;
  if (state.phase === "sign-in") return signInForm();
  if (state.phase === "failed") {
    return html`<main id="main" class="view narrow" tabindex="-1"><h1>The index cannot be shown</h1>${problemBox(state.problem, load)}</main>`;
  }
  return shown().view(state, actions);
}

function signInForm() {
  return html`<main id="main" class="view narrow" tabindex="-1">
    <form class="card sign-in" @submit=${signInSent}>
      <h1>Sign in</h1>
      <p>This server answers only who has its token. It is the environment variable <code>SMART_RAG_TOKEN</code> of the server.</p>
      ${state.signInProblem
        ? html`<p class="wrong" role="alert">${state.signInProblem.status === 401 ? "This is not the token of this server." : state.signInProblem.sentence}</p>`
        : nothing}
      <label class="field">Token<input type="password" name="token" autocomplete="off" required></label>
      <button class="button main">Sign in</button>
    </form>
  </main>`;
}

function question(asked) {
  return html`<dialog class="ask" aria-labelledby="asked" @close=${() => asked.close(false)} @cancel=${() => asked.close(false)}>
    <h2 id="asked">${asked.title}</h2>
    ${asked.text ? html`<p>${asked.text}</p>` : nothing}
    ${asked.content ?? nothing}
    <div class="row end">
      ${asked.button ? html`<button class="button" autofocus @click=${() => asked.close(false)}>Cancel</button>` : nothing}
      <button class="button main ${asked.dangerous ? "dangerous" : ""}" @click=${() => asked.close(true)}>${asked.button ?? "Close"}</button>
    </div>
  </dialog>`;
}

function showKeys() {
  const all = [...(shown().keys ?? []), ["?", "this list"], ["Esc", "close"]];
  actions.confirm({
    title: "Keys",
    content: html`<dl class="keylist">${all.map(([key, text]) => html`<dt><kbd>${key}</kbd></dt><dd>${text}</dd>`)}</dl>
      <label class="switch"><input type="checkbox" ?checked=${state.singleKeys} @change=${singleKeysChosen}> Keys of a single letter are on</label>`,
  });
}

// ---- events ------------------------------------------------------------------------------------

function skip(event) {
  event.preventDefault();
  root.querySelector("main")?.focus();
}

function home(event) {
  event.preventDefault();
  if (state.phase === "ready") actions.open("search");
}

function viewChosen(event, name) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (name !== state.view) actions.open(name);
}

function themeChosen(event) {
  state.theme = event.target.value;
  memory.set("theme", state.theme);
  applyTheme(state.theme);
  window.dispatchEvent(new Event("themechange"));
  redraw();
}

function singleKeysChosen(event) {
  state.singleKeys = event.target.checked;
  memory.set("keys", state.singleKeys);
}

async function signInSent(event) {
  event.preventDefault();
  const field = event.target.elements.token;
  const token = field.value.trim();
  field.value = "";
  if (await signIn(token)) await start();
  else redraw();
}

const isField = (node) => node.closest?.("input:not([type=range],[type=checkbox],[type=radio]), textarea, select, [contenteditable]");

document.addEventListener("keydown", (event) => {
  if (state.phase !== "ready" || event.ctrlKey || event.metaKey || event.altKey || state.dialog) return;
  const single = event.key.length === 1;
  if (isField(event.target) && (single || event.key !== "Escape")) return;
  if (single && !state.singleKeys && event.key !== "/") return;
  if (event.key === "?") {
    event.preventDefault();
    showKeys();
  } else if (shown().key?.(event, state, actions)) event.preventDefault();
});
// It comes for a changed fragment, too.
window.addEventListener("popstate", addressChanged);
window.addEventListener("unhandledrejection", (event) => actions.toast(`The page has an error: ${String(event.reason?.message ?? event.reason)}`, "bad"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => window.dispatchEvent(new Event("themechange")));

applyTheme(state.theme);
drawNow();
start();
