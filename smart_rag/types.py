"""The frozen records that pass between modules, and to the user."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import InvalidInput

if TYPE_CHECKING:
    from PIL import Image

# Of what is stored: a hash of what it was made from, and how.
Key = bytes
# A document's id and the key of its token embeddings: with another text it is another revision.
Revision = tuple[str, Key]
# (start, stop) in the characters of a text.
Span = tuple[int, int]
# (left, top, right, bottom) in parts of an image.
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class PdfPage:
    """A page of a PDF file, 1-based, as an image that is drawn when it is needed."""

    path: Path
    page: int


# A file, a page of a PDF, or an image in memory.
ImageSource: TypeAlias = Union[str, Path, PdfPage, "Image.Image"]
# What an encoder takes: a text, an image in memory, a page of a PDF, or a `Content` of several parts.
Encodable: TypeAlias = Union[str, "Content", PdfPage, "Image.Image"]
# What a text is encoded as: many models have a prompt for each.
Task = Literal["query", "document"]


@dataclass(frozen=True, slots=True)
class Content:
    """What one representation is made of: a text, an image, a video file, or several of them.

    >>> Content("the same chart, newer", image="chart.png").modality
    'text+image'
    """

    text: str = ""
    image: ImageSource | None = None
    video: str | Path | None = None

    @classmethod
    def of(cls, item: Encodable) -> Content:
        """Return ``item`` as a `Content`.

        Raises:
            InvalidInput: ``item`` is neither a text nor an image nor a page nor a `Content`.
        """
        if isinstance(item, Content):
            return item
        if isinstance(item, str):
            return cls(item)
        # Images of Pillow's have `getexif`: to ask for the class would load Pillow.
        if isinstance(item, PdfPage) or hasattr(item, "getexif"):
            return cls(image=item)
        raise InvalidInput(f"a {type(item).__name__}, expected a str, an image of Pillow's, or a Content")

    @property
    def plain(self) -> str | Content:
        """The text as a str where there is nothing else: an encoder of texts need not know `Content`."""
        return self.text if self.image is None and self.video is None else self

    @property
    def modality(self) -> str:
        """The names of what is there, such as ``"image"`` or ``"text+image"``; empty if nothing is."""
        parts = {"text": bool(self.text.strip()), "image": self.image is not None, "video": self.video is not None}
        return "+".join(name for name, there in parts.items() if there)


@dataclass(frozen=True, slots=True)
class Document:
    """One unit of retrieval under an id: a text, an image, a video, or several of them, with metadata.

    An encoder that sees takes text and image together, but of a page of a PDF the image alone: the text
    is what stands on it. One that does not see takes the text.

    The metadata keys ``source`` (where the document comes from) and ``page`` (1-based) are
    the ones that a `Hit` shows; any other key is the caller's.
    """

    id: str
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    image: ImageSource | None = None
    video: str | Path | None = None

    def content(self, modalities: Collection[str]) -> Content:
        """Return what of this document an encoder of these ``modalities`` encodes."""
        image = self.image if "image" in modalities else None
        video = self.video if "video" in modalities else None
        is_page = isinstance(image, PdfPage)
        return Content("" if is_page or "text" not in modalities else self.text, image, video)


@dataclass(frozen=True, slots=True)
class TokenOrigin:
    """What a token embedding stands for: characters of a text, or a patch of an image or of a video's frames.

    ``span`` is (start, stop) in characters, ``box`` (left, top, right, bottom) in parts of the image,
    ``frame`` counts the times at which a video is looked at. What stands for neither has neither.
    """

    span: Span | None = None
    box: Box | None = None
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """What a query token stands for, what the document token that MaxSim took for it does, and their cosine.

    ``weight`` is the query token's part in the late score, of parts that add up to 1.
    """

    query: TokenOrigin
    document: TokenOrigin
    similarity: float
    weight: float


class Explanation(Protocol):
    """What `Hit.explain` returns; `smart_rag.index.explanation` has the one that there is."""

    @property
    def query(self) -> Content:
        """What was searched for."""
        ...

    @property
    def hit(self) -> Hit:
        """What was found."""
        ...

    @property
    def weights(self) -> tuple[float, float]:
        """Of the pooled and the late score in the hit's score."""
        ...

    @property
    def matches(self) -> tuple[Match, ...]:
        """The match of each query token, in the query's order."""
        ...

    @property
    def shares(self) -> tuple[float, float]:
        """What the pooled and the late score give to the hit's score, which is their sum."""
        ...

    @property
    def words(self) -> list[tuple[str, float]]:
        """The query's words in their order, each with what it gives to the hit's score by way of the late score."""
        ...

    def similarity_map(self, token: int | None = None, frame: int | None = None) -> NDArray[np.float32]:
        """Return how similar each patch of the hit's image is to the query, or to one ``token``: (rows, columns)."""
        ...

    def picture(self, token: int | None = None, *, frame: int | None = None, legend: bool = True) -> Image.Image:
        """Return the hit's image under a heat map, or its text with the matched words marked."""
        ...


