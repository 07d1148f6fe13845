"""Calendars (.ics, and in mails) and address cards (.vcf), as a person sees them: each entry is a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from smart_rag.files.formats.encoding import decode
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.plain.content_lines import Component, Property, components_of
from smart_rag.files.formats.plain.entry_times import moment, repetition, span
from smart_rag.wording import number

KINDS = ("text/calendar", "text/x-vcalendar", "text/vcard", "text/x-vcard", "text/directory")
_CARD = "VCARD"
_CALENDAR = "VCALENDAR"
_ALARM = "VALARM"
_UNSEEN_COMPONENTS = ("VTIMEZONE", "STANDARD", "DAYLIGHT")
_NAMES_OF_CALENDARS = ("X-WR-CALNAME", "NAME", "X-WR-CALDESC", "DESCRIPTION")
_PICTURES = ("PHOTO", "LOGO", "IMAGE", "SOUND")
_ATTACHED = ("ATTACH", "KEY")
# What programs write for each other. No program shows it.
_UNSEEN = {
    *("UID", "DTSTAMP", "CREATED", "LAST-MODIFIED", "SEQUENCE", "CLASS", "TRANSP", "PRIORITY", "RECURRENCE-ID", "REV"),
    *("VERSION", "PRODID", "CALSCALE", "METHOD", "MAILER", "SOURCE", "PROFILE", "CLIENTPIDMAP", "GEO", "TZ", "LANG"),
    *("SORT-STRING", "KIND", "CALURI", "CALADRURI", "FBURL", "REQUEST-STATUS", "ACTION", "TRIGGER", "REPEAT", "COLOR"),
    *("DURATION", "TZID", "XML", "RELATED-TO", "GENDER", "ACKNOWLEDGED", "DCREATED", "AALARM", "PERCENT"),
}
_UNSEEN_STARTS = (
    *("X-WR-", "X-MICROSOFT-", "X-MS-", "X-MOZ-", "X-LIC-", "X-EVOLUTION-", "X-GOOGLE-", "X-APPLE-", "X-AB"),
    *("X-ACCEPT-", "X-IS", "X-PUBLISHED-", "X-PRIMARY-", "X-FUNAMBOL-"),
)
_ADDRESS = re.compile(r"\A(?:mailto|tel|sms|xmpp|sip):", re.IGNORECASE)
_LINK = re.compile(r"\A(?:https?|ftp|file|cid):", re.IGNORECASE)
_WORD = re.compile(r"\w+")
# Types of telephone numbers and addresses that say nothing to a person.
_PLAIN_TYPES = ("pref", "voice", "internet", "x400", "type", "dom", "intl", "postal", "parcel")
_OWN_LABEL = re.compile(r"_\$!<(.*)>!\$_")
_WAITS = "needs-action"


def read_calendar(path: Path) -> Iterator[Page]:
    """Yield each event, task and note of a calendar as a page, and each card of a file of address cards.

    Pictures and attachments are counted, and not read. If there is no entry, yield the text as it is.

    Raises:
        DocumentError: the file holds binary data.
    """
    data = path.read_bytes()
    text = decode(data, path)  # it refuses binary data
    yield from pages_of_calendar(data) or [Page(text.text, left_out=text.left_out)]


def pages_of_calendar(data: bytes, named: str = "") -> list[Page]:
    """Return the pages of a calendar or of address cards; see `read_calendar`. There is none if there is no entry.

    Args:
        data: the calendar, or the cards.
        named: the encoding that is said of them, which may be wrong.
    """
    top, left_out = components_of(data, named)
    pages: list[Page] = []
    for component in top:
        if component.name == _CALENDAR:
            pages += _of_calendar(component)
        elif component.name not in _UNSEEN_COMPONENTS:
            pages.append(_of_card(component) if component.name == _CARD else _of_event(component))
    if not pages:
        return []
    numbered = [Page(page.text, i, None, page.metadata, "", page.left_out) for i, page in enumerate(pages, 1)]
    return [*numbered, Page("", left_out=tuple(left_out))] if left_out else numbered


def _of_calendar(calendar: Component) -> Iterator[Page]:
    names = dict.fromkeys(one.text for one in calendar.all(*_NAMES_OF_CALENDARS))
    if names:
        yield Page("\n".join(names))
    for component in calendar.components:
        if component.name not in _UNSEEN_COMPONENTS:
            yield _of_card(component) if component.name == _CARD else _of_event(component)


class _Entry:
    """The lines of an entry, and what it leaves out. Each property of ``component`` is used once."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.lines: list[str] = []
        self._used = {*_UNSEEN, *_PICTURES, *_ATTACHED}

    def line(self, label: str, *names: str, shown: Callable[[Property], str] | None = None, sep: str = ", ") -> None:
        """Add a line with the values of the properties with these ``names``."""
        self._used.update(names)
        found = [(shown or (lambda one: one.text))(one) for one in self.component.all(*names)]
        self.add(label, sep.join(dict.fromkeys(filter(None, found))))

    def each(self, label: str, *names: str, shown: Callable[[Property], str]) -> None:
        """Add a line for each of these properties, with its type, such as ``Telephone (work)``."""
        self._used.update(names)
        for one in self.component.all(*names):
            kind = self._kind(one)
            self.add(f"{label} ({kind})" if kind else label, shown(one))

    def add(self, label: str, text: str) -> None:
        """Add a line, if there is a text."""
        if text.strip():
            self.lines.append(f"{label}: {text.strip()}" if label else text.strip())

    def use(self, *names: str) -> None:
        """Count these properties as shown, or as known not to be shown."""
        self._used.update(names)

    def page(self, metadata: dict[str, str]) -> Page:
        """Return the page of the entry."""
        component = self.component
        left_out = [number(count, "picture") for count in [sum(1 for _ in component.all(*_PICTURES))] if count]
        attached = [_name_of_attached(one) for one in component.all(*_ATTACHED)]
        if attached:
            names = ", ".join(filter(None, dict.fromkeys(attached)))
            left_out.append(f"{number(len(attached), 'attachment')} not read" + (f": {names}" if names else ""))
        others = [one.name for one in component.properties if self._is_lost(one)]
        if others:
            left_out.append(f"fields that are not read: {', '.join(sorted(set(others)))}")
        inner = [one.name for one in component.components if one.name not in (_ALARM, *_UNSEEN_COMPONENTS)]
        if inner:
            left_out.append(f"parts that are not read: {', '.join(sorted(set(inner)))}")
        if not component.is_whole:
            left_out.append("its end: the file ends within it")
        return Page("\n".join(self.lines), metadata={k: v for k, v in metadata.items() if v}, left_out=tuple(left_out))

    def _is_lost(self, one: Property) -> bool:
        return bool(one.value.strip()) and one.name not in self._used and not one.name.startswith(_UNSEEN_STARTS)

    def _kind(self, one: Property) -> str:
        own = [other.text for other in self.component.all("X-ABLABEL") if one.group and other.group == one.group]
        own = [_OWN_LABEL.sub(r"\1", label).lower() if "_$!<" in label else label for label in own]
        types = (kind.lower().removeprefix("x-") for kind in one.parameters.get("TYPE", ()))
        return ", ".join(dict.fromkeys([*own, *(kind for kind in types if kind not in _PLAIN_TYPES)]))


