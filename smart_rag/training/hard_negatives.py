"""Hard negatives: documents that a search finds for a query but that do not answer the query."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from smart_rag.config import check_count
from smart_rag.encoders.protocol import Encoder, modalities_of
from smart_rag.index.smart_index import SmartIndex
from smart_rag.training.data import TrainingData
from smart_rag.types import Document

# Extra hits to request, in addition to the known positives and negatives. Some hits have the same text as a positive.
_SPARE = 5


def mine_negatives(
    data: TrainingData, encoder: Encoder, count: int, *, show_progress_bar: bool = False
) -> TrainingData:
    """Return ``data`` with up to ``count`` hard negatives for each query.

    First come the negatives that a query already has. The others are the best hits of `SmartIndex.search`, without
    positives and without documents that have the same text as a positive.

    Raises:
        InvalidInput: ``encoder`` cannot encode a document.
    """
    check_count("count", count)
    positions = {document.id: i for i, document in enumerate(data.documents)}
    most_known = max(len(query.positives) + len(query.negatives) for query in data.queries)
    with (
        tempfile.TemporaryDirectory(prefix="smart_rag_") as folder,
        SmartIndex.create(Path(folder) / "index", encoder) as index,
    ):
        index.add(data.documents, show_progress_bar=show_progress_bar)
        hits_by_query = index.search_many([query.text for query in data.queries], count + most_known + _SPARE)
    modalities = modalities_of(encoder)
    queries = []
    for query, hits in zip(data.queries, hits_by_query, strict=True):
        answers = {data.documents[i].content(modalities) for i in query.positives if data.documents[i].image is None}
        mined = [
            positions[hit.id]
            for hit in hits
            if positions[hit.id] not in query.positives
            and Document(hit.id, hit.text).content(modalities) not in answers
        ]
        queries.append(replace(query, negatives=tuple(dict.fromkeys([*query.negatives, *mined]))[:count]))
    return replace(data, queries=queries)
