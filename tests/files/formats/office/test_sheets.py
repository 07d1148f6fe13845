"""Sheets: the cells as they are shown, the header for each chunk, comments, and files that would fill the memory."""

from __future__ import annotations

import time

import pytest
from helpers.office_files import part, related, replaced, xlsx
from helpers.text_files import refused

from smart_rag.files.formats.office.sheets.xlsx import read_xlsx

STRINGS = (
    "<si><t>Name</t></si><si><t>Price</t></si>"
    '<si><r><t xml:space="preserve">Green </t></r><r><t>tea</t></r><rPh><t>ty</t></rPh></si>'
)


def pages(path):
    *sheets, end = read_xlsx(path)
    assert (end.text, end.number) == ("", None)
    return sheets, end.left_out


def shown(tmp_path, cells, styles, strings=""):
    """Return the text of one row, of which nothing is left out."""
    path = xlsx(tmp_path / "a.xlsx", {"S": f"<row>{cells}</row>"}, f"{strings}", styles)
    (page,), _ = pages(path)
    assert page.left_out == ()
    return page.text


def test_sheets_are_pages_with_a_header(tmp_path):
    rows = (
        '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c></row>'
        '<row r="2"><c r="A2" t="s"><v>2</v></c><c r="B2"><v>1.5</v></c></row>'
        '<row r="9"><c r="A9" t="inlineStr"><is><t>Coffee</t></is></c></row>'
    )
    (tea, empty), left_out = pages(xlsx(tmp_path / "a.xlsx", {"Drinks": rows, "Empty": ""}, STRINGS))
    assert (tea.number, tea.header, tea.text) == (1, "Drinks\nName | Price\n", "Green tea | 1.5\nCoffee")
    assert tea.metadata == {"sheet": "Drinks"}
    assert (empty.number, empty.text) == (2, "")
    assert left_out == ()


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('<c t="b"><v>1</v></c>', "TRUE"),
        ('<c t="b"><v>TRUE</v></c>', "TRUE"),
        ('<c t="b"><v>0</v></c>', "FALSE"),
        ("<c><v>1234567890123450</v></c>", "1234567890123450"),
        ('<c t="str"><v>one_x000D_two _x005F_x000D_ _xyz_</v></c>', "one two _x000D_ _xyz_"),
        ('<c t="inlineStr"><is><t>50_x20AC_</t></is></c>', "50\u20ac"),
        ('<c t="e"><v>#REF!</v></c>', "#REF!"),
        ('<c t="str"><f>A1</f><v>words</v></c>', "words"),
        ("<c><f>SUM(A1:A3)</f></c>", "=SUM(A1:A3)"),
        ("<c><v>0.30000000000000004</v></c>", "0.3"),
        ("<c><v>12345678</v></c>", "12345678"),
        ("<c><v>nonsense</v></c>", "nonsense"),
        ('<c s="1"><v>43831</v></c>', "2020-01-01"),
        ('<c s="1"><v>43831.75</v></c>', "2020-01-01"),
        ('<c s="1"><v>0.5</v></c>', "1900-01-00"),
        ('<c s="6"><v>43831.75</v></c>', "2020-01-01 18:00:00"),
        ('<c s="6"><v>43831</v></c>', "2020-01-01"),
        ('<c s="6"><v>0.5</v></c>', "12:00:00"),
        ('<c s="1"><v>-7</v></c>', "-7"),
        ('<c s="2"><v>0.125</v></c>', "12.5%"),
        ('<c s="3"><v>0.126</v></c>', "13%"),
        ('<c s="4"><v>43831</v></c>', "2020-01-01"),
        ('<c s="5"><v>3</v></c>', "3 days"),
        ('<c s="99"><v>3</v></c>', "3"),
        ('<c r="C1"><v>3</v></c><c r="E1"><v>4</v></c>', " |  | 3 |  | 4"),
        ('<c r="XFD1"><v>3</v></c>', " | " * 20 + "3"),
    ],
)
def test_a_cell_is_shown_as_excel_shows_it(tmp_path, cell, text):
    styles = (
        '<numFmts><numFmt numFmtId="164" formatCode="yyyy\\-mm\\-dd;@"/><numFmt numFmtId="165" formatCode="0.0%"/>'
        '<numFmt numFmtId="166" formatCode="[Red]0 &quot;days&quot;"/></numFmts><cellXfs><xf numFmtId="0"/>'
        '<xf numFmtId="14"/><xf numFmtId="165"/><xf numFmtId="9"/><xf numFmtId="164"/><xf numFmtId="166"/>'
        '<xf numFmtId="22"/></cellXfs>'
    )
    assert shown(tmp_path, cell, styles) == text


def test_dates_may_begin_in_1904(tmp_path):
    dates = '<cellXfs><xf numFmtId="14"/></cellXfs>'
    cell = '<row><c s="0"><v>1</v></c></row>'
    path = xlsx(tmp_path / "a.xlsx", {"S": cell}, "", dates, settings='<workbookPr date1904="1"/>')
    (page,), _ = pages(path)
    assert page.text == "1904-01-02"


