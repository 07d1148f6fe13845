"""How Excel shows the value of a cell, by the code of its number format, such as ``#,##0.00 "EUR"`` or ``[h]:mm``.

The one Python package for such codes, ssf, has had no release since 2020. Codes are a small language, in ECMA-376,
part 1, section 18.8.31. Marks of decimals and thousands, and names of months, are those of English: a file does not say
which ones its reader sees.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from functools import lru_cache

from smart_rag.files.formats.office.sheets.codes import NUMBER, NotFollowed, Part, literal, parse, plain, split
from smart_rag.files.formats.office.sheets.dates import DATE_AND_TIME, SYSTEM_DATE, is_date, shown_date

_MOST_CODE = 255  # characters: Excel allows no more
_EXACT = Context(prec=1000)  # digits: the largest number has 308, and a code at most 255 decimals
_MOST_DENOMINATOR = 7  # digits
_CONDITION = re.compile(r"(<=|>=|<>|<|>|=)\s*(-?[0-9.]+)")
_ACCOUNTING = '_({0}* #,##0{1}_);_({0}* \\(#,##0{1}\\);_({0}* "-"{2}_);_(@_)'
BUILT_IN = {
    **{0: "General", 1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 11: "0.00E+00"},
    **{12: "# ?/?", 13: "# ??/??", 15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy", 18: "h:mm AM/PM", 19: "h:mm:ss AM/PM"},
    **{20: "h:mm", 21: "h:mm:ss", 37: "#,##0 ;(#,##0)", 38: "#,##0 ;(#,##0)", 39: "#,##0.00;(#,##0.00)"},
    **{40: "#,##0.00;(#,##0.00)", 41: _ACCOUNTING.format("", "", ""), 42: _ACCOUNTING.format("$", "", "")},
    **{43: _ACCOUNTING.format("", ".00", "??"), 44: _ACCOUNTING.format("$", ".00", "??"), 45: "mm:ss"},
    **{46: "[h]:mm:ss", 47: "mm:ss.0", 48: "##0.0E+0", 49: "@"},
    # Their order of day, month and year is that of the reader's country.
    **{14: SYSTEM_DATE, **dict.fromkeys((22, *range(27, 37), *range(50, 59)), DATE_AND_TIME)},
}


class NumberFormat:
    """A number format, by its code. Nothing is checked before a value is shown.

    Args:
        code: the code.
        since_1904: whether the first day of the file is in 1904, not in 1900.
    """

    def __init__(self, code: str, since_1904: bool = False) -> None:
        self.code = code
        self._since_1904 = since_1904
        self._sections = split(code) if len(code) <= _MOST_CODE else []
        # The last section is that of texts if it says so, or if it is the fourth.
        has_text = len(self._sections) == 4 or (bool(self._sections) and _has_text(self._sections[-1]))
        self._text = self._sections.pop() if has_text else None
        self._conditions = list(map(_condition, self._sections))

    def of_text(self, text: str) -> str:
        """Return what a cell with a text shows."""
        if self._text is None:
            return text
        return plain("".join(text if _is_whole(part) else literal(part) for part in parse(NUMBER, self._text)))

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
        if is_date(section):
            return shown_date(section, number, self._since_1904)
        return self._number(section, number if is_signed else abs(number))

    def _chosen(self, number: float) -> tuple[str, bool]:
        """Return the section for a number, and whether a minus is shown before it."""
        sections = self._sections
        if any(self._conditions):
            for section, condition in zip(sections, self._conditions, strict=True):
                if condition is None or _holds(condition, number):
                    return section, not any(literal(part) in ("-", "(") for part in parse(NUMBER, section))
            raise NotFollowed(self.code)
        place = 1 if number < 0 else 2 if number == 0 else 0
        if place >= len(sections):
            return sections[0], True
        return sections[place], place != 1

    def _number(self, section: str, number: float) -> str:
        minus = "-" if number < 0 else ""
        digits = _digits(section)
        shown = _fraction(section, abs(number)) if digits.are_fractions else digits.of(abs(number))
        return plain(minus + shown)


class _Digits:
    """The digits of a number, in the places that a section has for them.

    Attributes:
        are_fractions: whether the section asks for a fraction, such as ``# ?/?``.
    """

    def __init__(self, section: str) -> None:
        self.parts = parts = parse(NUMBER, section)
        self._literals = [literal(part) for part in parts]
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
            is_trailing = is_trailing and digit == "0" and self.parts[i].text != "0"
            shown[i] = (" " if self.parts[i].text == "?" else "") if is_trailing else digit
        if self._exponent < len(shown):
            sign = "-" if power < 0 else "+" if self.parts[self._exponent].text.endswith("+") else ""
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
            empty = {"0": "0", "?": " "}.get(self.parts[i].text, "")
            digit, digits = digits[-1:] or empty, digits[:-1]
            if digit:
                put(i, digit)
        for digit in reversed(digits):
            put(places[0] if places else min(self._point, len(shown) - 1), digit)


@lru_cache(maxsize=1024)
def _digits(section: str) -> _Digits:
    return _Digits(section)


def _fraction(section: str, value: float) -> str:
    """Return what a section such as ``# ?/?`` or ``# ??/16`` shows for a number that is not negative.

    Raises:
        NotFollowed: it has other signs, too, such as those of thousands.
    """
    parts = parse(NUMBER, section)
    signs = [i for i, part in enumerate(parts) if part.kind in ("sign", "exponent")]
    slash = signs[0]
    start, end = slash, slash + 1
    while start and parts[start - 1].kind == "digit":
        start -= 1
    while end < len(parts) and (parts[end].kind == "digit" or parts[end].text in "123456789"):
        end += 1
    places = [i for i, part in enumerate(parts) if part.kind == "digit" and not start <= i < end]
    stated = "".join(part.text for part in parts[slash + 1 : end])
    has_others = len(signs) > 1 or any(i > start for i in places)
    if has_others or start == slash or not 0 < len(stated) <= _MOST_DENOMINATOR:
        raise NotFollowed(section)
    number = Fraction(general(value))
    whole = int(number) if places else 0
    if stated.isdecimal() and int(stated):
        below = int(stated)
        above = int((number - whole) * below + Fraction(1, 2))
    else:
        above, below = _convergent(number - whole, 10 ** len(stated) - 1)
    if places and above == below:
        whole, above = whole + 1, 0
    shown = list(map(literal, parts))
    shown[start:end] = ["" if places and not above else f"{above}/{below}", *[""] * (end - start - 1)]
    if places:
        least = sum(parts[i].text == "0" for i in places)
        shown[places[-1]] = f"{whole:0{least}}" if whole or least or not above else ""
    return "".join(shown)


def _convergent(number: Fraction, most: int) -> tuple[int, int]:
    """Return the last convergent of the continued fraction of a number whose denominator is at most ``most``.

    Excel shows it, though another fraction may be nearer: pi is 3 1/7, not 3 14/99.
    """
    before, last = (0, 1), (1, 0)
    while True:
        whole = int(number)
        above, below = whole * last[0] + before[0], whole * last[1] + before[1]
        if below > most:
            return last
        before, last = last, (above, below)
        if number == whole:
            return last
        number = 1 / (number - whole)


def general(number: float) -> str:
    """Return a number as a cell without a format shows it, with at most the 15 digits that are right."""
    return f"{number:.15g}"


def _is_whole(part: Part) -> bool:
    """Return whether a part shows the whole value as it is."""
    return part.kind == "general" or (part.kind == "sign" and part.text == "@")


def _has_text(section: str) -> bool:
    return any(part.text == "@" and part.kind == "sign" for part in parse(NUMBER, section))


def _condition(section: str) -> re.Match[str] | None:
    brackets = (part.text for part in parse(NUMBER, section) if part.kind == "bracket")
    return next(filter(None, map(_CONDITION.fullmatch, brackets)), None)


def _holds(condition: re.Match[str], number: float) -> bool:
    try:
        bound = float(condition[2])
    except ValueError:
        return False
    sign = condition[1]
    return (number < bound and "<" in sign) or (number > bound and ">" in sign) or (number == bound and "=" in sign)
