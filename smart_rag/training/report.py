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

    def by(self, objective: Objective) -> float:
        """Return nDCG@10 by the ranking ``objective``."""
        value: float = getattr(self, objective)
        return value


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """Result of a training.

    Attributes:
        queries: number of training queries.
        held_out_queries: number of held-out queries.
        documents: number of documents that are ranked for each held-out query.
        history: the evaluations. The first one evaluates the model before the first step.
        best_epoch: position in ``history`` of the model that was kept. This model was chosen by the held-out queries,
            so the figures of these queries favour the trained model a little. 0 means that no model was saved, because
            the training gained nothing.
        ndcg: mean nDCG@10 of the held-out queries, by ``"frozen pooled"``, ``"frozen late"``, ``"frozen hybrid"``,
            and by the same three names with ``"trained"``. If no model was saved, ``"trained"`` is the frozen model.
        differences: effects of the training, such as ``"trained late - frozen late"``, and what late interaction does
            without a training, ``"frozen hybrid - frozen pooled"``.
        objective: score that was trained.
        to_beat: nDCG@10 by ``objective`` before the first step. A training that does not exceed it gained nothing.
        notes: what was mined, left out or not used of the training data, each kind with its count.
    """

    queries: int
    held_out_queries: int
    documents: int
    history: Sequence[Epoch]
    best_epoch: int
    ndcg: Mapping[str, float]
    differences: Mapping[str, Difference]
    objective: Objective
    to_beat: float
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        counts: tuple[int, int, int],
        history: Sequence[Epoch],
        best_epoch: int,
        frozen: ByRanking,
        trained: ByRanking,
        objective: Objective,
        to_beat: float | None = None,
        *,
        notes: tuple[str, ...] = (),
    ) -> TrainingReport:
        """Return the report that compares ``trained`` with ``frozen``.

        ``counts`` are ``queries``, ``held_out_queries`` and ``documents``. Without ``to_beat``, the first evaluation is
        to be beaten.
        """
        both = {"frozen": frozen, "trained": trained}
        values = {f"{when} {name}": ndcg for when, by in both.items() for name, ndcg in by.items()}
        pairs = [(f"trained {name}", f"frozen {name}") for name in frozen if (trained[name] != frozen[name]).any()]
        pairs += [(f"trained {objective}", f"frozen {objective}"), ("frozen hybrid", "frozen pooled")]
        differences = corrected({f"{a} - {b}": difference(values[a], values[b]) for a, b in dict.fromkeys(pairs)})
        ndcg = {name: float(of_queries.mean()) for name, of_queries in values.items()}
        to_beat = history[0].by(objective) if to_beat is None else to_beat
        return cls(*counts, tuple(history), best_epoch, ndcg, differences, objective, to_beat, notes)

    @property
    def saved(self) -> bool:
        """Whether a model was saved."""
        return self.best_epoch > 0

    @property
    def gained(self) -> bool:
        """Whether an evaluation after the first step is better than the start."""
        return self._highest > self.to_beat

    @property
    def _highest(self) -> float:
        return max(epoch.by(self.objective) for epoch in self.history[1:])

    @property
    def warning(self) -> str | None:
        """Reason not to use the trained model. None if it is better than the frozen model, and worse by no ranking."""
        if not self.gained:
            saved = (
                "the best of them was saved all the same"
                if self.saved
                else ("nothing was saved; keep_anyway (--keep-anyway) saves the best of them")
            )
            return (
                f"nothing was gained: on {number(self.held_out_queries, 'held-out query')}, no evaluation after the "
                f"first step is better than the start: {self.objective} nDCG@10 {self._highest:.4f} at best, "
                f"{self.to_beat:.4f} before the training; {saved}"
            )
        found = self.differences[f"trained {self.objective} - frozen {self.objective}"]
        if found.verdict == "better":
            return self._warning_of_others()
        verb = "is worse than" if found.verdict == "worse" else "is not measurably better than"
        return (
            f"the trained model {verb} the frozen model on {number(found.queries, 'held-out query')}: "
            f"{found.mean:+.4f} nDCG@10, 95 % interval {found.low:+.4f} to {found.high:+.4f}; more data, or hard "
            "negatives, may help"
        )

    def _warning_of_others(self) -> str | None:
        """Return which rankings, other than the trained one, are worse than before. Return None if none is."""
        names = [
            f"{name} ({self.ndcg[f'frozen {name}']:.4f} before, {self.ndcg[f'trained {name}']:.4f} now)"
            for name in RANKINGS
            if (found := self.differences.get(f"trained {name} - frozen {name}")) and found.verdict == "worse"
        ]
        if not names:
            return None
        return (
            f"the trained model is better by its {self.objective} ranking, but worse by others: nDCG@10 of "
            f"{' and '.join(names)}; do not use it where only these rank"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        differences = {name: found.as_json(NDCG) for name, found in self.differences.items()}
        verdicts = {"gained": self.gained, "saved": self.saved, "warning": self.warning}
        return {**asdict(self), "differences": differences, **verdicts}

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
            measured.axhline(self.ndcg[f"frozen {name}"], color=color, linestyle="--", label=f"{name}, frozen")
            values = [getattr(epoch, name) for epoch in self.history]
            if name != "pooled" or len(set(values)) > 1:  # an adapter does not change the pooled embeddings
                measured.plot(evaluations, values, marker="o", color=color, label=f"{name}, trained")
        if self.saved:
            measured.axvline(self.best_epoch, color="lightgrey", zorder=0)
        measured.set(title=f"nDCG@10 of {number(self.held_out_queries, 'held-out query')}", xlabel="evaluation")
        measured.legend(fontsize="small")
        figure.savefig(path, dpi=150)
