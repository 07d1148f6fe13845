"""OpenDocument: texts, slides and sheets, with all that is shown of them, once."""

from __future__ import annotations

import pytest
from helpers.office_files import archive, opendocument, replaced
from helpers.text_files import refused

from smart_rag.files.formats.office.opendocument import read_odp, read_ods, read_odt


def p(text):
    return f"<text:p>{text}</text:p>"


TABLE = (
    f"<table:table><table:table-row><table:table-cell>{p('wide')}</table:table-cell><table:covered-table-cell/>"
    f"</table:table-row><table:table-row><table:table-cell>{p('a')}</table:table-cell>"
    f"<table:table-cell>{p('b')}{p('c')}</table:table-cell></table:table-row></table:table>"
)


def pages(read, path):
    """Return the pages of a document of which nothing is left out."""
    *found, end = read(path)
    assert (end.text, end.left_out) == ("", ())
    return found


def text_of(tmp_path, body, **parts):
    (page,) = pages(read_odt, opendocument(tmp_path / "a.odt", "text", body, **parts))
    return page.text.split("\n\n")


@pytest.mark.parametrize(
    ("body", "blocks"),
    [
        (f"<text:tracked-changes>{p('gone')}</text:tracked-changes>{p('kept')}", ["kept"]),
        ("<text:h>Title</text:h><text:section><text:list><text:list-item><text:p>Item</text:p></text:list-item>"
         "</text:list></text:section>", ["Title", "Item"]),
        (p("a <text:span>b <text:a>c</text:a></text:span> d\n   e<text:s text:c='2'/>f<text:tab/>g<text:line-break/>h"),
         ["a b c d e  f\tg\nh"]),
        (p("Fact<text:note><text:note-citation>1</text:note-citation><text:note-body>" + p("The note.")
           + "</text:note-body></text:note> goes on."), ["Fact goes on.", "The note."]),
        (p("Text<office:annotation><x:creator xmlns:x='dc'>Bo</x:creator>" + p("Why?") + "</office:annotation>."),
         ["Text.", "Why?"]),
        (p("Berlin, <text:date>14 March 2026</text:date>: <text:title>The keys</text:title>"),
         ["Berlin, 14 March 2026: The keys"]),
        (p("Before<draw:frame><draw:text-box>" + p("in the box") + "</draw:text-box></draw:frame> after"),
         ["Before after", "in the box"]),
        (p("Before<draw:custom-shape>" + p("in <text:span>a</text:span> shape") + p("two")
           + "</draw:custom-shape> after") + p("end"), ["Before after", "in a shape", "two", "end"]),
        ("<text:h><text:number>1.1</text:number>Title</text:h><text:list><text:list-item><text:number>a)</text:number>"
         + p("Item") + "</text:list-item></text:list>", ["1.1 Title", "a) Item"]),
        (TABLE, ["wide", "a | b\nc"]),
        ("<text:p>" * 1500 + "deep" + "</text:p>" * 1500, ["deep"]),
        ("<text:section>" * 1500 + p("deep") + "</text:section>" * 1500, ["deep"]),
    ],
)  # fmt: skip
def test_each_part_of_a_text_is_read(tmp_path, body, blocks):
    assert text_of(tmp_path, body) == blocks


@pytest.mark.parametrize(
    ("body", "text", "loss"),
    [
        (p("a \uf0b7 b"), "a  b", "1 symbol of fonts such as Wingdings"),
        (p("a<draw:object-ole draw:href='./Object 1'/>"), "a", "1 embedded file not read"),
        (p("a<draw:object draw:href='./Object 1'/>"), "a", "1 embedded file not read"),
    ],
)
def test_what_is_not_read_is_counted(tmp_path, body, text, loss):
    page, end = read_odt(opendocument(tmp_path / "a.odt", "text", body))
    assert (page.text, end.left_out) == (text, (loss,))


