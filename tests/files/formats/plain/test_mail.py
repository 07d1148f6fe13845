"""Mails: headers as metadata, one body, attachments by name, and mails that are malformed."""

from __future__ import annotations

import base64
import contextlib
import quopri
import time
from email.message import EmailMessage

import pytest
from helpers.text_files import refused, write
from hypothesis import given, settings
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
    [("words", "<p>words</p>", "words"), (None, "<p>html</p>", "html"), (" \n", "<p>html</p>", "html")],
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


def test_receivers_are_shown_as_people_write_them(tmp_path):
    data = b'From: "Tobias M. Reed" <t@example.com>\nTo: "Ann, Bo"\n <a@example.com>,b@example.com\nTo: c@d.e\n\nx'
    metadata = page_of(tmp_path, data).metadata
    assert metadata["from"] == "Tobias M. Reed <t@example.com>"
    assert metadata["to"] == "Ann, Bo <a@example.com>, b@example.com, c@d.e"


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


HEAD = "From: a@example.com\nSubject: Test\n"
GERMAN = "Die Überraschung für Jürgen ist schön. " * 5


def body_of(path, data):
    """Return the body of a mail, and what is left out."""
    page = page_of(path, data if isinstance(data, bytes) else data.encode())
    return page.text.split("\n\n", 1)[1], page.left_out


def parts(kind, *inner):
    """Return a part of this kind with other parts."""
    edge = f"edge-{len(''.join(inner))}"
    body = "".join(f"--{edge}\n{part}\n" for part in inner)
    return f"Content-Type: multipart/{kind}; boundary={edge}\n\n{body}--{edge}--\n"


PLAIN, HTML = "Content-Type: text/plain\n\nThe plan.", "Content-Type: text/html\n\n<p>The plan.</p>"
PDF = "Content-Type: application/pdf\nContent-Disposition: inline; filename=report.pdf\n\nx"


@pytest.mark.parametrize("charset", ["utf-8", "us-ascii", "x-unknown"])
def test_one_bad_byte_costs_one_character(tmp_path, charset):
    head = f"{HEAD}Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: 8bit\n\n"
    body, left_out = body_of(tmp_path, head.encode() + GERMAN.encode() + b"\xff Gr\xc3\xb6\xc3\x9fe")
    assert body == f"{GERMAN}\ufffd Größe"
    assert left_out == ("1 character could not be decoded as utf-8",)


def test_latin_1_is_the_encoding_of_windows(tmp_path):
    head = f"{HEAD}Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: 8bit\n\n"
    assert body_of(tmp_path, head.encode() + b"5 \x80, \x93don\x92t\x94")[0] == "5 €, “don’t”"  # noqa: RUF001


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"=?iso-8859-1?Q?It_costs_5_=80?=", "It costs 5 €"),
        (b"=?gb2312?B?1uzpRrv5?=", "朱镕基"),
        (b"=?utf-8?Q?Gr=C3?= =?utf-8?Q?=B6=C3=9Fe?= in m", "Größe in m"),
        (b"=?utf-8?B?R3LDtsOfZQ?= =?latin1?q?_=e4?=", "Größe ä"),
        ("Größe und Länge".encode("cp1252"), "Größe und Länge"),
        ("Größe und Länge".encode(), "Größe und Länge"),
        (b"=?utf-8?B?!?= =?x?Q?", "=?utf-8?B?!?= =?x?Q?"),
    ],
)
def test_headers_in_any_encoding(tmp_path, raw, text):
    page = page_of(tmp_path, b"From: a@example.com\nSubject: " + raw + b"\n\nwords")
    assert page.metadata["subject"] == text
    named = b'Content-Disposition: attachment; filename="' + raw + b'"\n\nx'
    page = page_of(tmp_path, HEAD.encode() + parts("mixed", PLAIN, "@").encode().replace(b"@", named))
    assert page.metadata["attachments"] == text


