"""Which word of a document answered which word of the query."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from smart_rag import scoring
from smart_rag.codec import codec
from smart_rag.encoder import SmartEncoder, Span
from smart_rag.errors import EncoderError
from smart_rag.index import SmartIndex
from smart_rag.types import Hit, Tokens

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Match:
    """A query token and the document token that MaxSim took for it, as (start, stop) characters of each text."""

    query_span: Span
    span: Span
    similarity: float


def matches(index: SmartIndex, query: str, hits: Sequence[Hit]) -> list[list[Match]]:
    """Return, for each hit, the match of each token of ``query``, in the query's order.

    Their mean similarity is the hit's ``late_score``, or near it where the index keeps pooled
    tokens: these stand for no characters, so the hit's text is encoded again.

    Raises:
        EncoderError: the index's encoder does not know which characters a token stands for.
    """
    encoder = index.encoder
    if not isinstance(encoder, SmartEncoder):
        raise EncoderError(f"a {type(encoder).__name__} does not say which characters a token stands for")
    query_tokens = encoder.encode_query([query]).tokens[0]
    query_spans = encoder.token_spans(query, "query")
    if codec(index.manifest.config.codec).pool_factor == 1:
        documents: Tokens = index.tokens([hit.id for hit in hits])
    else:
        documents = encoder.encode_document([hit.text for hit in hits]).tokens
    results = []
    for hit, tokens in zip(hits, documents, strict=True):
        spans = encoder.token_spans(hit.text, "document")
        found = []
        for query_span, i, similarity in zip(query_spans, *scoring.alignment(query_tokens, tokens), strict=True):
            found.append(Match(query_span, spans[i], float(similarity)))
        results.append(found)
    return results


def emphasis(text: str, found: Sequence[Match]) -> list[Span]:
    """Return the words of ``text`` that matched best, in order: whole words, punctuation left out.

    Of the matched words, those at least as similar as the mean are taken.
    """
    words = [(match, span) for match in found if (span := _word_around(text, *match.span))]
    if not words:
        return []
    mean = sum(match.similarity for match, _ in words) / len(words)
    return sorted({span for match, span in words if match.similarity >= mean})


def _word_around(text: str, start: int, stop: int) -> Span | None:
    """Return the whole word that the characters ``start:stop`` belong to, if they belong to one."""
    for word in _WORD.finditer(text, max(0, text.rfind(" ", 0, start))):
        if word.start() >= stop:
            return None
        if word.end() > start:
            return word.span()
    return None
