"""Which word of a document answered which word of the query."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from smart_rag import scoring
from smart_rag.codec import codec
from smart_rag.encoder import SmartEncoder
from smart_rag.errors import EncoderError
from smart_rag.index import SmartIndex
from smart_rag.types import Hit, Place, Span, Tokens

_WORD = re.compile(r"\w+")
# A mean of equal numbers can be greater than they are by this.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Match:
    """A query token and the document token that MaxSim took for it, as (start, stop) characters of each text.

    ``weight`` is the query token's part in the late score, of parts that add up to 1.
    """

    query_span: Span
    span: Span
    similarity: float
    weight: float


def matches(index: SmartIndex, query: str, hits: Sequence[Hit]) -> list[list[Match]]:
    """Return, for each hit, the match of each token of ``query``, in the query's order.

    The sum of weight x similarity is the hit's ``late_score``, if it was found by the index's own
    weighting. Where the index keeps pooled tokens it is near it: these stand for no characters,
    so the hit's text is encoded again.

    Raises:
        EncoderError: the index's encoder does not know which characters a token stands for.
    """
    encoder = index.encoder
    if not isinstance(encoder, SmartEncoder):
        raise EncoderError(f"a {type(encoder).__name__} does not say which characters a token stands for")
    representation = encoder.encode_query([query])
    query_tokens, weights = representation.tokens[0], index.token_weights(representation).tolist()
    query_spans = _spans(encoder.token_places(query, "query"))
    if codec(index.manifest.config.codec).pool_factor == 1:
        documents: Tokens = index.tokens([hit.id for hit in hits])
    else:
        documents = encoder.encode_document([hit.text for hit in hits]).tokens
    results = []
    for hit, tokens in zip(hits, documents, strict=True):
        spans = _spans(encoder.token_places(hit.text))
        best = scoring.alignment(query_tokens, tokens)
        found = []
        for query_span, weight, i, similarity in zip(query_spans, weights, *best, strict=True):
            found.append(Match(query_span, spans[i], float(similarity), weight))
        results.append(found)
    return results


def emphasis(text: str, found: Sequence[Match]) -> list[Span]:
    """Return the words of ``text`` that matched best, in order: whole words, punctuation left out.

    Of the matched words, those are taken that are at least as similar as the mean and count at
    least as much, by weight x similarity; where none is both, those that count as much.
    """
    words = [(match, span) for match in found if (span := _word_around(text, *match.span))]
    if not words:
        return []
    similar = sum(match.similarity for match, _ in words) / len(words) - _ROUNDING
    part = sum(match.weight * match.similarity for match, _ in words) / len(words) - _ROUNDING
    counting = [(match, span) for match, span in words if match.weight * match.similarity >= part]
    return sorted({span for match, span in counting if match.similarity >= similar} or {span for _, span in counting})


def _spans(places: Sequence[Place]) -> list[Span]:
    return [(0, 0) if place.span is None else place.span for place in places]


def _word_around(text: str, start: int, stop: int) -> Span | None:
    """Return the whole word that the characters ``start:stop`` belong to, if they belong to one."""
    for word in _WORD.finditer(text, max(0, text.rfind(" ", 0, start))):
        if word.start() >= stop:
            return None
        if word.end() > start:
            return word.span()
    return None
