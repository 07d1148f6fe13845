"""How Excel shows dates and times, by the section of a number format: days and seconds after the first day of 1900."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache

from smart_rag.files.formats.office.sheets.codes import DATE, NotFollowed, Part, literal, parse, plain

# Dates, or times, as the system of the reader shows them.
SYSTEM_DATE, _SYSTEM_TIME = "[$-F800]", "[$-F400]"
DATE_AND_TIME = SYSTEM_DATE + _SYSTEM_TIME
_SYSTEM_DATES, _SYSTEM_TIMES = {"f800", "x-sysdate"}, {"f400", "x-systime"}
_LAST_DATE = 2_958_466  # days after the first: the year 9999
_BETWEEN_FIRST_DAYS = 1462  # of the files whose first day is in 1904, and of the others
_MOST_DECIMALS = 3  # of seconds
_ELAPSED = re.compile("(h+|m+|s+)", re.IGNORECASE)
_MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
# What follows depends on the language of a section.
_HALVES = {"ja": ("午前", "午後"), "zh": ("上午", "下午"), "ko": ("오전", "오후")}
_DAYS_OF_JAPAN = "月火水木金土日"
_DAYS_OF_CHINA = "一二三四五六日"
_ERAS = [
    *(((2019, 5, 1), "R令和"), ((1989, 1, 8), "H平成"), ((1926, 12, 25), "S昭和"), ((1912, 7, 30), "T大正")),
    ((1868, 1, 1), "M明治"),
]
_LANGUAGES = {0x09: "en", 0x11: "ja", 0x12: "ko", 0x04: "zh"}  # by the lower bits of their numbers
_TAIWAN = ("404", "zh-tw", "zh-hant")
# Calendars that count years as we do; of others, only that of Thailand is followed.
_GREGORIAN, _BUDDHIST, _BUDDHIST_YEARS, _YEARS_OF_TAIWAN = (0, 1, 2, 9, 10, 11, 12, 0x80), 7, 543, 1911


@dataclass(frozen=True, slots=True)
class _Moment:
    """A day of Excel, and a time. The 29th of February 1900 is such a day, and so is the 0th of January."""

    year: int
    month: int
    day: int
    weekday: int
    seconds: Decimal

    @property
    def hour(self) -> int:
        return int(self.seconds) // 3600

    @property
    def minute(self) -> int:
        return int(self.seconds) // 60 % 60

    @property
    def date(self) -> str:
        return f"{self.year}-{self.month:02}-{self.day:02}"

    @property
    def time(self) -> str:
        return f"{self.hour:02}:{self.minute:02}:{int(self.seconds) % 60:02}"


@dataclass(frozen=True, slots=True)
class _Language:
    """The language and the calendar of a section, such as those of ``[$-411]`` or ``[$-th-TH,107]``."""

    name: str = ""
    is_taiwan: bool = False
    calendar: int = 0
    is_gannen: bool = False


def shown_date(section: str, days: float, since_1904: bool) -> str:
    """Return what a section shows for so many days after the first one.

    Raises:
        NotFollowed: this module knows no answer.
    """
    parts = parse(DATE, section)
    if not 0 <= days < _LAST_DATE - (_BETWEEN_FIRST_DAYS if since_1904 else 0):
        raise NotFollowed(section)
    names = {part.text.lower().partition("-")[2] for part in parts if part.kind == "bracket"}
    if names & (_SYSTEM_DATES | _SYSTEM_TIMES):
        return _of_system(_moment(round(Decimal(days) * 86_400, 0), since_1904), names)
    language = _language(next(filter(None, names), ""))
    if any(part.kind in ("unknown", "islamic") for part in parts) or language.calendar not in (*_GREGORIAN, _BUDDHIST):
        raise NotFollowed(section)
    digits = max((len(part.text.partition(".")[2]) for part in parts if part.kind == "unit"), default=0)
    if digits > _MOST_DECIMALS:
        raise NotFollowed(section)
    seconds = round(Decimal(days) * 86_400, digits)
    moment = _moment(seconds, since_1904)
    has_halves = any(part.kind == "half" for part in parts)
    shown = []
    for i, part in enumerate(parts):
        if part.kind == "unit" and part.text[0] in "mM" and _is_minute(parts, i):
            shown.append(f"{moment.minute:0{min(len(part.text), 2)}}")
        elif part.kind == "unit" and part.text[0] in "hHsS":
            shown.append(_time(part.text, moment, has_halves))
        elif part.kind == "unit":
            shown.append(_day(part.text, moment, language))
        elif part.kind == "half":
            shown.append(_half(part.text, moment, language))
        elif part.kind == "bracket" and _ELAPSED.fullmatch(part.text):
            size = {"h": 3600, "m": 60, "s": 1}[part.text[0].lower()]
            shown.append(f"{int(seconds // size):0{min(len(part.text), 2)}}")
        else:
            shown.append(literal(part))
    return plain("".join(shown))


def _moment(seconds: Decimal, since_1904: bool) -> _Moment:
    days = int(seconds // 86_400) + (_BETWEEN_FIRST_DAYS if since_1904 else 0)
    weekday, time = (days + 5) % 7, seconds % 86_400
    if days in (0, 60):  # Excel believes that there was a February 29 in 1900
        return _Moment(1900, 2 if days else 1, 29 if days else 0, weekday, time)
    day = date(1899, 12, 30) + timedelta(days + (days < 60))
    return _Moment(day.year, day.month, day.day, weekday, time)


def _of_system(moment: _Moment, names: set[str]) -> str:
    if not names & _SYSTEM_TIMES:
        return moment.date
    is_first_day = (moment.year, moment.month, moment.day) == (1900, 1, 0)
    if is_first_day or not names & _SYSTEM_DATES:
        return moment.time
    return f"{moment.date} {moment.time}" if moment.seconds else moment.date


def _language(name: str) -> _Language:
    """Return the language that a bracket names, by its number in hexadecimal with the calendar before it, or so."""
    name, _, more = name.partition(",")
    try:
        code = int(name, 16)
    except ValueError:
        calendar = int(more, 16) & 0xFF if re.fullmatch("[0-9a-f]{1,4}", more) else 0
        return _Language(name[:2], name.startswith(_TAIWAN), calendar, "gannen" in name)
    language = _LANGUAGES.get(code & 0x3FF, "other") if code & 0xFFFF else ""
    return _Language(language, f"{code & 0xFFFF:x}" in _TAIWAN, code >> 16 & 0xFF)


@lru_cache(maxsize=1024)
def is_date(section: str) -> bool:
    """Return whether a section of a code shows dates or times, not numbers."""
    if "general" in section.lower():
        return False
    parts = parse(DATE, section)
    has_digits = any(part.kind == "unknown" and part.text in "0#?" for part in parts)
    return any(
        # Letters such as g may stand for grams.
        (part.kind == "unit" and (part.text[0] in "yYmMdDhHsS" or not has_digits))
        or part.kind == "half"
        or (
            part.kind == "bracket"
            and (_ELAPSED.fullmatch(part.text) or part.text[2:].lower() in _SYSTEM_DATES | _SYSTEM_TIMES)
        )
        for part in parts
    )


def _is_minute(parts: tuple[Part, ...], place: int) -> bool:
    """Return whether an ``m`` means minutes: it follows hours, or seconds follow it."""
    if len(parts[place].text) > 2:
        return False

    def unit(part: Part) -> str:
        is_elapsed = part.kind == "bracket" and _ELAPSED.fullmatch(part.text)
        return part.text[0].lower() if part.kind == "unit" or is_elapsed else ""

    before = next(filter(None, map(unit, reversed(parts[:place]))), "")
    after = next(filter(None, map(unit, parts[place + 1 :])), "")
    return before == "h" or after == "s"


def _time(code: str, moment: _Moment, has_halves: bool) -> str:
    unit, _, decimals = code.partition(".")
    width = min(len(unit), 2)
    if unit[0] in "hH":
        return f"{(moment.hour + 11) % 12 + 1 if has_halves else moment.hour:0{width}}"
    second = f"{int(moment.seconds) % 60:0{width}}"
    return f"{second}.{f'{moment.seconds % 1:.{len(decimals)}f}'.partition('.')[2]}" if decimals else second


def _half(code: str, moment: _Moment, language: _Language) -> str:
    """Return which half of the day it is."""
    halves = _HALVES.get(language.name, ("AM", "PM")) if code.upper() == "AM/PM" else code.split("/")
    return halves[moment.hour >= 12]


def _day(code: str, moment: _Moment, language: _Language) -> str:
    """Return a part of a date."""
    unit = code[0].lower()
    if unit in "md" and len(code) > 2:
        if language.name not in ("", "en"):
            raise NotFollowed(code)
        name = _MONTHS[moment.month - 1] if unit == "m" else _DAYS[moment.weekday]
        return name[:3] if len(code) == 3 else name[0] if unit == "m" and len(code) == 5 else name
    match unit:
        case "m" | "d":
            return f"{moment.month if unit == 'm' else moment.day:0{len(code)}}"
        case "y" | "b":
            is_buddhist = unit == "b" or language.calendar == _BUDDHIST
            year = moment.year + _BUDDHIST_YEARS * is_buddhist
            return f"{year}" if len(code) > 2 else f"{year % 100:02}"
        case "a" if language.name == "ja":
            return _DAYS_OF_JAPAN[moment.weekday] + "曜日" * (len(code) == 4)
        case "a" if language.name == "zh" and len(code) == 4:
            return f"星期{_DAYS_OF_CHINA[moment.weekday]}"
        case "e" | "g" if language.name == "ja":
            return _of_era(code, moment, language)
        case "e" if not language.is_taiwan:
            return f"{moment.year}"
        case "e" if moment.year > _YEARS_OF_TAIWAN:
            return f"{moment.year - _YEARS_OF_TAIWAN:0{min(len(code), 2)}}"
    raise NotFollowed(code)


def _of_era(code: str, moment: _Moment, language: _Language) -> str:
    """Return the era of Japan, or the year in it."""
    first, name = next(era for era in _ERAS if (moment.year, moment.month, moment.day) >= era[0])
    if code[0] in "gG":
        return {1: name[0], 2: name[1]}.get(len(code), name[1:])
    year = moment.year - first[0] + 1
    return "元" if language.is_gannen and year == 1 else f"{year:0{min(len(code), 2)}}"
