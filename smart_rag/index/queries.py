"""Queries for an encoder, and texts or hits to rank: their checks, and what a model cannot read of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from smart_rag.embeddings.representation import Representation
from smart_rag.encoders.protocol import MULTILINGUAL, Encoder, modalities_of, model_name, unread_by, warn_once
from smart_rag.errors import InvalidInput
from smart_rag.files.content import full_source, full_video_source
from smart_rag.types import Content, Document, Hit, Unread
from smart_rag.values import is_unicode

Query = str | Content | Representation


def checked_queries(queries: Sequence[str | Content], modalities: Collection[str]) -> list[str | Content]:
    """Return ``queries`` in the form in which an encoder with these ``modalities`` can read them.

    Raises:
        InvalidInput: a query is empty, is neither a text nor a `Content`, or has a part that the encoder cannot read.
    """
    if isinstance(queries, str | bytes | Content):
        raise InvalidInput(f"expected several queries, got one {type(queries).__name__}")
    contents = []
    for i, query in enumerate(queries):
        which = f"query {i}" if len(queries) > 1 else "the query"
        if not isinstance(query, str | Content):
            raise InvalidInput(f"{which} is of type {type(query).__name__}; expected a text or a Content")
        content = Content(query) if isinstance(query, str) else query
        if not content.modality:
            raise InvalidInput(
                f"{which} is empty; expected a text" + (" or an image" if isinstance(query, Content) else "")
            )
        lacking = set(content.modality.split("+")).difference(modalities)
        if lacking:
            parts = " and ".join("an image" if name == "image" else f"a {name}" for name in sorted(lacking))
            raise InvalidInput(f"{which} has {parts}, but the index's model takes {', '.join(modalities)}")
        if not is_unicode(content.text):
            raise InvalidInput(f"{which} holds a lone surrogate; expected Unicode")
        contents.append(content.plain)
    return contents


def with_full_paths(query: Query) -> Query:
    """Return ``query`` with full paths of its files. They stay valid if the working directory changes."""
    if not isinstance(query, Content):
        return query
    return replace(query, image=full_source(query.image), video=full_video_source(query.video))


def marked(hits: Sequence[Hit], query: Query, encoder: Encoder | None) -> list[Hit]:
    """Return ``hits`` with `Hit.unread`. The first query that the model of ``encoder`` cannot read causes a warning."""
    unread = unread_by(encoder)
    if encoder is None or unread is None:
        return list(hits)
    text = query.text if isinstance(query, Content) else query
    of_query: tuple[Unread, ...] = ()
    if isinstance(text, str) and unread([text])[0]:
        of_query = ("query",)
        warn_once(
            f"{model_name(encoder)} cannot read a question, because its tokenizer does not know the script or the "
            f"words; the scores say little; {MULTILINGUAL}"
        )
    takes = modalities_of(encoder)
    texts = unread([document.content(takes).text for document in as_documents(hits)])
    parts = [(*of_query, "text") if is_unread else of_query for is_unread in texts]
    return [replace(hit, unread=part) if part else hit for hit, part in zip(hits, parts, strict=True)]


def as_documents(documents: Iterable[str | Document | Hit]) -> list[Document]:
    """Return texts and hits as documents. The id of a text is its position."""
    if isinstance(documents, str):
        raise InvalidInput("expected several texts, documents or hits, got one str")
    documents = list(documents)
    for item in documents:
        if not isinstance(item, str | Document | Hit):
            raise InvalidInput(f"expected texts, documents or hits, got {type(item).__name__}")
    width = len(str(len(documents) - 1))  # ties are sorted by id, and ids of the same width sort like numbers
    return [
        Document(f"{i:0{width}}", item)
        if isinstance(item, str)
        else Document(item.id, item.text, item.metadata, item.image, item.video)
        for i, item in enumerate(documents)
    ]
