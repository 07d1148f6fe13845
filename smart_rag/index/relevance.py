"""`Calibration`: the scale of relevance of one index. It comes from questions that no index answers.

These foreign questions are about many subjects, in several languages, and of many lengths. Some are nonsense. The best
hits of such questions show which scores an irrelevant hit can have in this index. No labels are needed.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from smart_rag.config import DEFAULT_CANDIDATES, Weighting
from smart_rag.embeddings.representation import Representation
from smart_rag.encoders.protocol import unread_by
from smart_rag.errors import InvalidInput
from smart_rag.index.index_encoder import IndexEncoder
from smart_rag.index.search import Search
from smart_rag.scoring.foreign import hardest_hits
from smart_rag.scoring.relevance import Scale
from smart_rag.types import Hit
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# If an index has more documents, the best hit of any question has a higher score. After this growth, ask again.
_MUCH = 1.5
_QUERIES_AT_ONCE = 64

_Setting = tuple[tuple[float, float], Weighting]


class Calibration:
    """The scales of relevance for the index of ``encoder``. There is one scale for each setting of a search.

    Args:
        encoder: the encoder of the index.
        saved: the record of a scale that `set` returned, from the manifest. None if there is no such record.
    """

    def __init__(self, encoder: IndexEncoder, saved: Mapping[str, Any] | None) -> None:
        self._encoder = encoder
        self._mutex = threading.Lock()
        self._scales: dict[_Setting, tuple[int, Scale]] = {}
        self._is_labelled = False
        if saved is not None:
            try:
                pooled, late = map(float, saved["weights"])
                scale = Scale(float(saved["median"]), float(saved["half"]))
                self._scales[(pooled, late), str(saved["weighting"])] = int(saved["documents"]), scale  # type: ignore[index]
                self._is_labelled = bool(saved.get("labelled"))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self._scales.clear()
                logger.warning("the scale of relevance in the manifest cannot be read (%r); it is found again", error)

    def scale(self, search: Search) -> Scale | None:
        """Return the scale for hits of ``search``. Return None if the index has no encoder or no documents.

        The index is searched for the foreign questions when a scale is first needed. It is searched again when it has
        grown much.
        """
        if not self._encoder.exists:
            return None
        documents = search.store.pooled.count()
        with self._mutex:
            known, scale = self._scales.get(_setting(search), (0, None))
            if scale is None or not _fits(known, documents):
                if scale is not None and self._is_labelled:
                    self._is_labelled = False
                    logger.warning(
                        "the index has grown much since its relevance was fitted to labelled queries, which no longer "
                        "holds; run `smart-rag tune`, or SmartIndex.calibrate with their scores, again"
                    )
                foreign = self.foreign_scores(search)
                scale = Scale.of(foreign) if foreign else None
                if scale is not None:
                    self._scales[_setting(search)] = documents, scale
            return scale

    def is_current(self, search: Search) -> bool:
        """Return whether there is a scale for hits of ``search``, and the index has not grown much since then."""
        known = self._scales[_setting(search)][0] if _setting(search) in self._scales else 0
        return _fits(known, search.store.pooled.count())

    def foreign_scores(self, search: Search) -> list[float]:
        """Return the scores of the best hits of foreign questions, in the language that sets the scale."""
        started = time.perf_counter()
        asking = replace(
            search,
            top_k=1,
            candidates=DEFAULT_CANDIDATES,
            first_stage="auto",
            where=None,
            where_document=None,
            rule=None,
        )

        def best(questions: Representation) -> list[float | None]:
            parts = [
                questions.slice(start, start + _QUERIES_AT_ONCE) for start in range(0, len(questions), _QUERIES_AT_ONCE)
            ]
            return [hits[0].score if hits else None for part in parts for hits in asking.hits(part)]

        scores = hardest_hits(self._encoder.encode_queries, best, float, unread_by(self._encoder.load()))
        logger.info(
            "calibrated the relevance of hits by %s in %.1f s",
            *(number(len(scores), "question"), time.perf_counter() - started),
        )
        return scores

    def set(self, search: Search, scale: Scale, is_labelled: bool) -> dict[str, Any]:
        """Use ``scale`` for hits of ``search`` from now on, and return a record of the scale for the manifest.

        ``is_labelled`` says whether the scale was fitted to labelled queries.
        """
        documents = search.store.pooled.count()
        with self._mutex:
            self._scales[_setting(search)] = documents, scale
            self._is_labelled = is_labelled
        weights, weighting = _setting(search)
        return {
            "documents": documents,
            "weights": list(weights),
            "weighting": weighting,
            "labelled": is_labelled,
            **asdict(scale),
        }


def checked_scores(scores: Iterable[float] | None) -> list[float]:
    """Return ``scores`` as a list of finite numbers. If they are None, the list is empty.

    Raises:
        InvalidInput: a score is not a finite number.
    """
    try:
        values = [float(score) for score in ([] if scores is None else scores)]
    except (TypeError, ValueError):
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise InvalidInput(f"the scores of relevant hits must be finite numbers, got {scores!r:.80}")
    return values


def relevant_hits(hits: Sequence[Hit], min_relevance: float, needed: str) -> list[Hit]:
    """Return the ``hits`` with at least this relevance. All hits must come from the same query.

    Raises:
        InvalidInput: the relevance of a hit is unknown. The message ends with ``needed``: what must be done first.
    """
    kept = []
    for hit in hits:
        relevance = hit.relevance
        if relevance is None:
            raise InvalidInput(f"min_relevance needs a query without image and video, and {needed}")
        if relevance < min_relevance:
            break  # the hits are sorted by relevance
        kept.append(hit)
    return kept


def _fits(known: int, documents: int) -> bool:
    """Return whether a scale fits an index of ``documents`` documents if it was found with ``known`` documents."""
    return known / _MUCH < documents < known * _MUCH


def _setting(search: Search) -> _Setting:
    return search.weights, search.weighting
