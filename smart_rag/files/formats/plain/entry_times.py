"""Times of calendars and address cards, in words. A time that is not understood stays as it is written."""

from __future__ import annotations

import re
from datetime import date, timedelta

from smart_rag.files.formats.plain.content_lines import Property

_MOMENT = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(?:[T ](\d\d):?(\d\d)(?::?(\d\d))?(?:\.\d+)?(Z|[+-]\d\d:?\d\d)?)?\Z")
_WITHOUT_YEAR = re.compile(r"--(\d\d)-?(\d\d)\Z")
_DURATION = re.compile(r"[+-]?P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?\Z")
_UNITS = ("week", "day", "h", "min", "s")
_EVERY = {
    "DAILY": "day",
    "WEEKLY": "week",
    "MONTHLY": "month",
    "YEARLY": "year",
    "HOURLY": "hour",
    "MINUTELY": "minute",
}
_DAYS = {
    **{"MO": "Monday", "TU": "Tuesday", "WE": "Wednesday", "TH": "Thursday", "FR": "Friday", "SA": "Saturday"},
    "SU": "Sunday",
}
_ON_DAY = re.compile(r"([+-]?\d+)?([A-Z]{2})\Z")
_RULES = {"BYMONTHDAY": "on day", "BYMONTH": "in month", "COUNT": "times:", "BYSETPOS": "number", "BYWEEKNO": "in week"}


def moment(one: Property) -> str:
    """Return the time of a property, such as ``2024-05-01 10:00 (Europe/Berlin)``. It may have several."""
    shown = ", ".join(map(_periods, one.text.split(",")))
    zone = one.parameter("TZID")
    return f"{shown} ({zone})" if zone else shown


def span(start: Property | None, end: Property | None, lasts: str) -> str:
    """Return the times between which an event takes place. The end of whole days is the day after the last one."""
    if start is None:
        return "" if end is None else f"until {moment(end)}"
    first, zone = _time(start.text), start.parameter("TZID")
    last = "" if end is None else _time(end.text)
    if " " not in last and " " not in first:
        last = _day_before(last)
    if end is not None and end.parameter("TZID") != zone and last:
        return f"{moment(start)} to {moment(end)}"
    same_day = last[:10] == first[:10]
    shown = first if last in ("", first) else f"{first} to {last[11:] if same_day else last}"
    shown += f" ({zone})" if zone else ""
    return f"{shown}, {duration(lasts)}" if lasts and not last else shown


def duration(written: str) -> str:
    """Return a duration, such as ``1 h 30 min``."""
    found = _DURATION.match(written.strip())
    parts = (
        [] if found is None else [(value, unit) for value, unit in zip(found.groups(), _UNITS, strict=True) if value]
    )
    plural = {"week": "weeks", "day": "days"}
    return (
        " ".join(f"{int(n)} {plural.get(unit, unit) if int(n) != 1 else unit}" for n, unit in parts) or written.strip()
    )


def repetition(rule: str) -> str:
    """Return in words how often an event takes place, such as ``every 2 weeks on Monday until 2024-12-31``."""
    parts = dict(part.upper().strip().split("=", 1) for part in rule.split(";") if "=" in part)
    unit = _EVERY.get(parts.pop("FREQ", ""))
    if unit is None:
        return rule.strip()
    every = parts.pop("INTERVAL", "1")
    words = [f"every {unit}" if every == "1" else f"every {every} {unit}s"]
    parts.pop("WKST", "")
    if days := parts.pop("BYDAY", ""):
        words.append(f"on {', '.join(map(_day, days.split(',')))}")
    count, until = parts.pop("COUNT", ""), parts.pop("UNTIL", "")
    words += [f"{_RULES.get(name, name)} {value.replace(',', ', ')}" for name, value in parts.items()]
    words += [f"{count} times"] * bool(count)
    words += [f"until {_time(until)}"] * bool(until)
    return " ".join(words)


def _day(written: str) -> str:
    found = _ON_DAY.match(written.strip())
    if found is None or found[2] not in _DAYS:
        return written
    if not found[1]:
        return _DAYS[found[2]]
    place = int(found[1])
    return f"the last {_DAYS[found[2]]}" if place == -1 else f"{_DAYS[found[2]]} number {place}"


def _periods(written: str) -> str:
    """Return a time, or a period: two times, or a time and how long it is."""
    start, _, end = written.strip().partition("/")
    if not end:
        return _time(start)
    return f"{_time(start)} {duration(end) if end.lstrip('+-').startswith('P') else f'to {_time(end)}'}"


def _time(written: str) -> str:
    without_year = _WITHOUT_YEAR.match(written.strip())
    if without_year is not None:
        return f"{without_year[1]}-{without_year[2]}"
    found = _MOMENT.match(written.strip())
    if found is None:
        return written.strip()
    day = "-".join(found.groups()[:3])
    hour, minute, second, zone = found.groups()[3:]
    if hour is None:
        return day
    shown = f"{day} {hour}:{minute}" + (f":{second}" if second not in (None, "00") else "")
    return shown + (" UTC" if zone == "Z" else zone or "")


def _day_before(day: str) -> str:
    try:
        return (date.fromisoformat(day) - timedelta(days=1)).isoformat()
    except (ValueError, OverflowError):
        return day
