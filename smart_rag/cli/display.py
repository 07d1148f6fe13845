"""Hits, tables and figures of the command line: rich text for people, JSON values for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from smart_rag.cli.console import on_one_line, printable
from smart_rag.config import IndexConfig
from smart_rag.embeddings.codec import PRESETS, get_codec
from smart_rag.types import Document, Hit, ImageSource, PdfPage, chunk_of
from smart_rag.wording import number

if TYPE_CHECKING:
    from smart_rag.demo import SampleQuestion
    from smart_rag.encoders.smart_encoder import SmartEncoder
    from smart_rag.evaluation.tuner import Setting, Tuning
    from smart_rag.index.smart_index import SmartIndex
    from smart_rag.training.report import TrainingReport
    from smart_rag.types import IndexInfo

_PASSAGE_LENGTH = 420  # characters of a passage that are shown


def hit_json(hit: Hit, has_relevance: bool = False, neighbours: Sequence[Document] = ()) -> dict[str, Any]:
    """Return a hit as JSON values, with its ``neighbours``.

    ``has_relevance`` says whether to compute the relevance. If not, it is null.
    """
    return {
        "rank": hit.rank,
        "id": hit.id,
        "score": hit.score,
        "relevance": hit.relevance if has_relevance else None,
        "pooled_score": hit.pooled_score,
        "late_score": hit.late_score,
        "unread": list(hit.unread),
        "duplicates": list(hit.duplicates),
        "source": hit.source,
        "page": hit.page,
        "text": hit.text,
        "image": _file(hit.image),
        "video": _file(hit.video),
        "metadata": dict(hit.metadata),
        "neighbours": [{"id": one.id, "page": one.metadata.get("page"), "text": one.text} for one in neighbours],
    }


def _file(source: ImageSource | None) -> str | None:
    """Return the path of an image or a video. For a page of a PDF, return the path of the PDF."""
    return None if source is None else str(source.path if isinstance(source, PdfPage) else source)


def source_label(hit: Hit) -> str:
    """Return the file and the page of a hit, or its id if it has no file."""
    name = on_one_line(short_path(hit.source) if hit.source else hit.id)
    return f"{name}, page {hit.page}" if hit.page is not None else name


def short_path(path: str) -> str:
    """Return ``path`` relative to the working directory if it lies below this directory, otherwise as it is."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def hit_text(
    hit: Hit,
    weights: tuple[float, float],
    words: list[tuple[int, int]],
    relevance: float | None = None,
    neighbours: Sequence[Document] = (),
) -> Group:
    """Return the hit's score, the parts of the score with their weights, the relevance, the source and the passage.

    The ``neighbours`` of the hit stand before and after the passage, and the ids of its duplicates at the end.
    """
    parts = zip(weights, (hit.pooled_score, hit.late_score), ("pooled", "late"), strict=True)
    head = Text.assemble(
        (f"{hit.rank:>2}  ", "bold"),
        (f"{hit.score:.3f}", "bold green"),
        (f" = {' + '.join(f'{weight:g} x {score:.3f} {name}' for weight, score, name in parts)}  ", "dim"),
        ("" if relevance is None else f"relevance {relevance:.2f}  ", "dim"),
        (source_label(hit), "cyan"),
        ("  unread by the model" if "text" in hit.unread else "", "yellow"),
    )
    medium = "[image]" if hit.video is None else "[video]"
    passage = _passage(hit.text, words) if hit.text.strip() else Text(medium, style="dim")
    lines = [passage]
    for one in neighbours:
        place = len(lines) if chunk_of(one.id) > chunk_of(hit.id) else len(lines) - 1
        lines.insert(place, Text(_passage(one.text, []).plain, style="dim"))
    if hit.duplicates:
        lines.append(Text(_duplicates(hit), style="dim"))
    return Group(head, *(Padding(line, (0, 0, 0, 4)) for line in lines[:-1]), Padding(lines[-1], (0, 0, 1, 4)))


