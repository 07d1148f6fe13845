"""Hard negatives: documents that a search finds for a query but that do not answer the query."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from smart_rag.config import check_count
from smart_rag.encoders.protocol import Encoder, modalities_of
from smart_rag.index.smart_index import SmartIndex
from smart_rag.training.data import TrainingData
from smart_rag.training.runs import processes
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


def mine_once(
    data: TrainingData, encoder: Encoder, count: int, folder: Path, *, show_progress_bar: bool = False
) -> TrainingData:
    """Return what `mine_negatives` returns, and write it into ``folder``. If it is there already, read it.

    The arguments must be those of the first call. So a training that is resumed does not mine again.
    """
    path = folder / "negatives.json"
    if path.exists():
        negatives = json.loads(path.read_text(encoding="utf-8"))
        queries = [replace(query, negatives=tuple(of)) for query, of in zip(data.queries, negatives, strict=True)]
        return replace(data, queries=queries)
    mined = mine_negatives(data, encoder, count, show_progress_bar=show_progress_bar)
    if processes.is_first():
        temporary = path.with_suffix(".writing")
        temporary.write_text(json.dumps([query.negatives for query in mined.queries]), encoding="utf-8")
        os.replace(temporary, path)
    return mined
