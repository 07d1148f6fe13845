"""The protocol of an encoder: members that smart_rag requires, and members that an encoder may offer.

`Encoder` is required. Every other protocol here is optional. An encoder has a protocol if it has the protocol's
members. It does not inherit from the protocol. Other code calls the functions below and never uses the protocols
itself. So each fallback is in only one place. The table lists the fallbacks:

=====================  ==============================  ===================================================
Protocol               Asked by                        Without it
=====================  ==============================  ===================================================
`HasModalities`        `modalities_of`                 the encoder gets only texts
`HasTokenDimension`    `token_dimension_of`            token embeddings are as wide as pooled embeddings
`HasDefaultWeights`    `default_weights_of`            `smart_rag.config.DEFAULT_WEIGHTS`
`HasDevice`            `device_of`                     scores are computed on the CPU
`CountsTokens`         `token_counter`                 texts are measured in words; a warning says so once
`PlacesTokens`         `token_spans_of`                a text is read again for each part of it that is measured
`CodesTokens`          `encode_for_store`              token embeddings are coded later, not by the encoder
`ExplainsTokens`       `token_origins_of`              `Hit.explain` raises `EncoderError`
`KnowsScripts`         `unread_by`                     every text counts as one that the model can read
`HasScale`             `scale_of`                      `Hit.relevance` of hits of `smart_rag.rerank` is None
=====================  ==============================  ===================================================

Vocabulary ids are part of the protocol, too. ``Representation.tokens.ids`` holds one int32 for each token embedding:
the token's id in the model's vocabulary. The id is -1 for a token that is not a word, such as punctuation, an image
patch or a prompt. `smart_rag.encoders.vocabulary.Vocabulary` makes the ids. With ids, rare query tokens get more
weight, and a search finds candidates that share rare tokens. Without ids, all query tokens count the same, and only the
pooled cosine finds candidates. A warning says so once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from inspect import Parameter, getattr_static, signature
from typing import Any, Protocol, runtime_checkable

from smart_rag.config import DEFAULT_WEIGHTS
from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import Codec
from smart_rag.errors import EncoderError
from smart_rag.scoring.relevance import Scale
from smart_rag.types import Encodable, Task, TokenOrigin

logger = logging.getLogger(__name__)

# What to do about texts that a model cannot read.
MULTILINGUAL = "use a model for many languages, such as BAAI/bge-m3 or Qwen/Qwen3-Embedding-0.6B"


class _StaticLookup(type(Protocol)):  # type: ignore[misc]  # typing gives the metaclass no public name
    """Make `isinstance` look for members without evaluating properties, because some properties load a model.

    From version 3.12 on, Python itself does so.
    """

    def __instancecheck__(cls, instance: object) -> bool:
        if not getattr(cls, "_is_protocol", False):  # a class that inherits from a protocol is an ordinary class
            return bool(super().__instancecheck__(instance))
        members = [name for name in vars(cls) if not name.startswith("_")]
        return all(getattr_static(instance, name, None) is not None for name in members)


@runtime_checkable
class Encoder(Protocol, metaclass=_StaticLookup):
    """A model that gives pooled and token embeddings. Implement this protocol to use a model of your own.

    An item is a str. An encoder that also has `HasModalities` gets a `smart_rag.Content` for each item with an image or
    a video.
    """

    @property
    def dimension(self) -> int:
        """The width of the pooled embeddings."""
        ...

    @property
    def fingerprint(self) -> str:
        """A str that changes whenever a document's embeddings change. Equal fingerprints mean equal embeddings."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return the description for the index's manifest, as JSON values. ``"model"`` is the model's name."""
        ...

    def encode_query(self, queries: Sequence[Any], /) -> Representation:
        """Return the representation of ``queries`` (n items), in their order.

        ``pooled`` is (n, ``dimension``) float32, L2-normalised. ``tokens`` holds at least one L2-normalised row for
        each item, and vocabulary ids. `Representation.from_embeddings` makes ``pooled`` and ``tokens`` from vectors of
        any norm.
        """
        ...

    def encode_document(self, documents: Sequence[Any], /) -> Representation:
        """Return the representation of ``documents`` (n items), in their order, in the form of `encode_query`."""
        ...


class HasModalities(Protocol):
    """An encoder that reads more than texts."""

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of content that the encoder reads: some of ``"text"``, ``"image"`` and ``"video"``."""
        ...


class HasTokenDimension(Protocol):
    """An encoder whose token embeddings have a different width than its pooled embeddings."""

    @property
    def token_dimension(self) -> int:
        """The width of the token embeddings."""
        ...


class HasDefaultWeights(Protocol):
    """An encoder that needs its own weights to combine the pooled and the late score."""

    @property
    def default_weights(self) -> tuple[float, float]:
        """The weights of the pooled and of the late score in a new index."""
        ...


class HasDevice(Protocol):
    """An encoder that knows where its model runs."""

    @property
    def device(self) -> str:
        """The name of a torch device, such as ``"cuda:0"``."""
        ...


class CountsTokens(Protocol):
    """An encoder that can measure a text before it encodes it."""

    def count_tokens(self, texts: Sequence[str], /) -> list[int]:
        """Return the number of tokens of each full text, even if it is too long for the model.

        Special tokens and prompts do not count.
        """
        ...


class PlacesTokens(Protocol):
    """An encoder that knows the places of tokens in a text, so that long texts are cut into chunks in less time."""

    def token_spans(self, text: str, /) -> Sequence[tuple[int, int]] | None:
        """Return the first and last place of each token of the full text. Return None if they are not known.

        The tokens are those that `CountsTokens.count_tokens` counts.
        """
        ...


class CodesTokens(Protocol):
    """An encoder that can code token embeddings on the device that computes them."""

    def encode_document(self, documents: Sequence[Any], /, *, codec: str | None = None) -> Representation:
        """Do the same as `Encoder.encode_document`. If ``codec`` names a codec, ``tokens`` are `TokenCodes`."""
        ...


class ExplainsTokens(Protocol):
    """An encoder that knows which part of an item each token embedding comes from."""

    def token_origins(self, item: Encodable, task: Task, /) -> list[TokenOrigin]:
        """Return the origin of each token embedding of ``item`` when it is encoded as a query or as a document."""
        ...


class KnowsScripts(Protocol):
    """An encoder that knows which texts are in a script that its model cannot read."""

    def unread(self, texts: Sequence[str], /) -> list[bool]:
        """Return for each text whether it is in a script that the model's tokenizer does not know."""
        ...


