"""`Reading`: the number of tokens of a text, and whether a tokenizer knows the script of a text.

A model can only read what its tokenizer knows. The tokenizer of an English model turns a Chinese text into tokens for
unknown words, and a Russian text into single letters. The model still gives embeddings, and texts in such a script
look alike to it. So they get high scores for each other, whatever they say.

Whether a script is known is found out once for a tokenizer, from questions in the most frequent scripts. A short word
says too little: an English model has a token for each character of some Chinese words.

A text in any script is beyond the model, too, if nearly all of it is in tokens for unknown words: words without blanks,
hexadecimal digits, signs.

A language is not told from another one with the same script. An English model reads German badly, and this module does
not notice it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.scoring.foreign import foreign_questions

# A token: whether it stands for unknown words, and its first and last place in a text.
_Piece = tuple[bool, int, int]
# A text is beyond the model if more than this share of its letters is in scripts that the tokenizer does not know.
# Below it, MiniLM still found the right English passage for half of the Chinese questions with English names (XQuAD).
_UNREAD = 0.8
# A script is not known if more than this share of its letters is lost: the letter is in a token for unknown words, or
# it is cut into several tokens.
_LOST = 1 / 3
# It is also not known if more than this share of its letters is lost or a token of its own. Such tokens say nothing of
# a word. Models that know a script also have some of them. docs/unread.md says how often this is right.
_LOST_OR_SINGLE = 0.6
# The number of letters of a script in the questions from which it is told whether a tokenizer knows the script.
_ENOUGH = 50
# Number of characters that are looked at.
_LONGEST = 2_000
# Latin letters, also in the forms that formulas have. Every tokenizer that is not of characters has words of them.
_LATIN = "A-Za-z\u00aa-\u024f\u1e00-\u1eff\u2100-\u214f\uff21-\uff5a\U0001d400-\U0001d7ff"
_LETTER = re.compile(r"[^\W\d_]")
_FOREIGN = re.compile(rf"[^\W\d_{_LATIN}]")
# One or two Greek letters. They are signs in formulas and names, and no word.
_GREEK = "\u0370-\u03ff\u1f00-\u1fff"
_SIGN = re.compile(f"(?<![{_GREEK}])[{_GREEK}]{{1,2}}(?![{_GREEK}])")
# Chinese characters and Korean syllables. Each of them stands for a word or a syllable, so it may be a token.
_SYLLABLE = re.compile("[\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]")
# A letter in cuneiform. A tokenizer that has no token for each byte does not know it.
_UNKNOWN_LETTER = "\U00012000"
_ENGLISH = "Where are the keys of the house?"
# WordPiece takes every longer word for an unknown one, such as hexadecimal digits, or words that only a character of
# zero width parts.
_LONG_WORD = 100
# A sign such as those of Braille. Of letters, the script decides.
_SEEN_SIGN = re.compile(r"[^\w\s\x00-\xff\u2000-\u206f]")
# What stands for a blank in tokens.
_BLANKS = "\u2581\u0120 "
# The places of tokens in a long text are found in parts of about this number of characters, by all cores.
_PART = 2_000
# The places before single blanks at which it is cut. Some tokenizers have tokens of a sign and line breaks.
_CUTS = {" ": r"(?<=\S)(?= \S)", "\n": r"(?<=\w)(?=\n\w)"}


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

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        """Return the first and last place of each token of ``text``. Return None if the tokenizer knows no places.

        A long text is cut before blanks, and all cores read it, if this tokenizer finds the same tokens then.
        """
        if not getattr(self._tokenizer, "is_fast", False):
            return None
        parts = self._parts(text)
        encoded = self._tokenizer(
            parts, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
        )
        spans: list[tuple[int, int]] = encoded["offset_mapping"][0]
        begin = len(parts[0])
        for part, found in zip(parts[1:], encoded["offset_mapping"][1:], strict=True):
            spans += [(begin + start, begin + stop) for start, stop in found]
            begin += len(part)
        return spans

    def _parts(self, text: str) -> list[str]:
        """Return the parts of a text that can be read one by one. A short text is one part."""
        places = [place for blank, place in _CUTS.items() if len(text) > 2 * _PART and self._reads_words_alone(blank)]
        if not places:
            return [text]
        cut = re.compile("|".join(places))
        parts, begin = [], 0
        while len(text) - begin > 2 * _PART and (found := cut.search(text, begin + _PART)):
            parts.append(text[begin : found.start()])
            begin = found.start()
        return [*parts, text[begin:]]

    def _reads_words_alone(self, blank: str) -> bool:
        """Return whether a text has the same tokens if it is cut before ``blank``. Some tokenizers add a blank."""
        both, first, second = self.lengths([f"keys{blank}house", "keys", f"{blank}house"])
        return both == first + second

    def unread(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether it is in a script that the tokenizer does not know, or mostly unknown words.

        Every value is False if the tokenizer does not tell: if it is of single characters or bytes, or if it does not
        know the places of its tokens in a text.
        """
        return [self._is_unread(text[:_LONGEST]) or self._is_unknown(text[:_LONGEST]) for text in texts]

    def _is_unknown(self, text: str) -> bool:
        """Return whether nearly all of ``text`` is in tokens for unknown words, whatever its letters are.

        Most texts need no tokens for this: they have no long words, and few signs.
        """
        words = text.split()
        is_signs = not text.isascii() and 2 * len(_SEEN_SIGN.findall(text)) > len(text)
        if not is_signs and max(map(len, words), default=0) <= _LONG_WORD:
            return False
        if not (words and self._tells and self._has_unknown_words):
            return False
        pieces = self._pieces(text)
        seen = "".join(text[: max((stop for _, _, stop in pieces), default=len(text))].split())
        return sum(stop - start for is_unknown, start, stop in pieces if is_unknown) > _UNREAD * len(seen)

    def _is_unread(self, text: str) -> bool:
        text = _SIGN.sub(lambda sign: " " * len(sign[0]), text)
        if not _is_foreign(text) or not self._tells:
            return False
        pieces = self._pieces(text)
        # A tokenizer may cut a text at the model's length.
        text = text[: max((stop for _, _, stop in pieces), default=len(text))]
        letters, lost, single = self._scripts(text, pieces)
        unread = 0
        for script, count in letters.items():
            known = self._known_scripts.get(script)
            if known is None:
                known = self._knows(count, lost[script], single[script])
            unread += 0 if known else count
        return unread > _UNREAD * len(_LETTER.findall(text))

    def _knows(self, letters: int, lost: int, single: int) -> bool:
        """Return whether the tokenizer knows a script: of its letters, ``single`` are a token of their own."""
        is_single = self._has_unknown_words and lost + single > _LOST_OR_SINGLE * letters
        return lost <= _LOST * letters and not is_single

    @cached_property
    def _known_scripts(self) -> dict[str, bool]:
        """Whether the tokenizer knows each of the scripts of the foreign questions."""
        totals: tuple[Counter[str], ...] = (Counter(), Counter(), Counter())
        for text in (text for group in foreign_questions().values() for text in group if _is_foreign(text)):
            for total, found in zip(totals, self._scripts(text, self._pieces(text)), strict=True):
                total.update(found)
        letters, lost, single = totals
        return {
            script: self._knows(count, lost[script], single[script])
            for script, count in letters.items()
            if count >= _ENOUGH
        }

    def _scripts(self, text: str, pieces: Sequence[_Piece]) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """Return for each foreign script of ``text`` the number of its letters, of the lost and of the single ones."""
        lost, single = _lost_and_single(text, pieces)
        letters = [(match.start(), _script(match[0])) for match in _FOREIGN.finditer(text)]
        return (
            Counter(script for _, script in letters),
            Counter(script for i, script in letters if lost[i]),
            Counter(script for i, script in letters if single[i] and not lost[i]),
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
    """Return whether so many letters of ``text`` are of other scripts than Latin that it may be unread.

    A single letter is no word, unless it is a Chinese character or a Korean syllable.
    """
    if text.isascii() or not (foreign := len(_FOREIGN.findall(text))):
        return False
    letters = len(_LETTER.findall(text))
    return foreign > _UNREAD * letters and (letters > 1 or bool(_SYLLABLE.search(text)))


@lru_cache(maxsize=10_000)
def _script(letter: str) -> str:
    """Return the script of ``letter``, the first word of its name in Unicode, such as CYRILLIC or CJK."""
    return re.split("[ -]", unicodedata.name(letter, ""))[0]


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
