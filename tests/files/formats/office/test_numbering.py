"""The numbers that Word writes before paragraphs, as ECMA-376 (part 1, 17.9) defines them."""

from __future__ import annotations

import time

import pytest
from helpers.office_files import docx, part, related, run

from smart_rag.files.formats.office import numbering
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
        ("ordinal", 0, ["0th", "1st"]),
        ("chineseCounting", 19, ["十九", "二十"]),
        ("cardinalText", 21, ["Twenty-one", "Twenty-two"]),
        ("ordinalText", 12, ["Twelfth", "Thirteenth"]),
        ("ordinalText", 20, ["Twentieth", "Twenty-first"]),
        ("hex", 15, ["F", "10"]),
        ("numberInDash", 1, ["- 1 -", "- 2 -"]),
        ("chicago", 4, ["§", "**"]),
        ("russianLower", 9, ["и", "к"]),
        ("russianUpper", 29, ["Я", "АА"]),  # noqa: RUF001
        ("hebrew1", 15, ["טו", "טז"]),  # noqa: RUF001
        ("hebrew1", 29, ["כט", "ל"]),
        ("α, β, γ, ...", 1, ["α", "β"]),  # noqa: RUF001
        ("hebrew2", 1, ["א", "ב"]),
        ("arabicAlpha", 2, ["ب", "ت"]),
        ("arabicAbjad", 2, ["ب", "ج"]),
        ("thaiLetters", 4, ["ง", "จ"]),
        ("thaiNumbers", 9, ["๙", "๑๐"]),
        ("hindiNumbers", 9, ["९", "१०"]),
        ("hindiVowels", 1, ["क", "ख"]),
        ("japaneseCounting", 11, ["十一", "十二"]),
        ("ideographDigital", 10, ["一〇", "一一"]),
        ("ideographTraditional", 1, ["甲", "乙"]),
        ("ideographZodiac", 11, ["戌", "亥"]),
        ("ideographZodiacTraditional", 10, ["癸酉", "甲戌"]),
        ("chineseLegalSimplified", 1, ["壹", "贰"]),
        ("koreanCounting", 19, ["십구", "이십"]),
        ("koreanLegal", 20, ["스물", "스물하나"]),
        ("ganada", 1, ["가", "나"]),
        ("aiueoFullWidth", 5, ["オ", "カ"]),
        ("decimalFullWidth", 9, ["９", "１０"]),  # noqa: RUF001
        ("decimalEnclosedCircle", 19, ["⑲", "⑳"]),
    ],
)
def test_forms_of_numbers(tmp_path, form, start, labels):
    numbering = definition(0, level(0, "%1)", form, start)) + num(1, 0)
    assert lines(tmp_path, item("x") + item("y"), numbering) == [f"{labels[0]}) x", f"{labels[1]}) y"]


def test_every_form_has_letters_of_its_own_until_it_ends():
    """No form gives one label to two numbers, and after the last number that is sure there is none."""
    letters = (*numbering._REPEATED, *numbering._LETTERS, *numbering._TENS)
    for form in (*letters, *numbering._DIGITS, "hebrew1", "ordinalText"):
        found = [numbering._written(count, form) for count in range(1, 393)]
        known = [label for label in found if label is not None]
        assert len(set(known)) == len(known) >= 6, form
        assert None not in found[: len(known)], form


@pytest.mark.parametrize("form", ["hindiCounting", "bahtText", "a, ç, ĝ, ...", "lowerLetter", "decimalEnclosedCircle"])
def test_a_form_that_is_not_followed_is_named(tmp_path, form):
    """A form may be unknown, or its numbers too large."""
    path = docx(
        tmp_path / "a.docx",
        item("x") + item("y"),
        RELS,
        numbering=part("w:numbering", definition(0, level(0, "%1)", form, 5000)) + num(1, 0)),
    )
    [page] = read_docx(path)
    assert page.text.split("\n\n") == ["5000) x", "5001) y"]
    assert page.left_out == (f"2 numbers of a list in digits, because the form is not followed ({form!r})",)


@pytest.mark.parametrize(("language", "label"), [("en-GB", "Third"), ("fr-FR", "3")])
def test_numbers_in_words_are_those_of_english(tmp_path, language, label):
    styles = f'<w:docDefaults><w:rPrDefault><w:rPr><w:lang w:val="{language}"/></w:rPr></w:rPrDefault></w:docDefaults>'
    made = definition(0, level(0, "%1", "ordinalText", 3)) + num(1, 0)
    path = docx(
        tmp_path / "a.docx", item("x"), RELS, numbering=part("w:numbering", made), styles=part("w:styles", styles)
    )
    [page] = read_docx(path)
    assert page.text == f"{label} x"
    assert bool(page.left_out) == (label == "3")