class HasScale(Protocol):
    """An encoder that knows how high irrelevant documents score. `CachedEncoder.add` can find these scores."""

    def relevance_scale(self, weights: tuple[float, float], /) -> Scale | None:
        """Return the scale of relevance for scores with these ``weights``. Return None if it is unknown."""
        ...


def model_name(encoder: Encoder) -> str:
    """Return the name of the model of ``encoder``, for messages."""
    return str(encoder.describe().get("model", type(encoder).__name__))


def modalities_of(encoder: Encoder) -> frozenset[str]:
    """Return the kinds of content that ``encoder`` reads: some of ``"text"``, ``"image"`` and ``"video"``."""
    return frozenset(getattr(encoder, "modalities", ("text",)))


def default_weights_of(encoder: Encoder | None) -> tuple[float, float]:
    """Return the weights (pooled, late) that suit ``encoder``."""
    weights: tuple[float, float] = getattr(encoder, "default_weights", DEFAULT_WEIGHTS)
    return weights


def token_dimension_of(encoder: Encoder) -> int:
    """Return the width of the token embeddings of ``encoder``."""
    return int(getattr(encoder, "token_dimension", encoder.dimension))


def device_of(encoder: Encoder | None) -> str:
    """Return the torch device of ``encoder``. Return ``"cpu"`` if the encoder names no device."""
    return str(getattr(encoder, "device", "cpu"))


def token_counter(encoder: Encoder) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text. If ``encoder`` cannot count them, it counts words."""
    count: Callable[[Sequence[str]], list[int]] | None = getattr(encoder, "count_tokens", None)
    if count is None:
        warn_once(
            f"{type(encoder).__name__} has no count_tokens: texts are measured in words, and the model may cut off the "
            "ends of chunks; give the encoder count_tokens(texts) -> list[int]"
        )
        return lambda text: len(text.split())
    return lambda text: int(count([text])[0])


def token_spans_of(encoder: Encoder, text: str) -> Sequence[tuple[int, int]] | None:
    """Return the first and last place of each token of ``text``. Return None if ``encoder`` knows no places."""
    spans: Callable[[str], Sequence[tuple[int, int]] | None] | None = getattr(encoder, "token_spans", None)
    return None if spans is None else spans(text)


def token_origins_of(encoder: Encoder, item: Encodable, task: Task) -> list[TokenOrigin]:
    """Return the origin of each token embedding of ``item``.

    Raises:
        EncoderError: ``encoder`` does not have the protocol `ExplainsTokens`.
    """
    origins: Callable[[Encodable, Task], list[TokenOrigin]] | None = getattr(encoder, "token_origins", None)
    if origins is None:
        raise EncoderError(
            f"{type(encoder).__name__} has no token_origins, so hits cannot be explained; give the encoder "
            "token_origins(item, task) -> list[TokenOrigin], as SmartEncoder has it"
        )
    return list(origins(item, task))


def unread_by(encoder: Encoder | None) -> Callable[[Sequence[str]], list[bool]] | None:
    """Return a function that tells for each text whether ``encoder`` cannot read its script. None if it cannot tell."""
    unread: Callable[[Sequence[str]], list[bool]] | None = getattr(encoder, "unread", None)
    return unread


def scale_of(encoder: Encoder, weights: tuple[float, float]) -> Scale | None:
    """Return the scale of relevance for scores with these ``weights``. Return None if ``encoder`` knows no scale."""
    scale: Callable[[tuple[float, float]], Scale | None] | None = getattr(encoder, "relevance_scale", None)
    return None if scale is None else scale(weights)


def encode_for_store(encoder: Encoder, documents: Sequence[Any], codec: Codec) -> Representation:
    """Return the representation of ``documents``. If ``encoder`` can code tokens, it codes them by ``codec``."""
    # If a codec merges tokens, it is applied later, on the CPU, while the encoder goes on.
    if codec.pool_factor == 1 and _has_codec_argument(encoder.encode_document):
        coding: Any = encoder
        vectors: Representation = coding.encode_document(documents, codec=codec.name)
    else:
        vectors = encoder.encode_document(documents)
    if vectors.tokens.ids is None and len(vectors):
        warn_once(
            f"{type(encoder).__name__} gives no vocabulary ids: query tokens all count the same, and rare words do not "
            "help to find candidates. Give ids= to Representation.from_embeddings (see smart_rag.Vocabulary), and "
            "a CachedEncoder no folder, which stores no ids"
        )
    return vectors


def _has_codec_argument(encode: Callable[..., Any]) -> bool:
    """Return whether ``encode`` itself has the argument ``codec``. A function that it wraps does not count."""
    try:
        parameter = signature(encode, follow_wrapped=False).parameters.get("codec")
    except (TypeError, ValueError):  # some callables of compiled modules have no signature
        return False
    return parameter is not None and parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


@cache
def warn_once(message: str) -> None:
    """Log ``message`` as a warning, once in this process."""
    logger.warning(message)
