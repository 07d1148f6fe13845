"""Encodings: what the file says, then UTF-8, then what the words say. Nothing is lost without a phrase."""

from __future__ import annotations

import random
import time
import zlib
from collections import Counter
from pathlib import Path

import pytest
from helpers.languages import SAMPLES
from hypothesis import given
from hypothesis import strategies as st

from smart_rag.errors import DocumentError
from smart_rag.files.formats.encoding import decode, decode_part

PATH = Path("a.txt")
CURLY = "The company’s “annual report” shows a profit. It doesn’t include the subsidiary. "  # noqa: RUF001
ENGLISH = "A log line, and another one.\n"


def text_of(data, **options):
    return decode(data, PATH, **options).text


@pytest.mark.parametrize(
    "sample", SAMPLES, ids=lambda sample: f"{sample.language}-{sample.encoding}-{len(sample.text)}"
)
def test_a_text_is_read_in_the_encoding_that_its_language_usually_has(sample):
    found = decode(sample.text.encode(sample.encoding), PATH)
    assert found.text == sample.text
    assert found.left_out == ()


def test_the_texts_are_many():
    languages, short = Counter(sample.language for sample in SAMPLES), [s for s in SAMPLES if len(s.text) <= 200]
    assert len(languages) >= 20
    assert len({(sample.language, sample.encoding) for sample in SAMPLES}) >= 30
    assert len(short) >= 40
    assert min(len(sample.text) for sample in SAMPLES) < 20


@pytest.mark.parametrize("encoding", ["shift_jis", "euc-jp", "gb18030", "big5", "euc-kr"])
@pytest.mark.parametrize("newlines", [True, False])
def test_a_bad_byte_in_an_asian_encoding_costs_little(encoding, newlines):
    text = max((sample.text for sample in SAMPLES if sample.encoding == encoding), key=len)
    text = text if newlines else text.replace("\n", "")
    data = (text * 3).encode(encoding) + b"\x80\x20" + (text * 1000).encode(encoding)
    found = decode(data, PATH)
    assert found.text[-len(text) * 1000 :] == text * 1000
    assert len(found.text) == len(text) * 1003 + 2


@pytest.mark.parametrize("junk", [b"\x81 ", b"\x9d ", b"\xff ", b"\0 "])
@pytest.mark.parametrize(
    "sample",
    [s for s in SAMPLES if s.encoding.startswith(("cp12", "iso8859", "koi8")) and len(s.text) > 150],
    ids=lambda sample: f"{sample.language}-{sample.encoding}",
)
def test_a_bad_byte_in_a_european_encoding_costs_little(sample, junk):
    """chardet excludes an encoding for one byte that it lacks."""
    data = sample.text.encode(sample.encoding)
    middle = data.index(b" ", len(data) // 2) + 1
    text = text_of(data[:middle] + junk + data[middle:])
    before, after = (part.decode(sample.encoding) for part in (data[:middle], data[middle:]))
    assert text.startswith(before)
    assert text.endswith(after)


@pytest.mark.slow
def test_words_out_of_a_text_are_read_as_well():
    """Three words have next to no evidence, eight have enough."""
    for words, share in ((3, 0.95), (8, 0.99)):
        right = total = 0
        for sample in SAMPLES:
            all_words = sample.text.split()
            for i in range(0, len(all_words) - words + 1, words):
                text = " ".join(all_words[i : i + words])
                total += not text.isascii()
                right += not text.isascii() and text_of(text.encode(sample.encoding)) == text
        assert right >= share * total


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-16-le", "utf-32-be"])
@pytest.mark.parametrize("sample", [s for s in SAMPLES if len(s.text) > 100][::3], ids=lambda sample: sample.language)
def test_unicode_is_read_with_and_without_a_mark(sample, encoding):
    found = decode(sample.text.encode(encoding), PATH)
    assert found.text == sample.text
    assert found.left_out == ()


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_the_mark_of_utf_16_counts(mark):
    codec = "utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"
    found = decode(mark + "Grüße, 猫".encode(codec) + b"\x41", PATH)
    assert found.text == "Grüße, 猫\ufffd"
    assert found.left_out == (f"1 character could not be decoded as {codec}",)


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<meta charset="iso-8859-2">', "iso8859-2"),
        ("<META http-equiv=Content-Type content='text/html; charset=windows-1250'>", "cp1250"),
        ('<?xml version="1.0" encoding="ISO-8859-2"?>', "iso8859-2"),
        ("# -*- coding: latin-2 -*-\n", "iso8859-2"),
        ("#!/bin/sh\n# vim: set fileencoding=cp1250 :\n", "cp1250"),
    ],
)
def test_what_the_file_says_counts(head, encoding):
    text = f"{head} łó"  # too short for a detector
    assert text_of(text.encode(encoding), is_html=True) == text