def test_headers_and_footers_are_read_once(tmp_path):
    styles = f"<style:header>{p('Top')}</style:header><style:header-left>{p('Top')}</style:header-left>"
    styles += f"<style:footer>{p('Bottom')}</style:footer>"
    assert text_of(tmp_path, p("Body"), styles=styles) == ["Top", "Body", "Bottom"]


def test_formulas_and_charts_are_read_and_end(tmp_path):
    """An object may say that it is in itself."""
    link = "<draw:object draw:href='./{0}' xmlns:xlink='x'/>"
    inner = p("Sales") * 2 + p(link.format("Chart"))
    chart = f"<x:body xmlns:x='x' xmlns:text='t' xmlns:draw='d'>{inner}</x:body>"
    math = "<math><mi>E</mi><mo>=</mo><mn>2</mn></math>"
    body = p(f"See {link.format('Math')}{link.format('Chart')}.")
    assert text_of(tmp_path, body, Math=math, Chart=chart) == ["See .", "E = 2", "Sales"]


def test_titles_of_charts_and_descriptions_of_pictures_are_read(tmp_path):
    chart = (
        "<x:body xmlns:x='x' xmlns:text='t' xmlns:c='urn:oasis:names:tc:opendocument:xmlns:chart:1.0'>"
        f"<c:title>{p('Sales by year')}</c:title></x:body>"
    )
    named = "<svg:title>{}</svg:title><svg:desc>{}</svg:desc>"
    picture = f"<draw:frame><draw:image/>{named.format('A boat', 'It is red.')}</draw:frame>"
    written = f"<draw:frame><draw:image/>{named.format('Picture 3', 'boat.png')}</draw:frame>"
    body = p(f"See {picture}{written}<draw:object draw:href='./Chart' xmlns:xlink='x'/>.") + p("Next")
    assert text_of(tmp_path, body, Chart=chart) == ["See .", "A boat", "It is red.", "Sales by year", "Next"]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("<form:text form:id='c' form:value='old' form:current-value='Ada'/>", "Ada"),
        ("<form:textarea xml:id='c' form:current-value='Two words'/>", "Two words"),
        ("<form:checkbox form:id='c' form:label='I agree' form:current-state='checked'/>", "\u2612 I agree"),
        ("<form:checkbox form:id='c' form:label='I agree'/>", "\u2610 I agree"),
        ("<form:radio form:id='c' form:label='Tea' form:current-selected='true'/>", "\u2612 Tea"),
        ("<form:listbox form:id='c'><form:option form:label='apple'/>"
         "<form:option form:label='pear' form:current-selected='true'/></form:listbox>", "pear"),
        ("<form:fixed-text form:id='c' form:label='Your name'/>", "Your name"),
        ("<form:password form:id='c' form:current-value='secret'/>", ""),
        ("<form:text form:id='other' form:current-value='Ada'/>", ""),
    ],
)  # fmt: skip
def test_fields_of_forms_are_read_as_they_are_filled(tmp_path, field, text):
    forms = f"<office:forms><form:form>{field}</form:form></office:forms>"
    body = forms + p("Here: <draw:control draw:control='c'/>") + p("Next")
    assert text_of(tmp_path, body) == ["Here:", *[text] * bool(text), "Next"]


def test_slides_are_pages_with_their_notes(tmp_path):
    def slide(text, notes=""):
        box = f"<draw:frame><draw:text-box>{p(text)}</draw:text-box></draw:frame>"
        return f"<draw:page>{box}<draw:notes>{p(notes)}</draw:notes></draw:page>"

    path = opendocument(tmp_path / "a.odp", "presentation", slide("First", "Say this.") + slide("Second"))
    assert [(page.number, page.text) for page in pages(read_odp, path)] == [(1, "First\n\nSay this."), (2, "Second")]


