"""The numbers that Word writes before paragraphs, as ECMA-376 (part 1, 17.9) defines them."""

from __future__ import annotations

import pytest
from helpers.office_files import docx, part, related, run

from smart_rag.files.formats.office.docx import read_docx

RELS = related(rId1=("numbering", "numbering.xml"), rId2=("styles", "styles.xml"))


def level(place, text, form="decimal", start=1, more=""):
    return (
        f'<w:lvl w:ilvl="{place}"><w:start w:val="{start}"/><w:numFmt w:val="{form}"/>{more}'
        f'<w:lvlText w:val="{text}"/></w:lvl>'
    )


def definition(id, *levels, more=""):
    return f'<w:abstractNum w:abstractNumId="{id}">{more}{"".join(levels)}</w:abstractNum>'


def num(id, of, more=""):
    return f'<w:num w:numId="{id}"><w:abstractNumId w:val="{of}"/>{more}</w:num>'


def item(text, place=0, id=1, more=""):
    numbered = f'<w:numPr><w:ilvl w:val="{place}"/><w:numId w:val="{id}"/></w:numPr>' if id is not None else ""
    return f"<w:p><w:pPr>{more}{numbered}</w:pPr>{run(text)}</w:p>"


def lines(tmp_path, body, numbering, styles=""):
    path = docx(
        tmp_path / "a.docx",
        body,
        RELS,
        numbering=part("w:numbering", numbering),
        styles=part("w:styles", styles),
    )
    [page] = read_docx(path)
    assert page.left_out == ()
    return page.text.split("\n\n")


OUTLINE = definition(0, level(0, "%1."), level(1, "%1.%2"), level(2, "(%3)", "lowerLetter")) + num(1, 0)


def test_levels_are_counted_and_begin_again_below_a_higher_one(tmp_path):
    body = (
        item("a") + item("b", 1) + item("c", 1) + item("d", 2) + item("e", 2) + item("f") + item("g", 1) + item("h", 2)
    )
    assert lines(tmp_path, body, OUTLINE) == ["1. a", "1.1 b", "1.2 c", "(a) d", "(b) e", "2. f", "2.1 g", "(a) h"]


def test_paragraphs_between_do_not_end_a_list_and_empty_ones_count(tmp_path):
    body = item("a") + item("between", id=None) + item("") + item("b") + item("off", id=0)
    assert lines(tmp_path, body, OUTLINE) == ["1. a", "between", "3. b", "off"]


@pytest.mark.parametrize(
    ("form", "start", "labels"),
    [
        ("decimal", 9, ["9", "10"]),
        ("decimalZero", 9, ["09", "10"]),
        ("lowerLetter", 26, ["z", "aa"]),
        ("upperLetter", 1, ["A", "B"]),
        ("lowerRoman", 3, ["iii", "iv"]),
        ("upperRoman", 1989, ["MCMLXXXIX", "MCMXC"]),
        ("ordinal", 21, ["21st", "22nd"]),
        ("chineseCounting", 19, ["十九", "二十"]),
        ("lowerLetter", 2_000_000_000, ["2000000000", "2000000001"]),
        ("hebrew1", 3, ["3", "4"]),
    ],
)
def test_forms_of_numbers(tmp_path, form, start, labels):
    numbering = definition(0, level(0, "%1)", form, start)) + num(1, 0)
    assert lines(tmp_path, item("x") + item("y"), numbering) == [f"{labels[0]}) x", f"{labels[1]}) y"]


def test_bullets_are_left_out_and_words_in_a_label_are_kept(tmp_path):
    numbering = definition(0, level(0, "•", "bullet"), level(1, "Article %2:", "upperRoman")) + num(1, 0)
    assert lines(tmp_path, item("x") + item("y", 1), numbering) == ["x", "Article I: y"]


def test_legal_numbers_are_digits(tmp_path):
    numbering = definition(0, level(0, "%1.", "upperRoman"), level(1, "%1.%2", more="<w:isLgl/>")) + num(1, 0)
    assert lines(tmp_path, item("x") + item("y", 1), numbering) == ["I. x", "1.1 y"]


def test_two_lists_of_one_definition_go_on_unless_one_begins_anew(tmp_path):
    anew = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="5"/></w:lvlOverride>'
    body = item("a") + item("b", id=2) + item("c", id=3) + item("d", id=3) + item("e", id=1)
    numbering = definition(0, level(0, "%1.")) + num(1, 0) + num(2, 0) + num(3, 0, anew)
    assert lines(tmp_path, body, numbering) == ["1. a", "2. b", "5. c", "6. d", "7. e"]