def source_line(hit: Hit) -> Text:
    """Return one line for a source of an answer: its number, its score, its file and its duplicates."""
    return Text.assemble(
        *((f"[{hit.rank}]", "bold"), "  ", (f"{hit.score:.3f}", "bold green"), "  ", (source_label(hit), "cyan")),
        (f"  {_duplicates(hit)}" if hit.duplicates else "", "dim"),
    )


def _duplicates(hit: Hit) -> str:
    """Return the ids of the passages that were folded into ``hit``."""
    return f"nearly the same: {', '.join(on_one_line(short_path(name)) for name in hit.duplicates)}"


def unknown_citations(numbers: Sequence[int], sources: int) -> str:
    """Return a warning that the answer cites sources that the language model did not get."""
    return (
        f"the answer cites {', '.join(map(str, numbers))}, but the language model got {number(sources, 'source')}; "
        f"such citations have a question mark, like [{numbers[0]}?]"
    )


def _passage(text: str, words: list[tuple[int, int]]) -> Text:
    """Return the part of ``text`` that contains the largest number of ``words``.

    These words are emphasised. Each paragraph is on one line.
    """
    starts = [0, *(text.rfind(" ", 0, start) + 1 for start, _ in words)]
    start = max(starts, key=lambda at: sum(at <= a and b <= at + _PASSAGE_LENGTH for a, b in words))
    stop = len(text) if start + _PASSAGE_LENGTH >= len(text) else text.rfind(" ", start, start + _PASSAGE_LENGTH)
    stop = stop if stop > start else start + _PASSAGE_LENGTH
    passage = Text(printable(text))  # of the same length, whereas rich would leave out some characters
    for a, b in words:
        passage.stylize("bold yellow", a, b)
    passage = passage[start:stop]
    paragraphs = [
        Text(" ").join(line for line in paragraph.split("\n") if line.plain.strip())
        for paragraph in passage.split("\n\n")
        if paragraph.plain.strip()
    ]
    return Text.assemble("… " if start else "", Text("\n").join(paragraphs), " …" if stop < len(text) else "")


def comparison(index: SmartIndex, question: SampleQuestion) -> Group:
    """Return two lists of the best hits for a question, side by side: by the pooled embedding alone, and by SMART."""
    table = Table(expand=True, show_edge=False, pad_edge=False)
    table.add_column("pooled vector alone", ratio=1)
    table.add_column("SMART: pooled + late interaction", ratio=1)
    pooled = index.search(question.question, 3, weights=(1.0, 0.0))
    smart = index.search(question.question, 3)
    for left, right in zip(pooled, smart, strict=True):
        table.add_row(_demo_cell(left, question), _demo_cell(right, question))
    return Group(Text(question.question, style="bold"), Padding(table, (0, 0, 1, 2)))


def _demo_cell(hit: Hit, question: SampleQuestion) -> Text:
    label = Path(hit.source or hit.id).name + (f", page {hit.page}" if hit.page is not None else "")
    text = " ".join(hit.text.split())
    answers = question.answer in text
    at = max(0, text.find(question.answer) - 60) if answers else 0
    snippet = ("… " if at else "") + text[at : at + 150] + " …"
    mark = ("✓ ", "bold green") if answers else ("✗ ", "red")
    return Text.assemble(
        mark, (f"{hit.score:.3f}  ", "bold"), (label, "cyan"), "\n", (snippet, "" if answers else "dim")
    )


def next_steps(program: str) -> Text:
    """Return the advice at the end of the demo. ``program`` is the shell command that starts this program."""
    return Text.assemble(
        "One pooled vector represents a whole passage, so it can miss a detail. SMART also compares each word.\n",
        "These questions were chosen to show that. Measure on your own data with `eval`.\n\n",
        ("Your own documents:\n", "bold"),
        f"  {program} index ~/Documents --db my.index\n",
        f'  {program} search "your question" --db my.index\n\n',
        ("A larger model, any from sentence-transformers:\n", "bold"),
        f"  {program} index ~/Documents --db big.index --model Qwen/Qwen3-Embedding-0.6B\n",
    )


