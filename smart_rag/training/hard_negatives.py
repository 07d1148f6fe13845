"""Hard negatives: documents that a search finds for a query but that do not answer the query.

Training data rarely names all answers of a query. So a hit that scores nearly as high as a positive is often an answer
that nobody has labelled: a false negative. With s, the score of a hit, and p, the lowest score of the query's
positives, a hit is left out if

    s > max_score    or    s > p - absolute_margin    or    s > p - relative_margin * |p|

These are the rules of ``mine_hard_negatives`` in sentence-transformers, and of Moreira et al., 2024, "NV-Retriever:
Improving text embedding models with effective hard-negative mining" (arXiv 2407.15831). Here, s is the hybrid score of
the frozen model, as in `SmartIndex.search`, divided by the sum of its weights. So it is in [-1, 1].
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from smart_rag.config import DEFAULT_CANDIDATES, IndexConfig, check_count
from smart_rag.embeddings.representation import Representation
from smart_rag.encoders.protocol import Encoder, modalities_of
from smart_rag.index.smart_index import SmartIndex
from smart_rag.training.data import TrainingData, document_id
from smart_rag.training.settings import TrainingSettings
from smart_rag.types import Document, Hit
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# Extra hits to request, in addition to the known positives and negatives. Some hits have the same text as a positive.
_SPARE = 5
# If hits may be left out, the default of `range_max` has this many hits for each hard negative, as in
# sentence-transformers.
_HITS_FOR_EACH = 10
# Codec of the token embeddings during the search. The default codec moves scores by more than a small margin.
_CODEC = "int8"


def mine_negatives(
    data: TrainingData, encoder: Encoder, settings: TrainingSettings, *, show_progress_bar: bool = False
) -> TrainingData:
    """Return ``data`` with ``settings.hard_negatives`` or more hard negatives for each query, if so many are found.

    A query keeps the negatives that it already has. If they are too few, the others are the best hits of
    `SmartIndex.search`, without positives, without documents that have the same text as a positive, and without likely
    answers. The ``notes`` of the result say how many were found and left out.

    Raises:
        InvalidInput: ``encoder`` cannot encode a document.
    """
    count = check_count("hard_negatives", settings.hard_negatives)
    if all(len(query.negatives) >= count for query in data.queries):
        return data
    positions = {document.id: i for i, document in enumerate(data.documents)}
    most_known = max(len(query.positives) + len(query.negatives) for query in data.queries)
    last = settings.range_max
    if last is None:
        last = settings.range_min + count * (_HITS_FOR_EACH if settings.leaves_out_likely_answers else 1)
    depth = last + most_known + _SPARE
    with (
        tempfile.TemporaryDirectory(prefix="smart_rag_") as folder,
        SmartIndex.create(Path(folder) / "index", encoder, config=IndexConfig(codec=_CODEC)) as index,
    ):
        index.add(data.documents, show_progress_bar=show_progress_bar)
        encoded = index.encode_queries([query.text for query in data.queries])
        found = index.search_many(encoded, depth, candidates=max(depth, DEFAULT_CANDIDATES))
        total_weight = sum(index.manifest.weights)
        lowest = [float("inf")] * len(data.queries)
        if settings.leaves_out_likely_answers:
            lowest = [_lowest_score(index, data, i, encoded[i], hits) / total_weight for i, hits in enumerate(found)]
    modalities = modalities_of(encoder)
    left_out: Counter[str] = Counter()
    queries, mined = [], 0
    for query, hits, lowest_positive in zip(data.queries, found, lowest, strict=True):
        answers = {data.documents[i].content(modalities) for i in query.positives if data.documents[i].image is None}
        others = [
            hit
            for hit in hits
            if positions[hit.id] not in query.positives
            and Document(hit.id, hit.text).content(modalities) not in answers
        ]
        negatives = list(query.negatives)
        for hit in others[settings.range_min : last]:
            if len(negatives) >= count:
                break
            if positions[hit.id] in query.negatives:
                continue
            reason = _reason_to_leave_out(hit.score / total_weight, lowest_positive, settings)
            if reason:
                left_out[reason] += 1
            else:
                negatives.append(positions[hit.id])
                mined += 1
        queries.append(replace(query, negatives=tuple(negatives)))
    notes = _notes(mined, left_out, sum(len(query.negatives) < count for query in queries), settings)
    for note in notes:
        logger.info("%s: %s", data.name, note)
    return replace(data, queries=queries, notes=(*data.notes, *notes))


def _lowest_score(
    index: SmartIndex, data: TrainingData, query: int, encoded: Representation, found: Sequence[Hit]
) -> float:
    """Return the lowest hybrid score of a query's positives, which are in ``index``.

    Args:
        query: position of the query.
        encoded: the vectors of the query.
        found: its hits. Positives that are not among them are scored.
    """
    scores = {hit.id: hit.score for hit in found}
    positives = {document_id(data.documents, i): i for i in data.queries[query].positives}
    for id, i in positives.items():
        if id not in scores:
            document = data.documents[i]
            hit = Hit(id, document.text, document.metadata, 0.0, 0.0, 0.0, 1, document.image, document.video)
            scores[id] = index.rerank(encoded, [hit])[0].score
    return min(scores[id] for id in positives)


def _reason_to_leave_out(score: float, lowest_positive: float, settings: TrainingSettings) -> str | None:
    """Return the name of the setting by which a hit with this score is a likely answer. Return None if it is not."""
    limits = {"max_score": settings.max_score}
    if settings.absolute_margin is not None:
        limits["absolute_margin"] = lowest_positive - settings.absolute_margin
    if settings.relative_margin is not None:
        limits["relative_margin"] = lowest_positive - settings.relative_margin * abs(lowest_positive)
    return next((name for name, limit in limits.items() if limit is not None and score > limit), None)


def _notes(mined: int, left_out: Counter[str], incomplete: int, settings: TrainingSettings) -> list[str]:
    """Return what was mined and left out, each kind with its count."""
    notes = [f"{number(mined, 'hard negative')} mined by the hybrid score"]
    notes += [
        f"{number(hits, 'likely answer')} left out by {name} {getattr(settings, name):g}"
        for name, hits in left_out.items()
    ]
    if incomplete:
        notes.append(
            f"{number(incomplete, 'query')} with fewer than {number(settings.hard_negatives, 'hard negative')}; a "
            "higher range_max or wider limits find more"
        )
    return notes
