"""Batches of training data: whether there is enough for one, and which documents each holds for its queries."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smart_rag.encoders.protocol import Encoder, modalities_of
from smart_rag.errors import InvalidInput
from smart_rag.training.data import Pages, TrainingData
from smart_rag.wording import number


def check_trainable(data: TrainingData, encoder: Encoder, batch_size: int) -> None:
    """Raise `InvalidInput` if there are too few queries for a batch, or documents of which ``encoder`` takes nothing.

    Of several processes, as ``torchrun`` starts them, each has batches of its own.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if len(data.queries) < batch_size * processes:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise InvalidInput(
            f"{number(len(data.queries), 'query')} to train on, fewer than a batch of {batch_size}{each}; bring "
            "more, or choose a smaller batch (--batch-size, batch_size=)"
        )
    takes = modalities_of(encoder)
    is_seen = (
        "image" in takes
        if isinstance(data.documents, Pages)
        else any(document.content(takes).modality for document in data.documents)
    )
    if not is_seen:
        raise InvalidInput(
            f"{data.name}: the documents hold nothing that the model takes, which is {', '.join(sorted(takes))}; "
            "use a model that takes what they are, such as page images"
        )


def alike(data: TrainingData, modalities: Collection[str]) -> NDArray[np.int64]:
    """Return a number for each document, the same for those of which a model of these ``modalities`` sees one text."""
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
    """One batch: which queries and documents; which document each query is to find, and which are no negatives.

    ``positives`` (n_queries) are columns, as those of ``excluded`` (n_queries, n_documents) are.
    """

    queries: list[int]
    documents: list[int]
    positives: NDArray[np.int64]
    excluded: NDArray[np.bool_]


def batch_of(
    data: TrainingData,
    alike: NDArray[np.int64],
    positions: Sequence[int],
    hard_negatives: int,
    generator: np.random.Generator,
) -> Batch:
    """Return the batch of the queries at ``positions``: of each one positive and ``hard_negatives``, drawn by chance.

    What else answers a query, or is ``alike``, is no negative of it.
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
    excluded = np.stack([np.isin(alike[documents], alike[list(query.positives)]) for query in queries])
    excluded[np.arange(len(queries)), positives] = False
    return Batch(list(positions), documents, positives, excluded)
