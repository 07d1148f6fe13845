// The view Judge: hits of all rankings, which a person marks as relevant; files of it, and weights that suit it.
import { html, nothing } from "./lit-html.js";
import { imageUrl, of } from "./api.js";
import { problemBox } from "./parts.js";
import { rankings } from "./ranking.js";
import { plural, scoreText, shortName } from "./state.js";

export const name = "judge";
export const title = "Judge";
export const keys = [
  ["j, k", "next hit, hit before"],
  ["2, 1, 0", "relevant, partly, not"],
  ["u", "can’t tell"],
  ["Backspace", "clear"],
];

const DEPTH = 10; // of each ranking
const GRADES = [
  [2, "relevant", "2"],
  [1, "partly", "1"],
  [0, "not", "0"],
];
const THUMBNAIL = 60_000;

const own = {
  db: "",
  judged: null, // {query: {id: {grade, note}}}
  needed: 30,
  query: "",
  hits: [],
  at: 0, // of the hit that keys judge
  areRanksShown: false,
  saving: new Map(), // id: saving, saved, failed
  unsure: new Set(),
  tuned: null,
  isBusy: false,
  problem: null,
};

export async function opened(state, actions) {
  if (own.db !== state.db) Object.assign(own, { db: state.db, judged: null, query: "", hits: [], tuned: null, unsure: new Set(), saving: new Map() });
  await load(actions);
  if (state.values.q && state.values.q !== own.query) ask(state.values.q, state, actions);
}

async function load(actions) {
  try {
    const { queries, needed } = await actions.api.get(actions.path("/inspector/judgements"));
    own.judged = new Map(queries.map((one) => [one.query, one.documents]));
    own.needed = needed;
    own.problem = null;
  } catch (error) {
    own.problem = actions.problem(error) ?? own.problem;
  }
  actions.redraw();
}

async function ask(query, state, actions) {
  Object.assign(own, { query, hits: [], at: 0, saving: new Map(), unsure: new Set(), isBusy: true });
  actions.remember({ q: query }, { push: true });
  actions.redraw();
  try {
    const body = { query, image: null, candidates: 100, first_stage: "auto", weighting: null, where: null, where_document: null };
    const found = await actions.api.post(actions.path("/inspector/search"), body);
    const lists = rankings(found.hits, found.weights);
    const first = new Map();
    // In turn, so that the place of a hit does not say which ranking it is from.
    for (let i = 0; i < DEPTH; i += 1) {
      for (const list of ["hybrid", "late", "pooled"]) {
        const row = lists[list][i];
        if (row && !first.has(row.hit.id)) first.set(row.hit.id, { ...row.hit, ranks: {} });
      }
    }
    for (const hit of first.values()) for (const list of ["pooled", "late", "hybrid"]) hit.ranks[list] = lists.ranks[list].get(hit.id);
    own.hits = [...first.values()];
    own.problem = null;
    actions.announce(`${plural(own.hits.length, "hit")} to judge`);
  } catch (error) {
    own.problem = actions.problem(error) ?? own.problem;
  }
  own.isBusy = false;
  actions.redraw();
}

// ---- the view ----------------------------------------------------------------------------------

