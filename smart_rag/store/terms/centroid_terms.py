"""`CentroidTerms`: terms of documents whose tokens have no vocabulary ids, such as pages that were read as images.

These terms are the numbers of centroids (see `smart_rag.scoring.centroids`). The centroids are learned from the token
embeddings of the index itself, as soon as the index has so many documents of this kind that a search no longer scores
all of them. When there are several times as many, another codebook is learned from all documents. Documents that come
later are assigned to it. Documents that have terms keep them, so nothing is written again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import EXHAUSTIVE_DOCUMENTS
from smart_rag.embeddings.tokens import Codes, FloatArray, TokenCodes, TokenIds
from smart_rag.errors import ChromaFailure, CorruptStore, MissingTokens, StorageFull
from smart_rag.scoring.centroids import MOST_CENTROIDS, TOKENS_OF_EACH, learned, merged, probes
from smart_rag.store.row import VECTORS, Row
from smart_rag.store.terms.codebook import WITHOUT_WORDS, Codebook, has_centroids, joined, words_of
from smart_rag.store.terms.codebooks import Codebooks, Growth
from smart_rag.store.terms.inverted_index import InvertedIndex
from smart_rag.store.terms.term_store import TermStore
from smart_rag.store.token_store import TokenStore
from smart_rag.types import Revision
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# A new codebook is learned when there are so many times as many documents as there were for the one before.
_GROWTH = 4
# Nearest centroids of each codebook with which a token of a query is compared.
_PROBES = 8
# Tokens of a query that are compared. A query with more, such as an image, is merged to so many. On texts of 200 tokens
# as queries, this finds as many of the best documents as all tokens do.
_QUERY_TOKENS = 64
# Documents that are counted in memory before their number is written.
_COUNTED_AT_ONCE = 32
# Documents that get terms in one transaction, and documents whose terms are read at once.
_ASSIGNED_AT_ONCE = 64
_READ_AT_ONCE = 1024
# Documents whose tokens the centroids are learned from.
_SAMPLED = 4096
_SEED = 0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A document that is to be found by centroids, with its vocabulary ids, and whether it has centroids already."""

    revision: Revision
    words: TokenIds | None
    is_assigned: bool


