"""Whether a reader gave all text of a file: a check against the raw text of its XML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from smart_rag.wording import number


def missing_words(raw: Iterable[str], given: Iterable[str]) -> Iterator[str]:
    """Yield a phrase if ``given`` lacks some of the words of ``raw``.

    Letters are counted, not words: XML may break a word into several elements, and text boxes may stand in words. So
    the number of words is about right only.
    """
    raw, given = list(raw), list(given)
    missing = _letters(raw) - _letters(given)
    if missing:
        like = given if any(given) else raw  # in ``raw``, words are broken into parts
        words_per_letter = sum(len(text.split()) for text in like) / max(1, _letters(like).total())
        words = max(1, round(missing.total() * words_per_letter))
        yield f"about {number(words, 'word')} that the raw text of the file has and the reader did not give"


def embedded_files(related: Mapping[str, tuple[str, str]], read: Collection[str] = ()) -> Iterator[str]:
    """Yield a phrase if a part of an OOXML document refers to other files in it, but for those that are ``read``."""
    count = sum(kind in ("aFChunk", "oleObject", "package") and name not in read for kind, name in related.values())
    if count:
        yield f"{number(count, 'embedded file')} not read"


def _letters(texts: Iterable[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for text in texts:
        found.update(text)
    return Counter({letter: count for letter, count in found.items() if letter.isalnum()})
