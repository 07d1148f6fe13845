"""The weights that suit an index best, from queries with judgements, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import DEFAULT_WEIGHTS, EXHAUSTIVE_DOCUMENTS, Weighting
from smart_rag.errors import InvalidInput
from smart_rag.evaluation import bootstrap
from smart_rag.evaluation.bootstrap import FEWEST_QUERIES, Difference
from smart_rag.evaluation.datasets import Qrels
from smart_rag.evaluation.metrics import Metrics
from smart_rag.index.smart_index import SmartIndex
from smart_rag.scoring import maxsim as scoring

# pooled : late, from late interaction alone to the pooled cosine alone.
RATIOS = ((0, 1), (1, 8), (1, 5), (1, 4), (1, 3), (1, 2), (2, 3), (1, 1), (3, 2), (2, 1), (4, 1), (1, 0))

# What a setting ranks, for each query: all of an index that is searched whole, else so many that the
# first stage finds by its own lights, whatever the weights.
_CANDIDATES = EXHAUSTIVE_DOCUMENTS
_DEPTH = 10  # of nDCG
_QUERIES_AT_ONCE = 32  # their candidates are in memory with their texts


@dataclass(frozen=True, slots=True)
class Setting:
    """The weights of the pooled and the late score, and what query tokens count by."""

    weights: tuple[float, float]
    weighting: Weighting

    def ranks_as(self, other: Setting) -> bool:
        """Return whether both make the same ranking of anything: weights in one ratio, by the same late score."""
        (a, b), (c, d) = self.weights, other.weights
        return a * d == b * c and (self.weighting == other.weighting or b == 0)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What `tune` found.

    ``scores`` is the mean nDCG@10 of each setting over all ``queries``, ``choice`` the best of
    them, or ``current``, the index's own, where that is as good. ``held_out`` is the difference
    to ``current`` on queries that had no part in choosing.
    """

    queries: int
    scores: Mapping[Setting, float]
    current: Setting
    choice: Setting
    held_out: Difference

    @property
    def is_worth_it(self) -> bool:
        """Whether another setting than the current one is better, by more than chance."""
        return self.choice != self.current and self.held_out.verdict == "better"


def tune(
    index: SmartIndex,
    queries: Mapping[str, str],
    qrels: Qrels,
    *,
    folds: int = 5,
    seed: int = 0,
    show_progress_bar: bool = False,
) -> Tuning:
    """Compare weights and weightings on ``queries`` by their judgements ``qrels``; the index stays as it is.

    Each setting ranks the same candidates: every document of a small index, else the 500 that
    the first stage finds. Queries are dealt to ``folds``; for those of each fold, the setting is
    used that is best on the other folds, and what comes out is compared with the current one.
    `SmartIndex.set_weights` takes the choice.

    Raises:
        InvalidInput: fewer than 30 queries have a relevant document, or none of these is in the index.
    """
    judged = {id: text for id, text in queries.items() if any(grade > 0 for grade in qrels.get(id, {}).values())}
    if len(judged) < FEWEST_QUERIES:
        raise InvalidInput(
            f"tuning needs at least {FEWEST_QUERIES} queries with a relevant document, got {len(judged)}; "
            "with fewer, whatever is chosen is chance"
        )
    if not 2 <= folds <= len(judged):
        raise InvalidInput(f"folds must be between 2 and the number of queries ({len(judged)}), got {folds}")
    metrics = Metrics({id: qrels[id] for id in judged}, ("ndcg@10",))
    current = Setting(index.manifest.weights, index.manifest.config.weighting)
    relevant = {name for id in judged for name, grade in qrels[id].items() if grade > 0}
    if not index.get(list(relevant)):
        raise InvalidInput(
            f"{index.path}: no relevant document of the {len(judged)} queries is in the index; judgements name "
            "documents by the ids that they have there (`smart-rag search --json` shows them)"
        )
    candidates = _candidates(index, judged, show_progress_bar)
    settings = _settings(current)
    values = np.stack(
        [
            metrics.by_query({id: found.best(setting.weights) for id, found in candidates[setting.weighting].items()})[
                "ndcg@10"
            ]
            for setting in settings
        ]
    )
    held_out = cross_validated(values, folds, seed)
    return Tuning(
        len(judged),
        dict(zip(settings, values.mean(axis=1).tolist(), strict=True)),
        current,
        settings[_best(values)],
        bootstrap.difference(held_out, values[0], seed=seed),
    )


def cross_validated(values: NDArray[np.float64], folds: int, seed: int) -> NDArray[np.float64]:
    """Return, of the values of settings (n_settings, n_queries), one for each query: of the best on the other folds.

    Of settings that are as good as each other, the first is taken.
    """
    count = values.shape[1]
    fold = np.random.default_rng(seed).permutation(count) % folds
    held_out = np.empty(count)
    for i in range(folds):
        held_out[fold == i] = values[_best(values[:, fold != i]), fold == i]
    return held_out


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The candidates of one query: ids (n), pooled and late scores (n)."""

    ids: list[str]
    pooled: NDArray[np.float32]
    late: NDArray[np.float32]

    def best(self, weights: tuple[float, float]) -> list[str]:
        scores = scoring.hybrid(self.pooled, self.late, weights)
        return [self.ids[i] for i in scoring.ranking(scores, self.ids, _DEPTH)]


def _candidates(
    index: SmartIndex, queries: Mapping[str, str], show_progress_bar: bool
) -> dict[Weighting, dict[str, _Candidates]]:
    """Return what is ranked for each query, with the parts of its score, by each weighting."""
    from tqdm.auto import tqdm

    found: dict[Weighting, dict[str, _Candidates]] = {"idf": {}, "none": {}}
    ids = list(queries)
    with tqdm(total=len(ids), desc="searching", unit="query", disable=not show_progress_bar) as progress:
        for start in range(0, len(ids), _QUERIES_AT_ONCE):
            part = ids[start : start + _QUERIES_AT_ONCE]
            encoded = index.encode_queries([queries[id] for id in part])
            for weighting, of_weighting in found.items():
                hits = index.search_many(encoded, _CANDIDATES, candidates=_CANDIDATES, weighting=weighting)
                for id, of_query in zip(part, hits, strict=True):
                    of_weighting[id] = _Candidates(
                        [hit.id for hit in of_query],
                        np.asarray([hit.pooled_score for hit in of_query], dtype=np.float32),
                        np.asarray([hit.late_score for hit in of_query], dtype=np.float32),
                    )
            progress.update(len(part))
    return found


def _settings(current: Setting) -> list[Setting]:
    """Return the settings to try, each ranking once: ``current``, then the others, the nearest to the defaults first.

    Where many are as good as each other, it is the first that is taken.
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


def _best(values: NDArray[np.float64]) -> int:
    """Return which setting has the best mean; of equal ones, but for rounding, the first."""
    return int(np.argmax(np.round(values.mean(axis=1), 9)))