def test_a_form_that_is_written_out_is_that_of_newer_programs(tmp_path):
    form = (
        '<mc:AlternateContent><mc:Choice Requires="w14"><w:numFmt w:val="custom" w:format="001, 002, 003, ..."/>'
        '</mc:Choice><mc:Fallback><w:numFmt w:val="decimal"/></mc:Fallback></mc:AlternateContent>'
    )
    made = level(0, "No. %1").replace('<w:numFmt w:val="decimal"/>', form)
    assert lines(tmp_path, item("x") + item("y"), definition(0, made) + num(1, 0)) == ["No. 001 x", "No. 002 y"]


def test_a_number_stands_alone_in_a_cell(tmp_path):
    def row(*cells):
        return "<w:tr>" + "".join(f"<w:tc>{cell}</w:tc>" for cell in cells) + "</w:tr>"

    table = f"<w:tbl>{row(item(''), item('bolt', id=None))}{row(item(''), item('nut', id=None))}</w:tbl>"
    assert lines(tmp_path, item("") + table + item("end"), OUTLINE) == ["2. | bolt", "3. | nut", "4. end"]


def test_hidden_paragraphs_take_no_number(tmp_path):
    """They are hidden with their ends. A visible text whose end is hidden has its number, and so has one with both."""
    hidden = "<w:rPr><w:vanish/></w:rPr>"
    away = item("away").replace("</w:pPr>", f"{hidden}</w:pPr>").replace("<w:r>", f"<w:r>{hidden}")
    shown = item("two").replace("</w:pPr>", f"{hidden}</w:pPr>")
    path = docx(
        tmp_path / "a.docx", item("one") + away + shown + item("three"), RELS, numbering=part("w:numbering", OUTLINE)
    )
    [page] = read_docx(path)
    assert page.text.split("\n\n") == ["1. one", "2. two", "3. three"]
    assert page.left_out == ("1 hidden word",)


def test_a_text_box_is_numbered_after_its_paragraph(tmp_path):
    box = f"<w:r><w:pict><w:txbxContent>{item('in the box')}</w:txbxContent></w:pict></w:r>"
    host = item("host").replace("<w:r>", f"{box}<w:r>", 1)
    assert lines(tmp_path, host + item("next"), OUTLINE) == ["1. host", "2. in the box", "3. next"]


@pytest.mark.parametrize("on", ["1", "true", "on"])
def test_the_style_of_paragraphs_without_one(tmp_path, on):
    styles = (
        f'<w:style w:type="paragraph" w:default="{on}" w:styleId="N"><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr>'
        "</w:pPr></w:style>"
    )
    assert lines(tmp_path, item("a", id=None), OUTLINE, styles) == ["1. a"]


def test_a_style_with_a_level_has_the_list_of_the_style_that_it_is_based_on(tmp_path):
    styles = (
        '<w:style w:type="paragraph" w:styleId="A"><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr></w:style>'
        '<w:style w:type="paragraph" w:styleId="B"><w:basedOn w:val="A"/><w:pPr><w:numPr><w:ilvl w:val="1"/>'
        "</w:numPr></w:pPr></w:style>"
    )
    body = "".join(item(name, id=None, more=f'<w:pStyle w:val="{name}"/>') for name in "ABB")
    assert lines(tmp_path, body, OUTLINE, styles) == ["1. A", "1.1 B", "1.2 B"]


def test_signs_of_fonts_in_labels_are_read_or_counted(tmp_path):
    """A label may have signs before its number. Those that stand for nothing are counted."""
    fonts = '<w:rPr><w:rFonts w:ascii="Wingdings"/></w:rPr>'
    signs = "".join(level(i, f"{sign} %{i + 1}") for i, sign in enumerate("\uf0fc\uf021"))
    made = part("w:numbering", definition(0, signs.replace("</w:lvl>", f"{fonts}</w:lvl>")) + num(1, 0))
    [page] = read_docx(docx(tmp_path / "a.docx", item("x") + item("y", 1), RELS, numbering=made))
    assert page.text.split("\n\n") == ["✓ 1 x", "1 y"]
    assert page.left_out == ("1 symbol in labels of lists",)


def test_many_paragraphs_over_a_long_chain_of_styles_are_read_in_seconds(tmp_path):
    chain = "".join(
        f'<w:style w:type="paragraph" w:styleId="S{i}"><w:basedOn w:val="S{i + 1}"/></w:style>' for i in range(60)
    )
    body = item("x", id=None, more='<w:pStyle w:val="S0"/>') * 20_000
    begun = time.monotonic()
    assert len(lines(tmp_path, body, OUTLINE, chain)) == 20_000
    assert time.monotonic() - begun < 8  # it takes 1


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