@pytest.mark.parametrize(("restart", "third"), [("", "(a)"), ('<w:lvlRestart w:val="0"/>', "(b)")])
def test_a_level_that_never_begins_again(tmp_path, restart, third):
    numbering = definition(0, level(0, "%1."), level(1, "(%2)", "lowerLetter", more=restart)) + num(1, 0)
    body = item("x", 0) + item("y", 1) + item("z", 0) + item("end", 1)
    assert lines(tmp_path, body, numbering) == ["1. x", "(a) y", "2. z", f"{third} end"]


def test_headings_have_the_numbers_of_their_styles(tmp_path):
    """A style has a list and no level: the level is the one that names the style. Another style is based on it."""
    levels = [level(i, text, more=f'<w:pStyle w:val="H{i + 1}"/>') for i, text in enumerate(["%1", "%1.%2"])]
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="H{i}"><w:pPr><w:numPr>'
        f"{'<w:ilvl w:val=' + chr(34) + str(i - 1) + chr(34) + '/>' if has_level else ''}"
        '<w:numId w:val="1"/></w:numPr></w:pPr></w:style>'
        for i, has_level in ((1, False), (2, True))
    )
    styles += '<w:style w:type="paragraph" w:styleId="Sub"><w:basedOn w:val="H2"/></w:style>'
    styles += '<w:style w:type="paragraph" w:styleId="Loop"><w:basedOn w:val="Loop"/></w:style>'

    def heading(text, style):
        return item(text, id=None, more=f'<w:pStyle w:val="{style}"/>')

    body = heading("One", "H1") + heading("Two", "H1") + heading("Part", "H2") + heading("Like it", "Sub")
    body += heading("Plain", "Loop")
    found = lines(tmp_path, body, definition(0, *levels) + num(1, 0), styles)
    assert found == ["1 One", "2 Two", "2.1 Part", "2.2 Like it", "Plain"]


def test_a_list_that_names_a_style_has_the_definition_of_its_list(tmp_path):
    numbering = (
        definition(0, level(0, "(%1)")) + definition(1, more='<w:numStyleLink w:val="L"/>') + num(1, 0) + num(2, 1)
    )
    styles = (
        '<w:style w:type="numbering" w:styleId="L"><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr></w:style>'
    )
    assert lines(tmp_path, item("a", id=2) + item("b", id=2), numbering, styles) == ["(1) a", "(2) b"]


def test_numbers_hide_no_loss(tmp_path):
    """The check for lost words compares letters. Those of the labels stand in no text."""
    body = "".join(map(item, "abcdefgh"))
    lost = "<w:p><w:pPr><w:rPr><w:t>abcd efgh</w:t></w:rPr></w:pPr></w:p>"
    numbering = definition(0, level(0, "%1)", "lowerLetter")) + num(1, 0)
    path = docx(tmp_path / "a.docx", body + lost, RELS, numbering=part("w:numbering", numbering))
    [page] = read_docx(path)
    [loss] = page.left_out
    assert "that the raw text of the file has" in loss


def test_headers_and_notes_take_no_numbers_of_the_body(tmp_path):
    note = '<w:r><w:footnoteReference w:id="2"/></w:r></w:p>'
    body = item("one").removesuffix("</w:p>") + note + item("two")
    rels = related(rId1=("numbering", "numbering.xml"), rId2=("header", "h.xml"), rId3=("footnotes", "f.xml"))
    parts = {"h": part("w:hdr", item("top")), "numbering": part("w:numbering", OUTLINE)}
    parts["f"] = part("w:footnotes", f'<w:footnote w:id="2">{item("below")}</w:footnote>')
    [page] = read_docx(docx(tmp_path / "a.docx", body, rels, **parts))
    assert page.text.split("\n\n") == ["top", "1. one", "below", "2. two"]


@pytest.mark.parametrize("change", ["del", "moveFrom"])
def test_a_paragraph_that_is_deleted_or_moved_away_does_not_count(tmp_path, change):
    away = item("away").replace("</w:pPr>", f"<w:rPr><w:{change}/></w:rPr></w:pPr><w:{change}>", 1)
    away = away.replace("</w:p>", f"</w:{change}></w:p>")
    assert lines(tmp_path, item("one") + away + item("two"), OUTLINE) == ["1. one", "2. two"]


def test_a_hostile_definition_ends_nothing(tmp_path):
    numbering = definition(0, level(0, "%1" * 100_000, start="9" * 30), level("x", "%9"), level(400, "%1"))
    found = lines(tmp_path, item("a", 999) + item("b", 0), numbering + num(1, 0) + num(2, 7))
    assert [line[-1] for line in found] == ["a", "b"]
    assert max(map(len, found)) < 150
