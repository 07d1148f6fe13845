"""Records that modules pass to each other and to the user. They are frozen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import InvalidInput

if TYPE_CHECKING:
    from PIL import Image

# Storage key: hash of the content and of how it was encoded.
Key = bytes
# The metadata of a document whose text was recognised in an image by OCR. Its value is True.
RECOGNISED = "ocr"
# Document id and storage key. A document whose content changes gets a new revision.
Revision = tuple[str, Key]
# (start, stop) in the characters of a text.
Span = tuple[int, int]
# (left, top, right, bottom) as fractions of an image: 0 is left or top, 1 is right or bottom.
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class PdfPage:
    """A page of a PDF or of an image file as an image. The image is drawn when it is used. ``page`` counts from 1."""

    path: Path
    page: int


# A file, a page of a PDF, or an image in memory.
ImageSource: TypeAlias = Union[str, Path, PdfPage, "Image.Image"]
# A file, or the frames of a video.
VideoSource: TypeAlias = str | Path | Sequence[ImageSource]
# An item for an encoder: a text, an image in memory, a page of a PDF, or a `Content` of several parts.
Encodable: TypeAlias = Union[str, "Content", PdfPage, "Image.Image"]
# What the model of an index cannot read: the query of a search, or the text of a hit.
Unread = Literal["query", "text"]
# Chunks that share fewer characters than this share them by chance.
_SHARED = 10
# Role of an item. Many models have one prompt for each role.
Task = Literal["query", "document"]


@dataclass(frozen=True, slots=True)
class Content:
    """Content of one representation: a text, an image, a video, or several of them.

    A video is a file, or a list of its frames, two for each second.

    >>> Content("the same chart, newer", image="chart.png").modality
    'text+image'
    """

    text: str = ""
    image: ImageSource | None = None
    video: VideoSource | None = None

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
        # Every Pillow image has `getexif`. An isinstance check would import Pillow.
        if isinstance(item, PdfPage) or hasattr(item, "getexif"):
            return cls(image=item)
        raise InvalidInput(f"expected a str, a Pillow image, a PdfPage or a Content, got {type(item).__name__}")

    @property
    def plain(self) -> str | Content:
        """The text as a str if there is neither an image nor a video; otherwise ``self``.

        So an encoder that reads only texts never gets a `Content`.
        """
        return self.text if self.image is None and self.video is None else self

    @property
    def modality(self) -> str:
        """The names of the parts, such as ``"image"`` or ``"text+image"``; empty if there are none."""
        parts = {"text": bool(self.text.strip()), "image": self.image is not None, "video": self.video is not None}
        return "+".join(name for name, present in parts.items() if present)


@dataclass(frozen=True, slots=True)
class Document:
    """A unit of retrieval: a text, an image, a video, or several of them, with an id and metadata.

    An encoder with vision encodes the text and the image together. Of a page of a PDF, such an encoder encodes only
    the image, because the image shows the text. An encoder without vision encodes the text.

    A `Hit` shows the metadata ``source`` (a file) and ``page`` (counted from 1). The caller may add any other key.
    """

    id: str
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    image: ImageSource | None = None
    video: str | Path | None = None

    def content(self, modalities: Collection[str]) -> Content:
        """Return the parts of this document that an encoder with these ``modalities`` encodes."""
        image = self.image if "image" in modalities else None
        video = self.video if "video" in modalities else None
        is_page = isinstance(image, PdfPage)
        return Content("" if is_page or "text" not in modalities else self.text, image, video)


@dataclass(frozen=True, slots=True)
class TokenOrigin:
    """Origin of a token embedding: characters of a text, or a patch of an image or of a frame of a video.

    If a token has no such origin, for example a token of a prompt, all attributes are None.

    Attributes:
        span: (start, stop), positions of characters in the text.
        box: (left, top, right, bottom) as fractions of the image or frame.
        frame: number of the frame among the frames that the encoder takes from the video.
    """

    span: Span | None = None
    box: Box | None = None
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A query token and the document token that is most similar to it. MaxSim uses these pairs.

    Attributes:
        query: origin of the query token.
        document: origin of the document token.
        similarity: cosine of the two token embeddings.
        weight: weight of the query token in the late score. The weights of a query add up to 1.
    """

    query: TokenOrigin
    document: TokenOrigin
    similarity: float
    weight: float