export function view(state, actions) {
  const judged = [...(own.judged?.entries() ?? [])];
  const withGrades = judged.filter(([, documents]) => Object.values(documents).some((one) => one.grade !== null));
  return html`<main id="main" class="view judge" tabindex="-1">
    <h1 class="unseen">Judge</h1>
    ${own.problem ? problemBox(own.problem, () => load(actions)) : nothing}
    <div class="two">
      <section class="judging">
        <div class="card"><form class="question" role="search" @submit=${(event) => asked(event, state, actions)}>
          <div class="box"><input type="search" name="q" aria-label="Question" placeholder="A question that people really ask" dir="auto" autocomplete="off" .value=${own.query}><button class="button main">Find hits</button></div>
        </form>
        ${own.hits.length ? html`<p class="row fine"><span class="grow">Which of these passages answer the question? Keys: <kbd>2</kbd> relevant, <kbd>1</kbd> partly, <kbd>0</kbd> not, <kbd>u</kbd> can’t tell.</span>
          <label class="switch"><input type="checkbox" .checked=${own.areRanksShown} @change=${() => toggleRanks(actions)}>ranks</label></p>` : nothing}</div>
        ${own.isBusy ? html`<div class="ghost tall"></div>` : nothing}
        <ol class="to-judge">${own.hits.map((hit, i) => one(hit, i, state, actions))}</ol>
        ${!own.hits.length && !own.isBusy ? html`<div class="empty card"><p>${own.query ? "Nothing was found." : "Ask a question, and mark the passages that answer it."}</p><p class="fine">The hits of all three rankings are mixed, so that none of them has an advantage.</p></div>` : nothing}
      </section>
      <aside class="card kept" aria-labelledby="kept-head">
        <h2 id="kept-head">${plural(withGrades.length, "question")} judged</h2>
        <p class="fine">${withGrades.length < own.needed ? `Weights can be tried from ${own.needed} questions on. With fewer, the result would be chance.` : "Enough to try weights."}</p>
        <p class="row">
          <button class="button" ?disabled=${withGrades.length < own.needed || own.isBusy} @click=${() => tryWeights(actions)}>Try weights</button>
          <a class="button" href=${of(state.db, "/inspector/judgements/queries.jsonl")} download="queries.jsonl">queries.jsonl</a>
          <a class="button" href=${of(state.db, "/inspector/judgements/qrels.tsv")} download="qrels.tsv">qrels.tsv</a>
        </p>
        <p class="fine"><code>smart-rag tune queries.jsonl qrels.tsv --db …</code> reads these files.</p>
        ${own.tuned ? result() : nothing}
        <ol class="questions">${judged.map(([query, documents]) => html`<li class=${query === own.query ? "active" : ""}><button class="file" @click=${() => ask(query, state, actions)}><bdi>${shortName(query, 80)}</bdi> <small class="fine number">${plural(Object.keys(documents).length, "judgement")}</small></button></li>`)}</ol>
      </aside>
    </div>
  </main>`;
}

function one(hit, i, state, actions) {
  const known = own.judged?.get(own.query)?.[hit.id];
  const grade = known?.grade ?? null;
  const isUnsure = own.unsure.has(hit.id);
  return html`<li class="card ${i === own.at ? "current" : ""} ${grade !== null ? `grade-${grade}` : ""}" data-id=${hit.id} aria-current=${i === own.at ? "true" : nothing} @click=${() => choose(i, actions)}>
    ${hit.image ? html`<img loading="lazy" src=${imageUrl(state.db, hit.id, THUMBNAIL)} alt="">` : nothing}
    <div class="grow">
      <p class="fine"><bdi>${shortName(String(hit.source ?? hit.id).split(/[/\\]/).pop(), 48)}</bdi>${hit.page ? ` p. ${hit.page}` : ""}${own.areRanksShown ? html` <span class="number">hybrid ${hit.ranks.hybrid}, late ${hit.ranks.late} (${scoreText(hit.late)}), pooled ${hit.ranks.pooled} (${scoreText(hit.pooled)})</span>` : nothing}</p>
      <p class="text" dir="auto">${hit.text || "(no text)"}${hit.length > hit.text.length ? "…" : ""}</p>
      <div class="row" role="group" aria-label="Judgement">
        ${GRADES.map(([value, word, key]) => html`<button class="chip" aria-pressed=${grade === value ? "true" : "false"} @click=${(event) => pressed(event, hit, i, value, actions)}>${word} <kbd>${key}</kbd></button>`)}
        <button class="chip" aria-pressed=${isUnsure ? "true" : "false"} @click=${(event) => unsure(event, hit, i, actions)}>can’t tell <kbd>u</kbd></button>
        ${grade !== null ? html`<button class="plain" @click=${(event) => pressed(event, hit, i, null, actions)}>Clear</button>` : nothing}
        <label class="note"><span class="unseen">Note</span><input placeholder="note" maxlength="2000" .value=${known?.note ?? ""} @change=${(event) => save(hit.id, grade, event.target.value, actions)}></label>
        <span class="fine" role="status">${own.saving.get(hit.id) ?? ""}</span>
      </div>
    </div>
  </li>`;
}

