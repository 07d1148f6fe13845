// The view Documents: the files of the index and their passages, new files, and files to remove.
import { html, nothing } from "./lit-html.js";
import { imageUrl } from "./api.js";
import { problemBox } from "./parts.js";
import { bytesText, countText, plural, shortName } from "./state.js";

export const name = "documents";
export const title = "Documents";
export const keys = [];

const COUNT = 24; // passages of a page
const FILES = 200; // files that are listed before "show all"
const THUMBNAIL = 40_000; // pixels
const SAID = { waiting: "waiting", sending: "sending", reading: "reading and encoding", done: "done", failed: "not added", cancelled: "cancelled" };

const own = {
  db: "",
  sources: null,
  passages: null,
  more: false,
  start: 0,
  source: null, // the file whose passages are shown
  contains: "",
  fileFilter: "",
  areAllShown: false,
  chosen: new Set(),
  uploads: [],
  isUploading: false,
  controller: null,
  problem: null,
  loading: null,
};

export function opened(state, actions) {
  if (own.db !== state.db) Object.assign(own, { db: state.db, sources: null, passages: null, start: 0, source: null, contains: "", chosen: new Set(), uploads: [] });
  load(state, actions);
}

async function load(state, actions) {
  own.loading?.abort();
  own.loading = new AbortController();
  const { signal } = own.loading;
  const asked = new URLSearchParams({ start: own.start, count: COUNT });
  if (own.source !== null) asked.set("source", own.source);
  if (own.contains) asked.set("contains", own.contains);
  try {
    const [listed, page] = await Promise.all([
      actions.api.get(actions.path("/inspector/sources"), signal),
      actions.api.get(actions.path(`/inspector/passages?${asked}`), signal),
    ]);
    Object.assign(own, { sources: listed, passages: page.passages, more: page.more, problem: null });
    const there = new Set(listed.sources.map((one) => one.path));
    own.chosen = new Set([...own.chosen].filter((path) => there.has(path)));
    actions.announce(plural(listed.sources.length, "file"));
  } catch (error) {
    const problem = actions.problem(error);
    if (!problem) return;
    own.problem = problem;
  }
  actions.redraw();
}

// ---- the view ----------------------------------------------------------------------------------

export function view(state, actions) {
  return html`<main id="main" class="view documents" tabindex="-1" @dragover=${(event) => event.preventDefault()} @drop=${(event) => dropped(event, state, actions)}>
    <h1 class="unseen">Documents</h1>
    ${own.problem ? problemBox(own.problem, () => load(state, actions)) : nothing}
    ${adding(state, actions)}
    ${own.sources ? html`<div class="two">${files(state, actions)} ${passages(state, actions)}</div>` : html`<div class="ghost tall"></div>`}
  </main>`;
}

function adding(state, actions) {
  const left = own.uploads.filter((one) => !["done", "failed", "cancelled"].includes(one.phase)).length;
  return html`<section class="card adding-files" aria-labelledby="add-head">
    <div class="row">
      <h2 id="add-head">Add files</h2>
      <p class="fine grow">Drop them anywhere on this page. They are kept in a folder beside the index.</p>
      <label class="button main"><span>Choose files</span><input class="unseen" type="file" multiple @change=${(event) => chosen(event, state, actions)}></label>
      ${left ? html`<button class="button" @click=${() => cancel(actions)}>Cancel ${plural(left, "file")}</button>` : nothing}
      ${!left && own.uploads.length ? html`<button class="plain" @click=${() => clear(actions)}>Clear the list</button>` : nothing}
    </div>
    ${own.uploads.length
      ? html`<ol class="uploads">${own.uploads.map(
          (one) => html`<li class=${one.phase}>
            <p class="row"><bdi class="grow" title=${one.file.name}>${shortName(one.file.name)}</bdi> <span class="fine number">${bytesText(one.file.size)}</span> <strong>${SAID[one.phase]}${one.phase === "sending" ? ` ${Math.round(100 * one.share)} %` : ""}</strong></p>
            ${one.phase === "sending" ? html`<progress max="1" .value=${one.share} aria-label="sent"></progress>` : one.phase === "reading" ? html`<progress aria-label="reading and encoding"></progress>` : nothing}
            ${one.said ? html`<p class=${one.phase === "failed" ? "wrong" : "fine"}>${one.said}</p>` : nothing}
            ${one.leftOut?.length ? html`<details><summary class="fine">${plural(one.leftOut.length, "part")} left out</summary><ul class="fine">${one.leftOut.map((text) => html`<li>${text}</li>`)}</ul></details>` : nothing}
          </li>`,
        )}</ol>`
      : nothing}
  </section>`;
}