class Explanation(Protocol):
    """Result of `Hit.explain`. The only implementation is in `smart_rag.index.explain.explanation`."""

    @property
    def query(self) -> Content:
        """The query of the search."""
        ...

    @property
    def hit(self) -> Hit:
        """The hit that is explained."""
        ...

    @property
    def weights(self) -> tuple[float, float]:
        """The weights of the pooled and the late score in the hit's score."""
        ...

    @property
    def matches(self) -> tuple[Match, ...]:
        """The match of each query token, in the query's order."""
        ...

    @property
    def shares(self) -> tuple[float, float]:
        """The parts of the hit's score that come from the pooled and from the late score. Their sum is the score."""
        ...

    @property
    def words(self) -> list[tuple[str, float]]:
        """The query's words in their order, each with the part of the hit's score that comes from it."""
        ...

    def similarity_map(self, token: int | None = None, frame: int | None = None) -> NDArray[np.float32]:
        """Return the similarity of each patch of the hit's image to the query, or to one ``token``: (rows, columns)."""
        ...

    def picture(self, token: int | None = None, *, frame: int | None = None, legend: bool = True) -> Image.Image:
        """Return the hit's image under a heat map, or its text with marks on the words that matched."""
        ...


class Explainer(Protocol):
    """The state of a search. It explains the hits of this search. `smart_rag.index.explain.explainer` implements
    it.
    """

    def explain(self, hit: Hit) -> Explanation:
        """Return why ``hit`` was found."""
        ...

    def relevance(self, hit: Hit) -> float | None:
        """Return the relevance of ``hit``, from 0 to 1, or None if the relevance is unknown."""
        ...

    def neighbours(self, hit: Hit, before_and_after: int) -> list[Document]:
        """Return the documents around ``hit`` in its file."""
        ...


class _Explainable:
    """Holds a hit's explainer in a slot, not in a field. So comparisons, repr, pickles and `asdict` leave it out."""

    __slots__ = ("_explainer",)
    _explainer: Explainer | None


