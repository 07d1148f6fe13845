"""Records: their properties, and sums of reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from smart_rag.errors import InvalidInput
from smart_rag.reports import AddReport, FailedFile
from smart_rag.types import Content, Document, Hit, PdfPage, VerifyReport
from smart_rag.values import is_unicode

PAGE = PdfPage(Path("a.pdf"), 3)


def hit(**metadata):
    return Hit("a", "text", metadata, score=1.0, pooled_score=0.5, late_score=0.5, rank=1)


# --- Content and Document -------------------------------------------------------------------


def test_every_item_becomes_a_content():
    image = Image.new("RGB", (2, 2))
    assert Content.of("words") == Content("words")
    assert Content.of(image) == Content(image=image)
    assert Content.of(PAGE) == Content(image=PAGE)
    content = Content("words", PAGE)
    assert Content.of(content) is content
    with pytest.raises(InvalidInput, match="expected a str, a Pillow image, a PdfPage or a Content, got bytes"):
        Content.of(b"words")


def test_a_content_of_text_alone_is_a_str():
    assert Content("words").plain == "words"
    for content in (Content("words", PAGE), Content(video="a.mp4")):
        assert content.plain is content


@pytest.mark.parametrize(
    ("content", "modality"),
    [
        (Content("words"), "text"),
        (Content("words", PAGE), "text+image"),
        (Content(" ", PAGE), "image"),
        (Content("words", PAGE, "a.mp4"), "text+image+video"),
        (Content(" "), ""),
    ],
)
def test_the_modality_names_the_parts(content, modality):
    assert content.modality == modality


def test_an_encoder_gets_the_parts_that_it_takes():
    """The text of a page is in its image."""
    document = Document("a", "words", image="a.png", video="a.mp4")
    assert document.content({"text", "image", "video"}) == Content("words", "a.png", "a.mp4")
    assert document.content({"text"}) == Content("words")
    assert document.content({"image"}) == Content("", "a.png")
    assert Document("a", "words", image=PAGE).content({"text", "image"}) == Content("", PAGE)
    assert Document("a", "words", image=PAGE).content({"text"}) == Content("words")


# --- Hit ------------------------------------------------------------------------------------


def test_a_hit_shows_source_and_page():
    assert (hit(source="a.pdf", page=3).source, hit(source="a.pdf", page=3).page) == ("a.pdf", 3)
    assert (hit().source, hit().page) == (None, None)
    assert hit(source=7).source == "7"
    assert hit(source="").source == ""


@pytest.mark.parametrize("page", ["3", 3.0, None, [3], True])
def test_a_page_is_a_whole_number(page):
    assert hit(page=page).page is None


# --- reports --------------------------------------------------------------------------------


def test_reports_add_up():
    one, two = FailedFile(Path("a"), "empty"), FailedFile(Path("b"), "broken")
    total = AddReport(1, 2, 3, 4, (one,)) + AddReport(10, 20, 30, 40, (two,))
    assert total == AddReport(11, 22, 33, 44, (one, two))


def test_an_index_with_orphans_is_sound():
    assert VerifyReport((), (), 3).sound
    assert not VerifyReport(("a",), (), 0).sound
    assert not VerifyReport((), ("a",), 0).sound


def test_a_lone_surrogate_is_not_unicode():
    assert is_unicode("\U0001f600")
    assert not is_unicode("\ud83d")
