"""`Reading`: the number of tokens of a text, and whether a tokenizer knows the script of a text.

A model can only read what its tokenizer knows. The tokenizer of an English model turns a Chinese text into tokens for
unknown words, and a Russian text into single letters. The model still gives embeddings, and texts in such a script
look alike to it. So they get high scores for each other, whatever they say.

A language is not told from another one with the same script. An English model reads German badly, and this module does
not notice it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A token: whether it stands for unknown words, and its first and last place in a text.
_Piece = tuple[bool, int, int]
# A text is beyond the model if more than this share of its letters is lost: the letter is in a token for unknown words,
# or it is cut into several tokens.
_LOST = 1 / 3
# It is also beyond the model if more than this share of its letters is lost or a token of its own. Such tokens say
# nothing of a word. Models that know a script also have some of them. docs/models.md says how often this is right.
_LOST_OR_SINGLE = 0.6
# Number of characters that are looked at.
_LONGEST = 2_000
# Latin letters, also in the forms that formulas have. Every tokenizer that is not of characters has words of them.
_LATIN = "A-Za-z\u00aa-\u024f\u1e00-\u1eff\u2100-\u214f\uff21-\uff5a\U0001d400-\U0001d7ff"
_LETTER = re.compile(r"[^\W\d_]")
_FOREIGN = re.compile(rf"[^\W\d_{_LATIN}]")
# Chinese characters and Korean syllables. Each of them stands for a word or a syllable, so it may be a token.
_SYLLABLE = re.compile("[\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]")
# A letter in cuneiform. A tokenizer that has no token for each byte does not know it.
_UNKNOWN_LETTER = "\U00012000"
_ENGLISH = "Where are the keys of the house?"
# What stands for a blank in tokens.
_BLANKS = "\u2581\u0120 "


class Reading:
    """What ``tokenizer`` makes of texts. Special tokens and prompts do not count."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each full text."""
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def unread(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether it is in a script that the tokenizer does not know.

        Every value is False if the tokenizer does not tell: if it is of single characters or bytes, or if it does not
        know the places of its tokens in a text.
        """
        return [self._is_unread(text[:_LONGEST]) for text in texts]

    def _is_unread(self, text: str) -> bool:
        if text.isascii() or not _is_foreign(text) or not self._tells:
            return False
        pieces = self._pieces(text)
        end = max(
            (stop for _, _, stop in pieces), default=len(text)
        )  # a tokenizer may cut a text at the model's length
        text = text[:end]
        letters = len(_LETTER.findall(text))
        foreign = [match.start() for match in _FOREIGN.finditer(text)]
        lost, single = _lost_and_single(text, pieces)
        return bool(
            lost[foreign].sum() > _LOST * letters
            or (self._has_unknown_words and (lost | single)[foreign].sum() > _LOST_OR_SINGLE * letters)
        )

    def _pieces(self, text: str) -> list[_Piece]:
        """Return the tokens of ``text`` that are not blank: whether it stands for unknown words, start and stop.

        This leaves the settings of the tokenizer as they are, because another thread may use it.
        """
        encoded = self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        unknown = self._tokenizer.unk_token_id
        return [
            (id == unknown, *span)
            for id, token, span, attended in zip(
                encoded.ids, encoded.tokens, encoded.offsets, encoded.attention_mask, strict=True
            )
            if attended and token.strip(_BLANKS)
        ]

    @cached_property
    def _tells(self) -> bool:
        """Whether tokens have places in a text, and are words or parts of words."""
        is_fast = bool(getattr(self._tokenizer, "is_fast", False))
        return is_fast and 2 * len(self._pieces(_ENGLISH)) < len(_ENGLISH)

    @cached_property
    def _has_unknown_words(self) -> bool:
        """Whether there are letters that the tokenizer does not know.

        A tokenizer with a token for each byte knows all letters. Large models learn a script even from single letters.
        So a letter that is a token says nothing there.
        """
        return all(is_unknown for is_unknown, _, _ in self._pieces(_UNKNOWN_LETTER))


def _is_foreign(text: str) -> bool:
    """Return whether more letters of ``text`` than may be lost are of other scripts than Latin."""
    foreign = len(_FOREIGN.findall(text))
    return foreign > 0 and (letters := len(_LETTER.findall(text))) >= 2 and foreign > _LOST * letters


def _lost_and_single(text: str, pieces: Sequence[_Piece]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each character whether it is lost, and whether it is a token of its own inside a word."""
    lost, single = np.zeros((2, len(text)), dtype=np.bool_)
    tokens = np.zeros(len(text), dtype=np.int64)  # the number of tokens that a character is in
    for is_unknown, start, stop in pieces:
        tokens[start:stop] += 1
        lost[start:stop] |= is_unknown
        letters = [i for i in range(start, stop) if _is_of_word(text[i])]
        if len(letters) == 1 and not _SYLLABLE.match(text[letters[0]]):
            single[letters] = any(map(_is_of_word, (text[start - 1 : start], text[stop : stop + 1])))
    return lost | (tokens != 1), single


def _is_of_word(character: str) -> bool:
    """Return whether ``character`` is a letter or a mark on a letter, such as a vowel in Hindi."""
    return character != "" and unicodedata.category(character)[0] in "LM"
