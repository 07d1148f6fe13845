"""The paper's table for one model: published datasets, ranked as in arXiv 2605.24938, beside the published figures.

Token embeddings are not compressed, every document is scored, both scores have the weight 1, and all query tokens count
the same. nDCG has linear gains. A column is the mean of its datasets. The average is the mean of all datasets in the
columns of the table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smart_rag.config import IndexConfig
from smart_rag.embeddings.representation import Representation
from smart_rag.encoders.pickling import takes_instructions, with_instruction
from smart_rag.encoders.protocol import Encoder, modalities_of
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import InvalidInput
from smart_rag.evaluation.datasets import Dataset
from smart_rag.evaluation.evaluator import leaders_of_scan, versions
from smart_rag.evaluation.layouts import Places
from smart_rag.evaluation.metrics import Metrics
from smart_rag.evaluation.paper_table import COLUMNS, OTHERS, TASKS, Row, Task, row_of, task_of
from smart_rag.evaluation.published import Published, find_published
from smart_rag.index.smart_index import SmartIndex
from smart_rag.types import Content, Document
from smart_rag.wording import number

# The rankings with their weights (pooled, late).
RANKINGS: Mapping[str, tuple[float, float]] = {"pooled": (1.0, 0.0), "late": (0.0, 1.0), "smart": (1.0, 1.0)}
_MEASURES = ("hit@1", "ndcg@5", "ndcg@10")
_DEPTH = 10
_QUERIES_PER_SCAN = 2_000
_VIDEOS_AT_ONCE = 64
_CONFIG = IndexConfig(codec="exact", weights=(1.0, 1.0), weighting="none")


def paper_encoder(model: str | Path, **options: Any) -> SmartEncoder:
    """Return the encoder of ``model`` with the token sets of the paper's code, and with the ``options`` given."""
    return SmartEncoder(model, paper=True, **options)


def evaluate_published(
    root: Path,
    encoder: Encoder,
    *,
    media: Path | None = None,
    split: str | None = None,
    language: str | None = None,
    limit_queries: int | None = None,
    show_progress_bar: bool = False,
) -> dict[str, Any]:
    """Rank the datasets in ``root``, and return the figures as JSON values. ``docs/evaluation.md`` explains the keys.

    Args:
        root: the folder of one dataset or of several, in a published layout.
        encoder: the model. The paper's own token sets need its option ``paper``.
        media: the folder of images and videos that tables name by their paths. By default, ``root``.
        split: the split to read, if a table has several.
        language: the language of the queries to keep. By default, all languages, as in the paper.
        limit_queries: the number of queries of a dataset to use. By default, all.
        show_progress_bar: whether to show progress bars.

    Raises:
        InvalidInput: there is no dataset, two folders hold the same one, or no dataset can be ranked.
        MissingExtra: ir-measures or pyarrow is not installed.
    """
    Metrics({"q": {"d": 1}})  # a missing extra is found before the work
    tasks, skipped = _tasks(find_published(root, split))
    searched = (root,) if media is None else (media, root)
    datasets = []
    for task, source in tasks:
        with tempfile.TemporaryDirectory() as temporary:
            written = Path(temporary) / "images"
            written.mkdir()
            try:
                dataset = source.load(
                    Places(written, searched),
                    name=task.name,
                    language=language,
                    instruction=task.instruction,
                    limit_queries=limit_queries,
                )
            except InvalidInput as error:
                skipped.append({"name": task.name, "reason": str(error)})
                continue
            unread = _unreadable(dataset, encoder)
            if unread:
                skipped.append({"name": task.name, "reason": unread})
                continue
            column = f"{task.column} ({language})" if language else task.column
            found = evaluate_dataset(dataset, encoder, Path(temporary) / "index", show_progress_bar)
            datasets.append({"name": task.name, "column": column, "measure": task.measure, **found})
    if not datasets:
        reasons = "; ".join(f"{each['name']}: {each['reason']}" for each in skipped)
        raise InvalidInput(f"{root}: no dataset can be ranked: {reasons}")
    description = dict(encoder.describe())
    model = str(description.get("model"))
    row = row_of(model, bool(description.get("adapter")))
    columns = _columns(datasets, row)
    return {
        "model": model,
        "published_model": None if row is None else row.model,
        "datasets": datasets,
        "skipped": skipped,
        "columns": columns,
        "average": _average(datasets, columns, row),
        "settings": {
            "config": {"codec": _CONFIG.codec, "weights": list(_CONFIG.weights or ()), "weighting": _CONFIG.weighting},
            "encoder": description,
            "language": language,
            "limit_queries": limit_queries,
        },
        "versions": versions(),
    }


