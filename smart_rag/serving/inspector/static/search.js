// The view Search: one request brings everything that was scored, and the page ranks it by any weights.
import { html, nothing, render, svg } from "./lit-html.js";
import { imageUrl, Problem } from "./api.js";
import { problemBox } from "./parts.js";
import { certain, rankings, snippet } from "./ranking.js";
import { countText, memory, plural, scoreText, shortName, timeText } from "./state.js";
import { readMatches, Why } from "./why.js";

export const name = "search";
export const title = "Search";
export const keys = [
  ["/", "go to the question"],
  ["j  k", "next and previous hit"],
  ["[  ]", "column to the left and to the right"],
  ["← →", "words of the question, in the pane Why"],
  ["h", "heat on and off"],
];

const COLUMNS = {
  pooled: ["Pooled", "one vector per text"],
  late: ["Late", "word by word"],
  hybrid: ["Hybrid", "both, weighted"],
};
const ORDER = Object.keys(COLUMNS);
const STAGES = { encode: "encode", candidates: "candidates", gather: "gather", score: "score", texts: "texts" };
const THUMB = 60_000; // pixels
const PAGE = 1_200_000;
const WAIT = 150; // ms from the last change of a slider to a request

// What this view knows. Only the part in `state.values` is also in the address.
const own = {
  found: null, // the answer of the last search
  asked: null, // what it answers
  query: "",
  stale: false, // a newer question failed
  problem: null,
  loading: false, // for longer than 200 ms
  ranks: null,
  column: "hybrid",
  matches: null,
  matchesFor: "",
  matchesProblem: null,
  pageWords: null,
  image: null, // {url, name} of an image to ask with
  examples: null,
  dropped: [], // filters with the number of hits without each
  held: false, // a slider is held
  sheet: false,
};
let controller = null;
let matchesController = null;
let timer = 0;
let why = null;
let whyHost = null;
let lastAnnounced = 0;
let cache = { hits: null, weights: "" };

// ---- values ------------------------------------------------------------------------------------

const defaults = (state) => state.info?.manifest?.config?.weights ?? state.info?.manifest?.weights ?? [1, 2];
const weightsOf = (state) => state.values.w ?? own.found?.weights ?? defaults(state);
const topOf = (state) => state.values.k ?? 10;
const candidatesOf = (state) => state.values.c ?? 100;
const isWide = () => matchMedia("(min-width: 1100px)").matches;
const isPhone = () => matchMedia("(max-width: 699px)").matches;

// Return the filters as Chroma writes them. A value in the address is text; what looks like a number is one.
function whereOf(filters = []) {
  const conditions = [];
  let text = null;
  for (const [key, given] of filters) {
    if (key === "$contains") {
      text = { $contains: given };
      continue;
    }
    let value = given;
    try {
      const parsed = JSON.parse(given);
      if (["number", "boolean", "string"].includes(typeof parsed)) value = parsed;
    } catch {
      value = given;
    }
    conditions.push({ [key]: { $eq: value } });
  }
  return { where: conditions.length > 1 ? { $and: conditions } : (conditions[0] ?? null), where_document: text };
}