def index_table(info: IndexInfo) -> Table:
    """Return the contents, the model and the size of an index."""
    config, encoder = info.manifest["config"], info.manifest["encoder"]
    table = Table.grid(padding=(0, 2))
    rows = {
        "index": info.path,
        "model": encoder["model"] if encoder else "none (the caller brings vectors)",
        "adapter": (encoder or {}).get("adapter", "none"),
        **_use(encoder or {}),
        "dimension": info.manifest["dimension"],
        "token dimension": info.manifest["token_dimension"],
        "codec": config["codec"],
        "score": "{:g} x pooled + {:g} x late, weighting {}".format(*config["weights"], config["weighting"]),
        "documents": f"{info.documents:,}",
        "tokens": f"{info.tokens:,}",
        "token embeddings, terms": size_text(info.token_bytes),
        "pooled embeddings, texts": "in Chroma" if info.pooled_bytes is None else size_text(info.pooled_bytes),
        "total size": size_text(info.token_bytes + (info.pooled_bytes or 0)),
        "bytes per token": _bytes_per_token(info),
        "bytes per document": f"{info.token_bytes / info.documents:,.0f}" if info.documents else "-",
        "format": f"{info.manifest['format_version']}, made with smart-rag {info.manifest['created_with']}",
    }
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    return table


def _use(encoder: Mapping[str, Any]) -> dict[str, str]:
    """Return how an index uses its model. The manifest decides this, whatever a later version would recognise."""
    names = ("base_model", "profile", "pooling", "query_prompt", "document_prompt", "max_length", "max_pixels", "paper")
    used = {name: encoder[name] for name in (*names, "backend", "dtype") if encoder.get(name) is not None}
    before = (encoder.get("images") or {}).get("pooled_before")
    if before is not None:
        used["pooling"] = f"the token before {before}"
    elif used.get("pooling") == "unknown":  # the model has another way to make its embeddings
        del used["pooling"]
    return {name.replace("_", " "): _value(value) for name, value in used.items()}


def _bytes_per_token(info: IndexInfo) -> str:
    if not info.tokens:
        return "-"
    codes = get_codec(info.manifest["config"]["codec"]).bytes_per_token(info.manifest["token_dimension"])
    taken = info.token_bytes / info.tokens
    # A database of LMDB takes whole pages, even for a few tokens.
    why = f" ({codes:,} for codes; a small index has more overhead)" if taken > 2 * codes else ""
    return f"{taken:,.0f}{why}"