class Explainer(Protocol):
    """What a hit keeps of its search; `smart_rag.index.explainer` has the one that there is."""

    def explain(self, hit: Hit) -> Explanation:
        """Return why ``hit`` was found."""
        ...


class _Explainable:
    """Holds a hit's explainer. A slot, not a field: so it is not compared, shown, pickled or part of `asdict`."""

    __slots__ = ("_explainer",)
    _explainer: Explainer | None


@dataclass(frozen=True, slots=True)
class Hit(_Explainable):
    """One search result; higher scores are better.

    ``score`` = w_pooled * ``pooled_score`` + w_late * ``late_score``; both parts are cosines
    or means of cosines, so each lies in [-1, 1]. ``rank`` starts at 1. ``image`` and ``video``
    are where the document's are.
    """

    id: str
    text: str
    metadata: Mapping[str, Any]
    score: float
    pooled_score: float
    late_score: float
    rank: int
    image: ImageSource | None = None
    video: str | Path | None = None

    @property
    def source(self) -> str | None:
        """Where the text comes from: ``metadata["source"]``, if it is there."""
        source = self.metadata.get("source")
        return None if source is None else str(source)

    @property
    def page(self) -> int | None:
        """The 1-based page: ``metadata["page"]``, if it is a whole number."""
        page = self.metadata.get("page")
        return page if isinstance(page, int) and not isinstance(page, bool) else None

    def explain(self) -> Explanation:
        """Return what of this hit matched what of the query, and how much that gave to the score.

        Raises:
            InvalidInput: the hit is not from an index, or was copied or pickled since; or the query was
                given as a `Representation`.
            IndexClosed: the hit's index is closed.
            EncoderError: the index's encoder does not know what a token stands for.
        """
        explainer = explainer_of(self)
        if explainer is None:
            raise InvalidInput(
                f"the hit {self.id!r} does not know its query: hits of a SmartIndex do, until they are copied or "
                "pickled; search again, or give it to SmartIndex.rerank"
            )
        return explainer.explain(self)


def explainer_of(hit: Hit) -> Explainer | None:
    """Return the explainer of ``hit``; None for a hit that does not come from an index, or was copied."""
    return getattr(hit, "_explainer", None)


def with_explainer(hit: Hit, explainer: Explainer | None) -> Hit:
    """Return a copy of ``hit`` with ``explainer``."""
    copy = replace(hit)
    object.__setattr__(copy, "_explainer", explainer)
    return copy


@dataclass(frozen=True, slots=True)
class FailedFile:
    """A file that was left out of the index, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class AddReport:
    """What an ``add`` did, in documents; ``failed`` lists files that could not be read."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0
    failed: tuple[FailedFile, ...] = ()

    def __add__(self, other: AddReport) -> AddReport:
        return AddReport(
            self.added + other.added,
            self.replaced + other.replaced,
            self.unchanged + other.unchanged,
            self.removed + other.removed,
            self.failed + other.failed,
        )


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index holds and what it was made with; sizes in bytes on disk, ``token_bytes`` with the terms."""

    path: str
    documents: int
    tokens: int
    token_bytes: int
    pooled_bytes: int | None
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Ids of documents whose tokens are missing or damaged, and how many entries no document names."""

    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    orphans: int

    @property
    def sound(self) -> bool:
        """Whether every document can be scored."""
        return not self.missing and not self.damaged


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can hold ``text``: whether it is free of lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
