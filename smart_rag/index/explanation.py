"""What of a document matched what of the query: by token, as a map over an image, as marked words, as a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.representation import FloatArray
from smart_rag.encoders.protocol import Encoder, token_origins_of
from smart_rag.errors import InvalidInput
from smart_rag.files import content as media
from smart_rag.files import pdf, video
from smart_rag.index import heat_map as picture
from smart_rag.scoring import maxsim as scoring
from smart_rag.types import Content, Encodable, Hit, Match, PdfPage, Span, Task, TokenOrigin

if TYPE_CHECKING:
    from PIL import Image

_WORD = re.compile(r"\w+")
# A mean of equal numbers can be greater than they are by this.
_ROUNDING = 1e-9
_PIXELS = 1_000_000
_WORDS = 16  # of a query in a legend
# What a query's tokens are called that stand for no word.
_IMAGE, _VIDEO, _PROMPT = "[image]", "[video]", "[prompt]"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Explanation:
    """Why a hit was found: what of it matched what of the query, and how much that gave to its score.

    >>> explanation = index.search("seawater pump")[0].explain()       # doctest: +SKIP
    >>> explanation.words                                              # doctest: +SKIP
    [('seawater', 0.61), ('pump', 0.55)]
    >>> explanation.picture().save("why.png")                          # doctest: +SKIP

    ``matches`` has one for each query token, in the query's order; the sum of weight x similarity is the hit's
    late score. Where the index keeps pooled tokens, or came to hold other documents since the search, it is near it.

    ``query_origins`` (q) and ``origins`` (n) are what the tokens of the query and of the document stand for,
    ``similarities`` (q, n) the cosines of all with all, ``weights`` those of the pooled and the late score.
    """

    query: Content
    hit: Hit
    weights: tuple[float, float]
    matches: tuple[Match, ...]
    query_origins: tuple[TokenOrigin, ...]
    origins: tuple[TokenOrigin, ...]
    similarities: NDArray[np.float32]

    def __repr__(self) -> str:
        return f"Explanation(hit={self.hit.id!r}, words={self.words!r})"

    @property
    def shares(self) -> tuple[float, float]:
        """What the pooled and the late score give to the hit's score, which is their sum."""
        return self.weights[0] * self.hit.pooled_score, self.weights[1] * self.hit.late_score

    @property
    def words(self) -> list[tuple[str, float]]:
        """The query's words in their order, each with what it gives to the hit's score by way of the late score.

        All patches of the query's image together are the word ``[image]``, those of its video ``[video]``, and
        the tokens of the model's prompt ``[prompt]``.
        """
        shares: dict[Span | str, float] = {}
        for match in self.matches:
            key = _word_of(self.query.text, match.query)
            shares[key] = shares.get(key, 0.0) + self.weights[1] * match.weight * match.similarity
        return [(key if isinstance(key, str) else self.query.text[slice(*key)], share) for key, share in shares.items()]

    def similarity_map(self, token: int | None = None, frame: int | None = None) -> NDArray[np.float32]:
        """Return how similar each patch of the hit's image is to the query, (rows, columns).

        It is the mean of the cosines with the query's tokens by their weights, negative ones as 0; the prompt's
        tokens, which are the same in every query, are left out. A patch that took no part has 0.

        Args:
            token: the position of a query token, for its cosines alone.
            frame: of a video, which of its `TokenOrigin.frame`; by default the one with the most similar patch.

        Raises:
            InvalidInput: nothing of the hit is a patch of an image or of that frame, or there is no such token.
        """
        maps = self._maps(token)
        if not maps:
            raise InvalidInput(f"the hit {self.hit.id!r} has no patches of an image among its tokens; it has no map")
        if frame is None:
            return maps[_best(maps)]
        if frame not in maps:
            raise InvalidInput(f"the hit {self.hit.id!r} has no frame {frame}; it has {_listed(maps)}")
        return maps[frame]

    def picture(self, token: int | None = None, *, frame: int | None = None, legend: bool = True) -> Image.Image:
        """Return the hit's image, or a frame of its video, in grey under the similarity map; or its marked text.

        A text is drawn with the words of `emphasis` marked, of a long one the part that has most of them; a text
        that stands on a page of a PDF, on that page.

        Args:
            token, frame: as for `similarity_map`; of a text, the one word that answered that token is marked.
            legend: put the scores below, and the query's words that gave most to them.

        Raises:
            InvalidInput: there is nothing to draw: no patch and no word of the hit is among its tokens.
            DocumentError: the hit's image or video cannot be read any more.
        """
        maps = self._maps(token)
        if maps:
            values = self.similarity_map(token, frame)
            drawn = picture.heated(self._seen(_best(maps) if frame is None else frame), values, _PIXELS)
            scale = (float(values.min()), float(values.max()))
        elif any(origin.span is not None for origin in self.origins):
            drawn, scale = self._marked_page(token) or picture.marked(self.hit.text, self._marks(token)), None
        else:
            raise InvalidInput(
                f"the hit {self.hit.id!r} has neither words nor patches among its tokens; there is nothing to draw"
            )
        return picture.with_legend(drawn, self._title(token), self._chips(token), scale) if legend else drawn

    def _maps(self, token: int | None) -> dict[int | None, NDArray[np.float32]]:
        """Return the similarity map of each frame, of an image under None."""
        if token is not None and not 0 <= token < len(self.matches):
            raise InvalidInput(f"token must be 0 to {len(self.matches) - 1}, a position in the query, got {token!r}")
        if token is None:
            spoken = np.asarray([origin != TokenOrigin() for origin in self.query_origins])
            weights = np.asarray([match.weight for match in self.matches]) * (spoken if spoken.any() else 1)
            mean = weights / (weights.sum() or 1) @ np.maximum(self.similarities, 0)
        else:
            mean = self.similarities[token]
        maps: dict[int | None, NDArray[np.float32]] = {}
        for value, origin in zip(mean.tolist(), self.origins, strict=True):
            if origin.box is not None:
                left, top, right, bottom = origin.box
                # By the size of a patch: where some took no part, the others' origins do not tell how many there are.
                columns, rows = round(1 / (right - left)), round(1 / (bottom - top))
                grid = maps.setdefault(origin.frame, np.zeros((rows, columns), dtype=np.float32))
                grid[round(top * rows), round(left * columns)] = value
        return maps

    def _seen(self, frame: int | None) -> Image.Image:
        if frame is None and self.hit.image is not None:
            return media.open_image(self.hit.image, _PIXELS)
        if self.hit.video is None:
            raise InvalidInput(f"the hit {self.hit.id!r} has no image to draw on; use similarity_map")
        if frame is None:
            return video.middle_frame(self.hit.video, _PIXELS)
        # Two frames are one patch, the last of an odd number by itself.
        count = 2 * (1 + max(origin.frame for origin in self.origins if origin.frame is not None))
        frames = video.read_frames(self.hit.video, 1.0, count, _PIXELS, count).images
        return frames[min(2 * frame, len(frames) - 1)]

    def _marks(self, token: int | None) -> list[tuple[Span, float]]:
        """Return the emphasised words of the hit's text with what each gave, in parts of what the best one did."""
        matches = self.matches if token is None else self.matches[token : token + 1]
        text = self.hit.text
        given = dict.fromkeys(emphasis(text, matches), 0.0)
        for match in matches:
            word = match.document.span and _word_around(text, *match.document.span)
            if word in given:
                given[word] += max(match.weight * match.similarity, 0)
        return [(span, value / (max(given.values()) or 1)) for span, value in given.items()]

    def _marked_page(self, token: int | None) -> Image.Image | None:
        """Return the page that the hit's text stands on with the words marked, None if they cannot be found there."""
        page = self.hit.image
        if not isinstance(page, PdfPage):
            return None
        start = pdf.text(page.path, page.page).find(self.hit.text)
        marks = self._marks(token)
        if start < 0 or not marks:
            return None
        found = pdf.boxes(page.path, page.page, [(start + first, start + last) for (first, last), _ in marks])
        boxes = [(box, heat) for (_, heat), those in zip(marks, found, strict=True) for box in those]
        return picture.framed(media.open_image(page, _PIXELS), boxes) if boxes else None

    def _title(self, token: int | None) -> str:
        hit = self.hit
        pooled, late = self.weights
        title = f"{hit.score:.3f} = {pooled:g} x {hit.pooled_score:.3f} pooled + {late:g} x {hit.late_score:.3f} late"
        return title if token is None else f"{title}; token {token} alone"

    def _chips(self, token: int | None) -> list[tuple[str, float]]:
        """Return the words of the legend, the best ones in the query's order, each with its heat."""
        words = self.words
        if token is not None:
            match = self.matches[token]
            word = _word_of(self.query.text, match.query)
            words = [(word if isinstance(word, str) else self.query.text[slice(*word)], match.similarity)]
        # A prompt gives the same to every query: beside it, all words would look pale.
        most = max((share for word, share in words if word != _PROMPT), default=0)
        best = sorted(range(len(words)), key=lambda i: -words[i][1])[:_WORDS]
        chosen = [words[i] for i in sorted(best)]
        return [
            (f"{word} {share:.2f}", share / most if most > 0 and word != _PROMPT else 0.0) for word, share in chosen
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A query as late interaction takes it: its token embeddings, what each stands for and what it counts for."""

    content: Content
    tokens: FloatArray
    origins: tuple[TokenOrigin, ...]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, query: Encodable, tokens: FloatArray, weights: NDArray[np.float32], encoder: Encoder) -> Question:
        """Return the question of ``query``, whose ``tokens`` (q, dimension) have these ``weights`` (q)."""
        return cls(Content.of(query), tokens, _origins(encoder, query, "query", len(tokens)), weights)

    def explanation(
        self, hit: Hit, document: Encodable, tokens: FloatArray, weights: tuple[float, float], encoder: Encoder
    ) -> Explanation:
        """Return why ``hit`` was found, whose ``tokens`` (n, dimension) ``encoder`` made of ``document``."""
        origins = _origins(encoder, document, "document", len(tokens), hit.id)
        similarities = scoring.similarities(self.tokens, tokens)
        best = similarities.argmax(axis=1)
        found = zip(self.origins, best.tolist(), self.weights.tolist(), similarities, strict=True)
        matches = tuple(Match(origin, origins[i], float(row[i]), weight) for origin, i, weight, row in found)
        return Explanation(self.content, hit, weights, matches, self.origins, origins, similarities)


def emphasis(text: str, found: Sequence[Match]) -> list[Span]:
    """Return the words of ``text`` that matched best, in order: whole words, punctuation left out.

    Of the matched words, those are taken that are at least as similar as the mean and count at
    least as much, by weight x similarity; where none is both, those that count as much.
    """
    origins = [(match, match.document.span) for match in found]
    words = [(match, word) for match, span in origins if span and (word := _word_around(text, *span))]
    if not words:
        return []
    similar = sum(match.similarity for match, _ in words) / len(words) - _ROUNDING
    part = sum(match.weight * match.similarity for match, _ in words) / len(words) - _ROUNDING
    counting = [(match, span) for match, span in words if match.weight * match.similarity >= part]
    return sorted({span for match, span in counting if match.similarity >= similar} or {span for _, span in counting})


def _origins(
    encoder: Encoder, item: Encodable, task: Task, count: int, id: str | None = None
) -> tuple[TokenOrigin, ...]:
    """Return what each of the ``count`` token embeddings of ``item`` stands for."""
    origins = tuple(token_origins_of(encoder, item, task))
    if len(origins) != count:
        raise InvalidInput(
            f"{'the query' if id is None else f'the hit {id!r}'} has {count} token embeddings, but its "
            f"{Content.of(item).modality} gives {len(origins)}: it is not what they were made of; add it again"
        )
    return origins


def _best(maps: dict[int | None, NDArray[np.float32]]) -> int | None:
    return max(maps, key=lambda frame: maps[frame].max())


def _listed(maps: dict[int | None, NDArray[np.float32]]) -> str:
    frames = [frame for frame in maps if frame is not None]
    return f"frames {min(frames)} to {max(frames)}" if frames else "an image"


def _word_of(text: str, origin: TokenOrigin) -> Span | str:
    """Return the word of the query that a origin belongs to, or a name for what stands for no character."""
    if origin.box is not None:
        return _IMAGE if origin.frame is None else _VIDEO
    if origin.span is None or origin.span[0] == origin.span[1]:
        return _PROMPT
    return _word_around(text, *origin.span) or origin.span


def _word_around(text: str, start: int, stop: int) -> Span | None:
    """Return the whole word that the characters ``start:stop`` belong to, if they belong to one."""
    for word in _WORD.finditer(text, max(0, text.rfind(" ", 0, start))):
        if word.start() >= stop:
            return None
        if word.end() > start:
            return word.span()
    return None