const filterText = (value) => (typeof value === "string" && /^(-?\d|true$|false$|null$|")/.test(value) ? JSON.stringify(value) : String(value));

function bodyOf(state, values = state.values) {
  return {
    query: values.q ?? "",
    image: values.img ?? null,
    candidates: candidatesOf(state),
    first_stage: values.stage ?? "auto",
    weighting: values.weighting ?? null,
    ...whereOf(values.f),
  };
}

// ---- requests ----------------------------------------------------------------------------------

export function opened(state, actions) {
  loadExamples(state, actions);
  if (own.db !== state.db) {
    Object.assign(own, { db: state.db, found: null, asked: null, problem: null, matches: null, matchesFor: "", examples: null, stale: false });
    loadExamples(state, actions);
  }
  own.draft = state.values.q ?? "";
  if (!state.values.q && !state.values.img) {
    Object.assign(own, { found: null, asked: null, problem: null, matches: null, matchesFor: "", sheet: false });
    return;
  }
  own.sheet = Boolean(state.values.hit);
  const asked = JSON.stringify(bodyOf(state));
  if (asked === own.asked && !own.problem) choose(state, actions, state.values.hit, { push: false, keep: true });
  else search(state, actions);
}

async function loadExamples(state, actions) {
  if (own.examples) return;
  own.examples = [];
  try {
    own.examples = (await actions.api.get(actions.path("/inspector/examples"))).examples;
    actions.redraw();
  } catch {
    // The page is as good without them.
  }
}

async function search(state, actions) {
  clearTimeout(timer);
  controller?.abort();
  controller = new AbortController();
  const mine = controller;
  const body = bodyOf(state);
  const wait = setTimeout(() => {
    own.loading = true;
    actions.redraw();
  }, 200);
  try {
    const found = await actions.api.post(actions.path("/inspector/search"), body, mine.signal);
    if (mine !== controller) return;
    Object.assign(own, { found, query: body.query, asked: JSON.stringify(body), stale: false, problem: null, dropped: [] });
    cache = { hits: null, weights: "" };
    rank(state);
    const total = Object.values(found.milliseconds).reduce((sum, ms) => sum + ms, 0);
    actions.announce(found.hits.length ? `${plural(Math.min(topOf(state), found.hits.length), "hit")}, ${timeText(total)}` : "No hit");
    choose(state, actions, state.values.hit, { push: false, keep: true });
    if (!found.hits.length && state.values.f?.length) countWithout(state, actions, mine);
  } catch (error) {
    if (mine !== controller) return;
    const problem = actions.problem(error);
    if (problem?.status === 409 && state.values.img) {
      own.problem = new Problem(409, "This view asks with an image that is not here.", "Drop the image on the page again to see the view.");
    } else if (problem) own.problem = problem;
    own.stale = Boolean(own.found);
  } finally {
    clearTimeout(wait);
    if (mine === controller) own.loading = false;
    actions.redraw();
  }
}

// Of each filter: how many documents would be found without it.
async function countWithout(state, actions, mine) {
  const filters = state.values.f;
  const counts = [];
  for (const filter of filters) {
    const values = { ...state.values, f: filters.filter((one) => one !== filter) };
    try {
      const found = await actions.api.post(actions.path("/inspector/search"), bodyOf(state, values), mine.signal);
      counts.push([filter, found.hits.length]);
    } catch {
      return;
    }
  }
  own.dropped = counts;
  actions.redraw();
}

function searchSoon(state, actions) {
  clearTimeout(timer);
  timer = setTimeout(() => search(state, actions), WAIT);
}

function rank(state) {
  const weights = weightsOf(state);
  const key = weights.join();
  if (!own.found || (cache.hits === own.found.hits && cache.weights === key)) return false;
  own.ranks = rankings(own.found.hits, weights);
  cache = { hits: own.found.hits, weights: key };
  return true;
}

const hitOf = (id) => own.found?.hits.find((hit) => hit.id === id) ?? null;

async function choose(state, actions, id, { push = true, keep = false } = {}) {
  let wanted = id && hitOf(id) ? id : null;
  if (id && !wanted && own.found) actions.notice("The hit in the address is not among what was scored for this question.");
  if (!wanted && keep && isWide() && own.ranks?.hybrid.length) wanted = own.ranks.hybrid[0].hit.id;
  if (!keep) own.sheet = true;
  if (wanted !== state.values.hit || push) {
    actions.remember(keep ? { hit: wanted ?? undefined } : { hit: wanted ?? undefined, tok: undefined }, { push });
  }
  const request = JSON.stringify([own.asked, wanted]);
  if (!wanted) {
    Object.assign(own, { matches: null, matchesFor: "", matchesProblem: null });
    actions.redraw();
    return;
  }
  if (own.matchesFor === request && (own.matches || !own.matchesProblem)) {
    if (why && own.matches) {
      why.pinToken(state.values.tok ?? null);
      why.draw();
    }
    actions.redraw();
    return;
  }
  own.matchesFor = request;
  own.matchesProblem = null;
  matchesController?.abort();
  matchesController = new AbortController();
  const { signal } = matchesController;
  actions.redraw();
  try {
    const question = { query: state.values.q ?? "", image: state.values.img ?? null, weighting: state.values.weighting ?? null };
    const buffer = await actions.api.bytes(actions.path("/inspector/matches"), { ...question, id: wanted }, signal);
    if (own.matchesFor !== request) return;
    own.matches = readMatches(buffer);
    own.pageWords = null;
    actions.redraw();
    if (own.matches.kind === "text" && own.matches.image) {
      const { words } = await actions.api.post(actions.path("/inspector/words"), { id: wanted }, signal);
      if (own.matchesFor !== request) return;
      own.pageWords = words;
      actions.redraw();
    }
  } catch (error) {
    if (own.matchesFor !== request) return;
    const problem = actions.problem(error);
    if (problem && !own.matches) own.matchesProblem = problem;
    else if (problem) own.pageWords = [];
    actions.redraw();
  }
}

// ---- the view ----------------------------------------------------------------------------------

export function view(state, actions) {
  return html`<main id="main" class="view search" tabindex="-1" @dragover=${(event) => event.preventDefault()} @drop=${(event) => imageDropped(event, state, actions)}>
    <h1 class="unseen">Search</h1>
    <div class="asking card">${form(state, actions)} ${own.found || state.values.q ? controls(state, actions) : nothing}</div>
    ${own.problem ? problemBox(own.problem, () => search(state, actions)) : nothing}
    ${own.stale && own.problem ? html`<p class="fine stale-note">Below are the hits of the question before.</p>` : nothing}
    ${content(state, actions)}
  </main>`;
}

function form(state, actions) {
  const readsImages = state.info?.manifest?.modalities?.includes("image");
  return html`<form class="question" role="search" @submit=${(event) => asked(event, state, actions)}>
    <div class="box">
      ${own.image || state.values.img
        ? html`<span class="with-image">${own.image ? html`<img src=${own.image.url} alt="Image of the question">` : html`<span class="sign">image</span>`}
            <button type="button" class="plain" aria-label="Remove the image" @click=${() => removeImage(state, actions)}>×</button></span>`
        : nothing}
      <input
        id="question"
        type="search"
        name="q"
        aria-label="Question"
        placeholder=${readsImages ? "Ask with words, an image, or both" : "Ask a question about your documents"}
        autocomplete="off"
        spellcheck="false"
        dir="auto"
        .value=${own.draft ?? ""}
        @input=${(event) => typed(event, state, actions)}
      >
      ${readsImages
        ? html`<label class="button image-button"><span>Image</span><input class="unseen" type="file" accept="image/jpeg,image/png,image/webp,image/gif" @change=${(event) => imageChosen(event.target.files[0], state, actions)}></label>`
        : nothing}
      <button class="button main">Search</button>
    </div>
    ${(own.draft?.length ?? 0) > 8000 ? html`<p class="fine">${countText(own.draft.length)} characters. The server may refuse so long a question.</p>` : nothing}
    ${state.values.img && state.values.q ? html`<p class="fine">The model reads the text and the image together, as one question.</p>` : nothing}
  </form>`;
}

function controls(state, actions) {
  const weights = weightsOf(state);
  const total = weights[0] + weights[1];
  const share = weights[1] / total;
  const standard = own.found?.weights ?? defaults(state);
  const usual = standard[1] / (standard[0] + standard[1]);
  const mode = own.found?.mode;
  const isTuned = Math.abs(share - usual) > 0.004;
  const spoken = `pooled ${(1 - share).toFixed(2)}, late ${share.toFixed(2)}`;
  return html`<div class="controls">
    <div class="weights" role="group" aria-label="Weights">
      <span class="of pooled" aria-hidden="true">pooled</span>
      <span class="slider">
        <input type="range" id="weight" min="0" max="1" step="0.01" .value=${String(share)} aria-label="Share of the late score" aria-valuetext=${spoken} list="usual"
          @input=${(event) => moved(event, state, actions)} @pointerdown=${hold} @pointerup=${() => release(actions)} @pointercancel=${() => release(actions)} @change=${() => release(actions)}>
        <datalist id="usual"><option value="0"></option><option value=${usual.toFixed(2)}></option><option value="1"></option></datalist>
      </span>
      <span class="of late" aria-hidden="true">late</span>
      <label><span class="unseen">Share of the late score, as a number</span><input class="number small" type="number" min="0" max="1" step="0.01" .value=${share.toFixed(2)} @change=${(event) => moved(event, state, actions)}></label>
      ${isTuned
        ? html`<button class="plain" @click=${() => resetWeights(state, actions)} title="Back to the weights of the index">Reset</button>
            <button class="plain" @click=${() => saveWeights(state, actions)}>Save as the index’s weights</button>`
        : html`<span class="fine">the index’s weights</span>`}
    </div>
    <div class="settings">
      <label class="setting">candidates
        <input type="range" min="10" max=${own.found?.limit ?? 1000} step="10" .value=${String(candidatesOf(state))} ?disabled=${mode === "all"} aria-valuetext=${mode === "all" ? `all ${own.found.documents} documents are scored` : String(candidatesOf(state))} @input=${(event) => setCandidates(event, state, actions)}>
        <output class="number">${mode === "all" ? "all" : countText(candidatesOf(state))}</output></label>
      <label class="setting">hits <select @change=${(event) => set(state, actions, { k: Number(event.target.value) })}>${[...new Set([5, 10, 20, 50, topOf(state)])].sort((a, b) => a - b).map((k) => html`<option value=${k} ?selected=${k === topOf(state)}>${k}</option>`)}</select></label>
      <details class="more"><summary>More</summary><div class="more-box card">
        <label class="setting">first stage <select @change=${(event) => setAndSearch(state, actions, { stage: event.target.value === "auto" ? undefined : event.target.value })}>${["auto", "terms", "pooled", "exhaustive"].map((one) => html`<option ?selected=${one === (state.values.stage ?? "auto")}>${one}</option>`)}</select></label>
        <label class="setting">words count by <select @change=${(event) => setAndSearch(state, actions, { weighting: event.target.value || undefined })}>${[["", `the index (${state.info?.manifest?.config?.weighting ?? "idf"})`], ["idf", "rarity (idf)"], ["none", "the same (none)"], ["contrast", "contrast"]].map(([value, text]) => html`<option value=${value} ?selected=${value === (state.values.weighting ?? "")}>${text}</option>`)}</select></label>
        <form class="add-filter" @submit=${(event) => filterAdded(event, state, actions)}>
          <span>Only hits whose</span>
          <input name="key" list="known-keys" placeholder="metadata" size="9" required aria-label="Name of the metadata">
          <datalist id="known-keys"><option value="source"></option><option value="page"></option><option value="text contains"></option>${Object.keys(own.matches?.metadata ?? {}).map((key) => html`<option value=${key}></option>`)}</datalist>
          <span>is</span>
          <input name="value" placeholder="value" size="9" required aria-label="Value">
          <button class="button">Filter</button>
        </form>
      </div></details>
    </div>
    ${state.values.f?.length
      ? html`<ul class="filters" aria-label="Filters">${state.values.f.map((filter) => html`<li><button class="chip" @click=${() => dropFilter(filter, state, actions)} aria-label="Drop the filter ${filter[0]} ${filter[1]}"><bdi>${filter[0] === "$contains" ? "text contains" : filter[0]}: ${shortName(baseName(filter[1]), 40)}</bdi> ×</button></li>`)}</ul>`
      : nothing}
    ${own.found ? latency(state) : nothing}
  </div>`;
}

function latency(state) {
  const { milliseconds, documents, hits, mode } = own.found;
  const stages = Object.entries(milliseconds).filter(([stage]) => STAGES[stage]);
  const total = stages.reduce((sum, [, ms]) => sum + ms, 0) || 1;
  const first = (list) => new Set(own.ranks[list].slice(0, topOf(state)).map((row) => row.hit.id));
  const pooled = first("pooled");
  const shared = [...first("hybrid")].filter((id) => pooled.has(id)).length;
  let at = 0;
  return html`<div class="facts">
    <p class="latency number fine">
      <svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">${stages.map(([stage, ms]) => {
        const x = at;
        at += (100 * ms) / total;
        return svg`<rect class="stage ${stage}" x=${x} width=${Math.max(0.4, (100 * ms) / total - 0.5)} height="8"></rect>`;
      })}</svg>
      ${stages.map(([stage, ms], i) => html`<span class="stage-part">${i ? "· " : ""}${STAGES[stage]} ${timeText(ms)}</span>`)}<span class="stage-part">=</span> <strong>${timeText(total)}</strong>
    </p>
    <p class="fine">${mode === "all" ? (hits.length === documents ? `${plural(documents, "passage")}, all scored.` : `${plural(hits.length, "passage")} pass the filters, all scored.`) : mode === "best" ? `Of ${plural(documents, "passage")}, the best ${countText(candidatesOf(state))} by each score are here.` : `${plural(hits.length, "candidate")} of ${plural(documents, "passage")} scored.`}
      ${hits.length ? `Pooled and hybrid share ${shared} of the first ${Math.min(topOf(state), hits.length)}.` : ""}</p>
  </div>`;
}

function content(state, actions) {
  if (!state.values.q && !state.values.img) return welcome(state, actions);
  if (!own.found) return own.loading ? ghosts() : nothing;
  if (!own.found.hits.length) return noHit(state, actions);
  rank(state);
  const phone = isPhone();
  return html`
    ${own.found.unread ? html`<p class="notice inline">The model cannot read this question, so the scores say little. Use a model for its language.</p>` : nothing}
    ${phone ? tablist(state, actions) : nothing}
    <div class="results ${own.stale ? "stale" : ""} ${own.loading ? "loading" : ""}" aria-busy=${own.loading ? "true" : "false"}>
      <div class="columns">
        <svg class="joins" aria-hidden="true"></svg>
        ${ORDER.map((column) => (phone && column !== own.column ? nothing : list(column, state)))}
      </div>
      ${pane(state, actions)}
    </div>`;
}

function list(column, state) {
  const [word, text] = COLUMNS[column];
  const note = column === "late" && own.found.mode === "candidates" ? `of the ${plural(own.found.hits.length, "candidate")} only` : text;
  const sure = column === "hybrid" ? certain(own.ranks.hybrid, weightsOf(state), own.found.last, topOf(state)) : Infinity;
  return html`<section class="column ${column}" aria-labelledby="head-${column}">
    <header><h2 id="head-${column}"><i class="dot"></i>${word}</h2><p class="fine">${note}</p></header>
    <ol class="hits" data-column=${column}></ol>
    ${sure < Math.min(topOf(state), own.ranks.hybrid.length) ? html`<p class="fine">From rank ${sure + 1} on, a document that is not here may rank higher at these weights. <button class="plain" data-more>Score more</button></p>` : nothing}
  </section>`;
}

function tablist(state, actions) {
  return html`<div class="tablist" role="tablist" aria-label="Ranking">${ORDER.map(
    (column) =>
      html`<button role="tab" class=${column} id="tab-${column}" aria-selected=${column === own.column ? "true" : "false"} tabindex=${column === own.column ? 0 : -1} @click=${() => chooseColumn(column, actions)} @keydown=${(event) => tabKey(event, actions)}>${COLUMNS[column][0]}</button>`,
  )}</div>`;
}

function pane(state, actions) {
  const hit = hitOf(state.values.hit);
  const phone = isPhone();
  if (!hit || (phone && !own.sheet)) return html`<aside class="why closed">${isWide() ? html`<p class="fine">Choose a hit to see what matched.</p>` : nothing}</aside>`;
  const ranks = ORDER.map((column) => `${COLUMNS[column][0].toLowerCase()} ${own.ranks.ranks[column].get(hit.id)}`).join(" · ");
  return html`<aside class="why card" aria-labelledby="why-head" role=${phone ? "dialog" : nothing} aria-modal=${phone ? "true" : nothing}>
    <header>
      <div class="grow"><h2 id="why-head" tabindex="-1"><bdi title=${hit.source ?? hit.id}>${shortName(nameOf(hit), 48)}</bdi>${hit.page ? html` <span class="page-number">p. ${hit.page}</span>` : nothing}</h2><p class="fine number">${ranks}</p></div>
      ${isWide() ? nothing : html`<button class="button" @click=${() => closePane(state, actions)}>Close</button>`}
    </header>
    ${own.matchesProblem ? problemBox(own.matchesProblem, () => again(state, actions)) : nothing}
    <div class="why-body ${own.matches && own.matches.id !== hit.id ? "old" : ""}"></div>
    ${!own.matches && !own.matchesProblem ? html`<div class="ghost tall"></div>` : nothing}
  </aside>`;
}

function welcome(state, actions) {
  if (state.info && state.info.documents === 0) {
    return html`<div class="empty card">
      <h2>This index is empty</h2>
      <p>Fill it from a terminal:</p>
      <pre><code>smart-rag index FOLDER --db ${shortName(state.db, 40)}.index</code></pre>
    </div>`;
  }
  return html`<div class="empty">
    <h2>What matched, and why</h2>
    <p class="lead">Ask a question. You see what your model finds with one vector per passage, what it finds word by word, and both together.</p>
    ${own.examples?.length
      ? html`<p class="fine">Try one of these</p><ul class="examples">${own.examples.map((text) => html`<li><button class="chip" dir="auto" @click=${() => ask(text, state, actions)}>${text}</button></li>`)}</ul>`
      : nothing}
    ${state.info ? html`<p class="fine">${plural(state.info.documents, "passage")} · ${plural(state.info.tokens, "token")} · ${state.info.manifest?.encoder?.model ? shortName(baseName(state.info.manifest.encoder.model), 40) : "own embeddings"}</p>` : nothing}
  </div>`;
}

function noHit(state, actions) {
  const filters = state.values.f ?? [];
  return html`<div class="empty card">
    <h2>No hit</h2>
    ${filters.length
      ? html`<p>No passage passes ${filters.length === 1 ? "the filter" : "all filters"}.</p>
          <ul class="examples">${filters.map((filter) => {
            const count = own.dropped.find(([one]) => one === filter)?.[1];
            return html`<li><button class="chip" @click=${() => dropFilter(filter, state, actions)}>Drop <bdi>${filter[0]}: ${shortName(baseName(filter[1]), 40)}</bdi>${count === undefined ? "" : ` (${plural(count, "passage")} without it)`}</button></li>`;
          })}</ul>`
      : html`<p>The index has no passage yet.</p>`}
  </div>`;
}

const ghosts = () =>
  html`<div class="results" aria-busy="true"><div class="columns">${ORDER.map(() => html`<div class="column">${[1, 2, 3, 4, 5].map(() => html`<div class="ghost row-ghost"></div>`)}</div>`)}</div></div>`;

// ---- rows: keyed by the id of the hit, so that they can glide --------------------------------------

const baseName = (path) => String(path).split(/[\\/]/).pop() || String(path);
const nameOf = (hit) => baseName(hit.source ?? hit.id);

function movement(row, column, state) {
  const k = topOf(state);
  const ranks = own.ranks.ranks;
  const other = column === "hybrid" ? ranks.pooled.get(row.hit.id) : ranks.hybrid.get(row.hit.id);
  const than = column === "hybrid" ? "pooled" : "hybrid";
  if (column === "hybrid" && other > k && row.rank <= k) return { sign: "new", kind: "up", spoken: `new; rank ${other} by pooled`, other, than };
  const by = other - row.rank;
  if (by === 0) return { sign: "=", kind: "same", spoken: `the same rank as by ${than}`, other, than };
  // In the columns of one score: what happens to this hit in the hybrid ranking.
  const rises = column === "hybrid" ? by > 0 : by < 0;
  return { sign: `${rises ? "▲" : "▼"}${Math.abs(by)}`, kind: rises ? "up" : "down", spoken: column === "hybrid" ? `${Math.abs(by)} ${rises ? "higher" : "lower"} than by pooled` : `rank ${other} in hybrid`, other, than };
}

function rowTemplate(row, column, state, actions) {
  const { hit } = row;
  const weights = weightsOf(state);
  const moved = movement(row, column, state);
  const [pooled, late] = [weights[0] * hit.pooled, weights[1] * hit.late];
  const most = weights[0] + weights[1];
  const isChosen = hit.id === state.values.hit;
  const name = nameOf(hit);
  const ranks = own.ranks.ranks;
  const suffix = /\.([a-z0-9]{1,4})$/i.exec(name)?.[1] ?? "txt";
  return html`<button class="hit ${isChosen ? "chosen" : ""}" data-id=${hit.id} aria-current=${isChosen ? "true" : nothing} @click=${() => choose(state, actions, hit.id)}>
    <span class="rank number">${row.rank}<small class="move ${moved.kind}" title=${moved.spoken} aria-hidden="true">${moved.sign}</small><span class="unseen">${moved.spoken}</span></span>
    ${hit.image ? html`<img class="thumb" loading="lazy" alt="" src=${imageUrl(state.db, hit.id, THUMB)}>` : html`<span class="thumb sign" aria-hidden="true">${suffix.toLowerCase()}</span>`}
    <span class="body">
      <span class="name">${hit.unread ? html`<small class="wrong" title="The model cannot read this text, so its scores say little">unread </small>` : nothing}<bdi>${shortName(name, 60)}</bdi>${hit.page ? html`<small> p. ${hit.page}</small>` : nothing}</span>
      <span class="text" dir="auto">${snippetOf(hit)}</span>
      <span class="score-line number">${column === "hybrid"
        ? html`<strong>${scoreText(pooled + late)}</strong> = <span class="of pooled">${scoreText(pooled)}</span> + <span class="of late">${scoreText(late)}</span>`
        : html`<strong class="of ${column}">${scoreText(hit[column])}</strong>`}${isPhone() ? html`<small class="fine"> pooled ${ranks.pooled.get(hit.id)} · late ${ranks.late.get(hit.id)} · hybrid ${ranks.hybrid.get(hit.id)}</small>` : nothing}</span>
      <svg class="parts" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">${column === "hybrid"
        ? svg`<rect class="fill pooled" width=${(100 * Math.max(0, pooled)) / most} height="4"></rect><rect class="fill late" x=${(100 * Math.max(0, pooled)) / most} width=${(100 * Math.max(0, late)) / most} height="4"></rect>`
        : svg`<rect class="fill ${column}" width=${100 * Math.max(0, hit[column])} height="4"></rect>`}</svg>
    </span>
  </button>`;
}

const snippets = new WeakMap(); // of each hit, which belongs to one question
function snippetOf(hit) {
  if (!snippets.has(hit)) snippets.set(hit, snippet(hit.text, own.query));
  return snippets.get(hit);
}

const items = new WeakMap(); // of each list: its rows by id

function fill(list, rows, template) {
  const before = items.get(list) ?? new Map();
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches || own.held;
  const places = new Map();
  if (!still) for (const [id, item] of before) places.set(id, item.getBoundingClientRect().top);
  const now = new Map();
  for (const row of rows) {
    const item = before.get(row.hit.id) ?? document.createElement("li");
    render(template(row), item);
    now.set(row.hit.id, item);
  }
  for (const [id, item] of before) if (!now.has(id)) item.remove();
  let place = list.firstElementChild;
  for (const item of now.values()) {
    if (item === place) place = place.nextElementSibling;
    else list.insertBefore(item, place);
  }
  items.set(list, now);
  if (still) return;
  for (const [id, item] of now) {
    const top = item.getBoundingClientRect().top;
    const from = places.get(id);
    if (from === undefined) {
      if (before.size) item.animate([{ opacity: 0 }, { opacity: 1 }], { duration: 160, easing: "ease-out" });
    } else if (Math.abs(from - top) > 1) {
      item.animate([{ transform: `translateY(${from - top}px)` }, { transform: "none" }], { duration: 160, easing: "ease-out" });
    }
  }
}

export function drawn(root, state, actions) {
  const focused = document.activeElement?.closest?.(".hit");
  const focus = focused && { id: focused.dataset.id, column: focused.closest("[data-column]")?.dataset.column };
  for (const list of root.querySelectorAll(".hits")) {
    const { column } = list.dataset;
    fill(list, own.ranks?.[column]?.slice(0, topOf(state)) ?? [], (row) => rowTemplate(row, column, state, actions));
  }
  for (const button of root.querySelectorAll("[data-more]")) button.onclick = () => setAndSearch(state, actions, { c: Math.min(1000, candidatesOf(state) * 2) });
  if (focus && !document.activeElement?.closest?.(".hit")) {
    // A row that moved in the page has lost the focus. If it left the list, the first row gets it.
    const list = root.querySelector(`.hits[data-column="${focus.column}"]`);
    const same = list && [...list.querySelectorAll(".hit")].find((one) => one.dataset.id === focus.id);
    (same ?? list?.querySelector(".hit"))?.focus({ preventScroll: true });
  }
  drawWhy(root, state, actions);
  drawJoins(root, state);
  const sheet = isPhone() ? root.querySelector(".why.card") : null;
  const isOpen = document.body.classList.contains("with-sheet");
  document.body.classList.toggle("with-sheet", Boolean(sheet));
  for (const behind of root.querySelectorAll(".bar, .asking, .tablist, .columns")) behind.toggleAttribute("inert", Boolean(sheet));
  if (sheet && !isOpen) sheet.querySelector("h2").focus();
}

function drawWhy(root, state, actions) {
  const host = root.querySelector(".why-body");
  if (!host || !own.matches) return;
  if (host !== whyHost) {
    whyHost = host;
    why = new Why(host, {
      changed: (token) => actions.remember({ tok: token ?? undefined }),
      filtered: (key, value) => addFilter([key, filterText(value)], state, actions),
    });
  }
  const hit = hitOf(own.matches.id);
  if (!hit) return;
  why.show(own.matches, {
    imageUrl: own.matches.image ? imageUrl(state.db, own.matches.id, PAGE) : null,
    frameUrl: hit.video ? (frame, count) => actions.path(`/inspector/frames/${frame}/${count}/${encodeURIComponent(hit.id)}`) : null,
    pageWords: own.pageWords,
    greatest: own.found.greatest,
    weights: weightsOf(state),
    pooled: hit.pooled,
    late: hit.late,
    token: state.values.tok ?? null,
  });
}

// Lines that join the chosen hit in the three lists, from where its rows really are.
function drawJoins(root, state) {
  const canvas = root.querySelector(".joins");
  if (!canvas) return;
  const area = canvas.parentElement.getBoundingClientRect();
  const boxes = ORDER.map((column) => {
    const row = [...root.querySelectorAll(`.hits[data-column="${column}"] .hit`)].find((one) => one.dataset.id === state.values.hit);
    return row?.getBoundingClientRect() ?? null;
  });
  const lines = [];
  for (let i = 0; i + 1 < boxes.length; i += 1) {
    const [a, b] = [boxes[i], boxes[i + 1]];
    if (!a || !b) continue;
    const [x1, y1, x2, y2] = [a.right - area.left, a.top + a.height / 2 - area.top, b.left - area.left, b.top + b.height / 2 - area.top];
    const middle = (x1 + x2) / 2;
    lines.push(svg`<path d="M${x1},${y1} C${middle},${y1} ${middle},${y2} ${x2},${y2}"></path>`);
  }
  canvas.setAttribute("viewBox", `0 0 ${area.width} ${area.height}`);
  render(svg`${lines}`, canvas);
}

let resizing = 0;
window.addEventListener("resize", () => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(() => own.actions?.redraw());
});

// ---- events ------------------------------------------------------------------------------------

function typed(event, state, actions) {
  own.actions = actions;
  own.draft = event.target.value;
  if (own.draft.length > 7990) actions.redraw();
}

function asked(event, state, actions) {
  event.preventDefault();
  ask(event.target.elements.q.value, state, actions);
}

function ask(text, state, actions) {
  own.actions = actions;
  own.draft = text;
  if (!text.trim() && !state.values.img) {
    actions.remember({ q: undefined, hit: undefined, tok: undefined }, { push: true });
    opened(state, actions);
    actions.redraw();
    document.getElementById("question")?.focus();
    return;
  }
  own.sheet = false;
  actions.remember({ q: text.trim(), hit: undefined, tok: undefined }, { push: text.trim() !== state.values.q });
  search(state, actions);
  actions.redraw();
}

function set(state, actions, patch) {
  actions.remember(patch);
  actions.redraw();
}

function setAndSearch(state, actions, patch) {
  actions.remember(patch);
  search(state, actions);
}

function setCandidates(event, state, actions) {
  actions.remember({ c: Number(event.target.value) });
  searchSoon(state, actions);
  actions.redraw();
}

function moved(event, state, actions) {
  own.actions = actions;
  const share = Number(event.target.value);
  if (!Number.isFinite(share) || share < 0 || share > 1) {
    actions.toast("The share of the late score is a number from 0 to 1.", "bad");
    actions.redraw();
    return;
  }
  const standard = own.found?.weights ?? defaults(state);
  const total = standard[0] + standard[1];
  const round = (value) => Math.round(value * 1e4) / 1e4;
  const before = own.ranks?.hybrid.slice(0, topOf(state)).map((row) => row.hit.id).join("\n");
  actions.remember({ w: [round(total * (1 - share)), round(total * share)] });
  rank(state);
  const now = own.ranks?.hybrid.slice(0, topOf(state)).map((row) => row.hit.id) ?? [];
  const changed = now.filter((id, i) => id !== before?.split("\n")[i]).length;
  if (changed && performance.now() - lastAnnounced > 1000) {
    lastAnnounced = performance.now();
    actions.announce(`${plural(changed, "hit")} moved`);
  }
  actions.drawNow();
}

function hold() {
  own.held = true;
}

function release(actions) {
  own.held = false;
  actions.redraw();
}

function resetWeights(state, actions) {
  set(state, actions, { w: undefined });
}

async function saveWeights(state, actions) {
  const weights = weightsOf(state);
  const text = `Searches of this index will use pooled ${weights[0]} and late ${weights[1]}. Programs that have it open use them when they open it again.`;
  if (!(await actions.confirm({ title: "Save these weights?", text, button: "Save" }))) return;
  try {
    await actions.api.put(actions.path("/inspector/weights"), { weights });
    own.found.weights = weights;
    actions.remember({ w: undefined });
    await actions.refreshInfo();
    actions.toast("The index has these weights now.", "good");
  } catch (error) {
    const problem = actions.problem(error);
    if (problem) actions.toast(`${problem.sentence} ${problem.advice}`, "bad");
  }
}

function addFilter(filter, state, actions) {
  const filters = state.values.f ?? [];
  if (filters.some(([key, value]) => key === filter[0] && value === filter[1])) return;
  setAndSearch(state, actions, { f: [...filters, filter] });
  actions.redraw();
}

function filterAdded(event, state, actions) {
  event.preventDefault();
  const { key, value } = event.target.elements;
  const name = key.value.trim();
  addFilter([name === "text contains" ? "$contains" : name, value.value], state, actions);
  event.target.reset();
}

function dropFilter(filter, state, actions) {
  setAndSearch(state, actions, { f: state.values.f.filter((one) => one !== filter) });
  actions.redraw();
}

async function imageChosen(file, state, actions) {
  if (!file) return;
  try {
    const { image } = await actions.api.upload(actions.path("/inspector/images"), file, { headers: { "Content-Type": "application/octet-stream" } });
    if (own.image) URL.revokeObjectURL(own.image.url);
    own.image = { url: URL.createObjectURL(file), name: image };
    own.draft = own.draft ?? "";
    actions.remember({ img: image, q: own.draft.trim() || undefined, hit: undefined, tok: undefined }, { push: true });
    search(state, actions);
  } catch (error) {
    own.problem = actions.problem(error);
  }
  actions.redraw();
}

function imageDropped(event, state, actions) {
  const file = event.dataTransfer?.files?.[0];
  if (!file) return;
  event.preventDefault();
  if (!state.info?.manifest?.modalities?.includes("image")) {
    actions.toast("The model of this index reads only text, so it cannot search with an image.", "bad");
    return;
  }
  imageChosen(file, state, actions);
}

function removeImage(state, actions) {
  if (own.image) URL.revokeObjectURL(own.image.url);
  own.image = null;
  actions.remember({ img: undefined, hit: undefined, tok: undefined }, { push: true });
  opened(state, actions);
  actions.redraw();
}

function chooseColumn(column, actions) {
  own.column = column;
  memory.set("column", column);
  actions.drawNow();
  document.getElementById(`tab-${column}`)?.focus();
}

function tabKey(event, actions) {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  chooseColumn(ORDER[(ORDER.indexOf(own.column) + by + ORDER.length) % ORDER.length], actions);
}

function again(state, actions) {
  own.matchesFor = "";
  choose(state, actions, state.values.hit, { push: false, keep: true });
}

function closePane(state, actions) {
  const id = state.values.hit;
  own.sheet = false;
  actions.remember({ hit: undefined, tok: undefined });
  actions.drawNow();
  [...document.querySelectorAll(".hit")].find((one) => one.dataset.id === id)?.focus();
}

export function key(event, state, actions) {
  if (event.key === "/") {
    document.getElementById("question")?.focus();
    return true;
  }
  if (event.key === "Escape" && state.values.hit && !isWide()) {
    closePane(state, actions);
    return true;
  }
  if (!own.ranks) return false;
  const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
  const side = { "[": -1, "]": 1 }[event.key];
  const focused = document.activeElement?.closest?.(".hit");
  if (event.key.startsWith("Arrow") && !focused) return false;
  if (step) {
    const column = focused?.closest("[data-column]")?.dataset.column ?? own.column;
    const rows = [...document.querySelectorAll(`.hits[data-column="${column}"] .hit`)];
    const at = rows.findIndex((one) => one === focused || (!focused && one.dataset.id === state.values.hit));
    const next = rows[Math.max(0, Math.min(rows.length - 1, at + step))];
    if (!next) return false;
    next.focus();
    if (isWide()) choose(state, actions, next.dataset.id, { push: false });
    return true;
  }
  if (side) {
    own.column = ORDER[Math.max(0, Math.min(ORDER.length - 1, ORDER.indexOf(focused?.closest("[data-column]")?.dataset.column ?? own.column) + side))];
    actions.drawNow();
    const rows = [...document.querySelectorAll(`.hits[data-column="${own.column}"] .hit`)];
    (rows.find((one) => one.dataset.id === state.values.hit) ?? rows[0])?.focus();
    return true;
  }
  if (event.key === "h" && why) {
    why.toggle("heat");
    return true;
  }
  return false;
}