function files(state, actions) {
  const { sources, apart } = own.sources;
  const needle = own.fileFilter.trim().toLowerCase();
  const fitting = needle ? sources.filter((one) => one.path.toLowerCase().includes(needle)) : sources;
  const shown = own.areAllShown ? fitting : fitting.slice(0, FILES);
  return html`<section class="card" aria-labelledby="files-head">
    <div class="row">
      <h2 id="files-head" class="grow">${plural(sources.length, "file")}</h2>
      <label><span class="unseen">Filter the files by name</span><input type="search" placeholder="filter by name" .value=${own.fileFilter} @input=${(event) => filtered(event.target.value, actions)}></label>
    </div>
    ${sources.length === 0 && apart === 0
      ? html`<div class="empty"><p>The index is empty.</p><p class="fine">Drop some files on this page, or run <code>smart-rag index ~/Documents --db …</code></p></div>`
      : nothing}
    ${own.chosen.size ? html`<p class="row chosen"><span class="grow">${plural(own.chosen.size, "file")} chosen</span><button class="button" @click=${() => remove(state, actions)}>Remove…</button></p>` : nothing}
    <ol class="files">
      ${shown.map((one) => {
        const at = Math.max(one.path.lastIndexOf("/"), one.path.lastIndexOf("\\"));
        return html`<li class=${own.source === one.path ? "active" : ""}>
          <input type="checkbox" .checked=${own.chosen.has(one.path)} aria-label=${`Choose ${one.path}`} @change=${(event) => choose(one.path, event.target.checked, actions)}>
          <button class="file" aria-pressed=${own.source === one.path ? "true" : "false"} title=${one.path} @click=${() => show(own.source === one.path ? null : one.path, state, actions)}>
            <bdi>${shortName(one.path.slice(at + 1), 48)}</bdi> <small class="fine"><bdi>${shortName(one.path.slice(0, Math.max(at, 0)), 40)}</bdi></small>
          </button>
          ${one.exists === false ? html`<span class="sign" title="The file no longer exists">gone</span>` : nothing}
          <span class="number fine">${countText(one.passages)}</span>
        </li>`;
      })}
    </ol>
    ${fitting.length > shown.length ? html`<button class="plain" @click=${() => showAll(actions)}>Show all ${plural(fitting.length, "file")}</button>` : nothing}
    ${apart ? html`<p class="fine">${plural(apart, "passage")} of no file.</p>` : nothing}
  </section>`;
}

function passages(state, actions) {
  const found = own.passages ?? [];
  return html`<section class="card" aria-labelledby="passages-head">
    <div class="row">
      <h2 id="passages-head" class="grow">${own.source === null ? `${plural(own.sources.passages, "passage")}` : html`Passages of <bdi>${shortName(own.source.split(/[/\\]/).pop(), 40)}</bdi>`}</h2>
      ${own.source === null ? nothing : html`<button class="plain" @click=${() => show(null, state, actions)}>Show those of all files</button>`}
      <form role="search" @submit=${(event) => looked(event, state, actions)}><label><span class="unseen">Only passages with this text</span><input type="search" name="contains" placeholder="with this text" .value=${own.contains}></label> <button class="button">Find</button></form>
    </div>
    <ol class="grid">
      ${found.map((one) => {
        const page = one.metadata.page;
        return html`<li>
          ${one.image ? html`<img loading="lazy" src=${imageUrl(state.db, one.id, THUMBNAIL)} alt="">` : nothing}
          <p class="fine"><bdi title=${one.metadata.source ?? one.id}>${shortName(String(one.metadata.source ?? one.id).split(/[/\\]/).pop(), 36)}</bdi>${page === undefined ? nothing : html` <span class="page-number">p. ${page}</span>`}</p>
          <p class="excerpt" dir="auto">${one.text || "(no text)"}${one.characters > one.text.length ? "…" : ""}</p>
          <p class="row"><button class="plain" @click=${() => actions.open("search", { q: one.text.slice(0, 200), hit: undefined, tok: undefined, f: undefined })}>Find similar</button> <span class="fine number">${plural(one.characters, "character")}</span></p>
        </li>`;
      })}
    </ol>
    ${found.length ? nothing : html`<div class="empty"><p>No passage${own.contains ? html` with the text “<bdi>${own.contains}</bdi>”` : ""} here.</p></div>`}
    <div class="row end">
      <span class="fine number grow">${found.length ? `${countText(own.start + 1)} to ${countText(own.start + found.length)}` : ""}</span>
      <button class="button" ?disabled=${own.start === 0} @click=${() => turn(-COUNT, state, actions)}>Before</button>
      <button class="button" ?disabled=${!own.more} @click=${() => turn(COUNT, state, actions)}>Next</button>
    </div>
  </section>`;
}

