"""What an encoder is: what `SmartIndex` asks of a model, and what it can be given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union, runtime_checkable

from smart_rag.config import DEFAULT_WEIGHTS
from smart_rag.embeddings.representation import Codec, Representation
from smart_rag.errors import InvalidInput
from smart_rag.types import Content, PdfPage

if TYPE_CHECKING:
    from PIL import Image

# What an encoder takes: a text, an image in memory, a page of a PDF, or several parts together.
Encodable: TypeAlias = Union[str, Content, PdfPage, "Image.Image"]


@runtime_checkable
class Encoder(Protocol):
    """What `SmartIndex` needs of a model; implement it to bring your own.

    One that takes more than texts has a property ``modalities``, the names of what it takes, such
    as ``{"text", "image"}``; it is given a `Content` where there is an image or a video, else a str.
    One whose scores are to be weighted in another way than `DEFAULT_WEIGHTS` has a property ``default_weights``.
    One that knows what its tokens stand for has a method ``token_origins``, as `SmartEncoder` has: by
    it, hits are explained.
    One whose token embeddings are of another width than its pooled ones has a property ``token_dimension``.
    One whose ``encode_document`` takes a ``codec`` is given the index's, and may return `TokenCodes`, coded where
    the token embeddings were computed.
    """

    @property
    def dimension(self) -> int:
        """The width of the pooled embeddings, and of the token embeddings if no ``token_dimension`` says otherwise."""
        ...

    @property
    def fingerprint(self) -> str:
        """A name for everything that changes a document's numbers; equal numbers, equal fingerprint."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return what the manifest keeps, as JSON values; ``model`` names the model."""
        ...

    def encode_query(self, queries: Sequence[Any]) -> Representation:
        """Return the representation of ``queries``, in their order."""
        ...

    def encode_document(self, documents: Sequence[Any]) -> Representation:
        """Return the representation of ``documents``, in their order."""
        ...


def modalities_of(encoder: Encoder) -> frozenset[str]:
    """Return what an encoder takes; only texts, unless it says otherwise."""
    return frozenset(getattr(encoder, "modalities", ("text",)))


def default_weights_of(encoder: Encoder | None) -> tuple[float, float]:
    """Return the weights (pooled, late) for what an encoder gives; `DEFAULT_WEIGHTS`, unless it says otherwise."""
    weights: tuple[float, float] = getattr(encoder, "default_weights", DEFAULT_WEIGHTS)
    return weights


def token_dimension_of(encoder: Encoder) -> int:
    """Return the width of an encoder's token embeddings."""
    return int(getattr(encoder, "token_dimension", encoder.dimension))


def encode_for_store(encoder: Encoder, documents: Sequence[Any], codec: Codec) -> Representation:
    """Return the representation of ``documents``, their tokens coded by ``codec`` where the encoder can do that."""
    # Tokens that are alike are sought by the CPU, while the encoder goes on.
    if codec.pool_factor == 1 and _takes_codec(encoder.encode_document):
        coding: Any = encoder
        coded: Representation = coding.encode_document(documents, codec=codec.name)
        return coded
    return encoder.encode_document(documents)


def _takes_codec(encode: Callable[..., Any]) -> bool:
    """Return whether ``encode`` can be given ``codec=``, by its own signature, not that of what it wraps."""
    try:
        parameter = signature(encode, follow_wrapped=False).parameters.get("codec")
    except (TypeError, ValueError):  # not every callable of a compiled module has one
        return False
    return parameter is not None and parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def as_content(item: Encodable) -> Content:
    """Return ``item`` as a `Content`.

    Raises:
        InvalidInput: it is of none of the kinds that can be encoded.
    """
    if isinstance(item, Content):
        return item
    if isinstance(item, str):
        return Content(item)
    if isinstance(item, PdfPage) or hasattr(item, "getexif"):  # an image of Pillow's, which need not be loaded for that
        return Content(image=item)
    raise InvalidInput(f"a {type(item).__name__}, expected a str, an image of Pillow's, or a Content")


def plain(content: Content) -> str | Content:
    """Return a text alone as a str: encoders that take nothing else need not know of `Content`."""
    return content.text if content.image is None and content.video is None else content