def test_a_page_that_shows_html_says_nothing_of_itself():
    text = "Write <meta charset=koi8-r> in the head. Dejó la señal."
    assert text_of(text.encode("cp1252")) == text
    assert text_of(f"<!-- <meta charset=koi8-r> --> {text[40:]}".encode("cp1252"), is_html=True).endswith("señal.")


@pytest.mark.parametrize("name", ["punycode", "unicode_escape", "idna", "utf-7", "rot13", "hex", "no-such"])
def test_codecs_that_are_no_encodings_of_files_are_not_believed(name):
    text = f'<meta charset="{name}">Die Straße ist schön.'
    assert text_of(text.encode("cp1252"), is_html=True) == text


@pytest.mark.parametrize("name", ["iso-8859-1", "gb2312", "windows-1251"])
def test_sound_utf_8_is_utf_8_whatever_the_file_says(name):
    text = f'<meta charset="{name}">“Żółć”, naïve, 日本語'
    assert text_of(text.encode(), is_html=True) == text


def test_a_short_text_of_an_asian_encoding_may_look_like_utf_8():
    assert text_of("<meta charset=gb2312>联通".encode("gbk"), is_html=True) == "<meta charset=gb2312>联通"


def test_one_bad_byte_costs_one_character():
    data = (CURLY * 10).encode() + b"caf\xe9. " + (CURLY * 10).encode()
    found = decode(data, PATH)
    assert found.text == f"{CURLY * 10}caf\ufffd. {CURLY * 10}"
    assert found.left_out == ("1 character could not be decoded as utf-8",)


def test_one_bad_byte_in_a_text_with_two_accents():
    found = decode((ENGLISH * 800).encode() + "naïve in a café. ".encode() + b"\xff", PATH)
    assert found.text == f"{ENGLISH * 800}naïve in a café. ÿ"
    assert found.left_out == ("1 character read as cp1252, not as utf-8",)


def test_a_text_of_two_encodings_is_read_in_both():
    found = decode("Schlüssel für alle, größer. ".encode() * 20 + "Schlüssel für alle. ".encode("cp1252") * 20, PATH)
    assert found.text == "Schlüssel für alle, größer. " * 20 + "Schlüssel für alle. " * 20
    assert found.left_out == ("40 characters read as cp1252, not as utf-8",)


@pytest.mark.parametrize("name", ["iso-8859-1", "latin1", ""])
def test_latin_1_is_the_encoding_of_windows(name):
    text = "It costs 5 € — “don’t”. " * 3  # noqa: RUF001
    head = f"# coding: {name}\n" if name else ""
    assert text_of(f"{head}{text}".encode("cp1252")) == f"{head}{text}"


def test_no_text_has_the_upper_controls():
    head = "# coding: iso-8859-2\n"
    found = decode(f"{head}Zażółć gęślą jaźń, zażółć gęślą jaźń".encode("iso-8859-2") + b" \x93", PATH)
    assert found.text.endswith("jaźń \ufffd")
    assert found.left_out == ("1 character could not be decoded as iso8859-2",)


@pytest.mark.parametrize(
    "sample", SAMPLES, ids=lambda sample: f"{sample.language}-{sample.encoding}-{len(sample.text)}"
)
def test_a_part_is_read_as_a_file_is(sample):
    data = sample.text.encode(sample.encoding)
    assert decode_part(data).text == sample.text
    assert decode_part(data, sample.encoding).text == sample.text
    assert decode_part(sample.text.encode(), sample.encoding).text == sample.text or len(sample.text) < 10


@pytest.mark.parametrize("name", ["utf-7", "utf-16", "hz-gb-2312"])
def test_a_part_in_an_encoding_of_mails(name):
    assert decode_part("Grüße, 猫".encode(name) if name != "hz-gb-2312" else "猫".encode("hz"), name).text.endswith(
        "猫"
    )


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("text", [f"{CURLY}“", "Only one here: “"])
def test_a_file_that_ends_within_a_character_loses_that_character(text, cut):
    if cut == 2 and text.startswith("Only"):
        pytest.skip("one byte may be a letter of cp1252")
    found = decode(text.encode()[:-cut], PATH)
    assert found.text == f"{text[:-1]}\ufffd"
    assert found.left_out == ("1 character could not be decoded as utf-8",)


