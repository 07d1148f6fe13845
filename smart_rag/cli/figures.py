"""Figures of the command line: tables of evaluations, tunings and trainings for people, JSON values for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Group
from rich.table import Table
from rich.text import Text

from smart_rag.config import Weighting
from smart_rag.wording import number, size_text

if TYPE_CHECKING:
    from smart_rag.evaluation.comparison import Comparison
    from smart_rag.evaluation.tuner import Setting, Tuning
    from smart_rag.training.report import TrainingReport


def evaluation_tables(result: Mapping[str, Any]) -> Group:
    """Return the figures of `evaluate` as tables."""
    searches = Table(title=f"one search, by its first stage (auto: {result['auto']}); p50 in milliseconds, last: p95")
    steps = list(dict.fromkeys(step for values in result["first_stages"].values() for step in values["latency_ms"]))
    searches.add_column("")
    for column in ("best 10 found", "scored", *steps, "p95"):
        searches.add_column(column, justify="right")
    for stage, values in result["first_stages"].items():
        times = values["latency_ms"]
        searches.add_row(
            stage,
            f"{values['recall_of_best']:.4f}",
            f"{values['documents_scored']:,.0f}",
            *(f"{times[step]['p50']:.1f}" if step in times else "-" for step in steps),
            f"{times['total']['p95']:.1f}",
        )
    storage, ingest = result["storage"], result["ingest"]
    speed = (
        f"{ingest['documents_per_s']:.1f} documents/s"
        if ingest["documents_per_s"]
        else "not measured, the documents were indexed already"
    )
    return Group(
        *_quality(result),
        searches,
        f"storage: {storage['bytes_per_token']:.0f} bytes per token, {storage['bytes_per_document']:,.0f} per "
        f"document, {size_text(storage['total_bytes'])} in total; ingest: {speed}",
    )


def runs_tables(result: Mapping[str, Any]) -> Group:
    """Return the figures of `evaluate_runs` as tables."""
    return Group(*_quality(result))


def _quality(result: Mapping[str, Any]) -> list[Table | Text]:
    """Return the table of the rankings, the notes, and the table of the differences, if there are any."""
    documents = f"{number(result['documents'], 'document')}, " if result["documents"] else ""
    quality = Table(title=f"{result['dataset']}: {documents}{number(result['queries'], 'query')}")
    quality.add_column("ranking", overflow="fold")
    metrics = list(next(iter(result["runs"].values())))
    for column in (metrics[0], "95 % interval", *metrics[1:]):
        quality.add_column(column, justify="right")
    for name, values in result["runs"].items():
        ends = result["intervals"][name][metrics[0]]
        figures = [f"{values[metric]:.4f}" for metric in metrics]
        quality.add_row(name, figures[0], f"{ends['low']:.3f} to {ends['high']:.3f}", *figures[1:])
    parts: list[Table | Text] = [quality, *map(Text, result["notes"])]
    if result["differences"]:
        differences = _differences_table(f"differences in {metrics[0].replace('ndcg', 'nDCG')}")
        for name, values in result["differences"].items():
            interval = f"{values['low']:+.4f} to {values['high']:+.4f}"
            differences.add_row(name, f"{values[metrics[0]]:+.4f}", interval, _p(values["p"]), values["verdict"])
        parts.append(differences)
    return parts


def comparison_tables(found: Comparison) -> Group:
    """Return a table with the means of each pair of rankings, and one with their differences."""
    means = Table(title=f"{found.names[0]} - {found.names[1]}: {number(len(found.queries), 'query')}")
    means.add_column("ranking", overflow="fold")
    for column in ("measure", "first", "second", "better", "equal", "worse"):
        means.add_column(column, justify="left" if column == "measure" else "right")
    differences = Table(title="differences: first - second")
    differences.add_column("ranking", overflow="fold")
    for column in ("measure", "mean", "95 % interval", "p", ""):
        differences.add_column(column, justify="right" if column not in ("measure", "") else "left")
    for pair in found.pairs:
        one = pair.difference
        counts = (f"{count:,}" for count in pair.counts)
        means.add_row(pair.name, pair.measure, *(f"{mean:.4f}" for mean in pair.means), *counts)
        interval = f"{one.low:+.4f} to {one.high:+.4f}"
        differences.add_row(pair.name, pair.measure, f"{one.mean:+.4f}", interval, _p(one.p), one.verdict)
    return Group(means, differences, *map(Text, found.notes))


def paper_tables(result: Mapping[str, Any]) -> Group:
    """Return the figures of `evaluate_published` as tables, in percent, with what was left out below them."""
    published_model = result["published_model"]
    table = Table(title=f"{result['model']}, in percent; in brackets: {published_model or 'no published figures'}")
    table.add_column("")
    for heading in ("measure", "datasets", "pooled", "late", "pooled + late"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for name, column in {**result["columns"], "average": result["average"]}.items():
        if not column["runs"]:
            continue
        figures = [_beside(column, ranking) for ranking in ("pooled", "late", "smart")]
        tasks = f"{column['tasks']} of {column['of']}" if column["of"] else f"{column['tasks']}, not in the paper"
        if column["unreadable"]:
            tasks += f", without {number(column['unreadable'], 'row')}"
        table.add_row(name, column.get("measure", ""), tasks, *figures)
    datasets = Table(title="datasets, in percent")
    datasets.add_column("", overflow="fold")
    for heading in ("documents", "queries", "pooled", "late", "pooled + late"):
        datasets.add_column(heading, justify="right")
    notes = []
    for found in result["datasets"]:
        figures = [f"{100 * found['runs'][ranking][found['measure']]:.2f}" for ranking in ("pooled", "late", "smart")]
        datasets.add_row(found["name"], f"{found['documents']:,}", f"{found['queries']:,}", *figures)
        if found["left_out"]:
            notes.append(f"{found['name']}: left out: {'; '.join(found['left_out'])}")
    notes += [f"{other['name']}: not ranked: {other['reason']}" for other in [*result["skipped"], *result["failed"]]]
    return Group(table, datasets, *(Text(note) for note in notes))


def _beside(column: Mapping[str, Any], ranking: str) -> str:
    """Return our figure, and the published one in brackets if there is one."""
    published = column["published"].get(ranking)
    return f"{column['runs'][ranking]:.2f}" + ("" if published is None else f" ({published:.2f})")


def _setting_json(setting: Setting) -> dict[str, Any]:
    return {"weights": list(setting.weights), "weighting": setting.weighting}


def _differences_table(title: str) -> Table:
    table = Table(title=title)
    for column in ("", "mean", "95 % interval", "p", ""):
        table.add_column(column, justify="right" if column else "left")
    return table


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def tuning_json(found: Tuning, *, written: bool) -> dict[str, Any]:
    """Return the result of `tune` as JSON values."""
    return {
        "queries": found.queries,
        "notes": list(found.notes),
        "settings": [{**_setting_json(setting), "ndcg@10": score} for setting, score in found.scores.items()],
        "current": _setting_json(found.current),
        "choice": _setting_json(found.choice),
        "held_out": {**found.held_out.as_json("ndcg@10"), "verdict": found.verdict},
        "in_sample": {"ndcg@10": found.in_sample},
        "written": written,
    }


def tuning_table(found: Tuning) -> Table:
    """Return the score of each setting. Each row is for one ratio of the weights: from only late to only pooled."""
    table = Table(title=f"nDCG@10 of {found.queries:,} queries")
    table.add_column("pooled : late")
    for weighting in get_args(Weighting):
        table.add_column(f"weighting {weighting}", justify="right")
    rows: dict[tuple[float, float], dict[str, Text]] = {}
    for setting in sorted(found.scores, key=lambda setting: setting.weights[0] / sum(setting.weights)):
        mark = " current" if setting == found.current else " choice" if setting == found.choice else ""
        cell = Text(f"{found.scores[setting]:.4f}{mark:<8}", style="bold" if mark else "")
        rows.setdefault(setting.weights, {})[setting.weighting] = cell
    for weights, cells in rows.items():
        table.add_row(_ratio(weights), *(cells.get(weighting, "") for weighting in get_args(Weighting)))
    return table


def tuning_verdict(found: Tuning) -> str:
    """Return the conclusion of `tune`."""
    lines = [*found.notes]
    if found.choice == found.current:
        lines.append(f"The choice is the current setting of the index, {_setting(found.current)}.")
        if found.best != found.current:
            gain = found.scores[found.best] - found.scores[found.current]
            lines.append(
                f"{_setting(found.best)} is better by {gain:.4f} on these queries, but no gain is above its standard "
                "error. To set it anyway, call in Python: "
                f"index.set_weights({found.best.weights}, {found.best.weighting!r})"
            )
        return "\n".join(lines)
    held_out = found.held_out
    return "\n".join(
        [
            *lines,
            f"Choice: {_setting(found.choice)}; current: {_setting(found.current)}.",
            f"Gain to expect on other queries, by cross-validation: {held_out.mean:+.4f} (95 % interval "
            f"{held_out.low:+.4f} to {held_out.high:+.4f}, p {_p(held_out.p)}): {found.verdict}.",
            f"Gain on the queries by which it was chosen, usually too high for others: {found.in_sample:+.4f}.",
        ]
    )


def _setting(setting: Setting) -> str:
    return f"{_ratio(setting.weights)}, weighting {setting.weighting}"


def _ratio(weights: tuple[float, float]) -> str:
    return f"{weights[0]:g} : {weights[1]:g}"


def training_tables(report: TrainingReport, unit: str = "epoch") -> Group:
    """Return the figures of a training: the base model, SMART before and after the training, and the differences.

    ``unit`` is ``"epoch"`` if the model was evaluated after each epoch, or ``"evaluation"`` if more often.
    """
    queries, documents = number(report.held_out_queries, "held-out query"), number(report.documents, "document")
    quality = Table(title=f"nDCG@10 of {queries} among {documents}")
    for column in ("", "pooled", "late", "hybrid"):
        quality.add_column(column, justify="right" if column else "left")
    frozen, trained = (
        [f"{report.ndcg[f'{when} {name}']:.4f}" for name in ("pooled", "late", "hybrid")]
        for when in ("frozen", "trained")
    )
    quality.add_row("base model", frozen[0], "", "")
    quality.add_row("SMART, frozen", "", *frozen[1:])
    if report.ndcg["trained pooled"] == report.ndcg["frozen pooled"]:  # an adapter does not change the pooled ranking
        trained[0] = ""
    evaluations = len(report.history) - 1
    if report.saved:
        quality.add_row(f"trained, {unit} {report.best_epoch} of {evaluations}", *trained)
    else:
        best = max(range(1, evaluations + 1), key=lambda i: report.history[i].by(report.objective))
        values = [f"{report.history[best].by(name):.4f}" for name in ("pooled", "late", "hybrid")]
        if report.history[best].pooled == report.history[0].pooled:
            values[0] = ""
        quality.add_row(f"not saved: trained, {unit} {best} of {evaluations}", *values)
    differences = _differences_table("effect of the training, and of late interaction without it")
    for name, found in report.differences.items():
        interval = f"{found.low:+.4f} to {found.high:+.4f}"
        differences.add_row(name, f"{found.mean:+.4f}", interval, _p(found.p), found.verdict)
    return Group(quality, differences)
