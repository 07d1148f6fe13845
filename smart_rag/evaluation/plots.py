"""Plots of evaluations and comparisons, drawn by matplotlib into image files."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.evaluation.comparison import Comparison
from smart_rag.paths import absolute
from smart_rag.wording import number

_COLORS = {"better": "C2", "worse": "C3", "noise": "grey", "too few queries": "grey"}


def check_plot_file(path: str | Path) -> None:
    """Check that a plot can be written to ``path``, before the work begins.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidInput: the folder does not exist, or matplotlib does not know this suffix.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", "plot", "a plot")
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    path = absolute(path)
    if not path.parent.is_dir():
        raise InvalidInput(f"{path}: the folder {path.parent} does not exist; create it, or choose another folder")
    if path.suffix.lstrip(".").lower() not in formats:
        raise InvalidInput(
            f"{path}: {path.suffix!r} is not the ending of an image format; use .png, or one of "
            f"{', '.join(sorted(formats))}"
        )


def save_evaluation_plot(result: Mapping[str, Any], path: str | Path) -> None:
    """Draw the first measure of each ranking with its interval, and the differences with theirs.

    Args:
        result: result of `evaluate` or `evaluate_runs`.
        path: the image file. Its suffix decides the format, for example ``.png``.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidInput: the folder does not exist, or matplotlib does not know this suffix.
    """
    measure = next(iter(next(iter(result["runs"].values()))))
    with_differences = bool(result["differences"])
    figure = _figure(path, rows=max(len(result["runs"]), len(result["differences"])))
    axes = figure.subplots(1, 1 + with_differences, squeeze=False)[0]
    means = {name: of[measure] for name, of in result["runs"].items()}
    ends = {name: (of[measure]["low"], of[measure]["high"]) for name, of in result["intervals"].items()}
    _intervals(axes[0], means, ends, ["C0"] * len(means))
    axes[0].set(title=_plain(f"{result['dataset']}: {measure} of {number(result['queries'], 'query')}"))
    if with_differences:
        differences = result["differences"]
        means = {name: of[measure] for name, of in differences.items()}
        ends = {name: (of["low"], of["high"]) for name, of in differences.items()}
        _intervals(axes[1], means, ends, [_COLORS[of["verdict"]] for of in differences.values()])
        axes[1].axvline(0, color="lightgrey", zorder=0)
        axes[1].set(title=_plain(f"differences in {measure}"))
    figure.savefig(absolute(path), dpi=150)


def save_comparison_plot(comparison: Comparison, path: str | Path) -> None:
    """Draw the differences with their intervals, and the differences of all queries of the last pair, sorted.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidInput: the folder does not exist, or matplotlib does not know this suffix.
    """
    figure = _figure(path, rows=len(comparison.pairs))
    all_pairs, queries = figure.subplots(1, 2)
    named = {f"{pair.name}, {pair.measure}": pair.difference for pair in comparison.pairs}
    ends = {name: (found.low, found.high) for name, found in named.items()}
    colors = [_COLORS[found.verdict] for found in named.values()]
    _intervals(all_pairs, {name: found.mean for name, found in named.items()}, ends, colors)
    all_pairs.axvline(0, color="lightgrey", zorder=0)
    all_pairs.set(title=_plain(" - ".join(comparison.names)))
    last = comparison.pairs[-1]  # the ranking by the hybrid score, if it is among them
    values = np.sort(last.by_query)[::-1]
    queries.fill_between(np.arange(len(values) + 1), np.append(values, values[-1]), step="post", color="C0")
    queries.axhline(0, color="lightgrey", zorder=0)
    better, _, worse = last.counts
    queries.set(
        title=_plain(f"{last.name}, {last.measure}: better for {better:,} of {len(values):,}, worse for {worse:,}"),
        xlabel="query, sorted",
    )
    figure.savefig(absolute(path), dpi=150)


def _figure(path: str | Path, rows: int) -> Any:
    check_plot_file(path)
    from matplotlib.figure import Figure  # not pyplot, which keeps figures in memory and needs a display

    return Figure(figsize=(10, 1.6 + 0.35 * max(rows, 5)), layout="constrained")


def _intervals(
    axes: Any, means: Mapping[str, float], ends: Mapping[str, tuple[float, float]], colors: Sequence[str]
) -> None:
    """Draw each mean as a point with its interval. The first one is at the top."""
    for i, (name, color) in enumerate(zip(means, colors, strict=True)):
        axes.plot(ends[name], (i, i), color=color, linewidth=2)
        axes.plot(means[name], i, "o", color=color)
    axes.set_yticks(range(len(means)), [_plain(name) for name in means])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)


def _plain(text: str) -> str:
    """Return ``text`` so that matplotlib does not take a part of it for a formula."""
    return text.replace("$", r"\$")
