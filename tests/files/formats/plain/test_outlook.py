"""Mails of Outlook: properties, bodies of each kind, attachments by name."""

from __future__ import annotations

import struct

import pytest
from helpers.ole_files import msg
from helpers.text_files import refused, write

from smart_rag.files.formats.office.rtf import CUT
from smart_rag.files.formats.plain.outlook import _BEFORE, read_msg

pytest.importorskip("olefile")

SENT = 134_245_476_000_000_000  # 100 ns since 1601
HEADERS = {"0037": "Keys", "0C1A": "Tobias", "5D01": "t@example.com", "0E04": "Ann; Bo"}


def page_of(path, properties, sent=0):
    (page,) = read_msg(msg(path / "a.msg", properties, sent))
    return page


def body_of(path, properties):
    return page_of(path, {"0037": "x", **properties}).text.partition("\n\n")[2]


def test_headers_and_attachments_are_metadata(tmp_path):
    attached = {"__attach_1/3707": "plan.pdf", "__attach_2/3704": "B~1.TXT", "__attach_3/3001": ""}
    page = page_of(tmp_path, {**HEADERS, "1000": "Behind the\r\nbarometer.", **attached}, SENT)
    assert page.text.splitlines()[:3] == ["Subject: Keys", "From: Tobias <t@example.com>", "To: Ann; Bo"]
    assert page.text.endswith("\n\nBehind the\nbarometer.")
    assert page.metadata == {
        "subject": "Keys",
        "from": "Tobias <t@example.com>",
        "to": "Ann; Bo",
        "date": "2026-05-29T17:00:00+00:00",
        "attachments": "plan.pdf, B~1.TXT, (no name)",
    }
    assert page.left_out == ("3 attachments not read: plan.pdf, B~1.TXT, (no name)",)


def test_html_is_read_where_there_is_no_plain_text(tmp_path):
    assert body_of(tmp_path, {"1013": "<p>Tee f\xfcr <b>5 \u20ac</b></p>".encode()}) == "Tee für 5 €"


@pytest.mark.parametrize("compressed", [True, False])
def test_rich_text_is_read_where_there_is_nothing_else(tmp_path, compressed):
    text = rb"{\rtf1 again again again}"
    if compressed:
        # ``{\rtf1 again `` as it is, then 12 bytes that began 6 bytes before, then ``}``.
        start = len(_BEFORE) + len(rb"{\rtf1 ")
        letters = rb"{\rtf1 again "
        packed = b"\0" + letters[:8] + b"\x20" + letters[8:] + struct.pack(">H", start << 4 | 10) + b"}"
        data = struct.pack("<II4sI", len(packed), len(text) + 1, b"LZFu", 0) + packed
    else:
        data = struct.pack("<II4sI", len(text), len(text), b"MELA", 0) + text
    assert body_of(tmp_path, {"1009": data}).split() == ["again", "again", "again"]


def test_a_mail_that_is_cut_off_says_so(tmp_path):
    path = msg(tmp_path / "a.msg", {"0037": "Keys", "1000": "The first half"})
    data = bytearray(path.read_bytes())
    entry = data.index("__substg1.0_1000001F".encode("utf-16-le"))
    struct.pack_into("<I", data, entry + 120, 40_000)  # the size of the body
    (page,) = read_msg(write(path, bytes(data)))
    assert page.text.endswith("The first half")
    assert page.left_out == (CUT,)


def test_what_is_no_mail_is_refused(tmp_path):
    assert refused(write(tmp_path / "a.msg", b"words\0\1")) == "damaged, or not a .msg file"
