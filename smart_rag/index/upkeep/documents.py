"""Write all documents of one store into another: `copy_documents` with their vectors, `encode_documents` without.

Documents that the other store already has are left alone, so an interrupted call can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import Representation
from smart_rag.errors import NotTrusted
from smart_rag.index.index_encoder import IndexEncoder
from smart_rag.index.writing.ingest import Ingest, batches
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import VECTORS, Row
from smart_rag.store.token_store import keys_of_vectors
from smart_rag.wording import number

OnProgress = Callable[[int], object]
# Number of documents whose texts are in memory at the same time.
_WINDOW = 2_048


def loses_nothing(old: str, new: str) -> bool:
    """Return whether the codec ``new`` can make its codes from the codes of the codec ``old``.

    The result is the same as if the documents were encoded again, except for the rounding of ``old``.
    """
    before, after = get_codec(old), get_codec(new)
    return before == after or before.name == "float32" or (before.name == "float16" and after.name != "float32")


def copy_documents(
    source: DocumentStore, target: DocumentStore, encoder: IndexEncoder, on_progress: OnProgress
) -> None:
    """Make ``target`` hold the documents of ``source``, with the vectors that are stored there.

    ``encoder`` gives the keys of the tokens in ``target``. Each finished document is counted by ``on_progress``.

    Raises:
        CorruptStore, MissingTokens: something in ``source`` is altered, damaged or lost.
        NotTrusted: a document has an image or a video that the index may not read.
    """
    target.centroids.take_codebooks(source.centroids)
    for window in _windows(source.pooled):
        for part in batches(window):
            stored = source.stored([row.document.id for row in part])
            rows = [_with_new_key(row, vectors, source, target, encoder) for row, vectors, _ in stored]
            new = [i for i, is_there in enumerate(target.has(rows)) if not is_there]
            if new:
                vectors = Representation.concatenate([stored[i][1] for i in new])
                target.commit([rows[i] for i in new], vectors, [stored[i][2] for i in new])
            on_progress(len(part))
    _remove_rest(source.pooled, target)


def encode_documents(
    source: PooledStore,
    target: DocumentStore,
    encoder: IndexEncoder,
    on_progress: OnProgress,
    checked: Callable[[Sequence[Row]], Sequence[Row]],
) -> None:
    """Make ``target`` hold the documents of the rows in ``source``, with new vectors from ``encoder``.

    ``checked`` is called with rows before they are encoded, and returns them. If one is not what was added, it marks
    the row as unsound, or raises `CorruptStore`.

    Raises:
        CorruptStore: a row is altered.
        InvalidInput: ``encoder`` cannot read the content of a document.
        NotTrusted: a document has an image or a video that the index may not read.
    """
    ingest = Ingest(target, encoder, on_progress)
    for window in _windows(source):
        ingest.add_rows(checked(window))
    _remove_rest(source, target)


def _windows(source: PooledStore) -> Iterator[list[Row]]:
    ids = source.ids()
    for start in range(0, len(ids), _WINDOW):
        rows = list(source.get(ids[start : start + _WINDOW]).values())
        _check_files(source, rows)
        yield sorted(rows, key=lambda row: row.modality == "text")  # images first, because their batches are small


def _check_files(source: PooledStore, rows: Sequence[Row]) -> None:
    """Raise `NotTrusted` if a row was read without its image or video, because its copy would have lost it."""
    refused = {row.document.id: files for row in rows if (files := source.refused_files(row.document.id))}
    if refused:
        id, files = next(iter(refused.items()))
        raise NotTrusted(
            f"{source.root}: this index may not read the image or video of {number(len(refused), 'document')},"
            f" the first is {id!r} with {files[0]}, so nothing was changed; open the index with sources= that name "
            "these files or their folders"
        )


def _with_new_key(
    row: Row, vectors: Representation, source: DocumentStore, target: DocumentStore, encoder: IndexEncoder
) -> Row:
    """Return ``row`` with the key that its tokens have in ``target``."""
    if target.codec == source.codec:
        return row
    if row.modality == VECTORS or not encoder.exists:
        return replace(row, key=keys_of_vectors(target.codec.name, vectors.tokens)[0])
    content = row.document.content(encoder.modalities)
    return replace(row, key=encoder.key(content, None if row.stamp is None else row.stamp.hash))


def _remove_rest(source: PooledStore, target: DocumentStore) -> None:
    """Remove documents that ``source`` does not have. An earlier, interrupted call may have written them."""
    target.delete(sorted(set(target.pooled.ids()).difference(source.ids())))
