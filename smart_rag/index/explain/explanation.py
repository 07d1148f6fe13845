"""`Explanation`: the matches between parts of a document and of a query, as numbers, words and pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.tokens import FloatArray
from smart_rag.encoders.protocol import Encoder, token_origins_of
from smart_rag.errors import InvalidInput
from smart_rag.files import content as media
from smart_rag.files.formats import video
from smart_rag.index.explain.pictures import add_legend, draw_heat_map, draw_marked_text, mark_boxes
from smart_rag.scoring.maxsim import similarities as similarities_of
from smart_rag.types import RECOGNISED, Content, Encodable, Hit, Match, PdfPage, Span, Task, TokenOrigin

if TYPE_CHECKING:
    from PIL import Image

_WORD = re.compile(r"\w+")
# Because of rounding, the mean of equal numbers can be greater than these numbers. This is the maximum difference.
_ROUNDING = 1e-9
_PIXELS = 1_000_000
_WORDS = 16  # maximum number of words in a legend
# Names for query tokens that do not come from a word.
_IMAGE, _VIDEO, _PROMPT = "[image]", "[video]", "[prompt]"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Explanation:
    """Why a hit was found: the token that matched each query token, and the share of each match in the score.

    >>> explanation = index.search("seawater pump")[0].explain()       # doctest: +SKIP
    >>> explanation.words                                              # doctest: +SKIP
    [('seawater', 0.61), ('pump', 0.55)]
    >>> explanation.picture().save("why.png")                          # doctest: +SKIP

    Attributes:
        query, hit: the query of the search, and the hit that is explained.
        weights: the weights of the pooled and the late score in the hit's score.
        matches: the best match of each query token, in the query's order. The hit's late score is the sum of weight x
            similarity over all matches. If the index pools tokens, or if documents were added after the search, the
            sum is close to the late score, but may differ from it.
        query_origins: the origin of each query token (q).
        origins: the origin of each document token (n).
        similarities: the cosine of each query token with each document token, (q, n) float32.
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
        """The two parts of the hit's score: from the pooled score and from the late score."""
        return self.weights[0] * self.hit.pooled_score, self.weights[1] * self.hit.late_score

    @property
    def words(self) -> list[tuple[str, float]]:
        """The query's words in their order. Each word has the part of the hit's score that comes from it.

        All patches of the query's image count as one word, ``[image]``. The patches of its video count as ``[video]``,
        and the tokens of the model's prompt as ``[prompt]``. The sum of all these numbers is the part of the score that
        comes from late interaction.
        """
        shares: dict[Span | str, float] = {}
        for match in self.matches:
            key = word_of(self.query.text, match.query)
            shares[key] = shares.get(key, 0.0) + self.weights[1] * match.weight * match.similarity
        return [(key if isinstance(key, str) else self.query.text[slice(*key)], share) for key, share in shares.items()]

    def similarity_map(self, token: int | None = None, frame: int | None = None) -> NDArray[np.float32]:
        """Return the similarity of each patch of the hit's image to the query: (rows, columns) float32.

        The similarity is the weighted mean of the patch's cosines with the query tokens. Negative cosines count as 0.
        Tokens of the prompt are left out, because they are the same in every query. If the token of a patch takes no
        part in late interaction, the patch has the similarity 0.

        Args:
            token: the position of a query token. If it is given, the map shows only the cosines of this token.
            frame: the number of a video's frame, as in `TokenOrigin.frame`. By default, the frame with the most
                similar patch.

        Raises:
            InvalidInput: no token of the hit is a patch of an image or of the frame, or there is no query token at the
                position.
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
        """Return a picture of the hit. A heat map covers an image or a frame of a video. In a text, words are marked.

        In a text, the words of `emphasis` are marked. If a text is long, the picture shows the part with the most
        marks. If a text comes from a PDF, the picture shows its page.

        Args:
            token, frame: as for `similarity_map`. In a text, only the word that matched the token is marked.
            legend: add the scores and the query's most important words below the picture.

        Raises:
            InvalidInput: there is nothing to draw, because no token of the hit is a patch or a word.
            DocumentError: the hit's image or video can no longer be read.
        """
        maps = self._maps(token)
        if maps:
            values = self.similarity_map(token, frame)
            drawn = draw_heat_map(self._image(_best(maps) if frame is None else frame), values, _PIXELS)
            scale = (float(values.min()), float(values.max()))
        elif any(origin.span is not None for origin in self.origins):
            drawn, scale = self._marked_page(token) or draw_marked_text(self.hit.text, self._marks(token)), None
        else:
            raise InvalidInput(
                f"the hit {self.hit.id!r} has neither words nor patches among its tokens; there is nothing to draw"
            )
        return add_legend(drawn, self._title(token), self._chips(token), scale) if legend else drawn

    def _maps(self, token: int | None) -> dict[int | None, NDArray[np.float32]]:
        """Return a dict from the number of each frame to its similarity map. An image has the number None."""
        if token is not None and not 0 <= token < len(self.matches):
            raise InvalidInput(f"token must be 0 to {len(self.matches) - 1}, a position in the query, got {token!r}")
        if token is None:
            own = np.asarray([origin != TokenOrigin() for origin in self.query_origins])
            weights = np.asarray([match.weight for match in self.matches]) * (own if own.any() else 1)
            mean = weights / (weights.sum() or 1) @ np.maximum(self.similarities, 0)
        else:
            mean = self.similarities[token]
        maps: dict[int | None, NDArray[np.float32]] = {}
        for value, origin in zip(mean.tolist(), self.origins, strict=True):
            if origin.box is not None:
                left, top, right, bottom = origin.box
                # This uses the size of a patch, not the number of patches, because some patches may be left out.
                columns, rows = round(1 / (right - left)), round(1 / (bottom - top))
                grid = maps.setdefault(origin.frame, np.zeros((rows, columns), dtype=np.float32))
                grid[round(top * rows), round(left * columns)] = value
        return maps

    def _image(self, frame: int | None) -> Image.Image:
        if frame is None and self.hit.image is not None:
            return media.open_image(self.hit.image, _PIXELS)
        if self.hit.video is None:
            raise InvalidInput(f"the hit {self.hit.id!r} has no image to draw on; use similarity_map")
        if frame is None:
            return video.middle_frame(self.hit.video, _PIXELS)
        # Two frames make one patch. If the number of frames is odd, the last frame makes a patch alone.
        count = 2 * (1 + max(origin.frame for origin in self.origins if origin.frame is not None))
        frames = video.read_frames(self.hit.video, 1.0, count, _PIXELS, count).images
        return frames[min(2 * frame, len(frames) - 1)]

    def _marks(self, token: int | None) -> list[tuple[Span, float]]:
        """Return the emphasised words of the hit's text, with their heat. The word that adds most has the heat 1."""
        matches = self.matches if token is None else self.matches[token : token + 1]
        text = self.hit.text
        given = dict.fromkeys(emphasis(text, matches), 0.0)
        for match in matches:
            word = match.document.span and _word_around(text, *match.document.span)
            if word in given:
                given[word] += max(match.weight * match.similarity, 0)
        return [(span, value / (max(given.values()) or 1)) for span, value in given.items()]

    def _marked_page(self, token: int | None) -> Image.Image | None:
        """Return the page of the hit's text, with its words marked. Return None if the page does not show the
        words.
        """
        page = self.hit.image
        if not isinstance(page, PdfPage):
            return None
        recognised = self.hit.metadata.get(RECOGNISED) is True
        start = media.page_text(page, recognised).find(self.hit.text)
        marks = self._marks(token)
        if start < 0 or not marks:
            return None
        found = media.page_boxes(page, [(start + first, start + last) for (first, last), _ in marks], recognised)
        boxes = [(box, heat) for (_, heat), those in zip(marks, found, strict=True) for box in those]
        return mark_boxes(media.open_image(page, _PIXELS), boxes) if boxes else None

    def _title(self, token: int | None) -> str:
        hit = self.hit
        pooled, late = self.weights
        title = f"{hit.score:.3f} = {pooled:g} x {hit.pooled_score:.3f} pooled + {late:g} x {hit.late_score:.3f} late"
        return title if token is None else f"{title}; token {token} alone"

    def _chips(self, token: int | None) -> list[tuple[str, float]]:
        """Return the most important words for the legend, with their heat, in the query's order."""
        words = self.words
        if token is not None:
            match = self.matches[token]
            word = word_of(self.query.text, match.query)
            words = [(word if isinstance(word, str) else self.query.text[slice(*word)], match.similarity)]
        # The prompt adds much to every score. Compared with the prompt, all words would look pale.
        most = max((share for word, share in words if word != _PROMPT), default=0)
        best = sorted(range(len(words)), key=lambda i: -words[i][1])[:_WORDS]
        chosen = [words[i] for i in sorted(best)]
        return [
            (f"{word} {share:.2f}", share / most if most > 0 and word != _PROMPT else 0.0) for word, share in chosen
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A query for late interaction: its token embeddings (q, dimension), their origins and their weights."""

    content: Content
    tokens: FloatArray
    origins: tuple[TokenOrigin, ...]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, query: Encodable, tokens: FloatArray, weights: NDArray[np.float32], encoder: Encoder) -> Question:
        """Return the question for ``query``. ``encoder`` made its ``tokens`` (q, dimension). ``weights`` are (q)."""
        return cls(Content.of(query), tokens, _origins(encoder, query, "query", len(tokens)), weights)

    def explanation(
        self, hit: Hit, document: Encodable, tokens: FloatArray, weights: tuple[float, float], encoder: Encoder
    ) -> Explanation:
        """Return the explanation of ``hit``. ``encoder`` made the ``tokens`` (n, dimension) of ``document``."""
        origins = _origins(encoder, document, "document", len(tokens), hit.id)
        similarities = similarities_of(self.tokens, tokens)
        best = similarities.argmax(axis=1)
        found = zip(self.origins, best.tolist(), self.weights.tolist(), similarities, strict=True)
        matches = tuple(Match(origin, origins[i], float(row[i]), weight) for origin, i, weight, row in found)
        return Explanation(self.content, hit, weights, matches, self.origins, origins, similarities)


def emphasis(text: str, found: Sequence[Match]) -> list[Span]:
    """Return the words of ``text`` that matched best, in their order, without punctuation.

    A matched word is taken if it meets two conditions. Its similarity is at least the mean of all similarities. The
    product of its weight and its similarity is at least the mean of all such products. If no word meets both
    conditions, the second condition is enough.
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
    """Return the origin of each of the ``count`` token embeddings of ``item``."""
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


def word_of(text: str, origin: TokenOrigin) -> Span | str:
    """Return the word of the query at ``origin``. If there is no word, return a name such as ``[prompt]``."""
    if origin.box is not None:
        return _IMAGE if origin.frame is None else _VIDEO
    if origin.span is None or origin.span[0] == origin.span[1]:
        return _PROMPT
    return _word_around(text, *origin.span) or origin.span


def _word_around(text: str, start: int, stop: int) -> Span | None:
    """Return the word around the characters ``start:stop``. Return None if they are in no word."""
    for word in _WORD.finditer(text, max(0, text.rfind(" ", 0, start))):
        if word.start() >= stop:
            return None
        if word.end() > start:
            return word.span()
    return None
