"""`Numbering`: the numbers that Word writes before paragraphs, such as 2.1 before a heading or (a) before an item.

They stand in no paragraph. Word counts them by the definitions of the document (ECMA-376, part 1, section 17.9).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from smart_rag.files.formats.office.archive import value
from smart_rag.files.formats.office.symbols import font_of, shown
from smart_rag.wording import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxml.etree import _Element

_MOST_LEVELS = 9
_MOST_STYLES = 50  # in a chain, each of which is based on the next
_LONGEST_LABEL = 100
_LARGEST = 2**31
_MOST_NAMED = 3  # forms of numbers
_PLACE = re.compile(r"%([1-9])")
_PRIVATE = re.compile("[\uf000-\uf0ff]")
_PADDED = re.compile("0{1,8}1(?=,)")  # the begin of a form that Word writes out: 001, 002, 003, ...
_NO_NUMBER = ("bullet", "none")
_OFF = ("0", "false", "off")
_ON = ("1", "true", "on")

# The forms, as [MS-DOCX] 2.4 and [MS-OI29500] 2.1.540 say that Word writes them. Where it is not sure how one goes on,
# the larger numbers are not followed.
_MOST_ROMAN, _MOST_TENS, _MOST_HEBREW, _MOST_ZODIAC = 3999, 99, 392, 60
_ROMAN = (
    *((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x")),
    *((9, "ix"), (5, "v"), (4, "iv"), (1, "i")),
)
_HEBREW = (
    *zip((400, 300, 200, 100, 90, 80, 70, 60, 50, 40, 30, 20), "תשרקצפעסנמלכ", strict=True),
    *((16, "טז"), (15, "טו")),  # noqa: RUF001
    *zip(range(10, 0, -1), "יטחזוהדגבא", strict=True),
)
_MOST_TIMES = 30  # that a letter is repeated
# After their last letter, the first is written twice: after z comes aa, then bb.
_REPEATED = {
    "lowerLetter": "abcdefghijklmnopqrstuvwxyz",
    "upperLetter": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "russianLower": "абвгдежзиклмнопрстуфхцчшщыэюя",
    "russianUpper": "АБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЫЭЮЯ",
    "arabicAlpha": "أبتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "arabicAbjad": "أبجدهوزحطيكلمنسعفصقرشتثخذضظغ",
    "thaiLetters": "กขคงจฉชซฌญฎฏฐฑฒณดตถทธนบปผฝพฟภมยรลวศษสหฬอฮ",
    "chicago": "*†‡§",
}
_LETTERS = {
    "aiueo": "ｱｲｳｴｵｶｷｸｹｺｻｼｽｾｿﾀﾁﾂﾃﾄﾅﾆﾇﾈﾉﾊﾋﾌﾍﾎﾏﾐﾑﾒﾓﾔﾕﾖﾗﾘﾙﾚﾛﾜｦﾝ",
    "aiueoFullWidth": "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワヲン",
    "irohaFullWidth": "イロハニホヘトチリヌルヲワカヨタレソツネナラムウヰノオクヤマ"
    "ケフコエテアサキユメミシヱヒモセスン",
    "α, β, γ, ...": "αβγδεζηθικλμνξοπρστυφχψω",  # noqa: RUF001
    "ganada": "가나다라마바사아자차카타파하",
    "chosung": "ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊㅋㅌㅍㅎ",
    "hebrew2": "אבגדהוזחטיכלמנסעפצקרשת",
    "hindiVowels": "कखगघङचछजझञटठडढणतथदधन",  # Word has exchanged vowels and consonants
    "hindiConsonants": "अआइईउऊ",
    "ideographTraditional": "甲乙丙丁戊己庚辛壬癸",
    "ideographZodiac": "子丑寅卯辰巳午未申酉戌亥",
    "ideographLegalTraditional": "壹貳參肆伍陸柒捌玖",
    "chineseLegalSimplified": "壹贰叁肆伍陆柒捌玖",
    "japaneseLegal": "壱弐参四伍六七八九",
    "japaneseDigitalTenThousand": "一二三四五六七八九",
    "decimalEnclosedCircle": "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳",
    "decimalEnclosedCircleChinese": "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳",
    "decimalEnclosedFullstop": "⒈⒉⒊⒋⒌⒍⒎⒏⒐⒑⒒⒓⒔⒕⒖⒗⒘⒙⒚⒛",
    "decimalEnclosedParen": "⑴⑵⑶⑷⑸⑹⑺⑻⑼⑽⑾⑿⒀⒁⒂⒃⒄⒅⒆⒇",
    "ideographEnclosedCircle": "㈠㈡㈢㈣㈤㈥㈦㈧㈨㈩",
}
_DIGITS = {
    "decimal": "0123456789",
    "decimalHalfWidth": "0123456789",
    **dict.fromkeys(("decimalFullWidth", "decimalFullWidth2"), "０１２３４５６７８９"),  # noqa: RUF001
    "hindiNumbers": "०१२३४५६७८९",
    "thaiNumbers": "๐๑๒๓๔๕๖๗๘๙",
    "ideographDigital": "〇一二三四五六七八九",
    "taiwaneseDigital": "○一二三四五六七八九",
    "koreanDigital": "영일이삼사오육칠팔구",
    "koreanDigital2": "零一二三四五六七八九",
}
# Ones, and tens if they are not written as ones before a ten.
_TENS = {
    **dict.fromkeys(
        (
            *("chineseCounting", "chineseCountingThousand", "taiwaneseCounting", "taiwaneseCountingThousand"),
            "japaneseCounting",
        ),
        (list("一二三四五六七八九"), ["十", *(f"{one}十" for one in "二三四五六七八九")]),
    ),
    "koreanCounting": (list("일이삼사오육칠팔구"), ["십", *(f"{one}십" for one in "이삼사오육칠팔구")]),
    "koreanLegal": (
        ["하나", "둘", "셋", "넷", "다섯", "여섯", "일곱", "여덟", "아홉"],
        ["열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔"],
    ),
}
# Their words are those of the language of the document.
_ENGLISH = ("ordinal", "ordinalText", "cardinalText")
_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_WORDS_FOR_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
_ORDINALS |= {"twelve": "twelfth"}


@dataclass(frozen=True, slots=True)
class _Level:
    """How one level of a list is numbered.

    Attributes:
        start: the first number.
        form: the name of the form of the number, such as ``upperRoman``.
        text: the label, where ``%1`` stands for the number of the first level.
        style: the id of the style whose paragraphs have this level.
        restart: the number begins again after a paragraph of this level or a higher one, counted from 1. Never, if 0.
        is_legal: whether all numbers in the label are written with digits.
        lost: the number of pictures in the label, of fonts such as Wingdings.
    """

    start: int = 1
    form: str = "decimal"
    text: str = ""
    style: str | None = None
    restart: int | None = None
    is_legal: bool = False
    lost: int = 0


@dataclass(slots=True)
class _List:
    """The levels of a list, the number of each that came last, and which lists of the document began to count anew."""

    levels: dict[int, _Level]
    numbers: dict[int, int]
    begun: set[str]


@dataclass(frozen=True, slots=True)
class _Numbered:
    """What a paragraph or a style says of its number.

    Attributes:
        list: the id of its list, ``"0"`` for none.
        level: its level in the list.
        style: the id of the style that names the list.
    """

    list: str | None = None
    level: str | None = None
    style: str | None = None


class Numbering:
    """The labels of a document's paragraphs, which must be asked for in their order.

    Args:
        numbering: the part with the definitions of the lists, or None.
        styles: the part with the styles, or None.
    """

    def __init__(self, numbering: _Element | None, styles: _Element | None) -> None:
        self._styles = {} if styles is None else {value(one, "styleId") or "": one for one in styles.iter("{*}style")}
        self._default = next(
            (
                id
                for id, one in self._styles.items()
                if value(one, "type") == "paragraph" and value(one, "default") in _ON
            ),
            None,
        )
        language = None if styles is None else styles.find("{*}docDefaults/{*}rPrDefault/{*}rPr/{*}lang")
        self._is_english = language is None or (value(language, "val") or "en").lower().startswith("en")
        self._of_style: dict[str | None, _Numbered] = {}  # because many paragraphs have the same style
        self._used: dict[str, str] = {}  # from the id of a list to that of its definition
        self._lists: dict[str, _List] = {}
        self._changed: dict[str, dict[int, _Element]] = {}
        self._levels: dict[str, tuple[dict[int, _Level], list[int]]] = {}
        self._not_followed: Counter[str] = Counter()
        self._lost = 0
        links: dict[str, str] = {}
        if numbering is None:
            return
        for one in numbering.iterchildren("{*}abstractNum"):
            id = value(one, "abstractNumId") or ""
            self._lists[id] = _List(dict(_levels(one)), {}, set())
            if link := _of_child(one, "numStyleLink"):
                links[id] = link
        for one in numbering.iterchildren("{*}num"):
            id = value(one, "numId") or ""
            self._used[id] = _of_child(one, "abstractNumId") or ""
            self._changed[id] = {_whole(value(part, "ilvl"), 0): part for part in one.iterchildren("{*}lvlOverride")}
        for id, style in links.items():  # the style has a list, whose definition counts
            definition = self._used.get(self._property(style).list or "")
            if definition in self._lists and definition not in links:
                self._lists[id] = self._lists[definition]

    def label(self, paragraph: _Element) -> str:
        """Return what stands before a paragraph, or an empty text. Bullets are left out."""
        own = _numbered(paragraph)
        of_style = self._property(_style(paragraph) or self._default)
        id = own.list or of_style.list
        found = self._lists.get(self._used.get(id or "", ""))
        if id is None or found is None:
            return ""
        level = own.level or of_style.level
        if level is None:
            styles = {_style(paragraph), of_style.style} - {None}
            level = next((str(i) for i, one in found.levels.items() if one.style in styles), None)
        return self._next(id, found, min(_whole(level, 0), _MOST_LEVELS - 1))

    def left_out(self) -> Iterator[str]:
        """Yield a phrase for the labels that are not as Word shows them."""
        if self._not_followed:
            forms = [repr(form[:_LONGEST_LABEL]) for form, _ in self._not_followed.most_common(_MOST_NAMED)]
            more = ["others"] * (len(self._not_followed) > _MOST_NAMED)
            numbers = number(self._not_followed.total(), "number")
            yield f"{numbers} of a list in digits, because the form is not followed ({', '.join(forms + more)})"
        if self._lost:
            yield f"{number(self._lost, 'symbol')} in labels of lists"

    def _property(self, style: str | None) -> _Numbered:
        """Return the numbering of a style, each part of which may be that of a style that it is based on."""
        if style not in self._of_style:
            self._of_style[style] = self._inherited(style)
        return self._of_style[style]

    def _inherited(self, style: str | None) -> _Numbered:
        level = None
        for _ in range(_MOST_STYLES):
            element = self._styles.get(style or "")
            if element is None:
                break
            found = _numbered(element)
            level = level or found.level
            if found.list is not None:
                return _Numbered(found.list, level, style)
            style = _of_child(element, "basedOn")
        return _Numbered(None, level)

    def _levels_of(self, id: str, of: _List) -> tuple[dict[int, _Level], list[int]]:
        """Return the levels of a list, with its own changes of the definition, and those that it begins to count."""
        levels, anew = {i: _Level() for i in range(_MOST_LEVELS)} | of.levels, []
        for i, change in self._changed.get(id, {}).items():
            levels[i] = dict(_levels(change)).get(i, levels.get(i, _Level()))
            first = _of_child(change, "startOverride")
            if first is not None:
                levels[i] = replace(levels[i], start=_whole(first, 1))
                anew.append(i)
        return levels, anew

    def _next(self, id: str, of: _List, place: int) -> str:
        """Count one paragraph of the level ``place``, and return its label."""
        if id not in self._levels:
            self._levels[id] = self._levels_of(id, of)
        levels, anew = self._levels[id]
        if id not in of.begun:
            for i in anew:
                of.numbers.pop(i, None)
        of.begun.add(id)
        of.numbers[place] = of.numbers[place] + 1 if place in of.numbers else levels[place].start
        for i in [i for i in of.numbers if i > place]:
            restart = levels[i].restart
            if restart is None or 0 < place + 1 <= restart:
                del of.numbers[i]
        level = levels[place]
        if level.form in _NO_NUMBER and not _PLACE.search(level.text):
            return ""

        def written(match: re.Match[str]) -> str:
            i = int(match[1]) - 1
            form = "decimal" if level.is_legal else levels[i].form
            count = of.numbers.get(i, levels[i].start)
            found = None if form in _ENGLISH and not self._is_english else _written(count, form)
            if found is None:
                self._not_followed[form] += 1
            return str(count) if found is None else found

        self._lost += level.lost
        return _PLACE.sub(written, level.text)[:_LONGEST_LABEL].strip()


def _levels(element: _Element) -> Iterator[tuple[int, _Level]]:
    """Yield the levels that are defined below an element, with their places from 0."""
    for one in element.iterchildren("{*}lvl"):
        restart, legal = _of_child(one, "lvlRestart"), one.find("{*}isLgl")
        text, lost = _label_text(one)
        yield (
            _whole(value(one, "ilvl"), 0),
            _Level(
                _whole(_of_child(one, "start"), 0),
                _form(one),
                text,
                _of_child(one, "pStyle"),
                None if restart is None else _whole(restart, 0),
                legal is not None and value(legal, "val") not in _OFF,
                lost,
            ),
        )


def _label_text(level: _Element) -> tuple[str, int]:
    """Return the text of a label, and the number of pictures in it, which say nothing and are left out."""
    text = (_of_child(level, "lvlText") or "")[:_LONGEST_LABEL]
    properties = level.find("{*}rPr")
    font = "" if properties is None else font_of(properties)
    lost = 0

    def sign(match: re.Match[str]) -> str:
        nonlocal lost
        found, is_lost = shown(match[0], font)
        lost += is_lost
        return found

    return _PRIVATE.sub(sign, text), lost


def _form(level: _Element) -> str:
    """Return the form of the numbers, or one that Word writes out, such as ``001, 002, 003, ...``."""
    for path in ("{*}AlternateContent/{*}Choice/{*}numFmt", "{*}numFmt"):
        found = level.find(path)
        if found is not None:
            return value(found, "format") or value(found, "val") or "decimal"
    return "decimal"


def _numbered(element: _Element) -> _Numbered:
    found = element.find("{*}pPr/{*}numPr")
    return _Numbered() if found is None else _Numbered(_of_child(found, "numId"), _of_child(found, "ilvl"))


def _style(paragraph: _Element) -> str | None:
    found = paragraph.find("{*}pPr/{*}pStyle")
    return None if found is None else value(found, "val")


def _of_child(element: _Element, name: str) -> str | None:
    found = element.find(f"{{*}}{name}")
    return None if found is None else value(found, "val")


def _whole(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 11 and int(text) < _LARGEST else default


def _written(count: int, form: str) -> str | None:
    """Return a number in a form that ECMA-376 names, or None if it is not known how that is done.

    >>> [_written(28, form) for form in ("decimal", "lowerLetter", "upperRoman", "japaneseCounting", "hebrew1")]
    ['28', 'bb', 'XXVIII', '二十八', 'כח']
    """
    if form in _NO_NUMBER:
        return ""
    if form in _DIGITS:
        return "".join(_DIGITS[form][int(digit)] for digit in str(count))
    padded = _PADDED.match(form)
    if padded is not None or form == "decimalZero":
        return f"{count:0{len(padded[0]) if padded else 2}}"
    return _of_letters(count, form) or _computed(count, form)


def _of_letters(count: int, form: str) -> str | None:
    letters = _REPEATED.get(form, "")
    if count < 1:
        return None
    if letters and count <= _MOST_TIMES * len(letters):
        return letters[(count - 1) % len(letters)] * ((count - 1) // len(letters) + 1)
    if count <= len(_LETTERS.get(form, "")):
        return _LETTERS[form][count - 1]
    if form in _TENS and count <= _MOST_TENS:
        ones, tens = _TENS[form]
        return ["", *tens][count // 10] + ["", *ones][count % 10]
    return None


def _computed(count: int, form: str) -> str | None:
    match form:
        case "lowerRoman" | "upperRoman" if 0 < count <= _MOST_ROMAN:
            roman = _added(count, _ROMAN)
            return roman.upper() if form == "upperRoman" else roman
        case "hebrew1" if 0 < count <= _MOST_HEBREW:
            return _added(count, _HEBREW)
        case "ideographZodiacTraditional" if 0 < count <= _MOST_ZODIAC:
            stems, branches = _LETTERS["ideographTraditional"], _LETTERS["ideographZodiac"]
            return stems[(count - 1) % len(stems)] + branches[(count - 1) % len(branches)]
        case "numberInDash":
            return f"- {count} -"
        case "hex":
            return f"{count:X}"
        case "ordinal":
            ending = "th" if count % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
            return f"{count}{ending}"
        case "cardinalText" | "ordinalText" if 0 < count <= _MOST_TENS:
            return _in_words(count, form == "ordinalText")
    return None


def _added(count: int, signs: tuple[tuple[int, str], ...]) -> str:
    """Return a number as the sum of signs, the largest first."""
    found = ""
    for size, sign in signs:
        found += sign * (count // size)
        count %= size
    return found


def _in_words(count: int, is_ordinal: bool) -> str:
    """Return a number below 100 in English words.

    >>> _in_words(21, False), _in_words(12, True), _in_words(30, True)
    ('Twenty-one', 'Twelfth', 'Thirtieth')
    """
    tens, ones = divmod(count, 10)
    words = [_WORDS[count]] if count < len(_WORDS) else [_WORDS_FOR_TENS[tens - 2], *[_WORDS[ones]] * bool(ones)]
    if is_ordinal:
        last = words[-1]
        words[-1] = _ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last.removesuffix('t')}th")
    return "-".join(words).capitalize()
