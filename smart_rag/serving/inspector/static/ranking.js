// Rankings of scored hits. The arithmetic is that of smart_rag.scoring.ranking, so both give the same order.

const f32 = Math.fround;
const TIES = 1e6; // scores that differ by less than the rounding error of float32 are ties

export const scoreOf = (hit, [pooled, late]) => f32(f32(f32(pooled) * f32(hit.pooled)) + f32(f32(late) * f32(hit.late)));

// Round half to even, as numpy does.
function rounded(value) {
  const scaled = value * TIES;
  const low = Math.floor(scaled);
  const rest = scaled - low;
  if (rest === 0.5) return low % 2 === 0 ? low : low + 1;
  return rest < 0.5 ? low : low + 1;
}

// Return all hits as [{hit, score, rank}], best first. Hits come sorted by their ids, which decide about ties.
export function ranked(hits, weights) {
  const rows = hits.map((hit, place) => {
    const score = scoreOf(hit, weights);
    return { hit, score, key: rounded(score), place };
  });
  rows.sort((a, b) => b.key - a.key || a.place - b.place);
  rows.forEach((row, i) => {
    row.rank = i + 1;
  });
  return rows;
}

const ranksOf = (rows) => new Map(rows.map((row) => [row.hit.id, row.rank]));
const ofOneScore = new WeakMap(); // two of the rankings do not change with the weights

// The three rankings of a search, and the rank of each hit in each of them.
export function rankings(hits, weights) {
  let fixed = ofOneScore.get(hits);
  if (!fixed) {
    const [pooled, late] = [ranked(hits, [1, 0]), ranked(hits, [0, 1])];
    fixed = { pooled, late, ranks: { pooled: ranksOf(pooled), late: ranksOf(late) } };
    ofOneScore.set(hits, fixed);
  }
  const hybrid = ranked(hits, weights);
  return { pooled: fixed.pooled, late: fixed.late, hybrid, ranks: { ...fixed.ranks, hybrid: ranksOf(hybrid) } };
}

// How many of the first k hits are certain. If only the best by each score are known (`last`), a document that nobody
// has seen scores at most what the last ones by each score would score together.
export function certain(rows, weights, last, k) {
  if (!last) return k;
  const bound = scoreOf({ pooled: last[0], late: last[1] }, weights);
  const first = rows.findIndex((row) => row.score < bound);
  return first < 0 ? k : Math.min(first, k);
}

// Return the place in a text where most words of a question stand, for two lines of it.
export function snippet(text, query, length = 170) {
  const flat = text.replace(/\s+/g, " ").trim();
  if (flat.length <= length) return flat;
  const words = [...new Set(query.toLowerCase().match(/[\p{L}\p{N}]{3,}/gu) ?? [])].map((word) => word.slice(0, 6));
  const lower = flat.toLowerCase();
  const found = [];
  for (const word of words) {
    for (let at = lower.indexOf(word); at >= 0 && found.length < 200; at = lower.indexOf(word, at + word.length)) {
      found.push([at, word]);
    }
  }
  let best = 0;
  let most = 0;
  for (const [at] of found) {
    const inside = new Set(found.filter(([other]) => other >= at && other < at + length - 20).map(([, word]) => word));
    const weight = [...inside].reduce((sum, word) => sum + word.length, 0);
    if (weight > most) [best, most] = [at, weight];
  }
  let start = Math.max(0, Math.min(best - 20, flat.length - length));
  if (start > 0) start = flat.indexOf(" ", start) + 1 || start;
  return (start > 0 ? "… " : "") + flat.slice(start, start + length + 40);
}