def _of_event(component: Component) -> Page:
    """Return the page of an event, a task or a note."""
    entry = _Entry(component)
    entry.line("", "SUMMARY")
    entry.use("DTSTART", "DTEND", "DUE", "COMPLETED", "RRULE")
    if component.text("DESCRIPTION"):
        entry.use("X-ALT-DESC")  # the same as HTML
    start = next(component.all("DTSTART"), None)
    entry.add("When", span(start, next(component.all("DTEND"), None), component.text("DURATION")))
    entry.line("Due", "DUE", shown=moment)
    entry.line("Completed", "COMPLETED", shown=moment)
    entry.line("Repeats", "RRULE", shown=lambda one: repetition(one.value))
    entry.line("Also on", "RDATE", shown=moment)
    entry.line("Not on", "EXDATE", shown=moment)
    entry.line("Busy", "FREEBUSY", shown=moment)
    entry.line("Where", "LOCATION")
    entry.line("Organizer", "ORGANIZER", shown=_person)
    entry.line("Attendees", "ATTENDEE", shown=_person)
    entry.line("Contact", "CONTACT")
    entry.line("Resources", "RESOURCES")
    entry.line("Status", "STATUS", shown=lambda one: one.text.lower())
    entry.line("Done", "PERCENT-COMPLETE", shown=lambda one: f"{one.text} %")
    entry.line("Categories", "CATEGORIES")
    entry.line("Link", "URL", "CONFERENCE")
    entry.line("", "DESCRIPTION", "COMMENT", sep="\n")
    for alarm in component.components:
        text = alarm.text("DESCRIPTION")
        known = "\n".join(["reminder", *entry.lines]).casefold()
        if alarm.name == _ALARM and text.casefold() not in known:
            entry.add("Reminder", text)
    return entry.page({"summary": component.text("SUMMARY"), "start": "" if start is None else moment(start)})


