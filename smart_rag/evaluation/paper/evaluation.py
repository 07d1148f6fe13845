"""The paper's table for one model: published datasets, ranked as in arXiv 2605.24938, beside the published figures.

Token embeddings are not compressed, every document is scored, both scores have the weight 1, and all query tokens count
the same. nDCG has linear gains. A column is the mean of its datasets. The average is the mean of all datasets in the
columns of the table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from smart_rag.config import IndexConfig
from smart_rag.embeddings.representation import Representation
from smart_rag.encoders.prompts import takes_instructions, with_instruction
from smart_rag.encoders.protocol import Encoder, modalities_of
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.evaluation.datasets import Dataset, Unreadable, unreadable_notes
from smart_rag.evaluation.evaluator import leaders_of_scan, versions
from smart_rag.evaluation.metrics import Metrics
from smart_rag.evaluation.paper.media import Places
from smart_rag.evaluation.paper.published import Published, find_published
from smart_rag.evaluation.paper.table import COLUMNS, OTHERS, TASKS, Row, Task, row_of, task_of
from smart_rag.index.smart_index import SmartIndex
from smart_rag.types import Content, Document
from smart_rag.wording import number

# The rankings with their weights (pooled, late).
RANKINGS: Mapping[str, tuple[float, float]] = {"pooled": (1.0, 0.0), "late": (0.0, 1.0), "smart": (1.0, 1.0)}
_MEASURES = ("hit@1", "ndcg@5", "ndcg@10")
_DEPTH = 10
_QUERIES_PER_SCAN = 2_000
_VIDEOS_AT_ONCE = 64
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")
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
    """Rank the datasets in ``root``, and return the figures as JSON values. ``docs/paper.md`` explains the keys.

    Args:
        root: the folder of one dataset or of several, in a published layout.
        encoder: the model. The paper's own token sets need its option ``paper``.
        media: the folder of images and videos that tables name by their paths. By default, ``root``.
        split: the split to read, if a table has several.
        language: the language of the queries to keep. By default, all languages, as in the paper.
        limit_queries: the number of queries of a dataset to use. By default, all.
        show_progress_bar: whether to show progress bars.

    A dataset that cannot be read is named under ``failed``, and the others are ranked.

    Raises:
        InvalidInput: there is no dataset, or no dataset can be ranked.
        MissingExtra: ir-measures or pyarrow is not installed.
    """
    Metrics({"q": {"d": 1}})  # a missing extra is found before the work
    tasks, skipped, failed = _tasks(find_published(root, split))
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
                if unread := _not_read_by(encoder, dataset):
                    skipped.append({"name": task.name, "reason": unread})
                    continue
                found = evaluate_dataset(dataset, encoder, Path(temporary) / "index", show_progress_bar, written)
            except InvalidInput as error:
                failed.append({"name": task.name, "reason": str(error)})
                continue
            column = f"{task.column} ({language})" if language else task.column
            datasets.append({"name": task.name, "column": column, "measure": task.measure, **found})
    if not datasets:
        reasons = "; ".join(f"{each['name']}: {each['reason']}" for each in [*failed, *skipped])
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
        "failed": failed,
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


def evaluate_dataset(
    dataset: Dataset, encoder: Encoder, folder: Path, show_progress_bar: bool, written: Path | None = None
) -> dict[str, Any]:
    """Rank the documents of ``dataset`` in a new index in ``folder``. Return its counts, and measures by ranking.

    A query whose image cannot be read is left out. A document that cannot be read counts as not found.

    Args:
        dataset: the dataset.
        encoder: the model.
        folder: the folder of the index.
        show_progress_bar: whether to show progress bars.
        written: the folder of images that were inside tables. Their paths there say nothing to a user.

    Raises:
        InvalidInput: no document or no query can be read.
    """
    from tqdm.auto import tqdm

    left_out = list(dataset.left_out)
    if dataset.instructions and not takes_instructions(encoder):
        why = "has a prompt of its own" if encoder.describe().get("query_prompt") else "takes none"
        left_out.append(f"{number(len(dataset.instructions), 'instruction')} of queries, because the model {why}")
    runs: dict[str, dict[str, list[str]]] = {name: {} for name in RANKINGS}
    with SmartIndex.create(folder, encoder, config=_CONFIG) as index:
        broken = _add(dataset, index, encoder, show_progress_bar)
        ids = list(dataset.queries)
        documents = index.count()
        total = documents * -(-len(ids) // _QUERIES_PER_SCAN)
        with tqdm(total=total, desc=dataset.name, unit="document", disable=not show_progress_bar) as progress:
            for start in range(0, len(ids), _QUERIES_PER_SCAN):
                part, queries, lost = encode_queries(dataset, ids[start : start + _QUERIES_PER_SCAN], index, encoder)
                broken += lost
                if queries is None or not documents:
                    continue
                candidates = [
                    frozenset(own) if (own := dataset.candidates.get(id)) is not None else None for id in part
                ]
                best = leaders_of_scan(index, queries, RANKINGS, _DEPTH, "none", progress.update, candidates=candidates)
                for name, leaders in best.items():
                    runs[name].update((id, leader.ids) for id, leader in zip(part, leaders, strict=True))
    unreadable = [*dataset.unreadable, *(_unreadable(*each, written) for each in broken)]
    kept = {id: dataset.qrels[id] for id in runs["smart"]}
    if not kept:
        raise InvalidInput(f"no document or no query is left; left out: {'; '.join(unreadable_notes(unreadable))}")
    metrics = Metrics(kept, _MEASURES)
    return {
        "documents": documents,
        "queries": len(kept),
        "runs": {name: metrics.mean(run) for name, run in runs.items()},
        "left_out": [*unreadable_notes(unreadable), *left_out],
        "unreadable": [asdict(each) for each in unreadable],
    }


def _unreadable(kind: str, id: str, error: DocumentError, written: Path | None) -> Unreadable:
    inside = written is not None and written in error.path.parents
    return Unreadable(kind, id, f"the image in the table: {error.reason}" if inside else str(error))


# The kind of what cannot be read, its id, and the error.
_Broken = tuple[str, str, DocumentError]


def _readable(
    items: Sequence[_Item], make: Callable[[Sequence[_Item]], _Made]
) -> tuple[list[tuple[Sequence[_Item], _Made]], list[tuple[_Item, DocumentError]]]:
    """Call ``make`` with ``items``, without those whose files cannot be read.

    An error does not say whose file it is. So ``items`` are halved until the one that causes it is alone.

    Returns:
        the parts of ``items`` that can be read, each with what ``make`` returns; and the other items with their errors.
    """
    try:
        return [(items, make(items))], []
    except DocumentError as error:
        if len(items) == 1:
            return [], [(items[0], error)]
    parts, broken = _readable(items[: len(items) // 2], make)
    others, more = _readable(items[len(items) // 2 :], make)
    return [*parts, *others], [*broken, *more]


def _add(dataset: Dataset, index: SmartIndex, encoder: Encoder, show_progress_bar: bool) -> list[_Broken]:
    """Add the documents, and return those that cannot be read.

    An index takes a video as a file, so videos that are frames are encoded here.
    """

    def encode(part: Sequence[Document]) -> None:
        vectors = encoder.encode_document([Content(each.text, each.image, each.video) for each in part])
        index.add_embeddings([Document(each.id, "frames of a video") for each in part], vectors)

    framed = [document for document in dataset.documents if isinstance(document.video, tuple)]
    files = [document for document in dataset.documents if not isinstance(document.video, tuple)]
    broken: list[tuple[Document, DocumentError]] = []
    if files:
        broken += _readable(files, lambda part: index.add(part, show_progress_bar=show_progress_bar))[1]
    for start in range(0, len(framed), _VIDEOS_AT_ONCE):
        broken += _readable(framed[start : start + _VIDEOS_AT_ONCE], encode)[1]
    return [("document", document.id, error) for document, error in broken]


def encode_queries(
    dataset: Dataset, ids: Sequence[str], index: SmartIndex, encoder: Encoder
) -> tuple[list[str], Representation | None, list[_Broken]]:
    """Encode the queries ``ids``, each with its own instruction.

    Returns:
        the ids of the queries that can be read, grouped by their instructions; their representation, or None if there
        are none; and the queries that cannot be read.
    """
    instructions = dataset.instructions if takes_instructions(encoder) else {}
    groups: dict[str, list[str]] = {}
    for id in ids:
        groups.setdefault(instructions.get(id, ""), []).append(id)
    names: list[str] = []
    found: list[Representation] = []
    broken: list[_Broken] = []
    for instruction, group in groups.items():
        asked = with_instruction(encoder, instruction) if instruction else index

        def encode(part: Sequence[str], asked: Any = asked) -> Representation:
            queries = [dataset.queries[id] for id in part]
            made: Representation = asked.encode_queries(queries) if asked is index else asked.encode_query(queries)
            return made

        parts, errors = _readable(group, encode)
        for part, made in parts:
            names += part
            found.append(made)
        broken += [("query", id, error) for id, error in errors]
    return names, Representation.concatenate(found) if found else None, broken


def _tasks(
    sources: Sequence[Published],
) -> tuple[list[tuple[Task, Published]], list[dict[str, str]], list[dict[str, str]]]:
    """Return the task of each dataset, the datasets that are not meant, and those that cannot be read, with reasons.

    A dataset may have several parts, such as the splits of MSR-VTT. Then the part that the paper uses is read. The
    folder of MMEB-V2's images also holds classification, questions and grounding, which are not in the table. If two
    folders hold the same dataset, neither is read.
    """
    failed = [{"name": source.names[0], "reason": source.reason} for source in sources if source.reason]
    chosen: dict[str, tuple[Task, list[Published]]] = {}
    skipped = []
    for source in sources:
        if source.reason:
            continue
        task = task_of(source.names, source.layout)
        _, others = chosen.setdefault(task.name, (task, []))
        exact = source.names[0].lower() in task.folders
        if others and exact and others[0].names[0].lower() not in task.folders:
            skipped += [_other_part(other, task) for other in others]
            others[:] = [source]
        elif others and not exact and others[0].folder == source.folder:
            skipped.append(_other_part(source, task))
        else:
            others.append(source)
    tables = {source.folder for task, others in chosen.values() for source in others if task.column in COLUMNS}
    tasks = []
    for task, [source, *others] in chosen.values():
        if source.layout == "candidates" and task.column == OTHERS and source.folder in tables:
            skipped.append({"name": task.name, "reason": "not in the paper's table"})
        elif others:
            folders = ", ".join(str(each.folder) for each in (source, *others))
            failed.append({"name": task.name, "reason": f"{folders} all hold it; keep one of them"})
        else:
            tasks.append((task, source))
    return tasks, skipped, failed


def _other_part(source: Published, task: Task) -> dict[str, str]:
    return {"name": f"{source.folder.name}/{source.names[0]}", "reason": f"another part of {task.name}"}


def _not_read_by(encoder: Encoder, dataset: Dataset) -> str:
    """Return which modalities of ``dataset`` the model does not read, or an empty str if it reads all."""
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
                "unreadable": sum(len(dataset["unreadable"]) for dataset in own),
                "of": sum(task.column == column for task in TASKS),
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
        "unreadable": sum(len(dataset["unreadable"]) for dataset in own),
        "of": len(TASKS),
        "runs": _means(own) if own else {},
        "published": {name: figure for name, figure in published.items() if figure is not None},
    }


def _means(datasets: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        name: 100 * float(np.mean([dataset["runs"][name][dataset["measure"]] for dataset in datasets]))
        for name in RANKINGS
    }
