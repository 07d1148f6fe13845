// The view Index: what is in the index, how large it is, with which model, and how good its first stage is.
import { html, nothing } from "./lit-html.js";
import { bytesText, countText, plural } from "./state.js";

export const name = "index";
export const title = "Index";
export const keys = [];

const own = { db: "", check: null, isBusy: false };

export function opened(state, actions) {
  if (own.db !== state.db) Object.assign(own, { db: state.db, check: null, isBusy: false });
  actions.refreshInfo();
}

export function view(state, actions) {
  const { info } = state;
  return html`<main id="main" class="view statistics" tabindex="-1">
    <h1 class="unseen">Index</h1>
    ${info ? html`${tiles(info)} <div class="halves">${size(info)} ${settings(info)} ${stage(info, actions)}</div>` : html`<div class="ghost tall"></div>`}
  </main>`;
}

function tiles(info) {
  const whole = info.token_bytes + (info.pooled_bytes ?? 0);
  const facts = [
    [countText(info.documents), info.documents === 1 ? "passage" : "passages"],
    [countText(info.tokens), "token embeddings"],
    [info.documents ? countText(Math.round(info.tokens / info.documents)) : "–", "tokens a passage"],
    [bytesText(whole), "on disk"],
    [info.documents ? bytesText(Math.round(whole / info.documents)) : "–", "a passage"],
  ];
  return html`<dl class="tiles">${facts.map(([value, word]) => html`<div class="card"><dt class="fine">${word}</dt><dd class="number">${value}</dd></div>`)}</dl>`;
}

function size(info) {
  const parts = [
    ["tokens and terms", info.token_bytes, "late"],
    ["pooled embeddings and texts", info.pooled_bytes, "pooled"],
  ].filter(([, bytes]) => bytes !== null);
  const whole = parts.reduce((sum, [, bytes]) => sum + bytes, 0) || 1;
  return html`<section class="card" aria-labelledby="size-head"><h2 id="size-head">Space</h2>
    <table><tbody>${parts.map(([word, bytes, colour]) => {
      const share = (100 * bytes) / whole;
      return html`<tr><th scope="row"><span class="of ${colour}">${word}</span></th><td class="number" title=${`${countText(bytes)} bytes`}>${bytesText(bytes)}</td><td class="number">${share.toFixed(0)} %</td></tr>`;
    })}</tbody></table>
    ${info.pooled_bytes === null ? html`<p class="fine">The pooled embeddings are on a Chroma server, which does not tell their size.</p>` : nothing}
  </section>`;
}

function settings({ manifest }) {
  const config = manifest.config ?? {};
  const encoder = manifest.encoder ?? {};
  const rows = [
    ["model", encoder.model],
    ["adapter", encoder.adapter],
    ["reads", (manifest.modalities ?? []).join(", ")],
    ["codec of the tokens", config.codec],
    ["weights, pooled : late", config.weights ? config.weights.join(" : ") : undefined],
    ["words count by", config.weighting],
    ["longest document, in tokens", encoder.max_length],
    ["made with smart_rag", manifest.version ?? manifest.smart_rag],
  ].filter(([, value]) => value !== undefined && value !== null && value !== "");
  return html`<section class="card" aria-labelledby="settings-head"><h2 id="settings-head">Model and settings</h2>
    <table><tbody>${rows.map(([word, value]) => html`<tr><th scope="row">${word}</th><td><bdi>${typeof value === "object" ? JSON.stringify(value) : value}</bdi></td></tr>`)}</tbody></table>
    <details><summary class="fine">All settings</summary><pre class="all" tabindex="0">${JSON.stringify(manifest, null, 2)}</pre></details>
  </section>`;
}

function stage(info, actions) {
  const { check } = own;
  return html`<section class="card" aria-labelledby="stage-head"><h2 id="stage-head">First stage</h2>
    <p>A search scores only some candidates, unless the index is small. This asks up to 50 questions both ways, and counts how many of the true first 10 a search finds.</p>
    <p class="row"><button class="button" ?disabled=${own.isBusy || !info.documents} @click=${() => ask(actions)}>${own.isBusy ? "Checking…" : "Check the first stage"}</button></p>
    ${check
      ? html`<p role="status"><strong class="number">${(100 * check.found).toFixed(1)} %</strong> of the true first 10 were found, with ${plural(check.questions, "question")}${check.judged ? " that were judged" : " taken from the documents"}.
          ${check.scores_all ? "This index is so small that a search scores all of it." : check.found < 0.95 ? "More candidates would find more." : ""}</p>`
      : nothing}
  </section>`;
}

async function ask(actions) {
  own.isBusy = true;
  actions.redraw();
  try {
    own.check = await actions.api.post(actions.path("/inspector/check"), {});
  } catch (error) {
    const problem = actions.problem(error);
    if (problem) actions.toast(`${problem.sentence} ${problem.advice}`, "bad");
  }
  own.isBusy = false;
  actions.redraw();
}
