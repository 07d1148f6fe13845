"""Plain text and Markdown: every usual encoding is read, binary data is refused."""

from __future__ import annotations

import random
import zlib

import pytest
from helpers.odd_files import noise_image, saved
from helpers.text_files import refused, text_of, write

from smart_rag.files.reader import read

JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
CHINESE = "中华人民共和国的首都是北京。这座城市有三千多年的历史，是全国的政治中心、文化中心。"  # noqa: RUF001
GERMAN = "Die Straße war naß, und die Bäume am Fluß standen schön im Nebel. Über den Dächern flogen Vögel."
FRENCH = "L'été dernier, nous avons visité l'hôtel près de la forêt où les élèves étaient déjà arrivés. Ça va bien."
ITALIAN = "La città è più bella di così; perché non può andare? Però l'università è già aperta, lunedì e martedì."
DANISH = "På øen bor der få mennesker, og færgen sejler kun én gang om dagen. Både køkken og værelse er små."
NOISE = random.Random(0).randbytes(3000)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "A.TXT", "a.Md"])
def test_text_is_read_as_it_is(tmp_path, name):
    text = "# Title\n\n- an *item*\n- 5 < 6 & more\n"
    assert text_of(write(tmp_path / name, text)) == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "Grüße, 猫 and 😀"),
        ("utf-8-sig", "Grüße, 猫 and 😀"),
        ("utf-16", "Grüße from the pier, 猫"),
        ("latin-1", GERMAN),
        ("cp1252", "The café’s price is £5 — “naïve” résumé writers pay 20 °C more."),  # noqa: RUF001
        ("shift_jis", JAPANESE),
        ("gb18030", CHINESE),
    ],
)
def test_text_of_any_usual_encoding_is_read(tmp_path, encoding, text):
    assert text_of(write(tmp_path / "a.txt", text.encode(encoding))) == text


@pytest.mark.parametrize("text", [FRENCH, ITALIAN, DANISH], ids=["French", "Italian", "Danish"])
def test_western_european_text_in_latin_1_is_read(tmp_path, text):
    assert text_of(write(tmp_path / "a.txt", text.encode("latin-1"))) == text


@pytest.mark.parametrize("suffix", [".txt", ".md", ".html"])
@pytest.mark.parametrize(
    "data",
    [
        saved(noise_image("L", (1, 1)), "PNG"),
        NOISE,
        zlib.compress(b"hello " * 999),
    ],
    ids=["png", "noise", "zlib"],
)
def test_a_binary_file_that_calls_itself_text_is_refused(tmp_path, suffix, data):
    assert refused(write(tmp_path / f"a{suffix}", data)) == "binary data, not text"


def test_what_could_not_be_decoded_is_said(tmp_path):
    (page,) = read(write(tmp_path / "a.md", "Schlüssel für Gäste\0".encode() + b"\xe9."))
    assert page.text == "Schlüssel für Gäste \ufffd."
    assert page.left_out == ("1 character could not be decoded as utf-8", "1 NUL character left out")


@pytest.mark.parametrize("text", ["\u200b", "\ufeff\u200b\u00ad \n\u2060", "\u3164\u200d"])
def test_characters_of_no_width_are_no_text(tmp_path, text):
    assert refused(write(tmp_path / "a.txt", text)).startswith("no text in it")
