"""Tuning of an index's score weights with judged queries. `selection` makes the choice and tests its gain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import DEFAULT_WEIGHTS, EXHAUSTIVE_DOCUMENTS, Weighting, check_count
from smart_rag.errors import InvalidInput
from smart_rag.evaluation.differences import FEWEST_QUERIES, Difference, Verdict
from smart_rag.evaluation.metrics import Metrics
from smart_rag.evaluation.qrels import Qrels, met, own_documents, own_notes
from smart_rag.evaluation.selection import FOLDS, REPEATS, choose, expected_gain
from smart_rag.index.smart_index import SmartIndex
from smart_rag.scoring import ranking
from smart_rag.types import Content
from smart_rag.wording import number

# Ratios pooled : late, from late interaction alone to the pooled cosine alone.
RATIOS = ((0, 1), (1, 8), (1, 5), (1, 4), (1, 3), (1, 2), (2, 3), (1, 1), (3, 2), (2, 1), (4, 1), (1, 0))

# Number of documents that each setting ranks for a query. In a small index, these are all documents. In a larger one,
# they are the candidates of the first stage. The candidates do not depend on the weights.
_CANDIDATES = EXHAUSTIVE_DOCUMENTS
_DEPTH = 10  # depth of nDCG
_QUERIES_AT_ONCE = 32  # the texts of the candidates of these queries are in memory


@dataclass(frozen=True, slots=True)
class Setting:
    """Weights of the pooled and the late score, and the weighting of query tokens."""

    weights: tuple[float, float]
    weighting: Weighting

    def ranks_as(self, other: Setting) -> bool:
        """Return whether both settings always give the same ranking.

        This is so if the ratios of their weights are equal and their weightings are equal. If late scores have the
        weight 0, equal ratios are enough.
        """
        (a, b), (c, d) = self.weights, other.weights
        return a * d == b * c and (self.weighting == other.weighting or b == 0)


@dataclass(frozen=True, slots=True)
class Tuning:
    """Result of `tune`.

    Attributes:
        queries: number of queries.
        scores: mean nDCG@10 of each setting over all queries.
        current: setting of the index.
        choice: setting whose gain over ``current``, less its standard error, is largest. It may be ``current``.
        held_out: gain in nDCG@10 of ``choice`` over ``current`` on other queries, by cross-validation. Its p-value
            counts that ``choice`` was chosen among many settings.
        notes: what about the judgements has to be said, such as documents that the index lacks.
    """

    queries: int
    scores: Mapping[Setting, float]
    current: Setting
    choice: Setting
    held_out: Difference
    notes: tuple[str, ...] = ()

    @property
    def in_sample(self) -> float:
        """Gain on the queries by which the setting was chosen. On other queries, it is smaller."""
        return self.scores[self.choice] - self.scores[self.current]

    @property
    def best(self) -> Setting:
        """Setting with the highest mean over all queries."""
        return max(self.scores, key=lambda setting: round(self.scores[setting], 7))

    @property
    def verdict(self) -> Verdict:
        """Whether ``choice`` is better than ``current`` by more than chance. Otherwise, the gain is ``noise``."""
        return "better" if self.held_out.verdict == "better" else "noise"

    @property
    def is_worth_it(self) -> bool:
        """Whether ``choice`` is a different setting than ``current``, and is better by more than chance."""
        return self.choice != self.current and self.verdict == "better"


def tune(
    index: SmartIndex,
    queries: Mapping[str, str | Content],
    qrels: Qrels,
    *,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    seed: int = 0,
    show_progress_bar: bool = False,
) -> Tuning:
    """Compare weights and weightings on ``queries`` by their ``qrels``. The index does not change.

    Every setting ranks the same candidates. In a small index, these are all documents. In a larger index, the first
    stage chooses 500 candidates. The choice is the setting whose gain over the current one, less its standard error,
    is largest. For its gain on other queries, the queries are divided into ``folds``, ``repeats`` times. For each fold,
    the setting that the other folds choose is compared with the current one.
    To use the chosen setting, pass it to `SmartIndex.set_weights`. Judgements of documents that the index lacks, and
    queries without a relevant document in it, are left out and counted.

    Args:
        index: index to tune.
        queries: the queries by id, as texts or as `Content` with an image.
        qrels: grades by query id and document id.
        folds: number of folds.
        repeats: number of times that the folds are drawn.
        seed: seed of the folds, the interval and the p-value.
        show_progress_bar: whether to show a progress bar.

    Raises:
        InvalidInput: fewer than 30 queries have a relevant document in the index, or ``folds`` is not between 2 and
            the number of queries, or ``repeats`` is below 1.
        MissingExtra: ir-measures is not installed.
    """
    check_count("repeats", repeats)
    named = {name for id in queries for name in qrels.get(id, {})}
    found = {document.id for document in index.get(sorted(named))}
    measured = met({id: qrels[id] for id in queries if id in qrels}, found, answerable_only=True, place="the index")
    judged = {id: queries[id] for id in measured.qrels}
    if not index.count():
        raise InvalidInput(f"{index.path} holds no documents; add those that the queries ask for")
    if named and not found:
        raise InvalidInput(
            f"{index.path}: no judged document of the {number(len(queries), 'query')} is in the index; the qrels must "
            "use the document ids of the index (`smart-rag search --json` shows them)"
        )
    if len(judged) < FEWEST_QUERIES:
        why = f" ({'; '.join(measured.notes)})" if measured.notes else ""
        raise InvalidInput(
            f"tuning needs at least {FEWEST_QUERIES} queries with a relevant document in the index, got "
            f"{len(judged)}{why}; with fewer, the choice is chance; judge more queries"
        )
    if not 2 <= folds <= len(judged):
        raise InvalidInput(f"folds must be between 2 and the number of queries ({len(judged)}), got {folds}")
    texts = {document.id: document.text for document in index.get(sorted(judged))}
    own = own_documents(judged, texts, measured.qrels)
    settings, values = setting_values(index, judged, measured.qrels, own, show_progress_bar=show_progress_bar)
    return Tuning(
        len(judged),
        dict(zip(settings, values.mean(axis=1).tolist(), strict=True)),
        settings[0],
        settings[choose(values)],
        expected_gain(values, folds=folds, repeats=repeats, seed=seed),
        (*measured.notes, *own_notes(own)),
    )


def setting_values(
    index: SmartIndex,
    queries: Mapping[str, str | Content],
    qrels: Qrels,
    own: Mapping[str, str] | None = None,
    *,
    show_progress_bar: bool = False,
) -> tuple[list[Setting], NDArray[np.float64]]:
    """Return the settings, the current one first, and the nDCG@10 of each (n_settings, n_queries).

    ``own`` has the document that is a query itself, by query id. Rankings leave it out.
    """
    metrics = Metrics(qrels, ("ndcg@10",))
    candidates = _candidates(index, queries, own or {}, show_progress_bar)
    settings = _settings(Setting(index.manifest.weights, index.manifest.config.weighting))
    rankings = [
        {id: of_query.best(setting.weights) for id, of_query in candidates[setting.weighting].items()}
        for setting in settings
    ]
    return settings, np.stack([metrics.by_query(of_setting)["ndcg@10"] for of_setting in rankings])


def relevant_scores(index: SmartIndex, queries: Mapping[str, str | Content], qrels: Qrels) -> list[float]:
    """Return scores for `SmartIndex.calibrate`: the best hit's score, for each query whose best hit is relevant."""
    texts = {document.id: document.text for document in index.get(sorted(queries))}
    own = own_documents(queries, texts, qrels)
    found = index.search_many(list(queries.values()), 2 if own else 1)
    ranked = [(id, [hit for hit in hits if hit.id != own.get(id)]) for id, hits in zip(queries, found, strict=True)]
    best = [(id, hits[0]) for id, hits in ranked if hits]
    return [hit.score for id, hit in best if qrels.get(id, {}).get(hit.id, 0) > 0]


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Candidates of one query: ids (n), pooled scores (n) and late scores (n)."""

    ids: list[str]
    pooled: NDArray[np.float32]
    late: NDArray[np.float32]

    def best(self, weights: tuple[float, float]) -> list[str]:
        """Return the ids of the best 10 candidates."""
        scores = ranking.hybrid(self.pooled, self.late, weights)
        return [self.ids[i] for i in ranking.ranking(scores, self.ids, _DEPTH)]


def _candidates(
    index: SmartIndex, queries: Mapping[str, str | Content], own: Mapping[str, str], show_progress_bar: bool
) -> dict[Weighting, dict[str, _Candidates]]:
    """Return the candidates, by weighting and by query id. ``own`` has the document that is a query itself."""
    from tqdm.auto import tqdm

    found: dict[Weighting, dict[str, _Candidates]] = {weighting: {} for weighting in get_args(Weighting)}
    ids = list(queries)
    with tqdm(total=len(ids), desc="searching", unit="query", disable=not show_progress_bar) as progress:
        for start in range(0, len(ids), _QUERIES_AT_ONCE):
            part = ids[start : start + _QUERIES_AT_ONCE]
            encoded = index.encode_queries([queries[id] for id in part])
            for weighting, of_weighting in found.items():
                hits = index.search_many(encoded, _CANDIDATES, candidates=_CANDIDATES, weighting=weighting)
                for id, of_hits in zip(part, hits, strict=True):
                    of_query = [hit for hit in of_hits if hit.id != own.get(id)]
                    of_weighting[id] = _Candidates(
                        [hit.id for hit in of_query],
                        np.asarray([hit.pooled_score for hit in of_query], dtype=np.float32),
                        np.asarray([hit.late_score for hit in of_query], dtype=np.float32),
                    )
            progress.update(len(part))
    return found


def _settings(current: Setting) -> list[Setting]:
    """Return the settings to compare. ``current`` comes first. The others are sorted by distance to the defaults.

    If several settings give the same ranking, only the first one is kept. If several are equally good, the first one is
    chosen.
    """

    def distance(ratio: tuple[float, float]) -> float:
        return abs(math.atan2(*ratio) - math.atan2(*DEFAULT_WEIGHTS))

    settings = [current]
    for pooled, late in sorted(RATIOS, key=distance):
        for weighting in get_args(Weighting):
            setting = Setting((float(pooled), float(late)), weighting)
            if not any(setting.ranks_as(known) for known in settings):
                settings.append(setting)
    return settings
