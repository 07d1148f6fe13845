"""How Excel shows the value of a cell, by the code of its number format, such as ``#,##0.00 "EUR"`` or ``[h]:mm``.

The one Python package for such codes, ssf, has had no release since 2020. Codes are a small language, in ECMA-376,
part 1, section 18.8.31. Marks of decimals and thousands, and names of months, are those of English: a file does not say
which ones its reader sees.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache

_MOST_CODE = 255  # characters: Excel allows no more
_LAST_DATE = 2_958_466  # days after the first: the year 9999
_EXACT = Context(prec=1000)  # digits: the largest number has 308, and a code at most 255 decimals
_MOST_DECIMALS = 3  # of seconds
_PARTS = re.compile(r'"[^"]*"?|\\.|\[[^\]]*\]|_.|\*.|;|[^;]', re.DOTALL)
_LITERAL = r'"(?P<quoted>[^"]*)"?|\\(?P<escaped>.)|\[(?P<bracket>[^\]]*)\]|(?P<space>_.|\*\s)|(?P<fill>\*.)'
_NUMBER = re.compile(
    rf"{_LITERAL}|(?P<general>General)|(?P<exponent>E[+-])|(?P<digit>[0#?])|(?P<sign>[.,%/@])|(?P<other>.)",
    re.IGNORECASE | re.DOTALL,
)
_DATE = re.compile(
    rf"{_LITERAL}|(?P<half>AM/PM|A/P)|(?P<unit>y+|m+|d+|h+|s+)(?P<fraction>\.0+)?|(?P<unknown>[abegn0#?@])|(?P<other>.)",
    re.IGNORECASE | re.DOTALL,
)
_ELAPSED = re.compile("(h+|m+|s+)", re.IGNORECASE)
_CONDITION = re.compile(r"(<=|>=|<>|<|>|=)\s*(-?[0-9.]+)")
_MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_SYSTEM = {"f800", "f400", "x-sysdate", "x-systime"}  # dates as the system of the reader shows them

_ACCOUNTING = '_({0}* #,##0{1}_);_({0}* \\(#,##0{1}\\);_({0}* "-"{2}_);_(@_)'
BUILT_IN = {
    **{0: "General", 1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 11: "0.00E+00"},
    **{12: "# ?/?", 13: "# ??/??", 15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy", 18: "h:mm AM/PM", 19: "h:mm:ss AM/PM"},
    **{20: "h:mm", 21: "h:mm:ss", 37: "#,##0 ;(#,##0)", 38: "#,##0 ;(#,##0)", 39: "#,##0.00;(#,##0.00)"},
    **{40: "#,##0.00;(#,##0.00)", 41: _ACCOUNTING.format("", "", ""), 42: _ACCOUNTING.format("$", "", "")},
    **{43: _ACCOUNTING.format("", ".00", "??"), 44: _ACCOUNTING.format("$", ".00", "??"), 45: "mm:ss"},
    **{46: "[h]:mm:ss", 47: "mm:ss.0", 48: "##0.0E+0", 49: "@"},
    # Their order of day, month and year is that of the reader's country.
    **dict.fromkeys((14, 22, *range(27, 37), *range(50, 59)), "[$-F800]"),
}


class NotFollowed(ValueError):
    """A code asks for something that is not known here, such as fractions or the names of months in Thai."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One piece of a code. ``kind`` is the name of the group that found it."""

    kind: str
    text: str