def test_sheets_are_pages_with_a_header(tmp_path):
    def row(*texts, repeated=1):
        cells = "".join(f"<table:table-cell>{p(text)}</table:table-cell>" for text in texts)
        end = '<table:table-cell table:number-columns-repeated="16000"/>'
        return f'<table:table-row table:number-rows-repeated="{repeated}">{cells}{end}</table:table-row>'

    rows = row("Name", "Price") + row("Tea", "1,50 €", repeated=2) + row(repeated=1_000_000) + row("Coffee")
    path = opendocument(tmp_path / "a.ods", "spreadsheet", f'<table:table table:name="Drinks">{rows}</table:table>')
    (page,) = pages(read_ods, path)
    assert (page.number, page.header) == (1, "Drinks\nName | Price\n")
    assert page.text == "Tea | 1,50 €\nTea | 1,50 €\nCoffee"
    assert page.metadata == {"sheet": "Drinks"}


def test_a_cell_without_the_text_that_shows_it_has_its_value(tmp_path):
    """As some programs that make reports write it."""
    cells = "".join(
        f'<table:table-cell office:value-type="{kind}" office:{name}="{stored}"/>'
        for kind, name, stored in (
            ("float", "value", "42"),
            ("string", "string-value", "words"),
            ("date", "date-value", "2026-11-30"),
            ("boolean", "boolean-value", "true"),
        )
    )
    rows = f"<table:table-row>{cells}</table:table-row>"
    path = opendocument(tmp_path / "a.ods", "spreadsheet", f'<table:table table:name="S">{rows}</table:table>')
    (page,) = pages(read_ods, path)
    assert (page.header + page.text).split("\n", 1)[1].strip() == "42 | words | 2026-11-30 | true"


def test_a_comment_on_a_repeated_cell_is_that_of_the_first(tmp_path):
    cell = (
        f'<table:table-cell table:number-columns-repeated="3"><office:annotation>{p("Why?")}</office:annotation>'
        f"{p('7')}</table:table-cell>"
    )
    sheet = f'<table:table table:name="S"><table:table-row table:number-rows-repeated="2">{cell}</table:table-row>'
    (page,) = pages(read_ods, opendocument(tmp_path / "a.ods", "spreadsheet", f"{sheet}</table:table>"))
    assert f"{page.header}{page.text}".split("\n") == ["S", "Why? 7 | 7 | 7", "7 | 7 | 7"]


def test_a_million_repeated_cells_take_no_memory(tmp_path):
    cell = f'<table:table-cell table:number-columns-repeated="999999999">{p("x")}</table:table-cell>'
    row = f'<table:table-row table:number-rows-repeated="999999999">{cell}</table:table-row>'
    page, end = read_ods(opendocument(tmp_path / "a.ods", "spreadsheet", f"<table:table>{row}</table:table>"))
    assert len(page.text) < 10_000
    of_row, rows = 999_999_979, 999_999_979 * 20  # 20 of each are given
    assert end.left_out == (f"{of_row + rows:,} cells that repeat others",)


def test_an_encrypted_document_is_named_as_such(tmp_path):
    manifest = "<manifest><file-entry full-path='content.xml'><encryption-data/></file-entry></manifest>"
    path = archive(tmp_path / "a.odt", {"META-INF/manifest.xml": manifest, "content.xml": b"\x03\xff\x12"})
    assert refused(path) == "encrypted; save it without a password"


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\0\1\2"])
def test_a_damaged_part_does_not_lose_the_text(tmp_path, content):
    styles = f"<style:header>{p('Top')}</style:header>"
    path = replaced(opendocument(tmp_path / "a.odt", "text", p("Body"), styles=styles), "styles.xml", content)
    page, end = read_odt(path)
    assert page.text == "Body"
    assert content is None or end.left_out[0].startswith("the part 'styles.xml' cannot be read (")


def test_a_document_without_a_body_is_refused(tmp_path):
    assert refused(archive(tmp_path / "a.odt", {"content.xml": "<a/>"})).endswith("(it has no body)")
