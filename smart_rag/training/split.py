"""What is trained on and what is measured with: data in two parts that share no document, and others to rank beside."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from smart_rag.errors import InvalidInput
from smart_rag.training.data import Pages, TrainingData, TrainingQuery, document_id
from smart_rag.wording import number

# Held-out queries rank so many documents, if there are: among few, every ranking is good.
_MOST_RANKED = 2_000


def split(data: TrainingData, held_out: float = 0.1, seed: int = 0) -> tuple[TrainingData, TrainingData]:
    """Return ``data`` in two parts, to train on and to measure with: no document is in both, and no query.

    A document's part follows from its id and ``seed`` alone, so it stays the same when data is added; to split a part
    again takes another seed. A query goes where its first positive goes, and loses positives and negatives that are
    in the other part.

    Raises:
        InvalidInput: ``held_out`` is not between 0 and 1, or one of the parts has no query.
    """
    if not 0 < held_out < 1:
        raise InvalidInput(f"held_out must be between 0 and 1, got {held_out!r}")
    is_held_out = [_fraction(document_id(data.documents, i), seed) < held_out for i in range(len(data.documents))]
    parts = (_part(data, is_held_out, False), _part(data, is_held_out, True))
    for part, what in zip(parts, ("to train on", "to measure with"), strict=True):
        if not part.queries:
            raise InvalidInput(
                f"{data.name}: of {number(len(data.queries), 'query')} none is left {what}; more data is "
                f"needed, or another part held out than {held_out:g}"
            )
    return parts


def distractors_of(data: TrainingData, training: TrainingData, held_out: TrainingData) -> list[int]:
    """Return the positions in ``training`` of documents that answer no held-out query, as many as are to be ranked."""
    asked = {query.text for query in held_out.queries}
    answers = {i for query in data.queries if query.text in asked for i in query.positives}
    split_off = {document_id(data.documents, i) for i in answers}
    spare = max(0, _MOST_RANKED - len(held_out.documents))
    return [i for i in range(len(training.documents)) if document_id(training.documents, i) not in split_off][:spare]


def with_distractors(training: TrainingData, held_out: TrainingData, distractors: Sequence[int]) -> TrainingData:
    """Return ``held_out`` with the documents at the positions ``distractors`` of ``training`` after its own."""
    ours, theirs = held_out.documents, training.documents
    if isinstance(ours, Pages) and isinstance(theirs, Pages):
        return replace(held_out, documents=ours.joined(theirs.pick(distractors)))
    return replace(held_out, documents=[*ours, *(theirs[i] for i in distractors)])


def _part(data: TrainingData, is_held_out: Sequence[bool], held_out: bool) -> TrainingData:
    kept = [i for i, of_document in enumerate(is_held_out) if of_document == held_out]
    moved = {old: new for new, old in enumerate(kept)}
    queries = [
        TrainingQuery(
            query.text,
            tuple(moved[i] for i in query.positives if i in moved),
            tuple(moved[i] for i in query.negatives if i in moved),
        )
        for query in data.queries
        if query.positives[0] in moved
    ]
    documents = data.documents
    picked = documents.pick(kept) if isinstance(documents, Pages) else [documents[i] for i in kept]
    return TrainingData(data.name, picked, queries)


def _fraction(id: str, seed: int) -> float:
    """Return a number in [0, 1) that looks drawn by chance, the same for an id each time."""
    digest = hashlib.blake2b(f"{seed}\0{id}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "big") / (1 << 56)
