"""`Changes`: what has changed in a `TermStore` since a reader last looked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.tokens import Offsets, TokenIds
from smart_rag.types import Revision


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes in a store since an earlier call of `TermStore.changes`.

    n documents were added. ``slots`` (n) int64 are their slots, in ascending order. ``hashes`` (n) uint64 are the
    hashes of their ids. ``terms[offsets[i] : offsets[i + 1]]`` are the terms of document i. ``live`` has all slots
    that are now in the store. It is None if no document was removed. ``doubtful`` has the slots of revisions in doubt
    (see `TermStore.put`). Pass ``version`` to the next call.
    """

    version: int
    slots: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    terms: TokenIds
    offsets: Offsets
    live: NDArray[np.int64] | None
    doubtful: Mapping[Revision, int]