def test_comments_text_boxes_charts_and_diagrams_are_read(tmp_path):
    row = "<row><c><v>1</v></c></row>"
    drawing = "<a:p><a:r><a:t>In a box</a:t></a:r></a:p><c:chart r:id='c'/><x:relIds xmlns:x='x' r:dm='e'/>"
    labels = "<c:strCache><c:pt><c:v>Sales</c:v></c:pt></c:strCache><c:strLit><c:pt><c:v>North</c:v></c:pt></c:strLit>"
    (page,), _ = pages(
        xlsx(
            tmp_path / "a.xlsx",
            {"S": row + row},
            sheet1_rels=related(c=("comments", "c.xml"), d=("drawing", "d.xml")),
            c='<comments><comment ref="A1"><text><r><t>Why </t></r><r><t>one?</t></r></text></comment></comments>',
            d=part("a:drawing", drawing),
            d_rels=related(c=("chart", "chart.xml"), e=("diagramData", "e.xml")),
            chart=part("c:chartSpace", labels),
            e=part("a:dataModel", "<a:p><a:r><a:t>A step</a:t></a:r></a:p>"),
        )
    )
    assert page.text.split("\n\n") == ["1", "A1: Why one?", "Sales", "North", "A step", "In a box"]


def test_descriptions_of_drawings_are_read(tmp_path):
    def named(kind, description):
        return f"<x:{kind} xmlns:x='x'><x:cNvPr id='1' name='x' descr='{description}'/></x:{kind}>"

    pictures = f"<x:pic xmlns:x='x'>{named('nvPicPr', 'A red boat')}</x:pic>"
    frames = named("nvGraphicFramePr", "Sales by year") + named("nvSpPr", "Picture 2")
    (page,), _ = pages(
        xlsx(
            tmp_path / "a.xlsx",
            {"S": "<row><c><v>1</v></c></row>"},
            sheet1_rels=related(d=("drawing", "d.xml")),
            d=part("a:drawing", pictures + frames),
        )
    )
    assert page.text.split("\n\n") == ["1", "A red boat", "Sales by year"]


def test_headers_and_footers_on_paper_are_read_once(tmp_path):
    row = "<row><c><v>1</v></c></row>"
    path = xlsx(tmp_path / "a.xlsx", {"A": row, "B": row})
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    margins = (
        "<headerFooter><oddHeader>&amp;L&amp;&quot;Arial,Bold&quot;&amp;12Budget &amp;K00FF00&amp;&amp; plan&amp;RPage "
        "&amp;P</oddHeader><oddFooter>&amp;CSecret</oddFooter><evenFooter>&amp;CSecret</evenFooter></headerFooter>"
    )
    sheet = f'<worksheet xmlns="{main}"><sheetData>{row}</sheetData>{margins}</worksheet>'
    (first, second), _ = pages(replaced(path, "xl/worksheets/sheet1.xml", sheet.encode()))
    assert first.text.split("\n\n") == ["1", "Budget & plan", "Secret"]
    assert second.text == "1"


def test_what_no_cell_shows_and_what_cells_lack_is_counted(tmp_path):
    path = xlsx(tmp_path / "a.xlsx", {"S": '<row><c t="s"><v>0</v></c><c t="s"><v>7</v></c></row>'}, STRINGS)
    _, left_out = pages(path)
    assert left_out == (
        "3 words that the raw text of the file has and no cell shows",
        "1 cell whose text is not in the file",
    )


def test_a_broken_sheet_does_not_lose_the_others(tmp_path):
    path = xlsx(tmp_path / "a.xlsx", {"A": "<row><c><v>1</v></c></row><broken", "B": "<row><c><v>2</v></c></row>"})
    (first, second), _ = pages(path)
    assert (first.text, second.text, second.left_out) == ("1", "2", ())
    assert first.left_out == ("damaged XML, and what follows the damage is missing",)


def test_a_cell_at_the_far_end_takes_no_memory(tmp_path):
    """A library that holds the whole sheet needs 17 billion cells for it."""
    far = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>2</v></c></row>'
    (page,), _ = pages(xlsx(tmp_path / "a.xlsx", {"S": far}))
    assert page.header == "S\n1\n"
    assert page.text.endswith("| 2")


def test_a_long_text_that_many_cells_show_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("smart_rag.files.formats.office.sheets.xlsx._MOST_TEXT", 1_000_000)
    rows = '<row><c t="s"><v>0</v></c></row>' * 200
    path = xlsx(tmp_path / "a.xlsx", {"S": rows}, f"<si><t>{'words ' * 2000}</t></si>")
    assert "its cells show more than 1 million characters" in refused(path)


@pytest.mark.parametrize("cell", [f'<c t="s"><v>{"9" * 5000}</v></c>', f'<c s="{"9" * 5000}"><v>5</v></c>'])
def test_an_odd_number_in_a_cell_loses_no_other(tmp_path, cell):
    row = '<row><c t="inlineStr"><is><t>{}</t></is></c></row>'
    sheets = {"A": row.format("before"), "B": f"<row>{cell}</row>", "C": row.format("after")}
    found = [page.text for page in read_xlsx(xlsx(tmp_path / "a.xlsx", sheets))]
    assert (found[0], found[2]) == ("before", "after")


def test_an_odd_format_of_numbers_is_bounded(tmp_path):
    """Excel allows 255 characters."""
    styles = f'<numFmts><numFmt numFmtId="{{}}" formatCode="0.{"0" * 10**6}%"/></numFmts><cellXfs><xf numFmtId="{{}}"/>'
    for id in ("200", "9" * 5000):
        rows = {"A": '<row><c s="0"><v>0.5</v></c></row>'}
        (page,), left_out = pages(xlsx(tmp_path / "a.xlsx", rows, styles=f"{styles}</cellXfs>".format(id, id)))
        assert page.text == "0.5"
        assert left_out == (f"1 cell with the stored number, because its format is not followed ('0.{'0' * 58}')",)


def test_a_giant_reference_of_a_cell_takes_little_time(tmp_path):
    begin = time.monotonic()
    row = f'<row><c r="{"A" * 10**6}1"><v>5</v></c></row>'
    assert next(read_xlsx(xlsx(tmp_path / "a.xlsx", {"A": row}))).text.endswith("5")
    assert time.monotonic() - begin < 5
