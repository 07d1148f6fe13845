// Why a hit was found: words of the question, heat over the page, marks in the text, and how the late score adds up.
// The component needs only data, and sends no request itself. So it also works in a file of its own.
import { html, nothing, render } from "./lit-html.js";

const LEVELS = 5;
const LEAST = 0.35; // share of the scale below which a text has no mark
const LONG = 4000; // characters of a text that is shown whole
const SHOWN = 1200; // characters around the matches of a longer text
const STEP = 20_000; // more characters for each "show more"
const CHIPS = 22; // chips before the rest is folded
// YlOrRd of ColorBrewer (Apache-2.0), steps 1 to 6 of 9: black letters stay readable under them.
const WARM = [[255, 255, 204], [255, 237, 160], [254, 217, 118], [254, 178, 76], [253, 141, 60], [252, 78, 42]];
// inferno of matplotlib (CC0), from 0.35 to 1: for dark pictures, added to the light.
const FIRE = [[120, 28, 109], [165, 44, 96], [207, 68, 70], [237, 105, 37], [251, 155, 6], [247, 209, 61], [252, 255, 164]];
const OPACITY = 0.75;

const number = (value, digits = 3) => value.toFixed(digits).replace("-", "−");
const percent = (value) => `${Math.round(100 * value)} %`;

// ---- data --------------------------------------------------------------------------------------

// Read the answer of the server, whose form smart_rag/serving/inspector/matches.py describes.
export function readMatches(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const n = header.count;
  let at = 4 + length;
  const data = { ...header, places: null, frames: null, cells: null };
  if (header.tokens.length === 0) return data;
  const isVisual = header.kind === "image" || header.kind === "video";
  data.places = isVisual ? new Float32Array(buffer, at, 4 * n) : new Int32Array(buffer, at, 2 * n);
  at += data.places.byteLength;
  if (header.kind === "video") {
    data.frames = new Int32Array(buffer, at, n);
    at += data.frames.byteLength;
  }
  data.cells = new Uint8Array(buffer, at, header.tokens.length * n);
  return data;
}

export const similarity = (data, token, place) =>
  data.minimum + (data.cells[token * data.count + place] / 255) * (data.maximum - data.minimum);

const isNamed = (word) => word.startsWith("[");
const isPrompt = (token) => token.word === "[prompt]";

// The chips: words, or each token alone. A group is {name, tokens, part}; `part` is what it adds to the late score.
export function groupsOf(data, areSplit) {
  const groups = new Map();
  data.tokens.forEach((token, i) => {
    const key = areSplit && !isNamed(token.word) ? `token ${i}` : token.word;
    const name = areSplit && !isNamed(token.word) ? token.part || token.text : token.text;
    const group = groups.get(key) ?? { key, name, tokens: [], part: 0, weight: 0 };
    group.tokens.push(i);
    group.part += token.weight * token.similarity;
    group.weight += token.weight;
    groups.set(key, group);
  });
  return [...groups.values()];
}

// The similarity of each token of the hit to `tokens` of the question. Without them: that of similarity_map().
export function valuesOf(data, tokens) {
  const values = new Float32Array(data.count);
  if (tokens) {
    values.fill(-Infinity);
    for (const token of tokens) {
      for (let i = 0; i < data.count; i += 1) values[i] = Math.max(values[i], similarity(data, token, i));
    }
    return values;
  }
  const own = data.tokens.map((token, i) => [i, token]).filter(([, token]) => !isPrompt(token));
  const used = own.length ? own : data.tokens.map((token, i) => [i, token]);
  const total = used.reduce((sum, [, token]) => sum + token.weight, 0) || 1;
  for (const [row, token] of used) {
    const share = token.weight / total;
    for (let i = 0; i < data.count; i += 1) values[i] += share * Math.max(0, similarity(data, row, i));
  }
  return values;
}

// What each token of the hit adds to the late score: the parts of the question's tokens that match it best.
function partsOf(data) {
  const values = new Float32Array(data.count);
  for (const token of data.tokens) {
    if (!isPrompt(token)) values[token.best] += Math.max(0, token.weight * token.similarity);
  }
  return values;
}