@pytest.mark.parametrize(
    ("mail", "body", "attachments"),
    [
        (parts("alternative", HTML, "Content-Type: text/calendar\n\nBEGIN:VCALENDAR"), "The plan.", "(text/calendar)"),
        (parts("alternative", PLAIN, parts("mixed", HTML, PDF)), "The plan.", "report.pdf"),
        (
            parts("alternative", PLAIN, parts("mixed", HTML, PDF, HTML.replace("plan", "end"))),
            "The plan.\n\nThe end.",
            "report.pdf",
        ),
        (
            parts("alternative", PLAIN, HTML.replace("plan", "whole plan with all dates")),
            "The whole plan with all dates.",
            "",
        ),
        (parts("alternative", PLAIN.replace("plan", "plain plan"), HTML), "The plain plan.", ""),
        (parts("alternative", "Content-Type: text/calendar\n\nBEGIN:VCALENDAR"), "BEGIN:VCALENDAR", ""),
        ("Content-Type: text/plain; name=message.txt\n\nThe plan.", "The plan.", ""),
        (
            parts(
                "mixed",
                PLAIN,
                "Content-Type: message/external-body; access-type=URL; url=ftp://a.org/b.pdf\n\nContent-Type: a/b\n\n",
                'Content-Type: message/external-body; access-type=ftp; name="c.ps"\n\nContent-Type: a/b\n\n',
            ),
            "The plan.",
            "ftp://a.org/b.pdf, c.ps",
        ),
    ],
)
def test_the_form_that_says_most_is_read_and_all_attachments_are_named(tmp_path, mail, body, attachments):
    page = page_of(tmp_path, f"{HEAD}{mail}".encode())
    assert page.text.split("\n\n", 1)[1] == body
    assert page.metadata.get("attachments", "") == attachments


def test_a_footer_after_base64_is_text(tmp_path):
    body = "VGhpcyBpcyB0aGUgYm9keSBvZiB0aGUgbWFpbC4=\n-- \nThe footer of the list.\n"
    head = f"{HEAD}Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n"
    assert body_of(tmp_path, head + body)[0] == "This is the body of the mail.\n\n-- \nThe footer of the list."


def test_a_mark_before_the_headers(tmp_path):
    assert page_of(tmp_path, f"\ufeff{HEAD}\nwords".encode()).metadata["subject"] == "Test"


@pytest.mark.parametrize(
    "data",
    [
        HEAD + "To: " + ", ".join(f"Name {i} <a{i}@example.com>" for i in range(20_000)) + "\n\nwords",
        HEAD + "Content-Type: text/plain; charset=punycode\n\nwords-" + "a" * 200_000 + "\xe4",
        HEAD + parts("mixed", *[PLAIN] * 20_000),
        HEAD + parts("alternative", f"{PLAIN}{'words' * 200_000}", HTML),
    ],
    ids=["receivers", "punycode", "parts", "one long word"],
)
def test_a_large_mail_takes_no_time(tmp_path, data):
    begin = time.perf_counter()
    page = page_of(tmp_path, data.encode())
    assert time.perf_counter() - begin < 10
    assert page.left_out == ("15,001 parts after the first 5,000",) or "parts" not in str(page.left_out)
    assert "words" in page.text or page.text.count("The plan.") == 4999


def test_what_is_no_mail_is_refused(tmp_path):
    assert refused(write(tmp_path / "a.eml", "just some words")).startswith("no mail: ")


@settings(deadline=None)
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


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("base64", "VGhlIA==\ncGxhbi4="),
        ("base64", "  VGhlIHBsYW4u"),
        ("base64 (by a gateway)", "VGhlIHBsYW4u"),
        ('"Base64"', "VGhlIHBsYW4u"),
    ],
)
def test_base64_with_odd_lines(tmp_path, encoding, body):
    head = f"{HEAD}Content-Type: text/plain\nContent-Transfer-Encoding: {encoding}\n\n"
    assert body_of(tmp_path, head + body) == ("The plan.", ())


@pytest.mark.timeout(20)
def test_a_long_word_that_is_not_base64_takes_no_time(tmp_path):
    """It took twice as long for each letter."""
    body = f"VGhlIHBsYW4u\nsubscription/{'preferences/' * 20}page.html\n"
    head = f"{HEAD}Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n"
    assert body_of(tmp_path, head + body)[0].startswith("The plan.")


def test_one_stray_sign_in_base64_costs_no_text(tmp_path):
    text = base64.b64encode(b"The keys of the boat hang behind the barometer.").decode()
    head = f"{HEAD}Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n"
    assert body_of(tmp_path, f"{head}{text[:9]}!{text[9:]}")[0] == "The keys of the boat hang behind the barometer."
    footer = "_" * 47 + "\nThe list: https://lists.example.com/listinfo/boats"
    assert body_of(tmp_path, f"{head}{text}\n{footer}")[0].endswith(footer)


def test_what_follows_the_last_part_is_counted(tmp_path):
    body, left_out = body_of(tmp_path, HEAD + parts("mixed", PLAIN) + "\nA disclaimer of the gateway.")
    assert body == "The plan."
    assert left_out == ("5 words after the last part, which no mail program shows",)