class NumberFormat:
    """A number format, by its code. Nothing is checked before a value is shown.

    Args:
        code: the code.
        since_1904: whether the first day of the file is in 1904, not in 1900.
    """

    def __init__(self, code: str, since_1904: bool = False) -> None:
        self.code = code
        self._since_1904 = since_1904
        self._sections = _sections(code) if len(code) <= _MOST_CODE else []
        # The last section is that of texts if it says so, or if it is the fourth.
        has_text = len(self._sections) == 4 or (bool(self._sections) and _has_text(self._sections[-1]))
        self._text = self._sections.pop() if has_text else None
        self._conditions = list(map(_condition, self._sections))

    def of_text(self, text: str) -> str:
        """Return what a cell with a text shows."""
        if self._text is None:
            return text
        parts = _parts(_NUMBER, self._text)
        return _plain("".join(text if _is_whole(part) else _literal(part) for part in parts))

    def of_number(self, number: float) -> str:
        """Return what a cell with a number or with a date shows. It is empty if the format hides the number.

        Raises:
            NotFollowed: this module knows no answer.
        """
        if not self._sections:
            if self._text is None:
                raise NotFollowed(self.code)
            return self._number(self._text, number)
        section, is_signed = self._chosen(number)
        if "[dbnum" in section.lower():  # Chinese digits
            raise NotFollowed(self.code)
        if _is_date(section):
            return self._date(section, number)
        return self._number(section, number if is_signed else abs(number))

    def _chosen(self, number: float) -> tuple[str, bool]:
        """Return the section for a number, and whether a minus is shown before it."""
        sections = self._sections
        if any(self._conditions):
            for section, condition in zip(sections, self._conditions, strict=True):
                if condition is None or _holds(condition, number):
                    return section, not any(_literal(part) in ("-", "(") for part in _parts(_NUMBER, section))
            raise NotFollowed(self.code)
        place = 1 if number < 0 else 2 if number == 0 else 0
        if place >= len(sections):
            return sections[0], True
        return sections[place], place != 1

    def _number(self, section: str, number: float) -> str:
        minus = "-" if number < 0 else ""
        digits = _digits(section)
        if digits.are_fractions:
            raise NotFollowed(self.code)
        return _plain(minus + digits.of(abs(number)))

    def _date(self, section: str, number: float) -> str:
        parts = _parts(_DATE, section)
        languages = {part.text.lower().partition("-")[2] for part in parts if part.kind == "bracket"}
        if not 0 <= number < _LAST_DATE:
            raise NotFollowed(self.code)
        if languages & _SYSTEM:
            return self._iso(number, section)
        if any(part.kind == "unknown" for part in parts):
            raise NotFollowed(self.code)
        is_english = all(map(_is_english, languages))
        digits = max((len(part.text.partition(".")[2]) for part in parts if part.kind == "unit"), default=0)
        if digits > _MOST_DECIMALS:
            raise NotFollowed(self.code)
        seconds = round(Decimal(number) * 86_400, digits)
        moment = self._moment(seconds)
        half = any(part.kind == "half" for part in parts)
        shown = []
        for i, part in enumerate(parts):
            if part.kind == "unit":
                unit = part.text[0].lower()
                if unit == "m" and _is_minute(parts, i):
                    shown.append(f"{moment.minute:0{min(len(part.text), 2)}}")
                    continue
                if not is_english and unit in "md" and len(part.text) > 2:
                    raise NotFollowed(self.code)
                shown.append(_shown_unit(part.text, moment, seconds, half))
            elif part.kind == "half":
                shown.append(("AM" if moment.hour < 12 else "PM")[: 1 if len(part.text) == 3 else 2])
            elif part.kind == "bracket" and _ELAPSED.fullmatch(part.text):
                size = {"h": 3600, "m": 60, "s": 1}[part.text[0].lower()]
                shown.append(f"{int(seconds // size):0{min(len(part.text), 2)}}")
            else:
                shown.append(_literal(part))
        return _plain("".join(shown))

    def _moment(self, seconds: Decimal) -> datetime:
        first = datetime(1904, 1, 1) if self._since_1904 else datetime(1899, 12, 30)
        if not self._since_1904 and 86_400 <= seconds < 60 * 86_400:
            first += timedelta(1)  # Excel believes that there was a February 29 in 1900
        return first + timedelta(seconds=int(seconds), microseconds=int(seconds % 1 * 1_000_000))

    def _iso(self, days: float, section: str) -> str:
        moment = self._moment(round(Decimal(days) * 86_400, 0))
        if days < 1 or "f400" in section.lower() or "systime" in section.lower():
            return moment.time().isoformat()
        return moment.date().isoformat() if days == int(days) else moment.isoformat(" ")