// The greatest of the values whose token has a place. A token of the model's prompt has none.
function bestOf(data, values) {
  const step = data.kind === "text" || data.kind === "none" ? 2 : 4;
  let best = -1;
  for (let i = 0; i < data.count; i += 1) if (data.places[step * i] >= 0 && (best < 0 || values[i] > values[best])) best = i;
  return Math.max(best, 0);
}

// Words of a text, with the greatest value of the tokens in them (or the sum, if the values are parts of the score).
// Scripts without spaces have no words, so a long "word" is divided into its tokens.
export function wordsOf(data, values, areParts) {
  const spans = [];
  for (let i = 0; i < data.count; i += 1) {
    const [start, stop] = [data.places[2 * i], data.places[2 * i + 1]];
    if (start >= 0 && stop > start) spans.push({ start, stop, value: values[i] });
  }
  spans.sort((a, b) => a.start - b.start);
  const words = [];
  let next = 0;
  for (const { 0: text, index } of data.text.matchAll(/[\p{L}\p{N}\p{M}_]+/gu)) {
    const stop = index + text.length;
    while (next < spans.length && spans[next].stop <= index) next += 1;
    const inside = [];
    for (let i = next; i < spans.length && spans[i].start < stop; i += 1) inside.push(spans[i]);
    if (!inside.length) continue;
    if (text.length > 24) words.push(...inside.map((one) => ({ ...one })));
    else {
      const value = areParts ? inside.reduce((sum, one) => sum + one.value, 0) : Math.max(...inside.map((one) => one.value));
      words.push({ start: index, stop, value });
    }
  }
  return words;
}

