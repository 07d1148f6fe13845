"""Measures of rankings against qrels, computed by ir-measures (trec_eval)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.evaluation.qrels import Qrels
from smart_rag.wording import nearest

# Document ids by query id, best first.
Run = dict[str, list[str]]

DEFAULT_MEASURES = ("ndcg@10", "recall@10", "recall@100", "mrr@10")
DEFAULT_DEPTH = 100
# The measures of ir-measures that trec_eval or ir-measures itself computes in this process, by all of their names. Case
# makes no difference.
_NAMES = {
    **{"ndcg": "nDCG", "ap": "AP", "map": "AP", "rr": "RR", "mrr": "RR", "p": "P", "precision": "P"},
    **{"r": "R", "recall": "R", "success": "Success", "hit": "Success", "rprec": "Rprec", "bpref": "Bpref"},
    "judged": "Judged",
}
_NEEDS_DEPTH = {"P", "R", "Success"}
_WITHOUT_DEPTH = {"Rprec", "Bpref"}
_WITHOUT_GRADE = {"nDCG", "Judged"}
_NAME = re.compile(r"(?P<name>[A-Za-z]+)(\(rel=(?P<grade>[1-9][0-9]{0,5})\))?(@(?P<depth>[1-9][0-9]{0,5}))?")


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure in the words of ir-measures, such as ``AP(rel=2)@100``.

    Attributes:
        name: name in ir-measures, such as ``"AP"``.
        depth: the number of best documents that count. None means all documents of a ranking.
        grade: the lowest grade of a relevant document.
    """

    name: str
    depth: int | None = None
    grade: int = 1

    def __str__(self) -> str:
        grade = f"(rel={self.grade})" if self.grade != 1 else ""
        return f"{self.name}{grade}" + ("" if self.depth is None else f"@{self.depth}")


def measure_of(name: str) -> Measure:
    """Return the measure that ``name`` names, in the words of ir-measures or in ours (``recall@10``, ``mrr@10``).

    Raises:
        InvalidInput: there is no such measure.

    >>> str(measure_of("recall@10")), str(measure_of("MAP(rel=2)@100"))
    ('R@10', 'AP(rel=2)@100')
    """
    parts = _NAME.fullmatch(name.strip())
    found = _NAMES.get(parts["name"].lower()) if parts else None
    if parts is None or found is None:
        known = sorted(set(_NAMES.values()), key=str.lower)
        own = re.split(r"[@(]", name, maxsplit=1)[0].strip()
        near = nearest(own, _NAMES)
        hint = f"did you mean {_NAMES[near]}? " if near else ""
        raise InvalidInput(
            f"unknown measure {name!r}: {hint}expected one of {', '.join(known)}, with a depth such as nDCG@10, and "
            "perhaps the lowest relevant grade, as in AP(rel=2)@100"
        )
    measure = Measure(found, int(parts["depth"]) if parts["depth"] else None, int(parts["grade"] or 1))
    if measure.depth is None and found in _NEEDS_DEPTH:
        raise InvalidInput(f"the measure {name!r} needs a depth, such as {found}@10")
    if measure.depth is not None and found in _WITHOUT_DEPTH:
        raise InvalidInput(f"the measure {name!r} has no depth; write {found}")
    if measure.grade != 1 and found in _WITHOUT_GRADE:
        raise InvalidInput(f"the measure {name!r} has no lowest relevant grade; write {name.replace(parts[2], '')}")
    return measure


def measures_of(depth: int) -> tuple[str, ...]:
    """Return the default measures for rankings of ``depth`` documents. A measure that needs more has this depth.

    >>> measures_of(50), measures_of(5)
    (('ndcg@10', 'recall@10', 'recall@50', 'mrr@10'), ('ndcg@5', 'recall@5', 'mrr@5'))
    """
    pairs = [name.split("@") for name in DEFAULT_MEASURES]
    return tuple(dict.fromkeys(f"{measure}@{min(int(own), depth)}" for measure, own in pairs))


def measures_and_depth(measures: Sequence[str] | None, depth: int | None) -> tuple[tuple[str, ...], int]:
    """Return the names of the measures to compute, and the number of documents in a ranking.

    Without ``measures``, they are the default ones. Without ``depth``, it is 100, or what the deepest measure needs.

    Raises:
        InvalidInput: there is no such measure, two names mean the same one, or a measure needs more than ``depth``.
    """
    if measures is None:
        depth = DEFAULT_DEPTH if depth is None else depth
        return measures_of(depth), depth
    names = tuple(name.strip() for name in measures)
    if not names:
        raise InvalidInput("no measure is given; expected at least one, such as nDCG@10")
    found: dict[Measure, str] = {}
    for name in names:
        if (before := found.setdefault(measure_of(name), name)) != name or names.count(name) > 1:
            raise InvalidInput(f"the measures {before!r} and {name!r} are the same; leave one of them out")
    deepest = max(found, key=lambda measure: measure.depth or 0)
    needed = deepest.depth or 0
    if depth is not None and needed > depth:
        raise InvalidInput(
            f"the measure {found[deepest]!r} needs rankings of {needed:,} documents, and they have {depth:,}; raise "
            "top_k (--top-k), or choose a smaller depth"
        )
    return names, max(DEFAULT_DEPTH, needed) if depth is None else depth


class Metrics:
    """Measures of rankings against ``qrels``. Create this object first, so that a missing extra is found early.

    Args:
        qrels: graded relevance by query id and document id.
        names: names of the measures to compute, as `measure_of` knows them.

    Raises:
        InvalidInput: there is no such measure.
        MissingExtra: ir-measures is not installed.
    """

    def __init__(self, qrels: Qrels, names: Iterable[str] = DEFAULT_MEASURES) -> None:
        try:
            import ir_measures
        except ImportError as error:
            raise MissingExtra("ir-measures", "eval", "evaluation") from error
        self._positions = {query: i for i, query in enumerate(qrels)}
        # We do not use `ir_measures.parse_measure`, because it needs `ast.Num`, which Python 3.14 no longer has.
        self._names = {}
        for name in names:
            measure = measure_of(name)
            computed = getattr(ir_measures, measure.name)
            computed = computed(rel=measure.grade) if measure.grade != 1 else computed
            self._names[computed if measure.depth is None else computed @ measure.depth] = name
        # trec_eval can end the process if all grades of a query are below 0. They mean "not relevant", as 0 does.
        graded = {query: {id: max(grade, 0) for id, grade in grades.items()} for query, grades in qrels.items()}
        self._evaluator = ir_measures.evaluator(list(self._names), graded)

    def by_query(self, run: Run) -> dict[str, NDArray[np.float64]]:
        """Return each measure for every query in the qrels (n_queries), in their order. Without a ranking: 0."""
        # ir-measures sorts by score. So we pass scores that are made from the ranks: they keep our order, without ties.
        scored = {query: {document: -rank for rank, document in enumerate(ids)} for query, ids in run.items() if ids}
        values = {name: np.zeros(len(self._positions)) for name in self._names.values()}
        for metric in self._evaluator.iter_calc(scored):
            values[self._names[metric.measure]][self._positions[metric.query_id]] = metric.value
        return values

    def mean(self, run: Run) -> dict[str, float]:
        """Return the mean of each measure over the queries in the qrels."""
        return {name: float(values.mean()) for name, values in self.by_query(run).items()}
