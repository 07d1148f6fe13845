"""Encoders that care for the script of a word, as a model of several languages does. They cost nothing."""

from __future__ import annotations

import unicodedata
import zlib

import numpy as np
from helpers.word_encoder import VocabularyEncoder


class ScriptEncoder(VocabularyEncoder):
    """Words of one script are similar, and all the more so if they are the same word.

    Texts without spaces, such as Chinese ones, are cut into letters.
    """

    fingerprint = "scripts"

    def encode_query(self, texts):
        return super().encode_query([" ".join(self._words(text)) for text in texts])

    encode_document = encode_query

    def _words(self, text):
        return [part for word in text.split() for part in (word if _script(word) in ("CJK", "HIRAGANA") else [word])]

    def _word(self, word):
        seed = zlib.crc32(_script(word).encode())
        return super()._word(word) + 1.5 * np.random.default_rng(seed).standard_normal(self.dimension)


class LatinEncoder(ScriptEncoder):
    """Knows no words but Latin ones and numbers: all others are the same unknown word."""

    fingerprint = "latin"

    def _words(self, text):
        return [word if word.isascii() or _script(word) == "LATIN" else "[UNK]" for word in super()._words(text)]


def _script(word):
    """The script of a word, such as "LATIN" or "CYRILLIC"; digits and signs count as Latin."""
    letters = [letter for letter in word if letter.isalpha()]
    return unicodedata.name(letters[0]).split()[0] if letters else "LATIN"
