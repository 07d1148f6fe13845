"""Batches of training data: check that the data fills a batch, and choose the documents of each batch."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smart_rag.encoders.protocol import Encoder, modalities_of
from smart_rag.errors import InvalidInput
from smart_rag.training.data import TrainingData
from smart_rag.training.formats.pages import Pages
from smart_rag.training.settings import TrainingSettings
from smart_rag.wording import number


def check_trainable(data: TrainingData, encoder: Encoder, batch_size: int) -> None:
    """Check that ``data`` fills a batch, and that ``encoder`` can encode some of its documents.

    In a distributed training, such as one that ``torchrun`` starts, each process needs its own batch.

    Raises:
        InvalidInput: there are too few queries, or ``encoder`` cannot encode any document.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if len(data.queries) < batch_size * processes:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise InvalidInput(
            f"{number(len(data.queries), 'query')} to train on, fewer than a batch of {batch_size}{each}; bring "
            "more, or choose a smaller batch (--batch-size, batch_size=)"
        )
    modalities = modalities_of(encoder)
    if isinstance(data.documents, Pages):
        can_encode = "image" in modalities
    else:
        can_encode = any(document.content(modalities).modality for document in data.documents)
    if not can_encode:
        raise InvalidInput(
            f"{data.name}: the model encodes {', '.join(sorted(modalities))}, and no document has that; use a model "
            "that can encode the documents, for example a vision-language model for page images"
        )


def with_notes_on_teacher(data: TrainingData, settings: TrainingSettings) -> TrainingData:
    """Return ``data`` with a note of how many queries lack a teacher's scores, or have scores that are not used.

    Raises:
        InvalidInput: ``settings`` ask for distillation, and no query has scores of its positive and of a negative.
    """
    usable = sum(
        any(i in query.scores for i in query.positives) and any(i in query.scores for i in query.negatives)
        for query in data.queries
    )
    scored = sum(bool(query.scores) for query in data.queries)
    if settings.distillation == "none" or settings.teacher is not None:
        reason = "distillation is none" if settings.teacher is None else f"{settings.teacher} is the teacher"
        note = f"the scores of {number(scored, 'query')} in the data not used, because {reason}" if scored else ""
    elif not usable:
        raise InvalidInput(
            f"{data.name}: distillation needs a teacher's scores of a query's positive and of its negatives; found "
            f"{number(scored, 'query')} with scores, and none with both; add the column scores, or the columns "
            "pos_scores and neg_scores, or name a teacher"
        )
    else:
        missing = len(data.queries) - usable
        note = f"{number(missing, 'query')} without scores to distil" if missing else ""
    return replace(data, notes=(*data.notes, note)) if note else data


def content_groups(data: TrainingData, modalities: Collection[str]) -> NDArray[np.int64]:
    """Return a group number for each document (n_documents). Documents with equal texts belong to the same group.

    If a model with these ``modalities`` does not encode a document as a text, the document is a group of its own.
    """
    if isinstance(data.documents, Pages):
        return np.arange(len(data.documents))
    groups: dict[str, int] = {}
    contents = (document.content(modalities) for document in data.documents)
    keys = [
        content.text if content.modality == "text" else f"\0{document.id}"
        for content, document in zip(contents, data.documents, strict=True)
    ]
    return np.asarray([groups.setdefault(key, len(groups)) for key in keys], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Batch:
    """Queries and documents of one batch, as positions in the training data.

    ``positives`` (n_queries) is the column of each query's positive among ``documents``. ``excluded``
    (n_queries, n_documents) is True if the document is neither the positive nor a negative of the query. ``teacher``
    (n_queries, n_documents) has a teacher's scores, and NaN where there is none.
    """

    queries: list[int]
    documents: list[int]
    positives: NDArray[np.int64]
    excluded: NDArray[np.bool_]
    teacher: NDArray[np.float32]


def make_batch(
    data: TrainingData,
    groups: NDArray[np.int64],
    positions: Sequence[int],
    hard_negatives: int,
    generator: np.random.Generator,
) -> Batch:
    """Return the batch of the queries at ``positions``.

    One positive and up to ``hard_negatives`` hard negatives of each query are drawn at random. For each query, all
    other documents of the batch are negatives, too, with two exceptions: other positives of the query, and documents
    with the same content as one of its positives (`content_groups`).
    """
    queries = [data.queries[i] for i in positions]
    chosen = [query.positives[generator.integers(len(query.positives))] for query in queries]
    hard = [
        query.negatives[i]
        for query in queries
        for i in generator.permutation(len(query.negatives))[:hard_negatives].tolist()
    ]
    documents = list(dict.fromkeys([*chosen, *hard]))
    column = {document: i for i, document in enumerate(documents)}
    positives = np.asarray([column[document] for document in chosen])
    excluded = np.stack([np.isin(groups[documents], groups[list(query.positives)]) for query in queries])
    excluded[np.arange(len(queries)), positives] = False
    teacher = [[query.scores.get(document, np.nan) for document in documents] for query in queries]
    return Batch(list(positions), documents, positives, excluded, np.asarray(teacher, dtype=np.float32))