// The lines of a page end where its paper ends. A line that goes on in the middle of a sentence is joined with the next.
// The text keeps its length, so that the places of its tokens stay.
const flowing = (text) => text.replace(/(?<=[^\n]{49}[^\n.!?:;])\n(?=[\p{L}\d(“"])/gu, " ");

// ---- the component -----------------------------------------------------------------------------

export class Why {
  // `changed(token)` is called with the first token of the pinned chip, or null, after a click or a key.
  constructor(host, { changed = () => {}, filtered = null } = {}) {
    this.host = host;
    this.changed = changed;
    this.filtered = filtered;
    this.options = { split: false, stretch: false, plain: false, heat: true, patches: false };
    this.pinned = null; // the key of a group
    this.hovered = null;
    this.frame = null;
    this.read = null; // the patch under the pointer
    this.unfolded = false;
    this.searchText = "";
    this.shown = 0;
    this.loadedImage = null;
    this.wanted = "";
    window.addEventListener("themechange", () => this.draw());
  }

  // `context`: {imageUrl, pageWords, greatest, weights, pooled, late, token, title}
  show(data, context) {
    const isNew = data !== this.data;
    if (isNew) this.text = data.image && data.kind === "text" ? flowing(data.text) : data.text;
    this.data = data;
    this.context = context;
    if (isNew) {
      this.hovered = null;
      this.read = null;
      this.shown = 0;
      this.frame = null;
      this.unfolded = false;
      this.pinToken(context.token ?? null);
    }
    this.draw();
    if (isNew) this.showStrongest();
  }

  // Scroll the text, and only the text, to the strongest mark.
  showStrongest() {
    const passage = this.host.querySelector(".passage");
    for (let level = LEVELS; passage && level > 0; level -= 1) {
      const mark = passage.querySelector(`mark.l${level}`);
      if (!mark) continue;
      const top = mark.offsetTop - passage.offsetTop;
      if (top < passage.scrollTop || top > passage.scrollTop + passage.clientHeight - 40) passage.scrollTop = top - passage.clientHeight / 2;
      return;
    }
  }

  pinToken(token) {
    this.pinned = token === null ? null : (groupsOf(this.data, this.options.split).find((group) => group.tokens.includes(token))?.key ?? null);
  }

  get groups() {
    return groupsOf(this.data, this.options.split);
  }

  get active() {
    const key = this.hovered ?? this.pinned;
    return key === null ? null : (this.groups.find((group) => group.key === key) ?? null);
  }

  pin(key) {
    this.pinned = this.pinned === key ? null : key;
    this.hovered = null;
    const group = this.groups.find((one) => one.key === this.pinned);
    this.changed(group ? group.tokens[0] : null);
    this.draw();
    this.showStrongest();
  }

  step(by) {
    const groups = this.groups;
    if (!groups.length) return;
    const at = groups.findIndex((group) => group.key === this.pinned);
    const next = at < 0 ? (by > 0 ? 0 : groups.length - 1) : at + by;
    this.pin(groups[(next + groups.length) % groups.length].key);
  }

  toggle(name) {
    const token = this.active?.tokens[0] ?? null;
    this.options[name] = !this.options[name];
    if (name === "split") this.pinToken(token);
    this.draw();
  }

  // The numbers on screen: values of the hit's tokens, and the two ends of the scale.
  picture() {
    const { data, context, active } = this;
    const areParts = !active && data.kind === "text";
    const values = areParts ? partsOf(data) : valuesOf(data, active?.tokens ?? null);
    let [low, high] = [0, active ? (context.greatest ?? data.maximum) : Math.max(values[bestOf(data, values)] ?? 0, 1e-6)];
    if (this.options.stretch && values.length) [low, high] = [Math.min(...values), Math.max(...values)];
    return { values, areParts, low, high: high > low ? high : low + 1e-6 };
  }

  draw() {
    if (!this.data) return;
    this.current = this.data.cells ? this.picture() : null;
    render(this.template(), this.host);
    this.paint();
  }

  template() {
    const { data, context } = this;
    const groups = this.groups;
    const picture = this.current;
    return html`
      ${this.scores()}
      ${data.cells
        ? html`${this.chips(groups)} ${data.kind === "text" ? this.passage(picture) : this.page(picture)} ${this.legend(picture)} ${this.switches()} ${this.table(groups)}
            ${data.kind === "text" ? this.page(picture) : this.passage(picture)}`
        : html`<p class="fine">${data.reason ? `${data.reason.charAt(0).toUpperCase()}${data.reason.slice(1)}.` : ""}</p>
            ${context.imageUrl ? html`<img class="plain-page" src=${context.imageUrl} alt="The page">` : nothing}
            ${data.text ? html`<div class="passage" dir="auto" tabindex="0">${this.plainText()}</div>` : nothing}`}
      ${this.metadata()}
    `;
  }

  scores() {
    const { pooled, late, weights } = this.context;
    const [first, second] = [weights[0] * pooled, weights[1] * late];
    const whole = Math.max(first, 0) + Math.max(second, 0) || 1;
    return html`<div class="sum">
      <p class="number"><strong>${number(first + second)}</strong> = <span class="of pooled">${number(weights[0], 2)} × ${number(pooled)}</span> + <span class="of late">${number(weights[1], 2)} × ${number(late)}</span></p>
      <svg class="parts" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="${percent(Math.max(first, 0) / whole)} of the score is pooled, ${percent(Math.max(second, 0) / whole)} late">
        <rect class="fill pooled" width=${(100 * Math.max(first, 0)) / whole} height="6"></rect>
        <rect class="fill late" x=${(100 * Math.max(first, 0)) / whole} width=${(100 * Math.max(second, 0)) / whole} height="6"></rect>
      </svg>
    </div>`;
  }

  chips(groups) {
    const most = Math.max(...groups.filter((group) => !isNamed(group.key)).map((group) => group.part), 1e-6);
    const needle = this.searchText.trim().toLowerCase();
    const folded = groups.length > CHIPS && !this.unfolded;
    const shown = groups.filter((group, i) => (needle ? group.name.toLowerCase().includes(needle) : !folded || i < CHIPS || group.key === this.pinned));
    return html`<div class="chips" role="group" aria-label="Words of the question, and what each adds to the late score" @keydown=${(event) => this.chipKey(event)}>
      <button class="chip all" aria-pressed=${this.pinned === null ? "true" : "false"} @click=${() => this.pinned !== null && this.pin(this.pinned)}>all</button>
      ${shown.map(
        (group) =>
          html`<button
            class="chip word l${this.level(group, most)}"
            data-key=${group.key}
            aria-pressed=${group.key === this.pinned ? "true" : "false"}
            @click=${() => this.pin(group.key)}
            @pointerenter=${(event) => event.pointerType === "mouse" && this.hover(group.key)}
            @pointerleave=${() => this.hover(null)}
          ><bdi>${group.name}</bdi> <small class="number">+${number(group.part)}</small></button>`,
      )}
      ${folded && !needle
        ? html`<button class="plain" @click=${() => this.unfold()}>+${groups.length - CHIPS} more</button>`
        : nothing}
      ${groups.length > CHIPS
        ? html`<label class="find"><span class="unseen">Find a word</span><input type="search" placeholder="find a word" .value=${this.searchText} @input=${(event) => this.find(event.target.value)}></label>`
        : nothing}
    </div>`;
  }

  level(group, most) {
    return isNamed(group.key) ? 0 : Math.max(0, Math.min(LEVELS, Math.ceil((LEVELS * group.part) / most)));
  }

  // Address of the picture under the heat.
  get url() {
    const { data, context } = this;
    if (data.kind !== "video") return context.imageUrl;
    return context.frameUrl?.(this.chosenFrame(this.bestFrames()), Math.max(...data.frames) + 1) ?? null;
  }

  // Of each frame of a video: its greatest value.
  bestFrames() {
    const best = new Map();
    this.data.frames.forEach((frame, i) => frame >= 0 && best.set(frame, Math.max(best.get(frame) ?? 0, this.current.values[i])));
    return best;
  }

  get hasPage() {
    return Boolean(this.url && (this.data.kind !== "text" || this.context.pageWords?.length));
  }

  passage(picture) {
    const { data } = this;
    if (!data.text) return nothing;
    if (data.kind !== "text") {
      return html`<details class="words"><summary>Text of the page</summary><div class="passage" dir="auto" tabindex="0">${this.plainText()}</div></details>`;
    }
    return html`<div class="passage" dir="auto" tabindex="0" role="region" aria-label="Text of the hit">${this.marked(picture)}</div>
      <p class="unseen">${this.words(picture)}</p>`;
  }

  page(picture) {
    if (!this.hasPage) return nothing;
    const isLoaded = this.loadedImage && this.wanted === this.url;
    return html`${this.data.kind === "video" ? this.strip() : nothing}
      <figure class="page ${isLoaded ? "" : "waiting"}">
        <canvas
          tabindex="0"
          role="img"
          aria-label=${this.words(picture)}
          @pointermove=${(event) => this.readAt(event)}
          @pointerleave=${() => this.stopReading()}
          @keydown=${(event) => this.readByKey(event)}
        ></canvas>
        <figcaption class="fine">${this.reading(picture)}</figcaption>
      </figure>`;
  }

  strip() {
    const best = this.bestFrames();
    const frames = [...best.keys()].sort((a, b) => a - b);
    const chosen = this.chosenFrame(best);
    const most = Math.max(...best.values(), 1e-6);
    return html`<div class="chips" role="group" aria-label="Frames of the video">
      ${frames.map((frame) => html`<button class="chip l${Math.ceil((LEVELS * best.get(frame)) / most)}" aria-pressed=${frame === chosen ? "true" : "false"} @click=${() => this.chooseFrame(frame)}>frame ${frame} <small>${number(best.get(frame), 2)}</small></button>`)}
    </div>`;
  }

  chosenFrame(best) {
    if (this.frame !== null) return this.frame;
    return [...best.entries()].reduce((a, b) => (b[1] > a[1] ? b : a))[0];
  }

  chooseFrame(frame) {
    this.frame = frame;
    this.draw();
  }

  // The text in pieces, those with a match in <mark>, in five levels.
  marked(picture) {
    const { data } = this;
    if (data.kind !== "text") return data.text;
    const words = wordsOf(data, picture.values, picture.areParts);
    const most = picture.areParts ? Math.max(...words.map((word) => word.value), 1e-6) : null;
    const marks = words.map((word) => ({ ...word, level: this.levelOf(word.value, picture, most) })).filter((word) => word.level > 0);
    const [start, stop] = this.window(marks);
    const pieces = [];
    let at = start;
    for (const mark of marks) {
      if (mark.start < at || mark.stop > stop) continue;
      if (mark.start > at) pieces.push(this.text.slice(at, mark.start));
      pieces.push(html`<mark class="l${mark.level}" title="${number(mark.value, 2)}">${this.text.slice(mark.start, mark.stop)}</mark>`);
      at = mark.stop;
    }
    if (at < stop) pieces.push(this.text.slice(at, stop));
    return html`${start > 0 ? "… " : ""}${pieces}${stop < data.text.length
      ? html` … <button class="plain" @click=${() => this.more()}>Show more of ${data.text.length.toLocaleString()} characters</button>`
      : nothing}`;
  }

  levelOf(value, picture, most) {
    if (picture.areParts) return value <= 0 ? 0 : Math.max(1, Math.ceil((LEVELS * value) / most));
    const share = (value - picture.low) / (picture.high - picture.low);
    return share < LEAST ? 0 : Math.max(1, Math.min(LEVELS, Math.ceil((LEVELS * (share - LEAST)) / (1 - LEAST))));
  }

  // The part of a long text with the most matches.
  window(marks) {
    const length = this.data.text.length;
    if (length <= LONG) return [0, length];
    if (this.shown) return [0, Math.min(length, this.shown)];
    let [best, most, sum, last] = [0, -1, 0, 0];
    marks.forEach((mark, first) => {
      for (; last < marks.length && marks[last].stop <= mark.start + SHOWN; last += 1) sum += marks[last].level ** 2;
      if (sum > most) [best, most] = [mark.start, sum];
      if (last > first) sum -= mark.level ** 2;
      else last = first + 1;
    });
    const start = Math.max(0, Math.min(best - 60, length - SHOWN));
    return [start, start + SHOWN];
  }

  more() {
    this.shown = (this.shown || 0) + STEP;
    this.draw();
  }

  plainText() {
    const { text } = this.data;
    const end = this.shown || LONG;
    return html`${text.slice(0, end)}${text.length > end ? html` … <button class="plain" @click=${() => this.more()}>Show more</button>` : nothing}`;
  }

  legend(picture) {
    const { options, active } = this;
    const what = picture.areParts ? "part of the late score" : active ? "similarity" : "mean similarity";
    const end = picture.areParts ? Math.max(...wordsOf(this.data, picture.values, true).map((word) => word.value), 0) : picture.high;
    const scale = this.isDark ? "fire" : "warm";
    return html`<div class="legend number ${this.data.kind === "text" ? "marks" : scale} ${options.plain ? "plain-scale" : ""}" role="img" aria-label="Colours: from ${number(picture.low, 2)} to ${number(end, 2)}, ${what}">
      <span>${number(picture.low, 2)}</span><span class="ramp">${[1, 2, 3, 4, 5].map((level) => html`<i class="l${level}"></i>`)}</span><span>${number(end, 2)}</span><span class="fine">${what}${options.stretch ? "; stretched, so colours do not compare with other words and hits" : ""}</span>
    </div>`;
  }

  switches() {
    const one = (name, text) => html`<label class="switch"><input type="checkbox" .checked=${this.options[name]} @change=${() => this.toggle(name)}>${text}</label>`;
    return html`<div class="switches">
      ${one("split", "tokens")} ${one("stretch", "stretch")} ${one("plain", "without colour")} ${this.hasPage ? one("heat", "heat") : nothing}
      ${this.data.kind !== "text" ? one("patches", "patches") : nothing}
    </div>`;
  }

  table(groups) {
    let sum = 0;
    const most = Math.max(...groups.map((group) => group.part), 1e-6);
    return html`<details class="adding" ?open=${this.isOpen ?? true} @toggle=${(event) => { this.isOpen = event.target.open; }}>
      <summary>How the late score adds up</summary>
      <div class="scroll"><table>
        <thead><tr><th scope="col">${this.options.split ? "token" : "word"}</th><th scope="col">matches</th><th scope="col" class="number">similarity</th><th scope="col" class="number">adds</th><th scope="col" class="number">so far</th></tr></thead>
        <tbody>${groups.map((group) => {
          sum += group.part;
          const strongest = group.tokens.reduce((a, b) => (this.data.tokens[b].similarity > this.data.tokens[a].similarity ? b : a));
          return html`<tr class=${group.key === this.active?.key ? "active" : ""}>
            <th scope="row"><button class="plain" @click=${() => this.pin(group.key)}><bdi>${group.name}</bdi></button></th>
            <td><bdi>${this.place(this.data.tokens[strongest].best)}</bdi></td>
            <td class="number">${number(group.weight ? group.part / group.weight : 0)}</td>
            <td class="number">${number(group.part)}<svg class="small-bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true"><rect class="fill late" width=${(100 * Math.max(0, group.part)) / most} height="6"></rect></svg></td>
            <td class="number">${number(sum)}</td>
          </tr>`;
        })}</tbody>
      </table></div>
      ${Math.abs(sum - this.context.late) > 0.002 ? html`<p class="fine">The late score is ${number(this.context.late)}: it was computed from compressed tokens, and this sum from the text.</p>` : nothing}
    </details>`;
  }

  // The place of a token of the hit, in words.
  place(i) {
    const { data } = this;
    if (data.kind === "text") {
      const [start, stop] = [data.places[2 * i], data.places[2 * i + 1]];
      if (start < 0) return "(no place)";
      const before = /[\p{L}\p{N}\p{M}_]{0,20}$/u.exec(data.text.slice(Math.max(0, start - 20), start))[0];
      const after = /^[\p{L}\p{N}\p{M}_]{0,20}/u.exec(data.text.slice(stop, stop + 20))[0];
      return before + data.text.slice(start, stop) + after;
    }
    if (data.kind === "none") return "(no place)";
    const [left, top, right, bottom] = data.places.subarray(4 * i, 4 * i + 4);
    if (left < 0) return "(no place)";
    const [columns, rows] = [Math.round(1 / (right - left)), Math.round(1 / (bottom - top))];
    const frame = data.frames ? `frame ${data.frames[i]}, ` : "";
    return `${frame}row ${Math.min(rows, Math.floor((top + bottom) / 2 / (bottom - top)) + 1)}, column ${Math.min(columns, Math.floor((left + right) / 2 / (right - left)) + 1)} of ${rows} × ${columns}`;
  }

  words(picture) {
    const best = bestOf(this.data, picture.values);
    const name = this.active ? `“${this.active.name}”` : "The question";
    return `${name} matches best: ${this.place(best)}, ${number(picture.values[best], 2)}`;
  }

  reading(picture) {
    if (this.read === null) return this.words(picture);
    return `${this.place(this.read)}: ${number(picture.values[this.read], 2)}`;
  }

  metadata() {
    const entries = Object.entries(this.data.metadata ?? {});
    if (!entries.length) return nothing;
    return html`<details class="metadata"><summary>Metadata</summary><table><tbody>
      ${entries.map(([key, value]) => {
        const text = typeof value === "object" ? JSON.stringify(value) : String(value);
        const shown = text.length > 400 ? `${text.slice(0, 400)}…` : text;
        const canFilter = this.filtered && value !== null && typeof value !== "object" && text.length < 400;
        return html`<tr><th scope="row"><bdi>${key}</bdi></th><td>${canFilter ? html`<button class="plain" title="Show only hits with this value" @click=${() => this.filtered(key, value)}><bdi>${shown}</bdi></button>` : html`<bdi>${shown}</bdi>`}</td></tr>`;
      })}
    </tbody></table></details>`;
  }

  // ---- events ----

  hover(key) {
    if (this.hovered === key) return;
    this.hovered = key;
    this.draw();
  }

  unfold() {
    this.unfolded = true;
    this.draw();
  }

  find(text) {
    this.searchText = text;
    this.draw();
  }

  chipKey(event) {
    if (event.target.matches("input")) return;
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) {
      event.preventDefault();
      event.stopPropagation();
      this.step(by);
      this.host.querySelector('.chip.word[aria-pressed="true"]')?.focus();
    } else if (event.key === "Escape" && this.pinned !== null) {
      event.stopPropagation();
      this.pin(this.pinned);
    }
  }

  readAt(event) {
    const area = event.currentTarget.getBoundingClientRect();
    this.readPlace((event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
  }

  readPlace(x, y) {
    const { data } = this;
    let found = null;
    if (data.kind === "text") {
      const word = (this.context.pageWords ?? []).find(([, , boxes]) => boxes.some(([l, t, r, b]) => x >= l && x <= r && y >= t && y <= b));
      if (word) {
        for (let i = 0; i < data.count; i += 1) if (data.places[2 * i] < word[1] && data.places[2 * i + 1] > word[0]) found ??= i;
      }
    } else {
      for (let i = 0; i < data.count; i += 1) {
        const [l, t, r, b] = data.places.subarray(4 * i, 4 * i + 4);
        if (x >= l && x < r && y >= t && y < b && (!data.frames || data.frames[i] === this.drawnFrame)) found = i;
      }
    }
    if (found !== this.read) {
      this.read = found;
      this.draw();
    }
  }

  stopReading() {
    this.read = null;
    this.draw();
  }

  readByKey(event) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!by || this.data.kind === "text") return;
    event.preventDefault();
    event.stopPropagation();
    const start = this.read ?? bestOf(this.data, this.current.values);
    const [l, t, r, b] = this.data.places.subarray(4 * start, 4 * start + 4);
    const clamp = (value) => Math.min(0.9999, Math.max(0, value));
    this.readPlace(clamp((l + r) / 2 + by[0] * (r - l)), clamp((t + b) / 2 + by[1] * (b - t)));
  }

  // ---- canvas ----

  paint() {
    const canvas = this.host.querySelector("canvas");
    if (!canvas) return;
    const { url } = this;
    if (this.wanted !== url) {
      this.wanted = url;
      this.loadedImage = null;
      const image = new Image();
      image.onload = () => {
        if (this.wanted !== url) return;
        this.loadedImage = image;
        this.isDark = isDark(image);
        this.draw();
      };
      image.onerror = () => {
        if (this.wanted === url) this.failed = url;
        this.host.querySelector("figure")?.classList.add("lost");
      };
      image.src = url;
    }
    const image = this.loadedImage;
    if (!image) return;
    // New weights change the numbers beside the page, and nothing on it.
    const shown = JSON.stringify([this.data.id, this.hovered, this.pinned, this.options, this.frame, this.read, this.context.greatest, this.context.pageWords?.length, url]);
    if (this.painted === canvas && this.paintedAs === shown && this.paintedData === this.data) return;
    Object.assign(this, { painted: canvas, paintedAs: shown, paintedData: this.data });
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    // A tall page stays in the window.
    canvas.style.setProperty("max-width", `calc(78vh * ${(width / height).toFixed(4)})`);
    const pen = canvas.getContext("2d");
    const picture = this.current;
    pen.globalCompositeOperation = "source-over";
    pen.globalAlpha = 1;
    pen.filter = this.options.heat && this.data.kind !== "text" ? "grayscale(1)" : "none";
    pen.drawImage(image, 0, 0);
    pen.filter = "none";
    if (!this.options.heat) return;
    if (this.data.kind === "text") this.paintWords(pen, picture, width, height);
    else this.paintPatches(pen, picture, width, height);
  }

  paintWords(pen, picture, width, height) {
    const words = wordsOf(this.data, picture.values, picture.areParts);
    const most = Math.max(...words.map((word) => word.value), 1e-6);
    pen.globalCompositeOperation = "multiply";
    for (const [start, stop, boxes] of this.context.pageWords ?? []) {
      const word = words.find((one) => one.start < stop && one.stop > start);
      const level = word ? this.levelOf(word.value, picture, most) : 0;
      if (!level) continue;
      pen.fillStyle = this.options.plain ? `rgb(0 0 0 / ${level * 9}%)` : `rgb(${colourAt(WARM, level / LEVELS).join(" ")})`;
      for (const [l, t, r, b] of boxes) pen.fillRect(l * width - 2, t * height - 1, (r - l) * width + 4, (b - t) * height + 2);
    }
    pen.globalCompositeOperation = "source-over";
  }

  paintPatches(pen, picture, width, height) {
    const { data, options } = this;
    this.drawnFrame = null;
    if (data.frames) this.drawnFrame = this.chosenFrame(this.bestFrames());
    const inside = [];
    for (let i = 0; i < data.count; i += 1) {
      if (data.places[4 * i] >= 0 && (!data.frames || data.frames[i] === this.drawnFrame)) inside.push(i);
    }
    if (!inside.length) return;
    const boxOf = (i) => data.places.subarray(4 * i, 4 * i + 4);
    const [l, t, r, b] = boxOf(inside[0]);
    const [columns, rows] = [Math.max(1, Math.round(1 / (r - l))), Math.max(1, Math.round(1 / (b - t)))];
    const small = new OffscreenCanvas(columns, rows);
    const cells = new ImageData(columns, rows);
    const colours = this.isDark ? FIRE : WARM;
    for (const i of inside) {
      const [left, top, right, bottom] = boxOf(i);
      const heat = Math.min(1, Math.max(0, (picture.values[i] - picture.low) / (picture.high - picture.low)));
      const [red, green, blue] = options.plain ? [0, 0, 0] : colourAt(colours, heat);
      const alpha = options.plain ? 0.72 * (1 - heat) : OPACITY * heat;
      const [x, y] = [Math.min(columns - 1, Math.floor(((left + right) / 2) * columns)), Math.min(rows - 1, Math.floor(((top + bottom) / 2) * rows))];
      cells.data.set([red, green, blue, Math.round(255 * alpha)], 4 * (y * columns + x));
    }
    small.getContext("2d").putImageData(cells, 0, 0);
    pen.globalCompositeOperation = options.plain ? "source-over" : this.isDark ? "screen" : "multiply";
    pen.imageSmoothingEnabled = !options.patches;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(small, 0, 0, width, height);
    pen.globalCompositeOperation = "source-over";
    const best = inside.reduce((a, i) => (picture.values[i] > picture.values[a] ? i : a), inside[0]);
    outline(pen, boxOf(best), width, height, this.isDark ? "#ffffff" : "#111111");
    if (this.read !== null && this.read !== best) outline(pen, boxOf(this.read), width, height, "#005fcc");
  }
}

function outline(pen, [left, top, right, bottom], width, height, colour) {
  const size = Math.max(1, width / 350);
  pen.lineWidth = 2 * size;
  pen.strokeStyle = colour === "#ffffff" ? "#000000" : "#ffffff";
  pen.strokeRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
  pen.lineWidth = size;
  pen.strokeStyle = colour;
  pen.strokeRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
}

function colourAt(colours, share) {
  const at = Math.min(1, Math.max(0, share)) * (colours.length - 1);
  const low = Math.min(colours.length - 2, Math.floor(at));
  return colours[low].map((value, i) => Math.round(value + (at - low) * (colours[low + 1][i] - value)));
}

// Whether most of a picture is dark: then light is added, and not taken away.
function isDark(image) {
  const small = new OffscreenCanvas(16, 16);
  const pen = small.getContext("2d");
  pen.drawImage(image, 0, 0, 16, 16);
  const { data } = pen.getImageData(0, 0, 16, 16);
  let sum = 0;
  for (let i = 0; i < data.length; i += 4) sum += 0.2126 * data[i] + 0.7152 * data[i + 1] + 0.0722 * data[i + 2];
  return sum / 256 / 255 < 0.4;
}
