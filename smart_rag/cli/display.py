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
from smart_rag.paths import shown
from smart_rag.scoring.products import numba_is_usable
from smart_rag.types import Document, Hit, chunk_of
from smart_rag.wording import number, size_text

if TYPE_CHECKING:
    from smart_rag.demo import SampleQuestion
    from smart_rag.encoders.smart_encoder import SmartEncoder
    from smart_rag.index.smart_index import SmartIndex
    from smart_rag.types import IndexInfo

_PASSAGE_LENGTH = 420  # characters of a passage that are shown


def source_label(hit: Hit) -> str:
    """Return the file and the page of a hit, or its id if it has no file."""
    name = short_path(shown(hit.source)) if hit.source else on_one_line(hit.id)
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
        "scored by": "compiled loops" if numba_is_usable() else "NumPy; the extra `fast` takes a fraction of the time",
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
