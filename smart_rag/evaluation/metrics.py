"""Measures of rankings against qrels, computed by ir-measures (trec_eval)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import MissingExtra
from smart_rag.evaluation.qrels import Qrels

# Document ids by query id, best first.
Run = dict[str, list[str]]

# Our name of each measure, without its depth, and its name in ir-measures.
MEASURES = {"ndcg": "nDCG", "recall": "R", "mrr": "RR", "hit": "Success"}
DEFAULT_MEASURES = ("ndcg@10", "recall@10", "recall@100", "mrr@10")


def measures_of(depth: int) -> tuple[str, ...]:
    """Return the default measures for rankings of ``depth`` documents. A measure that needs more has this depth.

    >>> measures_of(50), measures_of(5)
    (('ndcg@10', 'recall@10', 'recall@50', 'mrr@10'), ('ndcg@5', 'recall@5', 'mrr@5'))
    """
    pairs = [name.split("@") for name in DEFAULT_MEASURES]
    return tuple(dict.fromkeys(f"{measure}@{min(int(own), depth)}" for measure, own in pairs))


class Metrics:
    """Measures of rankings against ``qrels``. Create this object first, so that a missing extra is found early.

    Args:
        qrels: graded relevance by query id and document id.
        names: names of the measures to compute: one of `MEASURES`, ``@`` and its depth.

    Raises:
        MissingExtra: ir-measures is not installed.
    """

    def __init__(self, qrels: Qrels, names: tuple[str, ...] = DEFAULT_MEASURES) -> None:
        try:
            import ir_measures
        except ImportError as error:
            raise MissingExtra("ir-measures", "eval", "evaluation") from error
        self._positions = {query: i for i, query in enumerate(qrels)}
        # We do not use `ir_measures.parse_measure`, because it needs `ast.Num`, which Python 3.14 no longer has.
        self._names = {}
        for name in names:
            measure, depth = name.split("@")
            self._names[getattr(ir_measures, MEASURES[measure]) @ int(depth)] = name
        # trec_eval can end the process if all grades of a query are below 0. They mean "not relevant", as 0 does.
        graded = {query: {id: max(grade, 0) for id, grade in grades.items()} for query, grades in qrels.items()}
        self._evaluator = ir_measures.evaluator(list(self._names), graded)

    def by_query(self, run: Run) -> dict[str, NDArray[np.float64]]:
        """Return each measure for every query in the qrels (n_queries), in their order. Without a ranking: 0."""
        # ir-measures sorts by score. So we pass scores that are made from the ranks: they keep our order, without ties.
        scored = {query: {document: -rank for rank, document in enumerate(ids)} for query, ids in run.items()}
        values = {name: np.zeros(len(self._positions)) for name in self._names.values()}
        for metric in self._evaluator.iter_calc(scored):
            values[self._names[metric.measure]][self._positions[metric.query_id]] = metric.value
        return values

    def mean(self, run: Run) -> dict[str, float]:
        """Return the mean of each measure over the queries in the qrels."""
        return {name: float(values.mean()) for name, values in self.by_query(run).items()}
