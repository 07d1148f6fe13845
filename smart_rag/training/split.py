"""Split of training data into a training part and a held-out part, which have no document in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from smart_rag.errors import InvalidInput
from smart_rag.training.data import TrainingData, TrainingQuery, document_id
from smart_rag.training.formats.pages import Pages
from smart_rag.training.settings import DEFAULT_HELD_OUT
from smart_rag.wording import number

# Maximum number of documents that held-out queries rank. Among only a few documents, every ranking would look good.
_MOST_RANKED = 2_000


def hold_out(data: TrainingData, held_out: TrainingData | float) -> tuple[TrainingData, TrainingData, list[int]]:
    """Return the training part, the held-out part, and positions in the training part: those of the distractors.

    If ``held_out`` is training data, this data is the held-out part, and there are no distractors. If it is a number,
    `split` holds out this share of ``data``.
    """
    if isinstance(held_out, TrainingData):
        return data, held_out, []
    training, measured = split(data, held_out)
    return training, measured, find_distractors(data, training, measured)


def split(data: TrainingData, held_out: float = DEFAULT_HELD_OUT, seed: int = 0) -> tuple[TrainingData, TrainingData]:
    """Return the training part and the held-out part of ``data``. They have no document and no query in common.

    The part of a document depends only on its id and on ``seed``, so a document stays in its part when data is added.
    To split a part again, use another seed. A query belongs to the part of its first positive. Those of its positives
    and negatives that are in the other part are removed.

    Raises:
        InvalidInput: ``held_out`` is not between 0 and 1, or one of the parts has no query.
    """
    if not 0 < held_out < 1:
        raise InvalidInput(f"held_out must be between 0 and 1, got {held_out!r}")
    is_held_out = [_fraction(document_id(data.documents, i), seed) < held_out for i in range(len(data.documents))]
    parts = (_part(data, is_held_out, False), _part(data, is_held_out, True))
    for part, purpose in zip(parts, ("to train on", "to measure with"), strict=True):
        if not part.queries:
            raise InvalidInput(
                f"{data.name}: of {number(len(data.queries), 'query')} none is left {purpose}; bring more data, or "
                f"hold out another share than {held_out:g}"
            )
    return parts


def find_distractors(data: TrainingData, training: TrainingData, held_out: TrainingData) -> list[int]:
    """Return positions of documents in ``training`` that are not a positive of any held-out query.

    The number of these documents and of those in ``held_out`` together is at most 2,000.
    """
    asked = {query.text for query in held_out.queries}
    positives = {i for query in data.queries if query.text in asked for i in query.positives}
    positive_ids = {document_id(data.documents, i) for i in positives}
    spare = max(0, _MOST_RANKED - len(held_out.documents))
    return [i for i in range(len(training.documents)) if document_id(training.documents, i) not in positive_ids][:spare]


def with_distractors(training: TrainingData, held_out: TrainingData, distractors: Sequence[int]) -> TrainingData:
    """Return ``held_out`` with more documents after its own: those at the positions ``distractors`` of ``training``."""
    if not distractors:
        return held_out
    own, others = held_out.documents, training.documents
    if isinstance(own, Pages) and isinstance(others, Pages):
        return replace(held_out, documents=own + others.select(distractors))
    return replace(held_out, documents=[*own, *(others[i] for i in distractors)])


def _part(data: TrainingData, is_held_out: Sequence[bool], held_out: bool) -> TrainingData:
    kept = [i for i, flag in enumerate(is_held_out) if flag == held_out]
    new_position = {old: new for new, old in enumerate(kept)}
    queries = [
        TrainingQuery(
            query.text,
            tuple(new_position[i] for i in query.positives if i in new_position),
            tuple(new_position[i] for i in query.negatives if i in new_position),
            {new_position[i]: score for i, score in query.scores.items() if i in new_position},
        )
        for query in data.queries
        if query.positives[0] in new_position
    ]
    documents = data.documents
    selected = documents.select(kept) if isinstance(documents, Pages) else [documents[i] for i in kept]
    return TrainingData(data.name, selected, queries)


def _fraction(id: str, seed: int) -> float:
    """Return a pseudo-random number in [0, 1) that depends only on ``id`` and ``seed``."""
    digest = hashlib.blake2b(f"{seed}\0{id}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "big") / (1 << 56)
