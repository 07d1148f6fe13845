"""Number formats: a cell is read as Excel shows it, and what cannot be shown so is counted."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import pytest
from helpers.office_files import xlsx

from smart_rag.files.formats.office.sheets.xlsx import read_xlsx


def read(tmp_path, code, cell, settings=""):
    """Return what a cell with this format shows, and what the file lacks."""
    styles = f'<numFmts><numFmt numFmtId="164" formatCode={quoteattr(code)}/></numFmts><cellXfs><xf numFmtId="164"/>'
    path = xlsx(tmp_path / "a.xlsx", {"S": f"<row>{cell}</row>"}, styles=f"{styles}</cellXfs>", settings=settings)
    page, end = read_xlsx(path)
    return page.text, end.left_out


@pytest.mark.parametrize(
    ("code", "stored", "text"),
    [
        ("00000", "1067", "01067"),
        ("000-00-0000", "78051120", "078-05-1120"),
        ("[<=9999999]###-####;(###) ###-####", "2125551234", "(212) 555-1234"),
        ('#,##0.00 "EUR"', "1234567.891", "1,234,567.89 EUR"),
        ('#,##0.00 "EUR"', "0.5", "0.50 EUR"),
        ("0.00\\ [$€-407]", "2.345", "2.35 €"),
        ("0 kg", "7", "7 kg"),
        ('General "kg"', "0.25", "0.25 kg"),
        ('"OK";"BAD"', "1", "OK"),
        ('"OK";"BAD"', "-1", "BAD"),
        ('0.0;(0.0);"none"', "-2.25", "(2.3)"),
        ('0.0;(0.0);"none"', "0", "none"),
        ('[=1]"yes";[=0]"no";0', "0", "no"),
        ('[=1]"yes";[=0]"no";0', "5", "5"),
        ("[Red][<0]-0.0;0.0", "-2", "-2.0"),
        ("0.0", "-2", "-2.0"),
        ("0%", "0.126", "13%"),
        ('0.0,,"M"', "1234567", "1.2M"),
        ("#,##0,", "1234567", "1,235"),
        ("#.##", "0.5", ".5"),
        (".00", "12.5", "12.50"),
        ("0.0#", "3", "3.0"),
        ("0.00E+00", "12345.6789", "1.23E+04"),
        ("##0.0E+0", "12345.6789", "12.3E+3"),
        ("0.00E+00", "0.00999999", "1.00E-02"),
        ('_-* #,##0.00 "x"_-;-* #,##0.00 "x"_-;_-* "-"?? "x"_-;_-@_-', "1234", "1,234.00 x"),
        ("[h]:mm:ss", "1.5", "36:00:00"),
        ("[mm]:ss", "0.126", "181:26"),
        ("mm:ss.0", "0.126", "01:26.4"),
        ("h:mm AM/PM", "0.75", "6:00 PM"),
        ("dd.mm.yyyy", "43831.75", "01.01.2020"),
        ("m/d/yy h:mm", "43831.75", "1/1/20 18:00"),
        ("dddd, d mmmm yyyy", "43831", "Wednesday, 1 January 2020"),
        ("[$-409]mmm\\-yy;@", "43831", "Jan-20"),
        ("yyyy-mm-dd", "1", "1900-01-01"),
        ("yyyy-mm-dd", "61", "1900-03-01"),
        ("yyyy-mm-dd dddd", "60", "1900-02-29 Wednesday"),
        ("yyyy-mm-dd dddd", "59", "1900-02-28 Tuesday"),
        ("d.m.yyyy h:mm", "0", "0.1.1900 0:00"),
        ("h:mm", "0.5", "12:00"),
        ("[$-F800]", "60", "1900-02-29"),
        ("[$-F800]dddd", "43831.75", "2020-01-01"),
        ('[$-411]ggge"年"m"月"d"日"', "43831", "令和2年1月1日"),
        ("[$-411]ge.mm.dd", "43585", "H31.04.30"),
        ("[$-411]gge", "43586", "令1"),
        ("[$-ja-JP-x-gannen]ggge", "43586", "令和元"),
        ("[$-411]ee", "10000", "02"),
        ("[$-411]AM/PM h", "0.75", "午後 6"),
        ("[$-411]m/d aaaa", "43831", "1/1 水曜日"),
        ("[$-804]aaaa", "43836", "星期一"),
        ("[$-804]上午/下午h", "0.25", "上午6"),
        ("[$-404]e/m/d", "43831", "109/1/1"),
        ("e/m/d", "43831", "2020/1/1"),
        ("[$-107041E]d/m/yyyy", "43831", "1/1/2563"),
        ("[$-th-TH,107]d/m/yy", "43831", "1/1/63"),
        ("# ?/?", "1.25", "1 1/4"),
        ("# ?/?", "0.5", "1/2"),
        ("0 ?/?", "0.5", "0 1/2"),
        ("# ?/?", "3", "3"),
        ("# ?/?", "0.01", "0"),
        ("# ?/?", "0.97", "1"),
        ("# ?/?", "-2.5", "-2 1/2"),
        ("# ??/??", "3.14159265", "3 1/7"),
        ("# ???/???", "3.14159265", "3 16/113"),
        ("?/?", "1.25", "5/4"),
        ('# ?/8 "inch"', "2.75", "2 6/8 inch"),
        ("# ??/16", "0.99", "1"),
        ("0.00e+00", "12345.6789", "1.23E+04"),
        ('0" g"', "7", "7 g"),
        ("0 g", "7", "7 g"),
        ("[$-F800]dddd\\,\\ mmmm\\ dd", "43831", "2020-01-01"),
        ("[$-F400]h:mm:ss\\ AM/PM", "43831.75", "18:00:00"),
        ("@", "43831", "43831"),
    ],
)  # fmt: skip
def test_a_number_is_shown_in_its_format(tmp_path, code, stored, text):
    assert read(tmp_path, code, f'<c s="0"><v>{stored}</v></c>') == (text, ())


@pytest.mark.parametrize(
    ("code", "text"),
    [('"Mr. "@', "Mr. Fox"), ("0;-0;0;General", "Fox"), ('0.00" EUR"', "Fox"), ('0;0;0;"a text"', "a text")],
)
def test_a_text_is_shown_in_its_format(tmp_path, code, text):
    assert read(tmp_path, code, '<c s="0" t="str"><v>Fox</v></c>') == (text, ())


def test_dates_in_a_format_may_begin_in_1904(tmp_path):
    settings = '<workbookPr date1904="1"/>'
    assert read(tmp_path, "d.m.yyyy", '<c s="0"><v>1</v></c>', settings) == ("2.1.1904", ())


@pytest.mark.parametrize(
    "code",
    [
        "#,##0 ?/?",
        "[$-407]d. mmmm yyyy",
        'ggge"x"m',
        "[DBNum1]0",
        "[$-6040C]yyyy",
        "[$-411]dddd",
        "aaa",
        "s.0000",
        f"0.{'0' * 300}",
    ],
)
def test_a_format_that_is_not_followed_is_named(tmp_path, code):
    text, left_out = read(tmp_path, code, '<c s="0"><v>43831.5</v></c><c s="0"><v>1.25</v></c>')
    assert text == "43831.5 | 1.25"
    assert left_out == (f"2 cells with the stored number, because its format is not followed ({code[:60]!r})",)


def test_what_a_format_hides_is_counted(tmp_path):
    cells = '<c s="0"><v>5</v></c><c s="0"><v>0</v></c><c s="0" t="str"><v>secret</v></c>'
    assert read(tmp_path, ";;;", cells) == ("", ("2 cells whose number format hides what is in it",))
    assert read(tmp_path, "0;-0;;@", '<c s="0"><v>0</v></c>') == ("", ())


@pytest.mark.parametrize("stored", ["1e308", "-1e308", "1e-308", "nan", "inf", "1e400"])
def test_odd_numbers_are_no_error(tmp_path, stored):
    for code in (
        "0.00",
        "0%",
        "0.0,,",
        "0.00E+00",
        "#,##0",
        "yyyy",
        "# ???????/???????",
        "[$-411]ge",
        "b2yyyy-mm-dd",
        "[$-411]r",
        f"0.{'0' * 250}",
        "[h]:mm",
    ):
        assert read(tmp_path, code, f'<c s="0"><v>{stored}</v></c>')[0]


def test_a_format_of_any_characters_is_no_error(tmp_path):
    codes = r'[ " \ _ * ; ;;;;;; [$ [> [>x]0 E+ 0E+ [h / ?/ . , [$-]d'
    for code in codes.split():
        assert len(read(tmp_path, code, '<c s="0"><v>43831.5</v></c>')) == 2


def test_the_western_calendar_and_the_last_day_of_files_that_begin_in_1904(tmp_path):
    assert read(tmp_path, "b1yyyy-mm-dd", '<c s="0"><v>45000</v></c>')[0] == "2023-03-15"
    assert "2958465" in read(tmp_path, "yyyy-mm-dd", '<c s="0"><v>2958465</v></c>', '<workbookPr date1904="1"/>')[0]