def _of_card(component: Component) -> Page:
    """Return the page of an address card."""
    entry = _Entry(component)
    name = component.text("FN")
    parts = next((one.parts(";") for one in component.all("N")), [])
    family, given, additional, prefix, suffix = (*parts, *[""] * 5)[:5]
    full = " ".join(filter(None, (prefix, given, additional, family, suffix)))
    entry.line("", "FN", sep="\n")
    entry.use("N")
    if set(_WORD.findall(full.casefold())) - set(_WORD.findall(name.casefold())):
        entry.add("Name" if name else "", full)
    entry.line("Nickname", "NICKNAME")
    entry.line("Pronounced", "X-PHONETIC-FIRST-NAME", "X-PHONETIC-LAST-NAME", sep=" ")
    entry.line("Organization", "ORG", shown=lambda one: ", ".join(filter(None, one.parts(";"))), sep="; ")
    entry.line("Title", "TITLE")
    entry.line("Role", "ROLE")
    entry.each("Telephone", "TEL", shown=_address)
    entry.each("E-mail", "EMAIL", shown=_address)
    entry.each("Address", "ADR", shown=_place)
    entry.each("Address", "LABEL", shown=lambda one: one.text)
    entry.each("Link", "URL", "X-SOCIALPROFILE", shown=lambda one: one.text)
    entry.each("Chat", "IMPP", "X-AIM", "X-ICQ", "X-JABBER", "X-MSN", "X-SKYPE", "X-YAHOO", "X-QQ", shown=_address)
    entry.line("Birthday", "BDAY", shown=moment)
    entry.line("Anniversary", "ANNIVERSARY", "X-ANNIVERSARY", shown=moment)
    entry.each("Date", "X-ABDATE", shown=moment)
    entry.each(
        "Related", "RELATED", "X-ABRELATEDNAMES", "X-SPOUSE", "X-ASSISTANT", "X-MANAGER", shown=lambda one: one.text
    )
    entry.line("Members", "MEMBER", shown=_address)
    entry.line("Expertise", "EXPERTISE", "HOBBY", "INTEREST")
    entry.line("Categories", "CATEGORIES")
    entry.line("", "NOTE", sep="\n")
    return entry.page({"name": name or full})


def _person(one: Property) -> str:
    """Return the name and address of a person, and the answer to an invitation."""
    name, address = one.parameter("CN"), _address(one)
    status = one.parameter("PARTSTAT").lower()
    who = f"{name} <{address}>" if name and address and name != address else name or address
    return f"{who} ({status})" if status and status != _WAITS else who


def _address(one: Property) -> str:
    return _ADDRESS.sub("", one.text)


def _place(one: Property) -> str:
    """Return an address on one line, and the text on a label if it has other words."""
    parts = (" ".join(part.split()) for part in one.parts(";"))
    place, label = ", ".join(filter(None, parts)), " ".join(one.parameter("LABEL").split())
    is_new = set(_WORD.findall(label.casefold())) - set(_WORD.findall(place.casefold()))
    return f"{place} ({label})" if is_new and place else place or label


def _name_of_attached(one: Property) -> str:
    """Return the name of an attachment, or the link to it. It is empty if there is none."""
    named = one.parameter("FILENAME") or one.parameter("X-FILENAME") or one.parameter("X-APPLE-FILENAME")
    return named or (one.text[:200] if _LINK.match(one.text) else "")
