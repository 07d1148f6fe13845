"""Mailboxes, mails of Apple Mail, and web archives."""

from __future__ import annotations

import pytest
from helpers.text_files import refused, text_of, write

from smart_rag.files.reader import read

FIRST = "From: a@example.com\nSubject: One\n\nThe keys.\n>From here to there.\n\nFrom here on it is quiet.\n"
SECOND = "From: b@example.com\nSubject: Two\n\nThe boat.\n"
LINE = "From a@example.com Mon May  3 10:00:00 2021\n"


def test_each_mail_of_a_mailbox_is_a_page(tmp_path):
    first, second = read(write(tmp_path / "a.mbox", f"{LINE}{FIRST}\n{LINE}{SECOND}"))
    assert (first.number, first.metadata["subject"]) == (1, "One")
    assert first.text.endswith("The keys.\nFrom here to there.\n\nFrom here on it is quiet.")
    assert (second.number, second.metadata["from"], second.text[-9:]) == (2, "b@example.com", "The boat.")


def test_a_mail_that_cannot_be_read_loses_no_other(tmp_path):
    first, second = read(write(tmp_path / "a.mbox", f"{LINE}no headers\n\n{LINE}{SECOND}"))
    assert first.left_out == ("mail 1 is no mail: it has none of the headers Subject, From, To and Date",)
    assert second.text.endswith("The boat.")


def test_what_stands_before_the_first_mail_is_counted(tmp_path):
    first, second = read(write(tmp_path / "a.mbox", f"\ufeff{LINE}{FIRST}\n{LINE}{SECOND}"))
    assert (first.metadata["subject"], first.left_out, second.left_out) == ("One", (), ())
    first, second = read(write(tmp_path / "b.mbox", f"words of another program\n\n{LINE}{FIRST}\n{LINE}{SECOND}"))
    assert (first.left_out, second.left_out) == (("4 words before the first mail",), ())


def test_what_is_no_mailbox_is_refused(tmp_path):
    assert refused(write(tmp_path / "a.mbox", "Just words.")).startswith("no mailbox: ")
    assert refused(write(tmp_path / "a.emlx", "Just words.")).startswith("no .emlx file")


def test_a_mail_of_apple_mail_is_read_without_its_properties(tmp_path):
    properties = '<?xml version="1.0"?><plist><dict/></plist>'
    page = text_of(write(tmp_path / "a.emlx", f"{len(SECOND)}       \n{SECOND}{properties}"))
    assert page == "Subject: Two\nFrom: b@example.com\n\nThe boat."
    (cut,) = read(write(tmp_path / "b.emlx", f"{len(SECOND) + 9}\n{SECOND}"))
    assert cut.left_out == ("what follows, because the file is cut off",)


@pytest.mark.parametrize("suffix", [".mht", ".mhtml"])
def test_a_web_archive_is_read(tmp_path, suffix):
    pytest.importorskip("selectolax")
    head = "From: <Saved by Blink>\nSubject: The harbour\nContent-Type: multipart/related; boundary=B\n\n"
    picture = "Content-Type: image/png\nContent-Transfer-Encoding: base64\n\nAAAA"
    inner = ("Content-Type: text/html\n\n<p>Boats come.</p>", "Content-Type: text/css\n\np {}", picture, picture)
    body = "".join(f"--B\n{part}\n" for part in inner)
    (page,) = read(write(tmp_path / f"a{suffix}", f"{head}{body}--B--\n"))
    assert page.metadata["subject"] == "The harbour"
    assert page.text.endswith("\n\nBoats come.")
    assert page.left_out == ("3 attachments not read: (text/css), (image/png)",)
    assert text_of(write(tmp_path / f"b{suffix}", "<!DOCTYPE html><p>Boats go.")) == "Boats go."
