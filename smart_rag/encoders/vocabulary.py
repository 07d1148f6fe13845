"""`Vocabulary`: the vocabulary ids of a tokenizer, with -1 for punctuation, as smart_rag stores them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from smart_rag.embeddings.tokens import TokenIds


class Vocabulary:
    """The words of a tokenizer's vocabulary.

    If you write your own encoder, use this class to make the ids of a `smart_rag.Representation`.

    >>> words = {0: "pump", 1: "?!"}
    >>> Vocabulary(lambda ids: words[ids[0]]).ids([0, 1, 0])
    array([ 0, -1,  0], dtype=int32)

    Args:
        decode: returns the text of a list of ids, as ``tokenizer.decode`` does.
    """

    def __init__(self, decode: Callable[[list[int]], str | list[str]]) -> None:
        self._decode = decode
        self._punctuation: dict[int, bool] = {}

    def ids(self, token_ids: ArrayLike) -> TokenIds:
        """Return ``token_ids`` as int32 of the same shape. Tokens that are only punctuation get -1.

        Punctuation has no meaning of its own, even if it is rare in an index. Tokens that decode to nothing, such as
        control tokens, get -1, too.
        """
        unique, position = np.unique(np.asarray(token_ids), return_inverse=True)
        words = [-1 if self._is_punctuation(id) else id for id in unique.tolist()]
        return np.asarray(words, dtype=np.int32)[position].reshape(np.shape(token_ids))

    def _is_punctuation(self, id: int) -> bool:
        if id not in self._punctuation:
            text = "".join(self._decode([id])).strip()
            self._punctuation[id] = all(unicodedata.category(letter).startswith("P") for letter in text)
        return self._punctuation[id]
