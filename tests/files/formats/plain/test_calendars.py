"""Calendars and address cards: what a person sees of each entry, and what is left out."""

from __future__ import annotations

import base64
import time

import pytest

from smart_rag.files.reader import read

EVENT = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//x//y
X-WR-CALNAME:Works
BEGIN:VTIMEZONE
TZID:Europe/Berlin
BEGIN:STANDARD
DTSTART:19701025T030000
TZOFFSETFROM:+0200
END:STANDARD
END:VTIMEZONE
BEGIN:VEVENT
UID:1@x
DTSTAMP:20240101T000000Z
DTSTART;TZID=Europe/Berlin:20240501T100000
DTEND;TZID=Europe/Berlin:20240501T113000
RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,-1FR;UNTIL=20241231T000000Z
SUMMARY:Inspect\\, then repair pu
 mps
LOCATION:Hall 3\\; north
ORGANIZER;CN="Köhler, Ann":mailto:ann@x.org
ATTENDEE;CN=Bob;PARTSTAT=DECLINED:mailto:bob@x.org
ATTENDEE;PARTSTAT=NEEDS-ACTION:MAILTO:eve@x.org
DESCRIPTION:Bring gloves.\\nAsk Eve about C:\\\\new.
ATTACH;ENCODING=BASE64;VALUE=BINARY;FILENAME=plan.pdf:QUJD
ATTACH:https://x.org/a.pdf
X-SECRET-COUNT:5
BEGIN:VALARM
ACTION:DISPLAY
TRIGGER:-PT15M
DESCRIPTION:Take the key
END:VALARM
END:VEVENT
BEGIN:VEVENT
DTSTART;VALUE=DATE:20240601
DTEND;VALUE=DATE:20240603
SUMMARY:Closed
END:VEVENT
BEGIN:VTODO
DUE:20240701T120000Z
STATUS:IN-PROCESS
SUMMARY:Order seals
END:VTODO
END:VCALENDAR
"""


def pages_of(tmp_path, text, name="a.ics"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.replace("\n", "\r\n").encode())
    return list(read(path))


def test_events_and_tasks(tmp_path):
    calendar, event, closed, task = pages_of(tmp_path, EVENT)
    assert calendar.text == "Works"
    assert event.text.splitlines() == [
        "Inspect, then repair pumps",
        "When: 2024-05-01 10:00 to 11:30 (Europe/Berlin)",
        "Repeats: every 2 weeks on Monday, the last Friday until 2024-12-31 00:00 UTC",
        "Where: Hall 3; north",
        "Organizer: Köhler, Ann <ann@x.org>",
        "Attendees: Bob <bob@x.org> (declined), eve@x.org",
        "Bring gloves.",
        "Ask Eve about C:\\new.",
        "Reminder: Take the key",
    ]
    assert event.left_out == (
        "2 attachments not read: plan.pdf, https://x.org/a.pdf",
        "fields that are not read: X-SECRET-COUNT",
    )
    assert event.metadata == {"summary": "Inspect, then repair pumps", "start": "2024-05-01 10:00 (Europe/Berlin)"}
    assert closed.text == "Closed\nWhen: 2024-06-01 to 2024-06-02"
    assert task.text == "Order seals\nDue: 2024-07-01 12:00 UTC\nStatus: in-process"
    assert [page.number for page in (calendar, event, closed, task)] == [1, 2, 3, 4]


def test_a_line_that_is_folded_inside_of_a_character(tmp_path):
    data = "BEGIN:VCALENDAR\nBEGIN:VEVENT\nSUMMARY:Größe\nEND:VEVENT\nEND:VCALENDAR".encode()
    (page,) = pages_of(tmp_path, data.replace(b"\xc3\xb6", b"\xc3\r\n \xb6"))
    assert page.text == "Größe"


def test_cards(tmp_path):
    photo = base64.b64encode(b"photo" * 99).decode()
    card = f"""BEGIN:VCARD
VERSION:3.0
N:Lee;Kim;Ann;Dr.;
FN:Kim Lee
ORG:ACME\\, Ltd.;Pumps
TEL;TYPE=WORK,VOICE;TYPE=pref:+49 30 1
EMAIL;TYPE=INTERNET:kim@x.org
item1.URL:https://x.org
item1.X-ABLabel:_$!<HomePage>!$_
ADR;TYPE=HOME:;;Main St 1;Berlin;;10115;Germany
BDAY:1980-02-03
PHOTO;ENCODING=b;TYPE=JPEG:{photo[:70]}
 {photo[70:]}
NOTE:Likes tea\\nand bread
UID:x
END:VCARD
BEGIN:VCARD
VERSION:4.0
FN:Bo
TEL;VALUE=uri:tel:+1-2
END:VCARD
"""
    kim, bo = pages_of(tmp_path, card, "a.vcf")
    assert kim.text.splitlines() == [
        "Kim Lee",
        "Name: Dr. Kim Ann Lee",
        "Organization: ACME, Ltd., Pumps",
        "Telephone (work): +49 30 1",
        "E-mail: kim@x.org",
        "Address (home): Main St 1, Berlin, 10115, Germany",
        "Link (homepage): https://x.org",
        "Birthday: 1980-02-03",
        "Likes tea",
        "and bread",
    ]
    assert (kim.left_out, kim.metadata) == (("1 picture",), {"name": "Kim Lee"})
    assert (bo.text, bo.left_out) == ("Bo\nTelephone: +1-2", ())


def test_old_cards_with_quoted_printable_and_base64(tmp_path):
    card = """BEGIN:VCARD
VERSION:2.1
N;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:M=C3=BCller;J=C3=B6rg
TEL;CELL;PREF:0151
NOTE;QUOTED-PRINTABLE;CHARSET=ISO-8859-1:Gr=FC=DFe aus K=F6ln, wo=0D=0A=
der Dom steht; C:\\new
PHOTO;JPEG;BASE64:QUJD
QUJDQUJD=

END:VCARD
"""
    (page,) = pages_of(tmp_path, card, "a.vcf")
    assert page.text.splitlines() == [
        *("Jörg Müller", "Telephone (cell): 0151", "Grüße aus Köln, wo", "der Dom steht; C:\\new")
    ]
    assert page.left_out == ("1 picture",)


@pytest.mark.parametrize(
    ("text", "found", "left_out"),
    [
        ("BEGIN:VCARD\nFN:Bo", "Bo", "its end: the file ends within it"),
        ("two words: x\nBEGIN:VCARD\nFN:Bo\nEND:VCARD", "Bo", "3 words outside of all entries"),
        ("A:one two\nBEGIN:VCARD\nFN:Bo\nEND:VCARD", "Bo", "2 words outside of all entries"),
        ("BEGIN:VCARD\nNOTE:one\ntwo three\nEND:VCARD", "one\ntwo three", ""),
        ("no calendar at all", "no calendar at all", ""),
        ("BEGIN:VEVENT\nDTSTART:tomorrow\nRRULE:x\nEND:VEVENT", "When: tomorrow\nRepeats: x", ""),
        ("BEGIN:VEVENT\nDTSTART:99999999T999999\nEND:VEVENT", "When: 9999-99-99 99:99:99", ""),
        ("BEGIN:VEVENT\nDTSTART:20240101T1000\nDURATION:PT1H30M\nEND:VEVENT", "When: 2024-01-01 10:00, 1 h 30 min", ""),
        ("BEGIN:VEVENT\nSUMMARY:x\nEND:VCARD\nEND:VEVENT", "x", ""),
    ],
)
def test_files_that_are_not_sound(tmp_path, text, found, left_out):
    pages = pages_of(tmp_path, text)
    assert pages[0].text == found
    assert "; ".join(phrase for page in pages for phrase in page.left_out) == left_out


def test_hostile_files_take_little_time(tmp_path):
    start = time.perf_counter()
    for text in (
        "BEGIN:A\n" * 200_000,
        "A;" * 500_000,
        'A;B="' * 200_000,
        "BEGIN:VCARD\nA;QUOTED-PRINTABLE:" + "=\n" * 300_000,
    ):
        pages_of(tmp_path, f"BEGIN:VCARD\nFN:x\n{text}")
    assert time.perf_counter() - start < 20


def test_a_calendar_in_a_mail_is_shown_as_a_mail_program_does(tmp_path):
    mail = f"Subject: x\nContent-Type: text/calendar; charset=utf-8\n\n{EVENT}"
    (page,) = pages_of(tmp_path, mail, "a.eml")
    assert "Where: Hall 3; north" in page.text
    assert "BEGIN:" not in page.text
    assert "2 attachments not read: plan.pdf, https://x.org/a.pdf" in page.left_out


def test_an_invitation_has_its_text_and_its_calendar(tmp_path):
    """What both say is there once."""
    forms = (
        "Content-Type: text/plain\n\nBring gloves.\nSee you.",
        "Content-Type: text/html\n\n<p>Bring gloves.</p><p>See you.</p>",
        f"Content-Type: text/calendar; method=REQUEST\n\n{EVENT}",
    )
    body = "".join(f"\n--edge\n{form}\n" for form in forms)
    mail = f"Subject: x\nContent-Type: multipart/alternative; boundary=edge\n\n{body}\n--edge--\n"
    (page,) = pages_of(tmp_path, mail, "a.eml")
    assert "Where: Hall 3; north" in page.text
    assert (page.text.count("Bring gloves."), page.text.count("See you.")) == (1, 1)
    assert "2 attachments not read: plan.pdf, https://x.org/a.pdf" in page.left_out
    assert "BEGIN:" not in page.text


def test_parts_and_fields_that_are_not_read_are_named(tmp_path):
    event = "BEGIN:VEVENT\nSUMMARY:A\nX-ALT-DESC;FMTTYPE=text/html:<p>Gloves</p>\nDALARM:1;;;Key\n"
    inner = "BEGIN:VLOCATION\nNAME:Hall\nEND:VLOCATION\nBEGIN:VALARM\nACTION:AUDIO\nEND:VALARM\n"
    (page,) = pages_of(tmp_path, f"{event}{inner}END:VEVENT\n")
    assert page.left_out == ("fields that are not read: DALARM, X-ALT-DESC", "parts that are not read: VLOCATION")
    card = "BEGIN:VCARD\nFN:Ann\nAGENT:\nBEGIN:VCARD\nFN:Bob\nEND:VCARD\nEND:VCARD\n"
    (page,) = pages_of(tmp_path, card, "a.vcf")
    assert page.left_out == ("parts that are not read: VCARD",)