// ---- what is done ------------------------------------------------------------------------------

function filtered(text, actions) {
  own.fileFilter = text;
  actions.redraw();
}

function showAll(actions) {
  own.areAllShown = true;
  actions.redraw();
}

function choose(path, isChosen, actions) {
  own.chosen[isChosen ? "add" : "delete"](path);
  actions.redraw();
}

function show(path, state, actions) {
  Object.assign(own, { source: path, start: 0 });
  load(state, actions);
}

function looked(event, state, actions) {
  event.preventDefault();
  Object.assign(own, { contains: new FormData(event.target).get("contains").trim(), start: 0 });
  load(state, actions);
}

function turn(by, state, actions) {
  own.start = Math.max(0, own.start + by);
  load(state, actions);
}

async function remove(state, actions) {
  const paths = [...own.chosen];
  const passages = own.sources.sources.filter((one) => own.chosen.has(one.path)).reduce((sum, one) => sum + one.passages, 0);
  const go = await actions.confirm({
    title: `Remove ${plural(paths.length, "file")}?`,
    text: `${plural(passages, "passage")} will be removed from the index. This cannot be undone. Files of your own stay on the disk; files that were added here are removed from it, too.`,
    button: "Remove",
    dangerous: true,
  });
  if (!go) return;
  try {
    const { removed } = await actions.api.delete(actions.path("/inspector/sources"), { paths });
    actions.toast(`${plural(removed, "passage")} removed.`, "good");
    own.chosen.clear();
    if (paths.includes(own.source)) own.source = null;
  } catch (error) {
    const problem = actions.problem(error);
    if (problem) actions.toast(`${problem.sentence} ${problem.advice}`, "bad");
  }
  own.start = 0;
  load(state, actions);
  actions.refreshInfo();
}

function dropped(event, state, actions) {
  event.preventDefault();
  add([...(event.dataTransfer?.files ?? [])], state, actions);
}

function chosen(event, state, actions) {
  const files = [...event.target.files];
  event.target.value = "";
  add(files, state, actions);
}

function add(files, state, actions) {
  const largest = own.sources?.largest ?? Infinity;
  const entry = (file) =>
    file.size > largest
      ? { file, phase: "failed", share: 0, said: `Larger than ${bytesText(largest)}. Start the server with a larger --max-body, or run smart-rag index.` }
      : { file, phase: "waiting", share: 0, said: "" };
  own.uploads = [...own.uploads, ...files.map(entry)];
  actions.redraw();
  if (!own.isUploading) upload(state, actions);
}

function clear(actions) {
  own.uploads = [];
  actions.redraw();
}

// The file that is being read is finished or left out as a whole by the server; those that wait are not sent.
function cancel(actions) {
  for (const one of own.uploads) if (one.phase === "waiting") one.phase = "cancelled";
  own.controller?.abort();
  actions.redraw();
}

async function upload(state, actions) {
  own.isUploading = true;
  let next;
  while ((next = own.uploads.find((one) => one.phase === "waiting"))) {
    const one = next;
    own.controller = new AbortController();
    one.phase = "sending";
    actions.redraw();
    try {
      const answer = await actions.api.upload(actions.path(`/inspector/files?name=${encodeURIComponent(one.file.name)}`), one.file, {
        signal: own.controller.signal,
        onProgress(share) {
          one.share = share;
          if (share >= 1) one.phase = "reading";
          actions.redraw();
        },
      });
      one.phase = answer.problem ? "failed" : "done";
      one.leftOut = answer.left_out;
      one.said = answer.problem ? sentence(answer.problem) : said(answer);
    } catch (error) {
      if (error?.name === "AbortError") {
        one.phase = "cancelled";
      } else {
        const problem = actions.problem(error);
        one.phase = "failed";
        one.said = problem ? `${problem.sentence} ${problem.advice}` : "";
      }
    }
    actions.redraw();
  }
  own.isUploading = false;
  const done = own.uploads.filter((one) => one.phase === "done").length;
  const failed = own.uploads.filter((one) => one.phase === "failed").length;
  actions.toast(`${plural(done, "file")} added${failed ? `, ${plural(failed, "file")} not` : ""}.`, failed ? "bad" : "good");
  own.start = 0;
  load(state, actions);
  actions.refreshInfo();
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

function said({ added, replaced, unchanged, moved, removed }) {
  const counts = { added, replaced, unchanged, moved, removed };
  return `${Object.entries(counts)
    .filter(([, count]) => count)
    .map(([word, count]) => `${plural(count, "passage")} ${word}`)
    .join(", ")}.`;
}