class CentroidTerms:
    """Terms for documents in ``terms`` and ``tokens``, and the documents that are best by these terms.

    Args:
        terms, tokens: the stores of the documents.
        index: the inverted index of the terms.
        visual: a function that returns the ids of the documents with images or videos.
        rows: a function that returns a dict from id to row, for some ids. It leaves out unknown ids.
    """

    def __init__(
        self,
        terms: TermStore,
        tokens: TokenStore,
        index: InvertedIndex,
        visual: Callable[[], Sequence[str]],
        rows: Callable[[Sequence[str]], Mapping[str, Row]],
    ) -> None:
        self._terms = terms
        self._tokens = tokens
        self._index = index
        self._visual = visual
        self._rows = rows
        self._codebooks = Codebooks(terms)
        self._counted: int | None = None  # documents since their number was written

    # --- reading ---

    def count(self) -> int:
        """Return about how many documents can be found by centroids. Without a codebook, it is 0."""
        growth = self._codebooks.growth() if self._codebooks.all() else None
        return 0 if growth is None else max(growth.written, 1)

    def best(
        self,
        tokens: FloatArray,
        weights: NDArray[np.float32] | None,
        limit: int,
        admitted: NDArray[np.uint64] | None = None,
    ) -> list[str]:
        """Return the ids of the ``limit`` best documents for the ``tokens`` (n, dimension) of a query, best first.

        The score of a document is an estimate of its late interaction, in which each token of the document is its
        centroid. For each token of the query, only the nearest centroids are looked at. A document that has none of
        them counts as if it had the farthest of them, as in WARP. A document that has none for any token is left out.

        Args:
            tokens: the tokens of the query.
            weights: the weights (n) of the tokens. By default, all are equal.
            limit: maximum number of documents to return.
            admitted: the documents to choose from, as in `InvertedIndex.best`.

        Raises:
            CorruptStore: a codebook or the terms of a document are damaged.
        """
        books = self._codebooks.all()
        if not books:
            return []
        even = np.ones(len(tokens), dtype=np.float32)
        tokens, weights = merged(tokens, even if weights is None else weights, books[-1].centroids, _QUERY_TOKENS)
        found = [(book.first, *probes(tokens, book.centroids, _PROBES)) for book in books]
        # All other centroids of all codebooks are farther away than this.
        least = np.max([cosines[:, :1] for _, _, cosines in found], axis=0)
        terms = np.concatenate([first + numbers for first, numbers, _ in found], axis=1)
        gains = np.concatenate([np.maximum(cosines - least, 0) for _, _, cosines in found], axis=1)
        order = np.argsort(gains, axis=1, kind="stable")
        terms, gains = np.take_along_axis(terms, order, axis=1), np.take_along_axis(gains, order, axis=1)
        return self._index.best_by_gains(terms.astype(np.int32), gains * weights[:, None], limit, admitted)

    # --- writing ---

    def completed(self, rows: Sequence[Row], terms: Sequence[TokenIds | None]) -> list[TokenIds | None]:
        """Return the ``terms`` of n ``rows``, together with the centroids of those that are to be found by centroids.

        The tokens of the rows must be stored. As long as there is no codebook, there are no centroids. Centroids of
        codebooks that this store does not have are left out.
        """
        books = self._codebooks.all()
        firsts = _firsts(books)
        is_assigned = [has_centroids(one, firsts) for one in terms]
        found = [one if done else words_of(one) for one, done in zip(terms, is_assigned, strict=True)]
        wanted = [i for i, row in enumerate(rows) if books and not is_assigned[i] and _is_wanted(row, found[i])]
        if wanted:
            revisions = [rows[i].revision for i in wanted]
            for i, one in zip(wanted, self._assigned(books[-1], revisions, [found[i] for i in wanted]), strict=True):
                found[i] = one
        return found

    def written(self, rows: Sequence[Row], terms: Sequence[TokenIds | None]) -> None:
        """Count ``rows``, which are on disk with these ``terms``. If there are enough of them now, call `complete`.

        If this fails, an error must not say that the rows were not written. So a warning is logged.
        """
        new = sum(_is_wanted(row, words_of(one)) for row, one in zip(rows, terms, strict=True))
        if not new:
            return
        try:
            self._count(new)
        except (StorageFull, ChromaFailure, CorruptStore, MissingTokens) as error:
            logger.warning("%s: `smart-rag vacuum` has to complete the terms (%s)", self._terms.path.parent, error)

    def _count(self, new: int) -> None:
        is_first = self._counted is None
        self._counted = new + (self._counted or 0)
        growth = self._codebooks.growth() or Growth(0, EXHAUSTIVE_DOCUMENTS)
        if growth.written + self._counted >= growth.due:
            self.complete()
            self._wait()
        elif is_first or self._counted >= _COUNTED_AT_ONCE:
            self._codebooks.set_growth(growth._replace(written=growth.written + self._counted))
            self._counted = 0

    def _wait(self) -> None:
        """If there were too few documents after all, because some were removed, do not look again at each write."""
        growth = self._codebooks.growth()
        if growth is not None and growth.written > growth.due - growth.due // 8:
            self._codebooks.set_growth(growth._replace(written=growth.due - growth.due // 8))

    def complete(self) -> None:
        """Learn a codebook if there are enough documents for it. Assign the documents that have no centroids.

        If the process dies meanwhile, the next call goes on. Documents whose tokens or terms are damaged are left out,
        because `verify` names them.

        Raises:
            CorruptStore: a codebook is damaged.
            StorageFull: the disk is full. The next call goes on.
        """
        books = self._codebooks.all()
        wanted = list(self._wanted(_firsts(books)))
        if not wanted:
            return
        due = max(EXHAUSTIVE_DOCUMENTS, _GROWTH * books[-1].documents if books else 0)
        if len(wanted) >= due:
            due = _GROWTH * len(wanted)
            tokens = self._sample(wanted)
            # If each document has one token, its pooled embedding says as much as a centroid.
            if len(tokens) >= min(2 * len(wanted), MOST_CENTROIDS * TOKENS_OF_EACH):
                path = self._terms.path.parent
                logger.info("%s: learn centroids from the tokens of %s", path, number(len(wanted), "document"))
                self._codebooks.add(Codebook.of(learned(tokens), len(wanted)))
                books = self._codebooks.all()
        if books:
            lacking = [one for one in wanted if not one.is_assigned]
            for part in map(self._intact, _parts(lacking, _ASSIGNED_AT_ONCE)):
                revisions = [one.revision for one in part]
                self._terms.put(revisions, self._assigned(books[-1], revisions, [one.words for one in part]))
        self._codebooks.set_growth(Growth(len(wanted), due))
        self._counted = 0

    def remove_damaged(self) -> None:
        """Remove the first damaged codebook and all after it. Their documents have no centroids then."""
        self._codebooks.keep(len(self._codebooks.sound()))

    def damaged(self, revisions: Sequence[Revision]) -> list[Revision]:
        """Return those of the ``revisions`` that have centroids of a codebook that is damaged or lost."""
        if not self._codebooks.count() and self._codebooks.growth() is None:
            return []
        firsts = _firsts(self._codebooks.sound())
        readable = self._readable(revisions)
        terms = zip(readable, self._terms.get(readable), strict=True)
        return [one for one, of_one in terms if has_centroids(of_one) and not has_centroids(of_one, firsts)]

    def take_codebooks(self, source: CentroidTerms) -> None:
        """Add the codebooks of ``source`` to this store, if it has none. Then documents can keep their centroids."""
        growth = source._codebooks.growth()
        if not self._codebooks.all() and growth is not None:
            for book in source._codebooks.all():
                self._codebooks.add(book)
            self._codebooks.set_growth(growth._replace(written=0))

    def _wanted(self, firsts: NDArray[np.int32]) -> Iterator[_Wanted]:
        """Yield the documents that are to be found by centroids. ``firsts`` are the first terms of the codebooks.

        Only rows of such documents are read, because they may be few among many texts.
        """
        without_words = self._terms.without_words(WITHOUT_WORDS)
        for ids in _parts(dict.fromkeys([*self._visual(), *without_words]), _READ_AT_ONCE):
            row_of = {row.revision: row for row in self._rows(ids).values()}
            revisions = self._readable(list(row_of))
            for revision, terms in zip(revisions, self._terms.get(revisions), strict=True):
                words = words_of(terms)
                if _is_wanted(row_of[revision], words):
                    yield _Wanted(revision, words, has_centroids(terms, firsts))

    def _readable(self, revisions: Sequence[Revision]) -> list[Revision]:
        """Return those of the ``revisions`` whose tokens are there, and whose terms are neither lost nor damaged."""
        lost = {revisions[i] for i in self._tokens.missing([key for _, key in revisions])}
        lost.update(self._terms.missing(revisions), self._terms.damaged(revisions))
        return [one for one in revisions if one not in lost]

    def _assigned(
        self, book: Codebook, revisions: Sequence[Revision], words: Sequence[TokenIds | None]
    ) -> list[TokenIds | None]:
        """Return the terms of documents: their vocabulary ids ``words``, and their centroids in ``book``."""
        tokens = self._gathered(revisions)
        return [joined(one, book.terms(matrix)) for one, matrix in zip(words, tokens, strict=True)]

    def _gathered(self, revisions: Sequence[Revision]) -> TokenCodes:
        return self._tokens.gather([key for _, key in revisions], [id for id, _ in revisions])

    def _intact(self, documents: Sequence[_Wanted]) -> Sequence[_Wanted]:
        """Return those of the ``documents`` whose tokens are not damaged."""
        try:
            self._gathered([one.revision for one in documents])
        except CorruptStore:
            return [part[0] for one in documents if (part := self._intact([one]))] if len(documents) > 1 else []
        return documents

    def _sample(self, wanted: Sequence[_Wanted]) -> FloatArray:
        """Return tokens (n, dimension) of documents chosen at random. n is at most what `learned` makes use of."""
        most = MOST_CENTROIDS * TOKENS_OF_EACH
        generator = np.random.default_rng(_SEED)
        chosen = [wanted[i] for i in generator.permutation(len(wanted))[:_SAMPLED]]
        of_each = -(-2 * most // len(chosen))  # more than needed, because some documents have few tokens
        samples: list[Codes] = []
        tokens = None
        for part in filter(None, map(self._intact, _parts(chosen, _ASSIGNED_AT_ONCE))):
            tokens = self._gathered([one.revision for one in part])
            for start, stop in pairwise(tokens.offsets.tolist()):
                samples.append(tokens.codes[start + generator.permutation(stop - start)[:of_each]])
        if tokens is None:
            return np.empty((0, 1), dtype=np.float32)
        codes = np.concatenate(samples)
        codes = codes[generator.permutation(len(codes))[:most]]
        return tokens.codec.decode(codes, tokens.dimension)


def _is_wanted(row: Row, words: TokenIds | None) -> bool:
    """Return whether a document is to be found by centroids: it has no vocabulary ``words``, or an image or a video."""
    return words is None or not len(words) or row.modality not in ("text", VECTORS)


def _firsts(books: Sequence[Codebook]) -> NDArray[np.int32]:
    return np.asarray([book.first for book in books], dtype=np.int32)


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    items = iter(items)
    while part := list(islice(items, size)):
        yield part
