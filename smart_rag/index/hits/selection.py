"""`Selection`: which documents of a ranking become hits. A source may have a few of them, and copies become one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import Count, check_count
from smart_rag.errors import InvalidInput
from smart_rag.index.hits.duplicates import Passage, Passages
from smart_rag.scoring.ranking import hybrid, ranking
from smart_rag.store.row import Row
from smart_rag.store.where import Where

# Number of rows that are read at once, for each hit that is wanted.
_ROWS_PER_HIT = 4
# If so many documents are left, those of the full sources are looked up, so that their rows are not read.
_MANY = 2_000

# The metadata value that names a source.
Source = str | int | float


@dataclass(frozen=True, slots=True)
class Rule:
    """Which documents of a ranking become hits.

    Attributes:
        per_source: how many hits a source may have. None if it does not matter.
        source_key: the metadata key that names the source.
        fold: whether documents that say nearly the same become one hit.
    """

    per_source: int | None = None
    source_key: str = "source"
    fold: bool = False

    @classmethod
    def of(cls, per_source: Count | None, source_key: str, fold: bool) -> Rule | None:
        """Return the rule for these arguments of a search. Return None if every document may become a hit.

        Raises:
            InvalidInput: an argument has a value that it cannot have.
        """
        if not isinstance(source_key, str) or not source_key:
            raise InvalidInput(f"source_key must be the name of a metadata key, got {source_key!r:.80}")
        if not isinstance(fold, bool):
            raise InvalidInput(f"fold_duplicates must be True or False, got {fold!r:.80}")
        if per_source is None and not fold:
            return None
        return cls(None if per_source is None else check_count("per_source", per_source), source_key, fold)

    def source_of(self, row: Row) -> Source | None:
        """Return the source of a document. Return None if it is its own source, because its metadata names none."""
        value = row.document.metadata.get(self.source_key)
        return value if isinstance(value, Source) and not isinstance(value, bool) else None

    def without(self, where: Where | None, sources: Collection[Source]) -> Where | None:
        """Return a filter that documents pass if they pass ``where`` and are not from one of ``sources``."""
        if not sources:
            return where
        others = {self.source_key: {"$nin": sorted(sources, key=repr)}}
        return {"$and": [where, others]} if where else others


class Scored:
    """All documents that were scored for one query, with their pooled and late scores."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._pooled = np.empty(0, dtype=np.float32)
        self._late = np.empty(0, dtype=np.float32)

    def add(self, blocks: Iterable[tuple[Sequence[str], NDArray[np.float32], NDArray[np.float32]]]) -> None:
        """Add documents in blocks: n ids, n pooled and n late scores. Documents that are there stay as they are."""
        pooled, late = [self._pooled], [self._late]
        for ids, of_pooled, of_late in blocks:
            new = [i for i, name in enumerate(ids) if name not in self._places]
            for i in new:
                self._places[ids[i]] = len(self._places)
            pooled.append(of_pooled[new])
            late.append(of_late[new])
        self._pooled, self._late = np.concatenate(pooled), np.concatenate(late)

    def ranked(self, weights: tuple[float, float]) -> list[str]:
        """Return the ids of all documents, best first."""
        ids = list(self._places)
        return [ids[i] for i in ranking(hybrid(self._pooled, self._late, weights), ids, len(ids))]

    def of(self, ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the pooled and the late scores (n) of n documents."""
        places = [self._places[name] for name in ids]
        return self._pooled[places], self._late[places]


@dataclass(slots=True)
class Chosen:
    """A document that becomes a hit.

    Attributes:
        row: the document.
        place: its place in the ranking, from 0 on.
        duplicates: the ids of the later documents that were folded into it.
    """

    row: Row
    place: int
    duplicates: list[str] = field(default_factory=list)


class Selection:
    """The first ``top_k`` documents of a ranking that ``rule`` allows.

    A document whose source is full is left out. A document that says nearly the same as an earlier hit is named in this
    hit, and takes one of the places of its own source. All other documents become hits.

    Args:
        top_k: the number of hits.
        rule: which documents become hits.
    """

    def __init__(self, top_k: int, rule: Rule) -> None:
        self._top_k = top_k
        self._rule = rule
        self._taken: dict[Source, int] = {}
        self._passages = Passages()
        self.chosen: list[Chosen] = []

    @property
    def is_full(self) -> bool:
        """Whether all hits were found."""
        return len(self.chosen) >= self._top_k

    @property
    def full_sources(self) -> list[Source]:
        """The sources that may have no more hits."""
        most = self._rule.per_source
        return [] if most is None else [source for source, taken in self._taken.items() if taken >= most]

    def walk(
        self,
        ids: Sequence[str],
        read: Callable[[Sequence[str]], Mapping[str, Row]],
        ids_of: Callable[[Where], Collection[str]],
    ) -> None:
        """Choose among the documents with these ``ids``, which are a ranking, best first.

        Args:
            ids: the ranking.
            read: a function that returns the rows with these ids. Documents without a row are left out.
            ids_of: a function that returns the ids of the documents that pass a filter.
        """
        left = list(enumerate(ids))
        known: set[Source] = set()
        while left and not self.is_full:
            part, left = left[: self._step], left[self._step :]
            rows = read([name for _, name in part])
            for place, name in part:
                if name in rows and not self.is_full:
                    self._offer(rows[name], place)
            new = set(self.full_sources) - known
            if new and len(left) > _MANY and not self.is_full:
                known |= new
                gone = ids_of({self._rule.source_key: {"$in": list(new)}})
                left = [one for one in left if one[1] not in gone]

    @property
    def _step(self) -> int:
        return _ROWS_PER_HIT * self._top_k

    def _offer(self, row: Row, place: int) -> None:
        source, most = self._rule.source_of(row), self._rule.per_source
        if source is not None and most is not None:
            if self._taken.get(source, 0) >= most:
                return
            self._taken[source] = self._taken.get(source, 0) + 1
        if self._rule.fold:
            passage = Passage.of(row)
            earlier = self._passages.first_like(passage)
            if earlier is not None:
                self.chosen[earlier].duplicates.append(row.document.id)
                return
            self._passages.append(passage)
        self.chosen.append(Chosen(row, place))