def model_json(encoder: SmartEncoder) -> dict[str, Any]:
    """Return JSON values: how a model is used, and the number of tokens and bytes of a page or a passage."""
    unit, tokens = _unit(encoder)
    codecs = {name: get_codec(name) for name in PRESETS}
    return {
        "model": encoder.model_name,
        "device": encoder.device,
        "decisions": [asdict(decision) for decision in encoder.decisions],
        f"tokens_per_{unit}": tokens,
        f"bytes_per_{unit}": {
            name: -(-tokens // layout.pool_factor) * layout.bytes_per_token(encoder.token_dimension)
            for name, layout in codecs.items()
        },
    }


def model_table(encoder: SmartEncoder) -> Table:
    """Return a table: the decisions about a model with their sources, and the tokens and bytes of a page or passage."""
    found = model_json(encoder)
    unit, tokens = _unit(encoder)
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in ("", found["model"], "from"):
        table.add_column(Text(column), overflow="fold")
    for decision in encoder.decisions:
        table.add_row(decision.name.replace("_", " "), Text(_value(decision.value)), Text(decision.source, style="dim"))
    table.add_row("device", found["device"])
    why = "an A4 page as an image" if unit == "page" else "the default of IndexConfig.chunk_tokens"
    table.add_row(f"tokens per {unit}", f"{tokens:,}", Text(why, style="dim"))
    for name, size in found[f"bytes_per_{unit}"].items():
        table.add_row(f"bytes per {unit}, {name}", size_text(size), Text(f"codec {PRESETS[name]}", style="dim"))
    return table


def _unit(encoder: SmartEncoder) -> tuple[str, int]:
    """Return the unit that a model encodes, ``"page"`` or ``"passage"``, and the number of its tokens."""
    tokens = encoder.tokens_per_page
    return ("page", tokens) if tokens else ("passage", IndexConfig().chunk_tokens)


def _value(value: object) -> str:
    """Return the value of a decision as text. Line breaks in a prompt are escaped."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).replace("\n", "\\n")


def evaluation_tables(result: Mapping[str, Any]) -> Group:
    """Return the figures of `evaluate` as tables."""
    counts = f"{number(result['documents'], 'document')}, {number(result['queries'], 'query')}"
    quality = Table(title=f"{result['dataset']}: {counts}")
    quality.add_column("ranking")
    metrics = list(result["runs"]["hybrid"])
    for metric in metrics:
        quality.add_column(metric, justify="right")
    for name, values in result["runs"].items():
        quality.add_row(name, *(f"{values[metric]:.4f}" for metric in metrics))
    differences = Table(title="differences in nDCG@10")
    for column in ("", "mean", "95 % interval", ""):
        differences.add_column(column, justify="right" if column else "left")
    for name, values in result["differences"].items():
        interval = f"{values['low']:+.4f} to {values['high']:+.4f}"
        differences.add_row(name, f"{values['ndcg@10']:+.4f}", interval, values["verdict"])
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
        quality,
        differences,
        searches,
        f"storage: {storage['bytes_per_token']:.0f} bytes per token, {storage['bytes_per_document']:,.0f} per "
        f"document, {size_text(storage['total_bytes'])} in total; ingest: {speed}",
    )


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


def tuning_json(found: Tuning, *, written: bool) -> dict[str, Any]:
    """Return the result of `tune` as JSON values."""
    return {
        "queries": found.queries,
        "settings": [{**_setting_json(setting), "ndcg@10": score} for setting, score in found.scores.items()],
        "current": _setting_json(found.current),
        "choice": _setting_json(found.choice),
        "held_out": found.held_out.as_json("ndcg@10"),
        "written": written,
    }


def tuning_table(found: Tuning) -> Table:
    """Return the score of each setting. Each row is for one ratio of the weights: from only late to only pooled."""
    table = Table(title=f"nDCG@10 of {found.queries:,} queries")
    table.add_column("pooled : late")
    for column in ("weighting idf", "weighting none"):
        table.add_column(column, justify="right")
    rows: dict[tuple[float, float], dict[str, Text]] = {}
    for setting in sorted(found.scores, key=lambda setting: setting.weights[0] / sum(setting.weights)):
        mark = " current" if setting == found.current else " best" if setting == found.choice else ""
        cell = Text(f"{found.scores[setting]:.4f}{mark:<8}", style="bold" if mark else "")
        rows.setdefault(setting.weights, {})[setting.weighting] = cell
    for weights, cells in rows.items():
        table.add_row(_ratio(weights), cells.get("idf", ""), cells.get("none", ""))
    return table


def tuning_verdict(found: Tuning) -> str:
    """Return the conclusion of `tune`."""
    if found.choice == found.current:
        return f"No setting is better than the current setting of the index, {_setting(found.current)}."
    held_out = found.held_out
    is_noise = "the difference is noise" if held_out.verdict == "noise" else held_out.verdict
    return (
        f"Best: {_setting(found.choice)}; current: {_setting(found.current)}.\n"
        f"Difference on held-out queries, with the setting that is best on the others: {held_out.mean:+.4f} "
        f"(95 % interval {held_out.low:+.4f} to {held_out.high:+.4f}): {is_noise}."
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
    quality.add_row(f"trained, {unit} {report.best_epoch} of {len(report.history) - 1}", *trained)
    differences = Table(title="differences")
    for column in ("", "mean", "95 % interval", ""):
        differences.add_column(column, justify="right" if column else "left")
    for name, found in report.differences.items():
        interval = f"{found.low:+.4f} to {found.high:+.4f}"
        differences.add_row(name, f"{found.mean:+.4f}", interval, found.verdict)
    return Group(quality, differences)


def size_text(size: float) -> str:
    """Return a number of bytes as text. The unit is the largest one in which the number is at least 1."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError
