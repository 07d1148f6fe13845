"""Mails: headers as metadata, one body, attachments by name, and mails that are malformed."""

from __future__ import annotations

import contextlib
import time
from email.message import EmailMessage

import pytest
from helpers.text_files import refused, write
from hypothesis import given
from hypothesis import strategies as st

from smart_rag.errors import DocumentError
from smart_rag.files.formats.plain.mail import read_mail


def mail(*, plain=None, html=None):
    made = EmailMessage()
    made["Subject"] = "Schlüssel für das Boot"
    made["From"] = "Tobias Müller <t@example.com>"
    made["To"] = "a@example.com, b@example.com"
    made["Date"] = "Mon, 30 Nov 2026 14:00:00 +0100"
    if plain is not None:
        made.set_content(plain)
    if html is not None:
        (made.add_alternative if plain is not None else made.set_content)(html, subtype="html")
    return made


def page_of(path, data):
    (page,) = read_mail(write(path / "a.eml", bytes(data)))
    return page


def test_headers_are_text_and_metadata(tmp_path):
    page = page_of(tmp_path, mail(plain="The keys hang\nbehind the barometer."))
    assert page.text.splitlines() == [
        "Subject: Schlüssel für das Boot",
        "From: Tobias Müller <t@example.com>",
        "To: a@example.com, b@example.com",
        "Date: Mon, 30 Nov 2026 14:00:00 +0100",
        "",
        "The keys hang",
        "behind the barometer.",
    ]
    assert page.metadata == {
        "subject": "Schlüssel für das Boot",
        "from": "Tobias Müller <t@example.com>",
        "to": "a@example.com, b@example.com",
        "date": "2026-11-30T14:00:00+01:00",
    }


@pytest.mark.parametrize(
    ("plain", "html", "body"),
    [("plain", "<p>html</p>", "plain"), (None, "<p>html</p>", "html"), (" \n", "<p>html</p>", "html")],
)
def test_html_is_read_where_there_is_no_plain_text(tmp_path, plain, html, body):
    assert page_of(tmp_path, mail(plain=plain, html=html)).text.split("\n\n")[1:] == [body]


def test_attachments_are_named_and_mails_in_mails_are_read(tmp_path):
    inner = EmailMessage()
    inner["Subject"] = "Inner"
    inner.set_content("forwarded words")
    made = mail(plain="See below.")
    made.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="plän.pdf")
    made.add_attachment("a,b", subtype="csv", filename="b.csv")
    made.add_attachment(inner)
    page = page_of(tmp_path, made)
    assert page.text.split("\n\n")[1:] == ["See below.", "Subject: Inner", "forwarded words"]
    assert page.metadata["attachments"] == "plän.pdf, b.csv"
    assert page.left_out == ("2 attachments not read: plän.pdf, b.csv",)


@pytest.mark.parametrize("charset", ["iso-8859-15", "utf-8", "x-unknown", "us-ascii"])
def test_the_charset_may_be_right_unknown_or_wrong(tmp_path, charset):
    stated = "iso-8859-15" if charset == "iso-8859-15" else "utf-8"
    data = f"Subject: x\nContent-Type: text/plain; charset={charset}\n\nTee für 5 €".encode(stated)
    assert page_of(tmp_path, data).text == "Subject: x\n\nTee für 5 €"


def test_a_malformed_header_does_not_lose_the_mail(tmp_path):
    data = b"Subject: =?utf-8?B?////?= =?x?Q?a?=\nDate: never\nTo: <<>>, @\nFrom: \xff\xfe <a@>\n\nwords"
    page = page_of(tmp_path, data)
    assert page.text.endswith("words")
    assert page.metadata["date"] == "never"


@pytest.mark.parametrize("mark", ["\ufeff", ""])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_mail_that_an_editor_saved_in_utf_16_is_read(tmp_path, encoding, mark):
    page = page_of(tmp_path, f"{mark}Subject: Grüße\nFrom: a@b\n\nJürgen kommt.\n".encode(encoding))
    assert page.metadata["subject"] == "Grüße"
    assert page.text.endswith("Jürgen kommt.")


def test_what_is_no_mail_is_refused(tmp_path):
    assert refused(write(tmp_path / "a.eml", "just some words")).startswith("no mail: ")


@given(st.lists(st.sampled_from([*b'From: a\n;="<>@?,()-/']) | st.integers(0, 255), max_size=80))
def test_no_bytes_end_the_run(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("mail") / "a.eml", b"From: a\n" + bytes(data))
    with contextlib.suppress(DocumentError):
        list(read_mail(path))


def test_a_damaged_part_loses_no_other(tmp_path):
    part = "--x\nContent-Type: text/plain\n\n{}\n"
    malformed = ("Content-Type: text/plain; charset*\n\n", "Content-Disposition: inline; filename*0*\n\n")
    for damaged in (*malformed, "Content-Type: text/plain; charset=hex\n\n"):
        head = "Subject: Keys\nContent-Type: multipart/mixed; boundary=x\n\n"
        page = page_of(tmp_path, f"{head}{part.format('before')}--x\n{damaged}\n{part.format('after')}--x--\n".encode())
        assert "before" in page.text
        assert "after" in page.text


def test_long_headers_and_slow_charsets_take_little_time(tmp_path):
    begin = time.monotonic()
    receivers = ", ".join(f"=?utf-8?q?M=C3=BCller?= <a{i}@example.com>" for i in range(50_000))
    page = page_of(tmp_path, f"Subject: Keys\nTo: {receivers}\n\nHi".encode())
    assert page.text.startswith("Subject: Keys\nTo: Müller <a0@example.com>, Müller <a1@example.com>")
    assert page.text.endswith("Müller <a49999@example.com>\n\nHi")
    page_of(tmp_path, f"Subject: {'=?x?q?' * 200_000}\n\nHi".encode())
    page_of(tmp_path, f"Subject: Keys\nContent-Type: text/plain; {';' * 1_000_000}\n\nHi".encode())
    page_of(tmp_path, f"Subject: Keys\nContent-Type: text/plain; charset=punycode\n\na-{'b9c' * 300_000}".encode())
    assert time.monotonic() - begin < 10