def test_a_letter_of_windows_at_the_end_is_no_cut_character():
    assert text_of("un café".encode("cp1252")) == "un café"


def test_replacement_characters_that_the_file_holds_are_not_counted():
    assert decode("Grüße \ufffd und \ufffd, schöne".encode(), PATH).left_out == ()


@pytest.mark.parametrize("nuls", [1, 4096])
def test_a_hole_of_nuls_in_a_log_costs_nothing_else(nuls):
    found = decode((ENGLISH * 20).encode() + bytes(nuls) + ENGLISH.encode(), PATH)
    assert found.text == f"{ENGLISH * 20} {ENGLISH}"
    assert found.left_out == (f"{nuls:,} NUL character{'s' * (nuls > 1)} left out",)


@pytest.mark.parametrize(
    "data",
    [
        random.Random(0).randbytes(3000),
        random.Random(0).randbytes(60),
        zlib.compress(ENGLISH.encode() * 99 + random.Random(1).randbytes(50)),
        b"%PDF-1.7\n% all of it could be text\n",
        b"\xff\xfe" + random.Random(0).randbytes(300),
        b"\x89PNG\r\n\x1a\n\0\0",
        b"\0\1\2",
        bytes(range(256)) * 4,
        b"\0\1\2\3" * 20 + b"a long text follows " * 300,
    ],
    ids=["noise", "short noise", "zlib", "pdf", "marked noise", "png head", "three bytes", "all bytes", "binary head"],
)
def test_binary_data_is_refused(data):
    with pytest.raises(DocumentError, match=r"^a\.txt: binary data, not text$"):
        decode(data, PATH)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_text_without_nuls_or_an_error(data):
    try:
        found = decode(data, PATH, is_html=True)
    except DocumentError:
        return
    assert "\0" not in found.text
    if "\ufffd" in found.text and "\ufffd".encode() not in data:
        assert found.left_out


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=200))
def test_utf_8_is_read_as_it_is(text):
    assert text_of(text.encode("utf-8-sig")) == text


@pytest.mark.parametrize(
    "data",
    [
        "Grüße an alle, 猫. Plain text follows here.\n".encode() * 200_000,
        b"a log line\n" * 800_000 + b"caf\xe9",
        "Die Straße ist naß, und die Bäume am Fluß sind schön.\n".encode("cp1252") * 160_000,
    ],
    ids=["utf-8", "last byte", "cp1252"],
)
def test_ten_megabytes_take_no_time(data):
    begin = time.perf_counter()
    decode(data, PATH)
    assert time.perf_counter() - begin < 1.5


_OLD_TEXTS = (
    "Name;Straße\r\nMüller;Hauptstraße\r\nJörg;Königsallee\r\n",
    "La clé est derrière le baromètre, où les élèves étaient déjà arrivés.",
    "Estimado señor Núñez: la bomba de agua llegará el día 3 de mayo, según el almacén.",
    "La città è più bella di così, perché il fiume è già pieno e tutti i battelli sono già partiti per l'isola.",
    "På bryggan äter många människor räksmörgås, och båten åker till ön.",
)


@pytest.mark.parametrize("encoding", ["cp437", "cp850", "mac-roman"])
@pytest.mark.parametrize("text", _OLD_TEXTS)
def test_a_text_of_dos_or_an_old_mac_is_read(text, encoding):
    found = decode(text.encode(encoding), PATH)
    assert found.text == text
    codec = "mac-roman" if encoding == "mac-roman" else "cp850"
    assert found.left_out == (f"read as {codec}, which is a guess",)


@pytest.mark.parametrize("words", [3, 8])
def test_no_words_in_a_usual_encoding_are_taken_for_dos_or_an_old_mac(words):
    for sample in SAMPLES:
        found = sample.text.split()
        for i in range(0, len(found) - words + 1, words):
            text = " ".join(found[i : i + words]).encode(sample.encoding)
            assert decode(text, PATH).encoding not in ("cp850", "mac-roman"), (sample.language, text)