def evaluate_dataset(dataset: Dataset, encoder: Encoder, folder: Path, show_progress_bar: bool) -> dict[str, Any]:
    """Rank the documents of ``dataset`` in a new index in ``folder``. Return its counts, and measures by ranking."""
    from tqdm.auto import tqdm

    left_out = list(dataset.left_out)
    if dataset.instructions and not takes_instructions(encoder):
        left_out.append(
            f"{number(len(dataset.instructions), 'instruction')} of queries, because the model has a prompt of its own"
        )
    runs: dict[str, dict[str, list[str]]] = {name: {} for name in RANKINGS}
    with SmartIndex.create(folder, encoder, config=_CONFIG) as index:
        _add(dataset, index, encoder, show_progress_bar)
        ids = list(dataset.queries)
        total = index.count() * -(-len(ids) // _QUERIES_PER_SCAN)
        with tqdm(total=total, desc=dataset.name, unit="document", disable=not show_progress_bar) as progress:
            for start in range(0, len(ids), _QUERIES_PER_SCAN):
                part = ids[start : start + _QUERIES_PER_SCAN]
                queries = encode_queries(dataset, part, index, encoder)
                candidates = [
                    frozenset(own) if (own := dataset.candidates.get(id)) is not None else None for id in part
                ]
                best = leaders_of_scan(index, queries, RANKINGS, _DEPTH, "none", progress.update, candidates=candidates)
                for name, leaders in best.items():
                    runs[name].update((id, leader.ids) for id, leader in zip(part, leaders, strict=True))
        documents = index.count()
    metrics = Metrics(dataset.qrels, _MEASURES)
    return {
        "documents": documents,
        "queries": len(dataset.queries),
        "runs": {name: metrics.mean(run) for name, run in runs.items()},
        "left_out": left_out,
    }


def _add(dataset: Dataset, index: SmartIndex, encoder: Encoder, show_progress_bar: bool) -> None:
    """Add the documents. An index takes a video as a file, so videos that are frames are encoded here."""
    framed = [document for document in dataset.documents if isinstance(document.video, tuple)]
    files = [document for document in dataset.documents if not isinstance(document.video, tuple)]
    if files:
        index.add(files, show_progress_bar=show_progress_bar)
    for start in range(0, len(framed), _VIDEOS_AT_ONCE):
        part = framed[start : start + _VIDEOS_AT_ONCE]
        vectors = encoder.encode_document([Content(each.text, each.image, each.video) for each in part])
        index.add_embeddings([Document(each.id, "frames of a video") for each in part], vectors)


def encode_queries(dataset: Dataset, ids: Sequence[str], index: SmartIndex, encoder: Encoder) -> Representation:
    """Return the representation of the queries ``ids``, in their order, each with its own instruction."""
    instructions = dataset.instructions if takes_instructions(encoder) else {}
    groups: dict[str, list[int]] = {}
    for i, id in enumerate(ids):
        groups.setdefault(instructions.get(id, ""), []).append(i)
    parts: list[Representation] = []
    order: list[int] = []
    for instruction, positions in groups.items():
        queries = [dataset.queries[ids[i]] for i in positions]
        if instruction:
            parts.append(with_instruction(encoder, instruction).encode_query(queries))
        else:
            parts.append(index.encode_queries(queries))
        order += positions
    if len(parts) == 1:
        return parts[0]
    return Representation.concatenate(parts).take(np.argsort(order).tolist())


def _tasks(sources: Sequence[Published]) -> tuple[list[tuple[Task, Published]], list[dict[str, str]]]:
    """Return the task of each dataset, and the datasets that are not read with the reasons.

    A dataset may have several parts, such as the splits of MSR-VTT. Then the part that the paper uses is read. The
    folder of MMEB-V2's images also holds classification, questions and grounding, which are not in the table.

    Raises:
        InvalidInput: two folders hold the same dataset.
    """
    chosen: dict[str, tuple[Task, Published]] = {}
    skipped = []
    for source in sources:
        task = task_of(source.names, source.layout)
        other = chosen.get(task.name)
        exact = source.names[0].lower() in task.folders
        if other and exact and other[1].names[0].lower() not in task.folders:
            skipped.append(_other_part(other[1], task))
        elif other and not exact and other[1].folder == source.folder:
            skipped.append(_other_part(source, task))
            continue
        elif other:
            raise InvalidInput(f"{source.folder} and {other[1].folder} both hold {task.name}; remove one of them")
        chosen[task.name] = (task, source)
    tables = {source.folder for task, source in chosen.values() if task.column in COLUMNS}
    for name, (task, source) in list(chosen.items()):
        if source.layout == "candidates" and task.column == OTHERS and source.folder in tables:
            del chosen[name]
            skipped.append({"name": name, "reason": "not in the paper's table"})
    return list(chosen.values()), skipped


def _other_part(source: Published, task: Task) -> dict[str, str]:
    return {"name": f"{source.folder.name}/{source.names[0]}", "reason": f"another part of {task.name}"}


def _unreadable(dataset: Dataset, encoder: Encoder) -> str:
    """Return what the model cannot read of ``dataset``, or an empty str. Nothing of a dataset is dropped silently."""
    contents = [Content(each.text, each.image, each.video) for each in dataset.documents]
    contents += [Content.of(query) for query in dataset.queries.values()]
    kinds = {content.modality for content in contents}
    reads = modalities_of(encoder)
    unread = sorted({part for kind in kinds for part in kind.split("+")} - set(reads))
    if unread:
        return f"the model reads no {' and no '.join(unread)}"
    if not getattr(encoder, "combines_modalities", True) and any("+" in kind for kind in kinds):
        return "the model reads a text and an image only one at a time"
    return ""


def _columns(datasets: Sequence[Mapping[str, Any]], row: Row | None) -> dict[str, dict[str, Any]]:
    """Return the figures of each column, in percent: ours, and the published ones, which are of all its tasks."""
    columns: dict[str, dict[str, Any]] = {}
    for column in dict.fromkeys([*COLUMNS, *(dataset["column"] for dataset in datasets)]):
        own = [dataset for dataset in datasets if dataset["column"] == column]
        if own:
            published = {} if row is None else {name: of.get(column) for name, of in row.figures.items()}
            columns[column] = {
                "measure": own[0]["measure"],
                "tasks": len(own),
                "of": sum(task.column == column for task in TASKS) or len(own),
                "runs": _means(own),
                "published": {name: figure for name, figure in published.items() if figure is not None},
            }
    return columns


def _average(
    datasets: Sequence[Mapping[str, Any]], columns: Mapping[str, Mapping[str, Any]], row: Row | None
) -> dict[str, Any]:
    """Return the means over all datasets of the paper's columns. A published mean needs complete columns."""
    own = [dataset for dataset in datasets if dataset["column"] in COLUMNS]
    whole = [column for column in COLUMNS if column in columns]
    published = {}
    if row is not None and all(columns[column]["tasks"] == columns[column]["of"] for column in whole):
        published = {name: row.average(name, whole) for name in row.figures}
    return {
        "tasks": len(own),
        "of": len(TASKS),
        "runs": _means(own) if own else {},
        "published": {name: figure for name, figure in published.items() if figure is not None},
    }


def _means(datasets: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        name: 100 * float(np.mean([dataset["runs"][name][dataset["measure"]] for dataset in datasets]))
        for name in RANKINGS
    }
