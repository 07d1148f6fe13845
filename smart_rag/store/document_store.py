"""Documents with all their vectors: Chroma rows, token embeddings and terms.

Tokens and terms are written before the row that names them, and removed after the row. So every document that a search
can return has its tokens. A crash may leave entries that no row names. `DocumentStore.vacuum` removes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import Codec, TokenCodes
from smart_rag.errors import MissingTokens
from smart_rag.store.image_store import ImageStore
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import Row
from smart_rag.store.terms.inverted_index import InvertedIndex
from smart_rag.store.terms.term_store import TermStore
from smart_rag.store.token_store import TokenStore
from smart_rag.types import Document, Key, VerifyReport

T = TypeVar("T")


class DocumentStore:
    """Rows, tokens, terms and images of one index."""

    def __init__(self, pooled: PooledStore, tokens: TokenStore, terms: TermStore, images: ImageStore) -> None:
        self.pooled = pooled
        self.tokens = tokens
        self.images = images
        self.terms = InvertedIndex(terms)
        self._terms = terms
        # Identity of the index, see `smart_rag.store.place`.
        self.place = replace(tokens.place, folder=tokens.path.parent)

    @property
    def codec(self) -> Codec:
        """Codec of the token embeddings."""
        return self.tokens.codec

    def commit(self, rows: Sequence[Row], vectors: Representation) -> int:
        """Write n ``rows`` with the vectors of n texts. Return how many old rows with the same ids were replaced."""
        self.tokens.put([row.key for row in rows], vectors.tokens)
        revisions = [row.revision for row in rows]
        self._terms.put(revisions, [vectors.tokens.terms(i) for i in range(len(rows))])
        replaced = self.pooled.upsert(rows, vectors.pooled)
        self._terms.delete({row.revision for row in replaced}.difference(revisions))
        self._drop([row.key for row in replaced])
        return len(replaced)

    def repair(self, rows: Sequence[Row], vectors: Representation) -> None:
        """Write the tokens and terms of ``rows`` again."""
        self.tokens.put([row.key for row in rows], vectors.tokens)
        self._terms.put([row.revision for row in rows], [vectors.tokens.terms(i) for i in range(len(rows))])

    def update_metadata(self, rows: Sequence[Row]) -> None:
        """Write ``rows`` to change their metadata. Their vectors must be stored already."""
        pooled = self.pooled.embeddings([row.document.id for row in rows])
        self.pooled.upsert(rows, np.stack([pooled[row.document.id] for row in rows]))

    def gather(self, keys: Sequence[Key], ids: Sequence[str]) -> TokenCodes:
        """Return the token embeddings of n ``keys``, in their order. Errors name the documents by ``ids``.

        Raises:
            MissingTokens: some keys are not stored.
            CorruptStore: some entries have changed since they were written.
        """
        return self.tokens.gather(keys, ids)

    def retry_unless_writing(self, read: Callable[[], T]) -> T:
        """Return ``read()``. If tokens are missing, call ``read`` again while no other thread or process may write.

        The first call may find a row while another process deletes the document, and then not find its tokens.
        """
        try:
            return read()
        except MissingTokens:
            with self.pooled.write_lock():
                return read()

    def vectors(self, documents: Sequence[Document]) -> dict[str, Representation]:
        """Return the vectors of those ``documents`` that are stored with the same content, by id."""
        return self.retry_unless_writing(lambda: self._vectors(documents))

    def _vectors(self, documents: Sequence[Document]) -> dict[str, Representation]:
        rows = self.pooled.get(list({document.id for document in documents}))
        held = {
            document.id: rows[document.id].key
            for document in documents
            if document.id in rows and _same_content(rows[document.id].document, document)
        }
        pooled = self.pooled.embeddings(list(held))
        tokens = self.gather(list(held.values()), list(held))
        return {
            name: Representation(pooled[name][None], tokens.slice(i, i + 1))
            for i, name in enumerate(held)
            if name in pooled
        }

    def vectors_of_keys(self, keys: Sequence[Key]) -> dict[Key, Representation]:
        """Return the vectors that are stored under ``keys``, by key, without vocabulary ids.

        If the tokens or the row of a key is missing, the key is left out.
        """
        missing = set(self.tokens.missing(keys))
        held = list(dict.fromkeys(key for i, key in enumerate(keys) if i not in missing))
        pooled = self.pooled.embeddings_of_keys(held)
        held = [key for key in held if key in pooled]
        tokens = self.gather(held, [key.hex() for key in held])
        return {key: Representation(pooled[key][None], tokens.slice(i, i + 1)) for i, key in enumerate(held)}

    def delete(self, ids: Sequence[str]) -> int:
        """Remove the documents with these ids, and return the number of documents that were removed."""
        rows = self.pooled.get(ids)
        self.pooled.delete(list(rows))
        self._terms.delete([row.revision for row in rows.values()])
        self._drop([row.key for row in rows.values()])
        return len(rows)

    def vacuum(self) -> int:
        """Remove tokens, terms and images that no row names. Return the number of token entries that were removed."""
        rows = list(self.pooled.select())
        self.images.vacuum(row.document.image for row in rows)
        self._terms.vacuum({row.revision for row in rows})
        return self.tokens.vacuum({row.key for row in rows})

    def verify(self) -> VerifyReport:
        """Check every entry. Return the documents whose entries are missing or damaged, and count orphans."""
        rows = list(self.pooled.select())
        keys = [row.key for row in rows]
        names = [row.document.id for row in rows]
        missing = [names[i] for i in self.tokens.missing(keys)]
        unreadable = set(self.tokens.verify())
        damaged = {row.document.id for row in rows if row.key in unreadable}
        damaged.update(name for name, _ in self._terms.damaged([row.revision for row in rows]))
        return VerifyReport(
            missing=tuple(missing),
            damaged=tuple(name for name in names if name in damaged.difference(missing)),
            orphans=len(set(self.tokens.keys()) - set(keys)),
        )

    def sidecar_bytes(self) -> int:
        """Return the number of bytes that token embeddings and terms use on disk."""
        return self.tokens.stats().used_bytes + self._terms.used_bytes()

    def close(self) -> None:
        """Close all stores. A second call does nothing."""
        self.tokens.close()
        self._terms.close()
        self.pooled.close()

    def _drop(self, keys: Sequence[Key]) -> None:
        """Remove the tokens of ``keys``. A key that a row still names is kept."""
        if keys:
            self.tokens.delete(set(keys) - self.pooled.keys_in_use(list(keys)))


def _same_content(one: Document, other: Document) -> bool:
    return (one.text, one.image, one.video) == (other.text, other.image, other.video)
