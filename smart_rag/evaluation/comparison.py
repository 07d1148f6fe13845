"""Comparison of two evaluations on the same queries, such as those of two models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import InvalidInput
from smart_rag.evaluation.differences import Difference, corrected, difference
from smart_rag.evaluation.metrics import Measure, measure_of
from smart_rag.wording import number

# Rankings that are compared if both evaluations have them. The others are nearly the same as one of these.
_RANKINGS = ("pooled", "late", "hybrid")


@dataclass(frozen=True, slots=True)
class Compared:
    """A ranking of the first evaluation and one of the second, by one measure.

    Attributes:
        runs: the names of the two rankings, which may be the same.
        measure: name of the measure.
        means: means of the two rankings over the queries that both evaluations have.
        difference: the first minus the second, with its interval. Its p-value is corrected for all pairs of the table.
        by_query: the difference of each query (n_queries).
    """

    runs: tuple[str, str]
    measure: str
    means: tuple[float, float]
    difference: Difference
    by_query: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Name of the ranking, or of both if they differ: ``hybrid - bm25``."""
        return self.runs[0] if self.runs[0] == self.runs[1] else " - ".join(self.runs)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of queries for which the first ranking is better, equal and worse."""
        signs = np.sign(self.by_query)
        return int((signs > 0).sum()), int((signs == 0).sum()), int((signs < 0).sum())


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of `compare`.

    Attributes:
        names: names of the two evaluations.
        queries: ids of the queries that both evaluations have.
        pairs: the pairs of rankings, by each measure.
        notes: the queries and rankings that only one of them has, each kind with its count.
    """

    names: tuple[str, str]
    queries: tuple[str, ...]
    pairs: tuple[Compared, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {
            "evaluations": list(self.names),
            "queries": len(self.queries),
            "notes": list(self.notes),
            "pairs": [
                {
                    "runs": list(pair.runs),
                    "measure": pair.measure,
                    "means": list(pair.means),
                    **pair.difference.as_json("difference"),
                    **dict(zip(("better", "equal", "worse"), pair.counts, strict=True)),
                }
                for pair in self.pairs
            ],
        }


def compare(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    runs: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    names: tuple[str, str] = ("first", "second"),
) -> Comparison:
    """Return the differences between two evaluations, ``first - second``, over the queries that both have.

    Args:
        first: result of `evaluate` or `evaluate_runs`, or the JSON values that ``smart-rag eval --json`` has written.
        second: another one.
        runs: rankings to compare, such as ``"hybrid"``, or ``"hybrid:bm25"`` for one of the first evaluation and
            another one of the second. By default ``pooled``, ``late`` and ``hybrid``, or all that both have. If each
            has only one ranking, these two are compared.
        measures: names of measures. By default the first measure of ``first`` that ``second`` has, too.
        names: names of the two evaluations, for messages and reports.

    Raises:
        InvalidInput: an argument is not such a result, or the two have no query, ranking or measure in common. Also, if
            they ranked different documents, or have different judgements of the same query.
    """
    both = (_Evaluation(first, names[0]), _Evaluation(second, names[1]))
    a, b = both
    queries = [query for query in a.judgements if query in b.judgements]
    _check_same_set(a, b, queries)
    pairs, notes = _pairs(a, b, runs)
    wanted = _measures(a, b, measures)
    for one, other in ((a, b), (b, a)):
        if only := [query for query in one.judgements if query not in other.judgements]:
            notes.append(f"{number(len(only), 'query')} only in {one.name} left out, such as {only[0]!r}")
    compared = [(run_a, run_b, name) for run_a, run_b in pairs for name in wanted]
    values = [(a.values(x, wanted[name], queries), b.values(y, wanted[name], queries)) for x, y, name in compared]
    found = corrected({str(i): difference(*of_pair) for i, of_pair in enumerate(values)})
    return Comparison(
        names,
        tuple(queries),
        tuple(
            Compared((run_a, run_b), name, (float(x.mean()), float(y.mean())), one, x - y)
            for (run_a, run_b, name), (x, y), one in zip(compared, values, found.values(), strict=True)
        ),
        tuple(notes),
    )


class _Evaluation:
    """The parts of a result that a comparison needs, after a check that they are there."""

    def __init__(self, result: Mapping[str, Any], name: str) -> None:
        self.name = name
        expected = f"{name}: expected the figures of `smart-rag eval --json FILE`"
        try:
            self.dataset = str(result["dataset"])
            self.corpus = str(result["corpus"])
            self.top_k = int(result["settings"]["top_k"])
            self.judgements: dict[str, str] = dict(result["judgements"])
            self.runs: dict[str, dict[str, dict[str, float]]] = dict(result["by_query"])
            self.measures = {measure_of(key): key for run in self.runs.values() for key in run}
            for run in self.runs.values():
                for of_measure in run.values():
                    values = np.array([of_measure[query] for query in self.judgements], dtype=np.float64)
                    if not np.isfinite(values).all():
                        raise ValueError("a figure is not finite")
        except (KeyError, TypeError, ValueError, AttributeError, InvalidInput) as error:
            raise InvalidInput(
                f"{expected} of this version, with 'by_query' and 'judgements' ({type(error).__name__}: {error}); "
                "evaluate again"
            ) from error
        if not self.judgements or not self.runs:
            raise InvalidInput(f"{expected}; it has no queries or no rankings; evaluate again")

    def values(self, run: str, measure: Measure, queries: Iterable[str]) -> NDArray[np.float64]:
        of_run = {measure_of(key): values for key, values in self.runs[run].items()}
        return np.array([of_run[measure][query] for query in queries], dtype=np.float64)


def _check_same_set(a: _Evaluation, b: _Evaluation, queries: Sequence[str]) -> None:
    if not queries:
        raise InvalidInput(
            f"{a.name} (on {a.dataset}) and {b.name} (on {b.dataset}) have no query in common; compare evaluations on "
            "the same dataset"
        )
    if a.corpus and b.corpus and a.corpus != b.corpus:
        raise InvalidInput(
            f"{a.name} (on {a.dataset}) and {b.name} (on {b.dataset}) ranked different documents, so their figures "
            "cannot be compared; evaluate both on the same corpus"
        )
    if different := [query for query in queries if a.judgements[query] != b.judgements[query]]:
        raise InvalidInput(
            f"{a.name} and {b.name} have different judgements of {number(len(different), 'query')}, such as "
            f"{different[0]!r}; evaluate both with the same qrels, and both with or without --answerable-only"
        )


def _pairs(a: _Evaluation, b: _Evaluation, runs: Sequence[str] | None) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the pairs of rankings to compare, and notes about the others."""
    if runs is not None:
        return list(dict.fromkeys(_pair(a, b, run) for run in runs)), []
    common = [run for run in a.runs if run in b.runs]
    if not common and len(a.runs) == len(b.runs) == 1:
        return [(next(iter(a.runs)), next(iter(b.runs)))], []
    if not common:
        raise InvalidInput(
            f"{a.name} has the rankings {', '.join(a.runs)}, and {b.name} has {', '.join(b.runs)}; name two of them "
            f"to compare, such as --runs {next(iter(a.runs))}:{next(iter(b.runs))}"
        )
    chosen = [run for run in _RANKINGS if run in common] or common
    notes = []
    for one in (a, b):
        if others := [run for run in one.runs if run not in chosen]:
            notes.append(f"{number(len(others), 'ranking')} of {one.name} not compared: {', '.join(others)}")
    return [(run, run) for run in chosen], notes


def _pair(a: _Evaluation, b: _Evaluation, run: str) -> tuple[str, str]:
    """Return the two rankings that ``run`` names: one name for both, or two with a colon between them."""
    if run in a.runs and run in b.runs:
        return run, run
    for i, character in enumerate(run):
        if character == ":" and run[:i] in a.runs and run[i + 1 :] in b.runs:
            return run[:i], run[i + 1 :]
    raise InvalidInput(
        f"no ranking {run!r}: {a.name} has {', '.join(a.runs)}, and {b.name} has {', '.join(b.runs)}; write one name "
        "for both, or NAME:NAME"
    )


def _measures(a: _Evaluation, b: _Evaluation, wanted: Sequence[str] | None) -> dict[str, Measure]:
    """Return the measures to compare, by their names."""
    common = {name: measure for measure, name in a.measures.items() if measure in b.measures}
    if wanted is None:
        found = dict(list(common.items())[:1])
    else:
        found = {name: measure for name in wanted if (measure := measure_of(name)) in common.values()}
    lacking = [name for name in wanted or () if name not in found]
    if lacking or not found:
        raise InvalidInput(
            f"{a.name} and {b.name} have not both {' and '.join(lacking) or 'the same measure'}: the first has "
            f"{', '.join(a.measures.values())}, and the second {', '.join(b.measures.values())}; evaluate both with "
            "the same --measures"
        )
    for name, measure in found.items():
        if measure.depth is None and a.top_k != b.top_k:
            raise InvalidInput(
                f"{name} counts whole rankings, which have {a.top_k:,} documents in {a.name} and {b.top_k:,} in "
                f"{b.name}; evaluate both with the same --top-k"
            )
    return found