def test_a_report_of_abuse_is_read(tmp_path):
    report = "Content-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: Mailer"
    assert "Feedback-Type: abuse" in body_of(tmp_path, HEAD + parts("report", PLAIN, report))[0]


INNER = (
    "From: b@example.com\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\nContent-Type: text/plain; charset=utf-8\n\n"
    "Die Schlüssel.\n"
)


def encoded(kind, encoding, data):
    """Return a part of this kind in a transfer encoding."""
    data = data.encode()
    body = base64.encodebytes(data) if encoding == "base64" else quopri.encodestring(data)
    return f"Content-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n{body.decode()}"


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_a_forwarded_mail_that_is_encoded_is_read(tmp_path, encoding):
    read = "Subject: Grüße\nFrom: b@example.com\n\nDie Schlüssel."
    one = encoded("message/rfc822", encoding, INNER)
    assert body_of(tmp_path, HEAD + one) == (read, ())
    assert body_of(tmp_path, HEAD + parts("mixed", PLAIN, one, PLAIN)) == (f"The plan.\n\n{read}\n\nThe plan.", ())
    two = encoded("message/rfc822", encoding, f"Subject: Between\n{parts('mixed', PLAIN, one)}")
    body, left_out = body_of(tmp_path, HEAD + parts("mixed", two))
    assert (body, left_out) == (f"Subject: Between\n\nThe plan.\n\n{read}", ())


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_a_forwarded_mail_that_only_says_that_it_is_encoded_is_read(tmp_path, encoding):
    part = f"Content-Type: message/rfc822\nContent-Transfer-Encoding: {encoding}\n\n{INNER}"
    assert body_of(tmp_path, HEAD + parts("mixed", part))[0] == "Subject: Grüße\nFrom: b@example.com\n\nDie Schlüssel."


def test_mails_in_mails_are_decoded_to_a_bound(tmp_path):
    part = PLAIN
    for _ in range(25):
        part = encoded("message/rfc822", "quoted-printable", f"Subject: Between\n{parts('mixed', PLAIN, part)}")
    body, left_out = body_of(tmp_path, HEAD + part)
    assert body.count("The plan.") == 20
    assert left_out == ("what is encoded more than 20 times, a mail in a mail",)


STUB = "This message contains HTML. Your mail program does not show it: https://example.com/n/1"
TABLE = "<table><tr><td>Herring</td><td>4711</td></tr><tr><td>Kestrel</td><td>99</td></tr></table>"
LONG = " ".join(f"word{i}" for i in range(60))


@pytest.mark.parametrize(
    ("plain", "html", "body", "left_out"),
    [
        (STUB, TABLE, f"Herring | 4711\nKestrel | 99\n\n{STUB}", ()),
        ("The plan is secret.", "<p>The plan</p>", "The plan is secret.", ()),
        (LONG, f"<p>{LONG} Unsubscribe</p>", LONG, ("1 word that only another form of the text has",)),
        (
            f"{LONG} reader",
            f"<p>{LONG} a b c d</p>",
            f"{LONG} a b c d",
            ("1 word that only another form of the text has",),
        ),
        ("THE PLAN\nsee <https://example.com/plan>", "<b>The</b> plan <a href=x>see</a>", "THE PLAN\nsee", ()),
        ("会議は明日の\n午後三時に変更", "<p>会議は明日の午後三時に変更</p>", "会議は明日の\n午後三時に変更", ()),
    ],
)
def test_html_is_read_where_the_plain_text_lacks_its_words(tmp_path, plain, html, body, left_out):
    page = page_of(tmp_path, mail(plain=plain, html=html))
    assert page.text.split("\n\n", 1)[1].replace(" <https://example.com/plan>", "") == body
    assert page.left_out == left_out


def test_forms_in_forms_are_read_to_any_depth(tmp_path):
    begin = time.perf_counter()
    made = f"{PLAIN} {LONG * 300}"
    for i in range(40):
        made = parts("alternative", PLAIN.replace("plan", f"form {i}"), made)
    body, _ = body_of(tmp_path, HEAD + made)
    assert LONG in body
    assert time.perf_counter() - begin < 10


FIELDS = "Reporting-MTA: dns; mx.example.com\n\nFinal-Recipient: rfc822; a@example.com\nAction: failed"


