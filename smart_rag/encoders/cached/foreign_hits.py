"""`ForeignHits`: the scores of documents for *foreign questions*, which are questions that no document answers.

These scores give reranked documents their relevance.
`smart_rag.rerank` has no index that it could search for the foreign questions. So a `CachedEncoder` scores the
documents of an application once, and writes the scores of the best documents to its folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.representation import Representation
from smart_rag.errors import CorruptStore
from smart_rag.paths import write_whole
from smart_rag.scoring import maxsim
from smart_rag.scoring.foreign import hardest_hits
from smart_rag.scoring.ranking import hybrid
from smart_rag.scoring.relevance import Scale
from smart_rag.types import Key

# Number of documents that late interaction scores for one question. A retriever gives a reranker a similar number.
_CANDIDATES = 50
# Number of pooled embeddings that are in memory at once.
_AT_ONCE = 4096

# Pairs of a pooled and a late score, one for each document that may be the best for some weights.
Front = tuple[tuple[float, float], ...]
Pooled = Callable[[Sequence[Key]], NDArray[np.float32]]
Vectors = Callable[[Sequence[Key]], Representation]


@dataclass(frozen=True, slots=True)
class ForeignHits:
    """The best scores of a folder's documents for each foreign question in one language.

    A reranker may use any weights. So we keep each pair of a pooled and a late score that can be the best for some
    weights. These are the pairs for which no other document has both a higher pooled score and a higher late score.
    With these pairs, `scale` can compute the scale for any weights.

    Attributes:
        documents: number of documents that were scored.
        entries: number of entries in the folder when the documents were scored.
        best: for each question, the pairs of a pooled and a late score.
    """

    documents: int
    entries: int
    best: tuple[Front, ...]

    @classmethod
    def find(
        cls,
        encode: Callable[[Sequence[str]], Representation],
        keys: Sequence[Key],
        entries: int,
        pooled_of: Pooled,
        vectors_of: Vectors,
        weights: tuple[float, float],
        unread: Callable[[Sequence[str]], list[bool]] | None = None,
    ) -> ForeignHits:
        """Score the documents under ``keys`` for foreign questions. At least one key is needed.

        ``encode`` returns the representation of questions. ``pooled_of`` returns the pooled embeddings (n, dimension)
        of documents, L2-normalised. ``vectors_of`` returns their pooled and token embeddings. The scores with
        ``weights`` decide in which language the questions are. ``unread`` is that of `hardest_hits`.
        """

        def best(questions: Representation) -> list[Front]:
            found = []
            for question, candidates in zip(questions, _candidates(questions, keys, pooled_of), strict=True):
                vectors = vectors_of(candidates)
                pooled = maxsim.pooled_similarity(question.pooled, vectors.pooled)[0]
                found.append(_front(pooled, maxsim.late_interaction(question.tokens, vectors.tokens, "cpu")[0]))
            return found

        return cls(
            len(keys), entries, tuple(hardest_hits(encode, best, lambda front: _highest(front, weights), unread))
        )

    def scale(self, weights: tuple[float, float]) -> Scale:
        """Return the scale of relevance for scores with these ``weights``."""
        return Scale.of([_highest(front, weights) for front in self.best])

    def write(self, path: Path) -> None:
        """Write the scores to ``path``. After a crash, the file is the old one or the new one, never half a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> ForeignHits | None:
        """Return the scores in the file ``path``. Return None if there is no such file.

        Raises:
            CorruptStore: the file does not contain such scores.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            values = {}
        try:
            best = tuple(tuple((float(pooled), float(late)) for pooled, late in hits) for hits in values["best"])
            found = cls(int(values["documents"]), int(values["entries"]), best)
            found.scale((1.0, 1.0))
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, RecursionError) as error:
            raise CorruptStore(f"{path} is damaged; delete it, and calibrate again") from error
        return found


def _candidates(questions: Representation, keys: Sequence[Key], pooled_of: Pooled) -> list[list[Key]]:
    """For each of ``questions``, return the keys of the documents with the highest pooled scores."""
    scores: NDArray[np.float32] = np.zeros((len(questions), 0), dtype=np.float32)
    positions: NDArray[np.int64] = np.zeros((len(questions), 0), dtype=np.int64)
    for start in range(0, len(keys), _AT_ONCE):
        new = maxsim.pooled_similarity(questions.pooled, pooled_of(keys[start : start + _AT_ONCE]))
        scores = np.hstack([scores, new])
        positions = np.hstack([positions, np.broadcast_to(start + np.arange(new.shape[1]), new.shape)])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :_CANDIDATES]
        scores, positions = np.take_along_axis(scores, best, 1), np.take_along_axis(positions, best, 1)
    return [[keys[i] for i in row] for row in positions.tolist()]


def _front(pooled: NDArray[np.float32], late: NDArray[np.float32]) -> Front:
    """Return the pairs (pooled, late) for which no other pair is higher in both scores."""
    front: list[tuple[float, float]] = []
    for i in np.lexsort((-late, -pooled)).tolist():
        if not front or late[i] > front[-1][1]:
            front.append((float(pooled[i]), float(late[i])))
    return tuple(front)


def _highest(front: Front, weights: tuple[float, float]) -> float:
    """Return the highest score of the documents in ``front`` with these ``weights``."""
    pairs = np.asarray(front, dtype=np.float32)
    return float(hybrid(pairs[:, 0], pairs[:, 1], weights).max())
