"""Letters of any script in pictures: in a font that has them, in their order, and named where no font has them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from smart_rag.index.explain import fonts, lettering
from smart_rag.index.explain.lettering import Lettering
from smart_rag.index.explain.pictures import add_legend, draw_heat_map, draw_marked_text

INK = (20, 20, 20)
SCRIPTS = {
    "German": "Die Schlüssel für § 5",
    "Polish": "Łódź, żółć",
    "Greek": "Ελληνικά",
    "Russian": "Привет",
    "Hebrew": "שלום",
    "Arabic": "مرحبا",
    "mathematics": "∀x∈R ≤ ∞",
}


@pytest.fixture
def fonts_in(monkeypatch):
    """Let only the fonts in some folders be there."""
    cached = (fonts._files, fonts._usual, fonts._number_of, fonts._has, fonts._picture, fonts._loaded)

    def forget():
        fonts._misses.clear()
        for function in (*cached, lettering._runs, lettering._length):
            function.cache_clear()

    def use(*folders):
        monkeypatch.setattr(fonts, "_folders", lambda: list(folders))
        forget()

    yield use
    monkeypatch.undo()
    forget()


def drawn(text, size=40):
    letters = Lettering(size)
    image = Image.new("RGB", (900, 80), "white")
    letters.draw(ImageDraw.Draw(image), (10, 10), text, INK)
    return np.asarray(image.convert("L")), letters


def boxes_of(text, size=40):
    """What is drawn where no letter is known."""
    return drawn("\U0010ffff" * len(text), size)[0]


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_letter_has_a_picture_of_its_own(name):
    pictures = {}
    for letter in SCRIPTS[name].replace(" ", ""):
        pixels, letters = drawn(letter)
        assert not letters.missing
        assert (pixels != boxes_of(letter)).any()
        pictures[letter] = pixels.tobytes()
    assert len(set(pictures.values())) == len(pictures)


def test_what_no_font_has_is_named_once(fonts_in, caplog):
    fonts_in()  # Pillow's own font is always there
    draw_marked_text("中文 and 中文, ü and 字", [((0, 1), 1.0)])
    (message,) = caplog.messages
    assert message.startswith("the picture has boxes for ")
    assert "中 (U+4E2D), 文 (U+6587)" in message
    assert message.endswith("install a font for them, such as Noto")
    add_legend(Image.new("RGB", (500, 10)), "plain", [("boats 0.5", 1.0)])
    assert len(caplog.messages) == 1


def test_many_letters_of_unknown_scripts_are_named_in_short(fonts_in, caplog):
    fonts_in()
    draw_marked_text("".join(map(chr, range(0x4E00, 0x5200))), [])
    assert "boxes for 1,024 characters" in caplog.text
    assert "and 1,019 more" in caplog.text


def test_a_damaged_font_is_passed_over(fonts_in, tmp_path):
    own = fonts._files()[0]
    (tmp_path / "arial.ttf").write_bytes(b"no font")
    shutil.copy(own, tmp_path / "zebra.ttf")
    fonts_in(tmp_path)
    assert not drawn("Ä")[1].missing
    assert fonts.usual_font(20).getname() == ImageFont.truetype(own, 20).getname()


def test_fonts_of_boxes_do_not_count(fonts_in, tmp_path):
    shutil.copy(fonts._files()[0], tmp_path / "LastResort.otf")
    fonts_in(tmp_path)
    assert drawn("Щ")[1].missing


def test_a_word_has_one_font_if_one_has_all(monkeypatch):
    """Two fonts in one word look like a mistake."""
    rare = next(
        number for number in range(1, len(fonts._files())) if fonts._has(number, "d") and fonts._has(number, "д")
    )
    monkeypatch.setattr(fonts, "_number_of", lambda letter: rare if letter == "д" else fonts._usual())
    assert len(set(fonts.fonts_of("dд", 20))) == 1
    monkeypatch.setattr(fonts, "_has", lambda number, letter: letter == "д")
    assert len(set(fonts.fonts_of("dд", 20))) == 2


@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow cannot write from right to left")
def test_marks_stand_on_their_words_in_both_directions():
    """The first Hebrew word is the rightmost one. Between words of English, it stands where it belongs."""
    for text, word in (
        ("שלום עולם וכולם", "שלום"),
        ("שלום עולם וכולם", "וכולם"),
        ("the word שלום here", "שלום"),
        ("the words שלום עולם here", "עולם"),
        ("שלום and עולם", "and"),
    ):
        start = text.index(word)
        letters = Lettering(30)
        ((left, right),) = letters.spans(text, (start, start + len(word)))
        image = Image.new("RGB", (900, 60), "white")
        letters.draw(ImageDraw.Draw(image), (0, 5), text, INK)
        inside = np.asarray(image.convert("L"))[:, round(left) : round(right)]
        expected = Image.new("RGB", (900, 60), "white")
        letters.draw(ImageDraw.Draw(expected), (0, 5), word, INK)
        expected = np.asarray(expected.convert("L"))[:, : round(right - left)]
        assert abs(int((inside < 128).sum()) - int((expected < 128).sum())) <= 0.1 * (expected < 128).sum()
    assert Lettering.is_rtl("42: שלום") is False
    assert Lettering.is_rtl("... שלום 42")


def test_stronger_marks_are_darker_and_have_a_thicker_line():
    text = "alpha beta gamma delta"
    begins = [text.index(word) for word in text.split()]
    spans = [((at, at + 4), heat) for at, heat in zip(begins, (0.1, 0.4, 0.7, 1.0), strict=True)]
    pixels = np.asarray(draw_marked_text(text, spans))
    grounds, thickness = [], []
    for left in (next(Lettering(20).spans(text, span))[0] for span, _ in spans):
        column = pixels[:, round(12 + left) - 1].astype(int)
        coloured = column[(column != 255).any(axis=1) & (column != 20).any(axis=1)]
        grounds.append(coloured.sum(axis=1).min())
        thickness.append(int((column == 20).all(axis=1).sum()))
    assert grounds == sorted(grounds, reverse=True)
    assert len(set(grounds)) == 4
    assert thickness == [0, 1, 3, 4]


def test_how_much_is_not_shown_is_said(monkeypatch):
    said = []
    draw = Lettering.draw

    def listened(self, canvas, place, line, colour):
        said.append(line)
        draw(self, canvas, place, line, colour)

    monkeypatch.setattr(Lettering, "draw", listened)
    draw_marked_text("\n".join(f"line {i}" for i in range(100)), [((0, 4), 1.0)])
    assert said[-1] == "… 52 lines not shown"


def test_the_best_patch_has_a_frame():
    values = np.zeros((4, 5), np.float32)
    values[2, 3] = 1
    pixels = np.asarray(draw_heat_map(Image.new("RGB", (500, 400), "white"), values, 200_000))
    assert (pixels[200, 300:400] == 20).all()
    assert (pixels[200:300, 300] == 20).all()
    assert not (pixels[:, :299] == 20).any()
    flat = np.asarray(draw_heat_map(Image.new("RGB", (500, 400), "white"), np.ones((4, 5), np.float32), 200_000))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1