def test_a_report_that_is_free_text_is_read(tmp_path):
    text = "This message was undeliverable:\n\n<a@example.com> takes no mail.\n\nPlease reply\nto us."
    report = "Content-Type: message/delivery-status\n\n"
    assert body_of(tmp_path, HEAD + parts("report", report + text, report + FIELDS)) == (f"{text}\n\n{FIELDS}", ())


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_a_report_that_is_encoded_is_read(tmp_path, encoding):
    report = encoded("message/delivery-status", encoding, FIELDS)
    assert body_of(tmp_path, HEAD + parts("report", PLAIN, report)) == (f"The plan.\n\n{FIELDS}", ())


def test_a_report_in_raw_utf8_is_read(tmp_path):
    """Servers write it, although the format has only ASCII."""
    report = "Content-Type: message/delivery-status\n\nDiagnostic-Code: smtp; 550 Größe überschritten"
    assert body_of(tmp_path, HEAD + parts("report", PLAIN, report))[0].endswith("550 Größe überschritten")


def test_a_receipt_is_read(tmp_path):
    receipt = "Content-Type: message/disposition-notification\n\nDisposition: manual-action; displayed"
    assert body_of(tmp_path, HEAD + parts("report", PLAIN, receipt))[0].endswith(
        "Disposition: manual-action; displayed"
    )


def test_parts_with_the_same_edge_are_read(tmp_path):
    outer = "Content-Type: multipart/mixed; boundary=B\n\n--B\nContent-Type: multipart/alternative; boundary=B\n\n"
    inner = f"--B\n{PLAIN}\n--B\n{HTML}\n--B--\n"
    page = page_of(tmp_path, f"{HEAD}{outer}{inner}\n--B\n{PDF}\n--B--\n".encode())
    assert page.text.split("\n\n", 1)[1] == "The plan."
    assert page.left_out == ("1 attachment not read: report.pdf",)


@pytest.mark.parametrize("boundary", ["", "; boundary=other"])
@pytest.mark.parametrize("before", ["", "This is a message of several parts.\n\n"])
def test_parts_without_their_edge_are_read(tmp_path, boundary, before):
    made = parts("mixed", PLAIN, encoded("text/plain", "base64", "The end."), PDF)
    head, body = made.split("\n\n", 1)
    page = page_of(tmp_path, f"{HEAD}{head.partition(';')[0]}{boundary}\n\n{before}{body}".encode())
    assert page.text.split("\n\n", 1)[1] == "The plan.\n\nThe end."
    assert page.left_out == ("1 attachment not read: report.pdf",)


def test_a_mail_that_only_says_that_it_has_parts_is_read(tmp_path):
    head = f"{HEAD}Content-Type: multipart/mixed; boundary=B\n\n"
    assert body_of(tmp_path, f"{head}Just words.\n") == ("Just words.", ())
    assert body_of(tmp_path, head) == ("", ())


def test_lines_that_a_program_broke_are_joined(tmp_path):
    lines = "A long inter \nnational  \nline.\nNext.\n> a quot \n> ed one \n>> other\n-- \nAnn \n\n end"
    head = f"{HEAD}Content-Type: text/plain; charset=utf-8; format=flowed; delsp=yes\n\n"
    body, _ = body_of(tmp_path, head + lines)
    assert body == "A long international line.\nNext.\n> a quoted one\n>> other\n-- \nAnn\nend"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("text/rtf", r"{\rtf1\ansi\ansicpg1252 The \b plan\b0 : Gr\'fc\'dfe \{1\}.}"),
        ("text/richtext", r"{\rtf1 The plan: Gr\u252 ?\u223 ?e \{1\}.}"),
        ("text/enriched", "<color><param>red</param><bold>The</bold></color>\nplan: Grüße {1}."),
        ("text/richtext", "<bold>The</bold>\nplan: Grüße {1}."),
    ],
)
def test_rich_texts_are_read_without_their_markup(tmp_path, kind, text):
    part = f"Content-Type: {kind}; charset=utf-8\n\n{text}"
    assert body_of(tmp_path, HEAD + parts("mixed", part)) == ("The plan: Grüße {1}.", ())
    only = parts("alternative", "Content-Type: text/calendar\n\nBEGIN:VCALENDAR", part)
    assert body_of(tmp_path, HEAD + only)[0] == "The plan: Grüße {1}."
    same = parts("alternative", PLAIN.replace(".", ": Grüße {1}."), part)
    assert body_of(tmp_path, HEAD + same) == ("The plan: Grüße {1}.", ())


def test_signs_and_lines_of_enriched_text(tmp_path):
    part = "Content-Type: text/enriched\n\na <<b> <italic>c</italic>\n\nd\n\n\ne"
    assert body_of(tmp_path, HEAD + part)[0] == "a <b> c\nd\n\ne"