class _Digits:
    """The digits of a number, in the places that a section has for them.

    Attributes:
        are_fractions: whether the section asks for a fraction, such as ``# ?/?``.
    """

    def __init__(self, section: str) -> None:
        self._parts = parts = _parts(_NUMBER, section)
        self._literals = [_literal(part) for part in parts]
        signs = {i: part.text for i, part in enumerate(parts) if part.kind == "sign"}
        digits = [i for i, part in enumerate(parts) if part.kind == "digit"]
        self.are_fractions = bool(digits) and "/" in signs.values()
        self._general = [i for i, part in enumerate(parts) if _is_whole(part)]
        self._is_literal = not digits
        self._exponent = next((i for i, part in enumerate(parts) if part.kind == "exponent"), len(parts))
        self._point = min((i for i, sign in signs.items() if sign == "."), default=self._exponent)
        self._point = min(self._point, self._exponent)
        self._whole = [i for i in digits if i < self._point]
        self._decimals = [i for i in digits if self._point < i < self._exponent]
        self._powers = [i for i in digits if i > self._exponent]
        self._step = Decimal(1).scaleb(-len(self._decimals))
        commas = [i for i, sign in signs.items() if sign == "," and i < self._exponent]
        last = max(self._whole + self._decimals, default=-1)
        first_whole, last_whole = (self._whole[0], self._whole[-1]) if self._whole else (0, len(parts))
        # A comma behind all digits, or right before the point, divides by a thousand. Others mark the thousands.
        self._marks = any(first_whole < i < last_whole for i in commas) and bool(self._whole)
        scaling = sum(i > last or last_whole < i < self._point for i in commas)
        self._shift = 2 * list(signs.values()).count("%") - 3 * scaling

    def of(self, value: float) -> str:
        """Return what the section shows for a number that is not negative."""
        shown = list(self._literals)
        if self._general:
            for i in self._general:
                shown[i] = general(value)
        if self._general or self._is_literal:
            return "".join(shown)
        number = Decimal(general(value)).scaleb(self._shift, _EXACT)
        power = 0
        if self._exponent < len(shown) and number:
            step = max(1, len(self._whole))
            power = number.adjusted() // step * step if step > 1 else number.adjusted()
            if self._rounded(number.scaleb(-power, _EXACT)) >= 10**step:
                power += step
            number = number.scaleb(-power, _EXACT)
        whole, _, decimals = f"{self._rounded(number):f}".partition(".")
        if self._point < self._exponent:
            shown[self._point] = "."
        self._put_whole(shown, self._whole, "" if whole == "0" else whole, self._marks)
        is_trailing = True
        for i, digit in zip(reversed(self._decimals), reversed(decimals), strict=True):
            is_trailing = is_trailing and digit == "0" and self._parts[i].text != "0"
            shown[i] = (" " if self._parts[i].text == "?" else "") if is_trailing else digit
        if self._exponent < len(shown):
            sign = "-" if power < 0 else "+" if self._parts[self._exponent].text.endswith("+") else ""
            shown[self._exponent] = f"E{sign}"
            self._put_whole(shown, self._powers, str(abs(power)) if power else "", False)
        return "".join(shown)

    def _rounded(self, number: Decimal) -> Decimal:
        return number.quantize(self._step, ROUND_HALF_UP, _EXACT)

    def _put_whole(self, shown: list[str], places: list[int], digits: str, marks: bool) -> None:
        """Put digits into their places from the right. The first place takes all that are left."""
        count = 0

        def put(i: int, digit: str) -> None:
            nonlocal count
            shown[i] = f"{digit}{',' if marks and count and count % 3 == 0 and digit != ' ' else ''}{shown[i]}"
            count += 1

        for i in reversed(places):
            shown[i] = ""
            empty = {"0": "0", "?": " "}.get(self._parts[i].text, "")
            digit, digits = digits[-1:] or empty, digits[:-1]
            if digit:
                put(i, digit)
        for digit in reversed(digits):
            put(places[0] if places else min(self._point, len(shown) - 1), digit)


@lru_cache(maxsize=1024)
def _digits(section: str) -> _Digits:
    return _Digits(section)


def general(number: float) -> str:
    """Return a number as a cell without a format shows it, with at most the 15 digits that are right."""
    return f"{number:.15g}"


def _sections(code: str) -> list[str]:
    found = [""]
    for piece in _PARTS.findall(code):
        if piece == ";":
            found.append("")
        else:
            found[-1] += piece
    return found[:4]


