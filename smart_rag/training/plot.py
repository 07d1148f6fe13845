"""A picture of a training: the loss, and nDCG@10 on the held-out queries, as often as they were measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.training.report import TrainingReport
from smart_rag.wording import number


def check_plot(path: Path) -> None:
    """Raise, before the work, if `save_plot` could not write to ``path``.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidInput: there is no such folder, or no picture has such a name.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", "train", "a plot")
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if not path.absolute().parent.is_dir():
        raise InvalidInput(f"{path}: the folder {path.parent} does not exist")
    if path.suffix.lstrip(".").lower() not in kinds:
        raise InvalidInput(f"{path}: no picture has such a name; use .png, or one of {', '.join(sorted(kinds))}")


def save_plot(report: TrainingReport, path: Path) -> None:
    """Draw ``report`` into the file ``path``, a picture of any kind that matplotlib knows by its ending."""
    from matplotlib.figure import Figure  # not pyplot: it keeps figures, and looks for a screen

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    losses, measured = figure.subplots(1, 2)
    epochs = range(len(report.history))
    losses.plot(epochs[1:], [epoch.loss for epoch in report.history[1:]], marker="o", color="C3")
    losses.set(title="loss", xlabel="evaluation", xlim=(-0.2, len(report.history) - 0.8))
    for name, color in (("pooled", "grey"), ("late", "C0"), ("hybrid", "C1")):
        frozen, trained = (report.ndcg[f"{when} {name}"] for when in ("frozen", "trained"))
        measured.axhline(frozen, color=color, linestyle="--", label=f"{name}, frozen")
        if name != "pooled" or trained != frozen:  # an adapter leaves the pooled embeddings as they are
            values = [getattr(epoch, name) for epoch in report.history]
            measured.plot(epochs, values, marker="o", color=color, label=f"{name}, trained")
    measured.axvline(report.best_epoch, color="lightgrey", zorder=0)
    measured.set(title=f"nDCG@10 of {number(report.held_out_queries, 'held-out query')}", xlabel="evaluation")
    measured.legend(fontsize="small")
    figure.savefig(path, dpi=150)
