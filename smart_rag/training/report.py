"""What came of a training: figures after each epoch, the model before and after, and what of it is noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import Objective
from smart_rag.evaluation import bootstrap
from smart_rag.evaluation.bootstrap import Difference
from smart_rag.wording import number

NDCG = "ndcg@10"
# nDCG@10 of each held-out query, by how the documents are ranked: "pooled", "late", "hybrid".
ByRanking = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Epoch:
    """The mean loss up to an evaluation, and nDCG@10 on the held-out queries then; before the first step no loss.

    ``pooled`` is that of the pooled embeddings, which an adapter leaves as they are.
    """

    loss: float | None
    pooled: float
    late: float
    hybrid: float


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What came of a training.

    ``history`` begins with the model before the first step; ``best_epoch`` is the one that was kept. ``ndcg`` is
    nDCG@10 on the held-out queries, each ranking ``documents``, by ``frozen pooled``, ``frozen late``, ``frozen
    hybrid``, and the same three ``trained``; ``differences`` are those between two of them. The best
    epoch was chosen on the same queries, which flatters it a little.
    """

    queries: int
    held_out_queries: int
    documents: int
    history: Sequence[Epoch]
    best_epoch: int
    ndcg: Mapping[str, float]
    differences: Mapping[str, Difference]
    objective: Objective

    @classmethod
    def of(
        cls,
        counts: tuple[int, int, int],
        history: Sequence[Epoch],
        best_epoch: int,
        frozen: ByRanking,
        trained: ByRanking,
        objective: Objective,
    ) -> TrainingReport:
        """Return the report of a model that was ``frozen`` and is ``trained``; ``counts`` as in the fields."""
        both = {"frozen": frozen, "trained": trained}
        found = {f"{when} {name}": values for when, by in both.items() for name, values in by.items()}
        pairs = [(f"trained {name}", f"frozen {name}") for name in frozen if (trained[name] != frozen[name]).any()]
        pairs += [(f"trained {objective}", f"frozen {objective}"), ("trained hybrid", "frozen pooled")]
        differences = {f"{a} - {b}": bootstrap.difference(found[a], found[b]) for a, b in dict.fromkeys(pairs)}
        ndcg = {name: float(values.mean()) for name, values in found.items()}
        return cls(*counts, tuple(history), best_epoch, ndcg, differences, objective)

    @property
    def warning(self) -> str | None:
        """Why the trained model should not be used, None where it is better than the frozen one."""
        found = self.differences[f"trained {self.objective} - frozen {self.objective}"]
        if found.verdict == "better":
            return None
        what = "is worse than" if found.verdict == "worse" else "is not measurably better than"
        return (
            f"what was trained {what} the frozen model on {number(found.queries, 'held-out query')}: {found.mean:+.4f} "
            f"nDCG@10, 95 % interval {found.low:+.4f} to {found.high:+.4f}; more data, or hard negatives, may help"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        differences = {name: found.as_json(NDCG) for name, found in self.differences.items()}
        return {**asdict(self), "differences": differences, "warning": self.warning}
