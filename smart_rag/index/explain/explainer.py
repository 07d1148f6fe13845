"""`Explainer`: the state of a search. A hit keeps it, so that the hit can be explained later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import Representation
from smart_rag.errors import InvalidInput
from smart_rag.index.explain.explanation import Explanation, Question
from smart_rag.index.hits.neighbours import ids_around
from smart_rag.index.index_encoder import IndexEncoder
from smart_rag.index.queries import as_documents, checked_queries
from smart_rag.index.relevance import Calibration
from smart_rag.index.search import Search
from smart_rag.index.session import Session
from smart_rag.scoring.maxsim import shares
from smart_rag.store.document_store import DocumentStore
from smart_rag.types import Content, Document, Hit


@dataclass(frozen=True, eq=False)
class Explainer:
    """The query of a search, and the store and the encoder that answered the query. All hits of one query share it.

    ``get`` returns the documents of the index with given ids. ``current`` returns the encoder and the store that the
    index has now: `SmartIndex.compact` and `SmartIndex.convert` replace and close the store of the search.
    """

    query: str | Content | Representation
    search: Search
    encoder: IndexEncoder
    session: Session
    calibration: Calibration
    get: Callable[[Sequence[str]], list[Document]]
    current: Callable[[], tuple[IndexEncoder, DocumentStore]]

    def explain(self, hit: Hit) -> Explanation:
        """Return the explanation of ``hit``; see `Hit.explain`."""
        search = self._current_search()
        (document,) = as_documents([hit])
        content = document.content(self.encoder.modalities).plain
        # A token that was pooled has no origin of its own. In this case, the document is encoded again.
        keeps_each_token = get_codec(search.store.codec.name).pool_factor == 1
        tokens = vectors_of([document], {hit.id} if keeps_each_token else set(), search, self.encoder).tokens[0]
        return self._question.explanation(hit, content, tokens, search.weights, self.encoder.load())

    def relevance(self, hit: Hit) -> float | None:
        """Return the relevance of ``hit``; see `Hit.relevance`."""
        if isinstance(self.query, Content) and self.query.modality != "text":
            return None  # the foreign questions are texts
        scale = self.calibration.scale(self._current_search())
        return None if scale is None else scale.relevance(hit.score)

    def neighbours(self, hit: Hit, before_and_after: int) -> list[Document]:
        """Return the documents around ``hit`` in its file; see `Hit.neighbours`."""
        return self.get(ids_around(hit, before_and_after))

    def _current_search(self) -> Search:
        """Return the search, of the store that the index has now.

        Raises:
            InvalidInput: the index has another model now.
        """
        self.session.check_open()
        encoder, store = self.current()
        if encoder.fingerprint != self.encoder.fingerprint:
            raise InvalidInput(
                f"{self.session.path}: the index was converted to another model after this hit was found; search again"
            )
        return replace(self.search, store=store)

    @cached_property
    def _question(self) -> Question:
        if isinstance(self.query, Representation):
            raise InvalidInput(
                "a query that was given as a Representation has neither words nor patches to explain; search with "
                "the text or the Content that it was made of"
            )
        encoded = self.encoder.encode_queries([self.query])
        weights = shares(encoded.tokens.offsets, self._current_search().token_weights(encoded))
        (content,) = checked_queries([self.query], self.encoder.modalities)
        return Question.of(content, encoded.tokens[0], weights, self.encoder.load())


def vectors_of(
    documents: Sequence[Document], stored: set[str], search: Search, encoder: IndexEncoder
) -> Representation:
    """Return the vectors of ``documents``, in their order.

    If the id of a document is in ``stored``, and the store holds the document with the same content, its vectors come
    from the disk. All other documents are encoded.
    """
    found = search.store.vectors([document for document in documents if document.id in stored])
    rest = [document.content(encoder.modalities) for document in documents if document.id not in found]
    encoded = iter(encoder.encode_exactly(rest)) if rest else iter(())
    return Representation.concatenate([found.get(document.id) or next(encoded) for document in documents])