function result() {
  const { queries, now, proposed, gain, is_worth_it: isWorthIt, notes } = own.tuned;
  const text = (one) => `${one.weights.join(" : ")}, ${one.weighting}`;
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
  return html`<div class="tuned" role="status">
    <table><thead><tr><th></th><th>pooled : late, words</th><th class="number">nDCG@10</th></tr></thead><tbody>
      <tr><th scope="row">now</th><td>${text(now)}</td><td class="number">${now.ndcg.toFixed(3)}</td></tr>
      <tr><th scope="row">proposed</th><td>${text(proposed)}</td><td class="number">${proposed.ndcg.toFixed(3)}</td></tr>
    </tbody></table>
    <p>On other questions, expect ${signed(gain.mean)} (95 %: ${signed(gain.low)} to ${signed(gain.high)}), from ${plural(queries, "question")}. ${isWorthIt ? "That is better by more than chance. Set these weights in Search, and save them there." : "That may be chance, so keep the weights."}</p>
    ${notes.map((note) => html`<p class="fine">${note}</p>`)}
  </div>`;
}

// ---- what is done ------------------------------------------------------------------------------

function asked(event, state, actions) {
  event.preventDefault();
  const query = new FormData(event.target).get("q").trim();
  if (query) ask(query, state, actions);
}

function choose(i, actions) {
  own.at = i;
  actions.redraw();
}

function toggleRanks(actions) {
  own.areRanksShown = !own.areRanksShown;
  actions.redraw();
}

function pressed(event, hit, i, grade, actions) {
  event.stopPropagation();
  own.at = i;
  judge(hit, grade, actions);
}

function unsure(event, hit, i, actions) {
  event.stopPropagation();
  own.at = i;
  markUnsure(hit, actions);
}

function markUnsure(hit, actions) {
  own.unsure.add(hit.id);
  if ((own.judged?.get(own.query)?.[hit.id]?.grade ?? null) !== null) judge(hit, null, actions, true);
  actions.redraw();
}

function judge(hit, grade, actions, isUnsure = false) {
  if (!isUnsure) own.unsure.delete(hit.id);
  save(hit.id, grade, own.judged?.get(own.query)?.[hit.id]?.note ?? "", actions);
}

// It is shown at once, and kept by the server at once. If that fails, it is shown as it was.
async function save(id, grade, note, actions) {
  const { query } = own;
  const documents = own.judged.get(query) ?? {};
  const before = documents[id];
  if (grade === null && !note) delete documents[id];
  else documents[id] = { grade, note };
  own.judged.set(query, documents);
  if (!Object.keys(documents).length) own.judged.delete(query);
  own.saving.set(id, "saving");
  actions.redraw();
  try {
    await actions.api.post(actions.path("/inspector/judgements"), { query, id, grade, note });
    own.saving.set(id, "saved");
  } catch (error) {
    own.saving.set(id, "not saved");
    const kept = own.judged.get(query) ?? {};
    if (before) kept[id] = before;
    else delete kept[id];
    own.judged.set(query, kept);
    const problem = actions.problem(error);
    if (problem) actions.toast(`${problem.sentence} ${problem.advice}`, "bad");
  }
  actions.redraw();
}

async function tryWeights(actions) {
  own.isBusy = true;
  actions.redraw();
  try {
    own.tuned = await actions.api.post(actions.path("/inspector/judgements/tune"), {});
  } catch (error) {
    const problem = actions.problem(error);
    if (problem) actions.toast(`${problem.sentence} ${problem.advice}`, "bad");
  }
  own.isBusy = false;
  actions.redraw();
}

export function key(event, state, actions) {
  const hit = own.hits[own.at];
  if (!hit) return false;
  if (event.key === "j" || event.key === "k") {
    move(event.key === "j" ? 1 : -1, actions);
    return true;
  }
  if (["0", "1", "2"].includes(event.key)) judge(hit, Number(event.key), actions);
  else if (event.key === "u") markUnsure(hit, actions);
  else if (event.key === "Backspace") {
    judge(hit, null, actions);
    return true;
  } else return false;
  move(1, actions);
  return true;
}

function move(by, actions) {
  own.at = Math.max(0, Math.min(own.hits.length - 1, own.at + by));
  actions.drawNow();
  document.querySelector(".to-judge .current")?.scrollIntoView({ block: "nearest" });
}
