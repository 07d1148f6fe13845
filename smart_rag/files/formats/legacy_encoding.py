"""Which of the older encodings a text has. chardet gives candidates, and the words that each one gives decide.

chardet alone takes short Italian for Macedonian and short French for Hungarian. A reader sees at once that
"citt" with a Cyrillic letter at its end is no word. So do these rules.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

# A detector needs no more bytes than this.
_SAMPLE_BYTES = 1 << 16

# chardet's names of the encodings that files usually have, and the codec that reads each. The codec is the one that
# browsers take: it also reads the texts of the encoding's older and smaller forms.
_CODECS = {
    "windows-1250": "cp1250",
    "windows-1251": "cp1251",
    "windows-1252": "cp1252",
    "windows-1253": "cp1253",
    "windows-1254": "cp1254",
    "windows-1255": "cp1255",
    "windows-1256": "cp1256",
    "windows-1257": "cp1257",
    "cp874": "cp874",
    "iso-8859-2": "iso8859-2",
    "iso-8859-5": "iso8859-5",
    "iso-8859-6": "iso8859-6",
    "iso-8859-7": "iso8859-7",
    "iso-8859-15": "iso8859-15",
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    "ibm866": "cp866",
    "cp932": "cp932",
    "euc_jis_2004": "euc_jis_2004",
    "gb18030": "gb18030",
    "big5hkscs": "big5hkscs",
    "cp949": "cp949",
}
# chardet may give an encoding under the name of a smaller or larger one.
_OTHER_NAMES = {
    "iso-8859-1": "cp1252",
    "iso8859-15": "iso8859-15",
    "iso-8859-9": "cp1254",
    "shift_jis": "cp932",
    "shift_jis_2004": "cp932",
    "euc-jp": "euc_jis_2004",
    "big5": "big5hkscs",
    "euc-kr": "cp949",
    "gb2312": "gb18030",
    "windows-874": "cp874",
    "tis-620": "cp874",
}

# Letters beyond ASCII of languages with Latin script, in lower case. A text has one language, so its letters belong to
# one of these sets.
_WESTERN = ("àâäæçéèêëîïôœùûüÿñ", "äöüß", "áéíñóúüçï", "àáâãçéêíóôõúü", "àèéìíîòóùú", "äåæéøöü", "áéíóúýþæðö")
_EASTERN = ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ăâîșțşţ", "čćđšž", "äõöüšž")
_BALTIC = ("āčēģīķļņōŗšūž", "ąčęėįšųūž", "äõöüšž")
_TURKISH = ("çğıiöşüâîû",)  # noqa: RUF001
_ALPHABETS = {
    "cp1252": _WESTERN,
    "iso8859-15": _WESTERN,
    "cp1250": _EASTERN,
    "iso8859-2": _EASTERN,
    "cp1257": _BALTIC,
    "cp1254": _TURKISH,
}
# Much more text is Western than the confidence of a detector knows.
_PRIOR = {"cp1252": 1.35, "iso8859-15": 1.3, "cp1254": 1.5, "cp866": 0.7}

_JAPANESE = ("euc_jis_2004", "cp932")
_MULTIBYTE = (*_JAPANESE, "gb18030", "big5hkscs", "cp949")

# A run of ASCII letters and other characters, of which at least one is beyond ASCII.
_WORD = re.compile(r"[A-Za-z]*[^\x00-\x7f\xa0][A-Za-z\x80-\x9f\xa1-\U0010ffff]*")
_KANA = re.compile(r"[\u3041-\u30fe]")
_RARE_IN_JAPANESE = re.compile(r"[^\x00-\x7f\u3000-\u30ff\u4e00-\u9fff\uff01-\uff5e\u2010-\u203b\u2190-\u25ff]")
_TOGETHER = re.compile(r"[^\x00-\x7f]{3,}")
_HIGH = re.compile(rb"[\x80-\xff]")


# Encodings of DOS and of old Macs. No detector is needed to see that a text is not in cp1252 but in one of these.
OLD = ("cp850", "mac-roman")
_OLD_BYTES = 1 << 13
# Signs that cp1252 has for their letters, where no text has such signs: after a letter, or between two.
_AFTER_LETTER = frozenset("‚„ƒˆ˜‰†‡•‹")  # noqa: RUF001
_IN_WORD = frozenset("’'\xb7\xad-–—…/")  # noqa: RUF001

# In a text that is as short, one letter outside of ASCII fits many encodings.
_FEW_BYTES = 20


def detect(data: bytes) -> str:
    """Return the codec of a text that is neither Unicode nor ASCII. If nothing is known, it is ``"cp1252"``."""
    sample = _sample(data).replace(b"\0", b" ")
    if len(data) < _FEW_BYTES and sum(byte >= 0x80 for byte in data) < 2:  # one letter says nothing
        return "cp1252"
    candidates = _confidences(sample, list(_CODECS))
    for codec in _JAPANESE:
        if _is_japanese(sample, codec):
            candidates[codec] = max(candidates.get(codec, 0.0), 0.5)
    for codec in _CODECS.values():
        if codec not in candidates and (sound := _repaired(sample, codec)):
            candidates |= _confidences(sound, [next(name for name in _CODECS if _CODECS[name] == codec)])
    if (old := _old(sample[:_OLD_BYTES])) is not None:
        return old
    scores = {codec: confidence * _fit(sample, codec) for codec, confidence in candidates.items()}
    best = max(scores, key=scores.__getitem__, default="cp1252")
    return best if scores.get(best) else "cp1252"


def _old(sample: bytes) -> str | None:
    """Return the encoding of DOS or of old Macs in which all words are plain that are strange in cp1252, or None."""
    words, strange = _strange(sample, "cp1252")
    if strange < 2 or 5 * strange < words:
        return None
    for codec in OLD:
        text = sample.decode(codec, "replace")
        words, strange = _strange(sample, codec)
        letters = [char for run in _WORD.findall(text) for char in run if char.isalpha()]
        is_latin = 2 * sum(char > "\x7f" for char in letters) <= len(letters)
        if is_latin and 20 * strange <= words and _share_of_alphabet(text, "cp1252") > 0.95:
            return codec
    return None


def _strange(sample: bytes, codec: str) -> tuple[int, int]:
    """Return the number of words with characters beyond ASCII, and of those that no language with Latin script has."""
    words = strange = 0
    for run in _WORD.findall(sample.decode(codec, "replace")):
        before = " "
        is_strange = _is_odd(_without_punctuation(run).translate(dict.fromkeys(map(ord, _IN_WORD))))
        for char, after in pairwise(f"{run} "):
            if before.isalpha() and not char.isalpha() and char > "\x7f":
                is_strange |= char in _AFTER_LETTER or (after.islower() and char not in _IN_WORD)
            is_strange |= _is_control(char)
            before = char
        has_letter = any(char.isalpha() for char in run)
        words += has_letter
        strange += has_letter and is_strange
    return words, strange


def _confidences(sample: bytes, encodings: list[str]) -> dict[str, float]:
    """Return the confidence of chardet in each codec. Those that it excludes are not in the result."""
    from chardet import detect_all

    fallback = encodings[0]  # chardet gives it, with no confidence, if it excludes all
    confidences: dict[str, float] = {}
    for found in detect_all(sample, True, include_encodings=encodings, no_match_encoding=fallback):
        name = (found["encoding"] or "").lower()
        codec = _CODECS.get(name) or _OTHER_NAMES.get(name)
        if codec is not None:
            confidences[codec] = max(confidences.get(codec, 0.0), found["confidence"])
    return confidences


def _repaired(sample: bytes, codec: str) -> bytes | None:
    """Return ``sample`` without a few bytes that ``codec`` cannot read. chardet excludes a codec for one of them.

    Nearly any text is Chinese by such a rule: an accented letter and the letter after it are a character. But Chinese
    characters stand together.
    """
    text = sample.decode(codec, "ignore")
    lost = sample.decode(codec, "replace").count("\ufffd")
    beyond = sum(char > "\x7f" for char in text)
    few = lost * 20 <= len(text) and (lost * 3 <= beyond or codec == "cp1252")
    if codec in _MULTIBYTE:
        few = few and 2 * sum(len(run) for run in _TOGETHER.findall(text)) > beyond
    return text.encode(codec, "ignore") if lost and few else None


def _sample(data: bytes) -> bytes:
    """Return a part of ``data``: whole lines, from the first byte beyond ASCII on."""
    first = _HIGH.search(data)
    begin = data.rfind(b"\n", 0, first.start()) + 1 if first else 0
    if first and first.start() - begin > _SAMPLE_BYTES // 2:  # a long line
        begin = first.start()
    sample = data[begin : begin + _SAMPLE_BYTES]
    end = sample.rfind(b"\n") + 1 if begin + _SAMPLE_BYTES < len(data) else 0
    return sample[:end] if end else sample


def _is_japanese(sample: bytes, codec: str) -> bool:
    """Return whether a text has kana and is sound in this encoding. chardet knows no short text without punctuation."""
    try:
        text = sample.decode(codec)
    except UnicodeDecodeError:
        return False
    beyond = sum(char > "\x7f" for char in text)
    return len(_KANA.findall(text)) * 4 >= beyond and not _RARE_IN_JAPANESE.search(text)


def _fit(sample: bytes, codec: str) -> float:
    """Return how well the words fit that ``codec`` gives: 0 if none does."""
    text = sample.decode(codec, "replace")
    if codec in _MULTIBYTE:  # these languages have no spaces between words
        beyond = [char for char in text if char > "\x7f"]
        odd = sum(char == "\ufffd" or unicodedata.category(char)[0] == "C" for char in beyond)
        return (1 - odd / max(1, len(beyond))) ** 8
    good = bad = single = 0
    other = False
    for run in _WORD.findall(text):
        word = _without_punctuation(run)
        if any(_is_control(char) for char in run):
            bad += 1
        if not word or word.isascii():
            continue
        other = other or word[0] > "\u02ff" or word[-1] > "\u02ff"
        if _is_odd(word):
            bad += 1
        elif len(word) == 1:
            single += 1
        else:
            good += 1
    prior = _PRIOR.get(codec, 1.0)
    if other:
        return prior * (good / (good + bad + single)) ** 2 if good else 0.0
    return prior * ((good + 0.5) / (good + bad + 0.5)) ** 2 * _share_of_alphabet(text, codec) ** 2


def _without_punctuation(run: str) -> str:
    begin, end = 0, len(run)
    while begin < end and not run[begin].isalpha():
        begin += 1
    while begin < end and not run[end - 1].isalpha():
        end -= 1
    return run[begin:end]


def _is_control(char: str) -> bool:
    """Return whether no text has ``char``: a control of the upper half, a replacement, or the old currency sign."""
    return "\x80" <= char <= "\x9f" or char in "\ufffd\xa4"


def _is_odd(word: str) -> bool:
    """Return whether ``word`` mixes scripts, has a symbol inside, or goes on in upper case."""
    scripts = {_script(char) for char in word if char.isalpha()}
    if "Latin" in scripts and len(scripts) > 1:
        return True
    if any(unicodedata.category(char)[0] in "SNC" for char in word):
        return True
    return any(a.islower() and b.isupper() and not (a + b).isascii() for a, b in pairwise(word))


def _script(char: str) -> str:
    if char < "\u0250":
        return "Latin"
    for last, name in (
        ("\u03ff", "Greek"),
        ("\u052f", "Cyrillic"),
        ("\u05ff", "Hebrew"),
        ("\u07ff", "Arabic"),
        ("\u0eff", "Thai"),
    ):
        if char <= last:
            return name
    return "East Asia"


def _share_of_alphabet(text: str, codec: str) -> float:
    """Return which share of the letters beyond ASCII the best alphabet has that ``codec`` is made for."""
    letters = [char for char in text.lower() if char > "\x7f" and char.isalpha() and char not in "ªºµ"]
    if not letters or codec not in _ALPHABETS:
        return 1.0
    return max(sum(char in alphabet for char in letters) for alphabet in _ALPHABETS[codec]) / len(letters)
