"""Report of a training: figures of each evaluation, a comparison with the frozen model, and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import Objective
from smart_rag.evaluation.differences import Difference, corrected, difference
from smart_rag.evaluation.plots import check_plot_file
from smart_rag.paths import absolute
from smart_rag.wording import number

NDCG = "ndcg@10"
RANKINGS = ("pooled", "late", "hybrid")
# nDCG@10 of each held-out query (n_queries), by the names of the rankings in `RANKINGS`.
ByRanking = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One evaluation: the mean loss since the last evaluation, and the mean nDCG@10 of the held-out queries.

    Before the first step, ``loss`` is None. An adapter does not change ``pooled``.
    """

    loss: float | None
    pooled: float
    late: float
    hybrid: float

    @classmethod
    def of(cls, loss: float | None, ndcg: ByRanking) -> Epoch:
        """Return an evaluation with the means of ``ndcg``."""
        return cls(loss, *(float(ndcg[name].mean()) for name in RANKINGS))


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """Result of a training.

    Attributes:
        queries: number of training queries.
        held_out_queries: number of held-out queries.
        documents: number of documents that are ranked for each held-out query.
        history: the evaluations. The first one evaluates the model before the first step.
        best_epoch: position in ``history`` of the model that was kept. This model was chosen by the held-out queries,
            so the figures of these queries favour the trained model a little.
        ndcg: mean nDCG@10 of the held-out queries, by ``"frozen pooled"``, ``"frozen late"``, ``"frozen hybrid"``,
            and by the same three names with ``"trained"``.
        differences: differences between two of these rankings, such as ``"trained late - frozen late"``.
        objective: score that was trained.
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
        """Return the report that compares ``trained`` with ``frozen``.

        ``counts`` are ``queries``, ``held_out_queries`` and ``documents``.
        """
        both = {"frozen": frozen, "trained": trained}
        values = {f"{when} {name}": ndcg for when, by in both.items() for name, ndcg in by.items()}
        pairs = [(f"trained {name}", f"frozen {name}") for name in frozen if (trained[name] != frozen[name]).any()]
        pairs += [(f"trained {objective}", f"frozen {objective}"), ("trained hybrid", "frozen pooled")]
        differences = corrected({f"{a} - {b}": difference(values[a], values[b]) for a, b in dict.fromkeys(pairs)})
        ndcg = {name: float(of_queries.mean()) for name, of_queries in values.items()}
        return cls(*counts, tuple(history), best_epoch, ndcg, differences, objective)

    @property
    def warning(self) -> str | None:
        """Reason not to use the trained model. None if the trained model is better than the frozen model."""
        found = self.differences[f"trained {self.objective} - frozen {self.objective}"]
        if found.verdict == "better":
            return None
        verb = "is worse than" if found.verdict == "worse" else "is not measurably better than"
        return (
            f"the trained model {verb} the frozen model on {number(found.queries, 'held-out query')}: "
            f"{found.mean:+.4f} nDCG@10, 95 % interval {found.low:+.4f} to {found.high:+.4f}; more data, or hard "
            "negatives, may help"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        differences = {name: found.as_json(NDCG) for name, found in self.differences.items()}
        return {**asdict(self), "differences": differences, "warning": self.warning}

    def save_plot(self, path: str | Path) -> None:
        """Draw the loss and the held-out nDCG@10 of each evaluation into an image file.

        The suffix of ``path`` decides the format, for example ``.png``.

        Raises:
            MissingExtra: matplotlib is not installed.
            InvalidInput: the folder does not exist, or matplotlib does not know this suffix.
        """
        path = absolute(path)
        check_plot_file(path)
        from matplotlib.figure import Figure  # not pyplot, which keeps figures in memory and needs a display

        figure = Figure(figsize=(8, 3.5), layout="constrained")
        losses, measured = figure.subplots(1, 2)
        evaluations = range(len(self.history))
        losses.plot(evaluations[1:], [epoch.loss for epoch in self.history[1:]], marker="o", color="C3")
        losses.set(title="loss", xlabel="evaluation", xlim=(-0.2, len(self.history) - 0.8))
        for name, color in zip(RANKINGS, ("grey", "C0", "C1"), strict=True):
            frozen, trained = (self.ndcg[f"{when} {name}"] for when in ("frozen", "trained"))
            measured.axhline(frozen, color=color, linestyle="--", label=f"{name}, frozen")
            if name != "pooled" or trained != frozen:  # an adapter does not change the pooled embeddings
                values = [getattr(epoch, name) for epoch in self.history]
                measured.plot(evaluations, values, marker="o", color=color, label=f"{name}, trained")
        measured.axvline(self.best_epoch, color="lightgrey", zorder=0)
        measured.set(title=f"nDCG@10 of {number(self.held_out_queries, 'held-out query')}", xlabel="evaluation")
        measured.legend(fontsize="small")
        figure.savefig(path, dpi=150)