@dataclass(frozen=True, slots=True)
class Hit(_Explainable):
    """One search result. Higher scores are better.

    Attributes:
        id, text, metadata, image, video: the attributes of the document.
        score: w_pooled * ``pooled_score`` + w_late * ``late_score``, with the weights of the search.
        pooled_score: cosine of the pooled embeddings, in [-1, 1].
        late_score: weighted mean of the cosines of the matches, in [-1, 1].
        rank: position in the ranking, from 1 on. If hits were left out, the others keep their positions.
        unread: what is in a script that the model's tokenizer does not know: ``"query"``, ``"text"`` or both. The score
            then says little. It is empty if the model can read both, or if the index's encoder does not tell.
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
    unread: tuple[Unread, ...] = ()
    duplicates: tuple[str, ...] = ()

    @property
    def source(self) -> str | None:
        """The origin of the text, ``metadata["source"]``; None if the metadata has no such key."""
        source = self.metadata.get("source")
        return None if source is None else str(source)

    @property
    def page(self) -> int | None:
        """The 1-based page, ``metadata["page"]``; None if it is not a whole number."""
        page = self.metadata.get("page")
        return page if isinstance(page, int) and not isinstance(page, bool) else None

    @property
    def relevance(self) -> float | None:
        """The relevance of this hit, from 0 to 1.

        Sorting by relevance gives the same order as sorting by score. smart_rag searches the index for a few hundred
        questions that the index cannot answer. It compares this hit's score with the scores of the best hits for these
        questions. The best hit has a relevance of .5 or more for only 1 in 20 of these questions. This share is
        different if `SmartIndex.calibrate` was given labelled scores. A high relevance does not mean that the hit
        answers the query. If the index covers the right field but has no answer, its best hit still has a high
        relevance.

        The relevance is 0 if the model cannot read the query (see ``unread``), because then all scores are high.

        The relevance is None if the query has an image or a video, if the index has no encoder, or if the hit was
        copied or pickled. For a hit of `smart_rag.rerank`, it is None unless the encoder is a `CachedEncoder` that
        `CachedEncoder.add` has calibrated. If `SmartIndex.calibrate` was not called, the first access to the relevance
        takes seconds.
        """
        explainer = explainer_of(self)
        found = None if explainer is None else explainer.relevance(self)
        return 0.0 if found is not None and "query" in self.unread else found

    def explain(self) -> Explanation:
        """Return which part of this hit matched each part of the query, and how much each match added to the score.

        Raises:
            InvalidInput: the hit is not from an index, the hit was copied or pickled, or the query was a
                `Representation`.
            IndexClosed: the hit's index is closed.
            EncoderError: the index's encoder does not know which part of a text or an image a token stands for.
        """
        return self._known_explainer.explain(self)

    def neighbours(self, before_and_after: int = 1) -> list[Document]:
        """Return the documents that come right before and right after this hit in its file, in their order.

        The hit itself is not among them. There are ``before_and_after`` documents on each side, or fewer at the ends of
        the file. They may be on other pages. The list is empty if `SmartIndex.add_files` has not added the hit's
        document. The filters of the search do not matter.

        Raises:
            InvalidInput: ``before_and_after`` is not from 1 to 1,000, the hit is not from an index, or the hit was
                copied or pickled.
            IndexClosed: the hit's index is closed.
        """
        return self._known_explainer.neighbours(self, before_and_after)

    def window(self, before_and_after: int = 1, *, without: Collection[str] = ()) -> str:
        """Return the text of this hit and of its `neighbours`. What two chunks share is in the text once.

        Neighbours whose ids are in ``without`` are left out, such as those in the window of another hit.

        Raises:
            InvalidInput, IndexClosed: as in `neighbours`.
        """
        around = self.neighbours(before_and_after)
        texts = {document.id: document.text for document in around if document.id not in without}
        texts[self.id] = self.text
        return _joined([texts[id] for id in (sorted(texts, key=chunk_of) if len(texts) > 1 else texts)])

    @property
    def _known_explainer(self) -> Explainer:
        explainer = explainer_of(self)
        if explainer is None:
            raise InvalidInput(
                f"the hit {self.id!r} does not know its query: it is not from a SmartIndex, or it was copied or "
                "pickled; search again, or give it to SmartIndex.rerank"
            )
        return explainer


def chunk_of(id: str) -> int:
    """Return the number of a document in its file. `smart_rag.files.reader.id_of` must have made ``id``."""
    return int(id.rpartition("#")[2])


def _joined(texts: Sequence[str]) -> str:
    """Return ``texts`` as one text. If a text begins with the end of the text before, this part is left out.

    >>> _joined(["Rain fell. The boats stayed in.", "The boats stayed in. At noon the sun came out."])
    'Rain fell. The boats stayed in. At noon the sun came out.'
    """
    whole = ""
    for text in texts:
        longest = min(len(whole), len(text))
        shared = next((n for n in range(longest, _SHARED - 1, -1) if whole.endswith(text[:n])), 0)
        whole += text[shared:] if shared or not whole else f"\n{text}"
    return whole


def explainer_of(hit: Hit) -> Explainer | None:
    """Return the explainer of ``hit``. It is None if the hit does not come from an index, or if it was copied."""
    return getattr(hit, "_explainer", None)


def with_explainer(hit: Hit, explainer: Explainer | None) -> Hit:
    """Return a copy of ``hit`` with ``explainer``."""
    copy = replace(hit)
    object.__setattr__(copy, "_explainer", explainer)
    return copy


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """Contents and size of an index.

    Attributes:
        path: the folder of the index.
        documents: number of documents.
        tokens: number of token embeddings.
        token_bytes: bytes on disk of the token embeddings and of the term index.
        pooled_bytes: bytes on disk of the pooled embeddings and texts. None if a Chroma client of the user stores them.
        manifest: the settings of the index, as JSON values.
    """

    path: str
    documents: int
    tokens: int
    token_bytes: int
    pooled_bytes: int | None
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Result of `SmartIndex.verify`.

    Attributes:
        missing: ids of documents whose token embeddings or terms are missing. ``repair`` encodes these documents again.
        damaged: ids of documents whose token embeddings or terms are damaged. ``repair`` encodes these documents again.
        orphans: number of stored token embeddings that belong to no document.
        altered: ids of documents whose text or metadata is no longer what was added. What was added is lost.
        lost: ids of documents whose row in Chroma is lost or cannot be read. Their texts are lost.
        chroma_damage: what is wrong with Chroma's own files, in one line, or None. Searches may then return wrong
            results.
    """

    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    orphans: int
    altered: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    chroma_damage: str | None = None

    @property
    def sound(self) -> bool:
        """Whether every document is complete."""
        return not (self.missing or self.damaged or self.altered or self.lost or self.chroma_damage)