@lru_cache(maxsize=1024)
def _parts(language: re.Pattern[str], section: str) -> tuple[_Part, ...]:
    found = []
    for match in language.finditer(section):
        kind = match.lastgroup or ""
        if match["bracket"] is not None:
            kind = "bracket"
        elif language is _DATE and match["unit"]:
            found.append(_Part("unit", match[0]))
            continue
        found.append(_Part(kind, match[kind] or ""))
    return tuple(found)


def _literal(part: _Part) -> str:
    """Return what a part shows that stands for no digits and for no part of a date."""
    match part.kind:
        case "quoted" | "escaped" | "other":
            return part.text
        case "space":
            return " "
        case "sign":
            return part.text if part.text in "%/" else ""
        case "bracket" if part.text.startswith("$"):  # a currency and a language, such as $EUR-407
            return part.text[1:].partition("-")[0]
    return ""


def _plain(text: str) -> str:
    """Return a text without the spaces that only line up numbers."""
    return " ".join(text.split())


def _is_whole(part: _Part) -> bool:
    """Return whether a part shows the whole value as it is."""
    return part.kind == "general" or (part.kind == "sign" and part.text == "@")


def _has_text(section: str) -> bool:
    return any(part.text == "@" and part.kind == "sign" for part in _parts(_NUMBER, section))


@lru_cache(maxsize=1024)
def _is_date(section: str) -> bool:
    if "general" in section.lower():
        return False
    return any(
        part.kind in ("unit", "half")
        or (part.kind == "bracket" and (_ELAPSED.fullmatch(part.text) or part.text[2:].lower() in _SYSTEM))
        for part in _parts(_DATE, section)
    )


def _is_minute(parts: tuple[_Part, ...], place: int) -> bool:
    """Return whether an ``m`` means minutes: it follows hours, or seconds follow it."""
    if len(parts[place].text) > 2:
        return False

    def unit(part: _Part) -> str:
        is_elapsed = part.kind == "bracket" and _ELAPSED.fullmatch(part.text)
        return part.text[0].lower() if part.kind == "unit" or is_elapsed else ""

    before = next(filter(None, map(unit, reversed(parts[:place]))), "")
    after = next(filter(None, map(unit, parts[place + 1 :])), "")
    return before == "h" or after == "s"


def _is_english(language: str) -> bool:
    """Return whether a language is English, by its name or its number in hexadecimal, or whether there is none."""
    try:
        return not language or (int(language, 16) & 0x3FF == 9 and int(language, 16) <= 0xFFFF)
    except ValueError:
        return language.startswith("en")


def _condition(section: str) -> re.Match[str] | None:
    brackets = (part.text for part in _parts(_NUMBER, section) if part.kind == "bracket")
    return next(filter(None, map(_CONDITION.fullmatch, brackets)), None)


def _holds(condition: re.Match[str], number: float) -> bool:
    try:
        bound = float(condition[2])
    except ValueError:
        return False
    sign = condition[1]
    return (number < bound and "<" in sign) or (number > bound and ">" in sign) or (number == bound and "=" in sign)


def _shown_unit(code: str, moment: datetime, seconds: Decimal, half: bool) -> str:
    """Return a part of a date or of a time, but not minutes."""
    unit, _, decimals = code.partition(".")
    wide = len(unit) > 1
    match unit[0].lower():
        case "y":
            return f"{moment.year}" if len(unit) > 2 else f"{moment.year % 100:02}"
        case "m" if len(unit) > 2:
            name = _MONTHS[moment.month - 1]
            return {3: name[:3], 5: name[0]}.get(len(unit), name)
        case "m":
            return f"{moment.month:02}" if wide else f"{moment.month}"
        case "d" if len(unit) > 2:
            name = _DAYS[moment.weekday()]
            return name[:3] if len(unit) == 3 else name
        case "d":
            return f"{moment.day:02}" if wide else f"{moment.day}"
        case "h":
            hour = (moment.hour + 11) % 12 + 1 if half else moment.hour
            return f"{hour:02}" if wide else f"{hour}"
    second = f"{moment.second:02}" if wide else f"{moment.second}"
    return f"{second}.{f'{seconds % 1:.{len(decimals)}f}'.partition('.')[2]}" if decimals else second
