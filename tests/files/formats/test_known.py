"""Files whose suffix lies are read as what their first bytes say."""

from __future__ import annotations

import time
import zipfile

import pytest
from helpers.odd_files import fpdf_pages
from helpers.office_files import archive, docx, epub, opendocument, p, pptx, shape, xlsx
from helpers.ole_files import doc, msg, ole, ppt, xls
from helpers.text_files import refused, text_of, write

from smart_rag.files.finder import find
from smart_rag.files.formats.known import format_of
from smart_rag.files.reader import read

pytest.importorskip("lxml")
pytest.importorskip("olefile")
pytest.importorskip("selectolax")

_TABLE = "<table><tr><th>part</th><th>drawer</th></tr><tr><td>bearing</td><td>four</td></tr></table>"
_ROW = '<row r="1"><c r="A1" t="inlineStr"><is><t>{}</t></is></c></row>'


def first(path):
    """Return the header and the text of the only page that has one."""
    (page,) = read(path)
    assert page.left_out == ()
    return page.header + page.text


@pytest.mark.parametrize(
    "before", ["", "\ufeff", "\r\n<!-- made by x --><!-- -->", '<?xml version="1.0"?>\n<html><body>']
)
@pytest.mark.parametrize("suffix", [".xls", ".doc", ".xlsx", ".pdf", ""])
def test_html_is_read_as_html(tmp_path, before, suffix):
    assert text_of(write(tmp_path / f"a{suffix}", before + _TABLE)) == "part | drawer\nbearing | four"


def test_html_of_excel_in_utf_16_is_read(tmp_path):
    page = f'<html xmlns:x="urn:schemas-microsoft-com:office:excel"><body>{_TABLE}</body></html>'
    assert text_of(write(tmp_path / "a.xls", page.encode("utf-16"))) == "part | drawer\nbearing | four"


@pytest.mark.parametrize("suffix", [".xls", ".xlsx", ".ods"])
@pytest.mark.parametrize("separator", ["\t", ",", ";"])
def test_a_table_of_text_is_read_as_a_table(tmp_path, suffix, separator):
    text = "part,drawer\nbearing,four\npump,two\n".replace(",", separator)
    assert first(write(tmp_path / f"a{suffix}", text)) == "part | drawer\nbearing | four\npump | two"
    assert first(write(tmp_path / f"b{suffix}", text.encode("utf-16"))) == "part | drawer\nbearing | four\npump | two"


def test_sheets_in_xml_are_read(tmp_path):
    sheets = """<?xml version="1.0"?><?mso-application progid="Excel.Sheet"?>
    <Workbook xmlns="urn:schemas-microsoft-com:office:spreadsheet"
      xmlns:ss="urn:schemas-microsoft-com:office:spreadsheet">
    <Styles><Style ss:ID="s1"><Font ss:FontName="Arial"/></Style></Styles>
    <Worksheet ss:Name="Parts"><Table>
      <Row><Cell><Data ss:Type="String">part</Data></Cell><Cell><Data ss:Type="String">day</Data></Cell></Row>
      <Row><Cell><Data ss:Type="String">A &amp; B</Data><Comment><Data><B>see</B> me</Data></Comment></Cell>
        <Cell ss:Index="4"><Data ss:Type="DateTime">2004-01-31T00:00:00.000</Data></Cell></Row>
      <Row><Cell><Data ss:Type="Number">1.50</Data></Cell><Cell><Data ss:Type="Boolean">1</Data></Cell></Row>
    </Table></Worksheet><Worksheet ss:Name="Empty"><Table/></Worksheet></Workbook>"""
    for name in ("a.xls", "a.xml"):
        (page,) = read(write(tmp_path / name, sheets))
        assert (page.number, page.metadata, page.header) == (1, {"sheet": "Parts"}, "Parts\npart | day\n")
        assert page.text == "A & B |  |  | 2004-01-31\n1.50 | TRUE\n\nsee me"


def test_damaged_sheets_in_xml_are_named(tmp_path):
    sheets = """<Workbook xmlns="urn:schemas-microsoft-com:office:spreadsheet"><Worksheet><Table>
    <Row><Cell><Data>whole</Data></Cell></Row><Row><Cell><Data>cut"""
    pages = list(read(write(tmp_path / "a.xls", sheets)))
    assert "whole" in pages[0].header + pages[0].text
    assert pages[-1].left_out == ("its XML is damaged, and what follows the damage may be missing",)


_PAGE = "<!DOCTYPE html>\n<html><body><p>Boats come.</p></body></html>"
_NAMES = (
    "a.xht",
    "a.shtml",
    "a.php",
    "a.aspx",
    "a.jsp",
    "a.do",
    "page.html?x=1",
    "i.php?a=b&c=d.e",
    "Main_Page",
    "x.org.1",
)


@pytest.mark.parametrize("name", _NAMES)
def test_a_saved_page_is_read_as_html_whatever_its_suffix(tmp_path, name):
    path = write(tmp_path / name, f"<!-- saved from x -->\n{_PAGE}")
    assert find([tmp_path]).files == [path]
    assert text_of(path) == "Boats come."


def test_programs_templates_and_copies_are_no_pages(tmp_path):
    template = _PAGE.replace("come", "<?php echo $when; ?>")
    assert text_of(write(tmp_path / "a.php", template)) == template
    write(tmp_path / "a.jsp", _PAGE.replace("come", "<%= when %>"))
    for name in ("a.html.bak", "a.html~", "a.html.orig"):
        write(tmp_path / name, _PAGE)
    write(tmp_path / "a.bin?x=1", b"\0\1")
    write(tmp_path / "b.bin?x=2&y=3.4", b"\0\1")
    found = find([tmp_path])
    assert found.files == [tmp_path / "a.php"]
    assert sorted(one.detail for one in found.skipped) == [".bak", ".bin", ".bin", ".html~", ".jsp", ".orig"]


@pytest.mark.parametrize("name", ["Version 2.0 ready?.txt", "what?.txt", "a.b?c.txt"])
def test_a_question_mark_in_a_name_changes_nothing(tmp_path, name):
    assert text_of(write(tmp_path / name, "<p>words</p>")) == "<p>words</p>"


def test_each_document_is_known_by_its_parts(tmp_path):
    """Every kind of document is read under the suffix of every other kind, and without one."""
    pptx(tmp_path / "slides", shape("a slide"))
    xlsx(tmp_path / "sheets", {"Parts": _ROW.format("a cell")})
    docx(tmp_path / "text", p("a paragraph"))
    opendocument(tmp_path / "open", "text", "<text:p>an open text</text:p>")
    doc(tmp_path / "old text", "an old text\r")
    xls(tmp_path / "old sheets", Old=[["an old cell"]])
    ppt(tmp_path / "old slides")
    msg(tmp_path / "mail", {"0037": "a subject"})
    epub(tmp_path / "book", "<p>a chapter</p>")
    write(tmp_path / "rich", r"{\rtf1 a rich text}")
    write(tmp_path / "pages", fpdf_pages("a page of a PDF"))
    expected = {
        **{"slides": "a slide", "sheets": "a cell", "text": "a paragraph", "open": "an open text"},
        **{"old text": "an old text", "old sheets": "an old cell", "old slides": "Say this.", "mail": "a subject"},
        **{"book": "a chapter", "rich": "a rich text", "pages": "a page of a PDF"},
    }
    for name, text in expected.items():
        content = (tmp_path / name).read_bytes()
        for suffix in ("", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".odt", ".rtf", ".pdf", ".csv", ".txt"):
            pages = list(read(write(tmp_path / f"{name}{suffix}", content)))
            assert text in "".join(page.header + page.text for page in pages), (name, suffix)


def test_a_web_archive_and_a_text_called_doc_are_read(tmp_path):
    head = "MIME-Version: 1.0\nContent-Type: multipart/related; boundary=x\n"
    archive = f"{head}\n--x\nContent-Type: text/html\n\n<p>Hi</p>\n--x--"
    assert "Hi" in text_of(write(tmp_path / "a.doc", archive))
    assert text_of(write(tmp_path / "b.doc", "Only words.")) == "Only words."
    assert text_of(write(tmp_path / "c.rtf", "Only words.")) == "Only words."
    assert "A mail" in text_of(write(tmp_path / "d.msg", "Subject: A mail\nFrom: me\n\nwords"))


def test_a_pdf_is_known_by_its_begin_alone(tmp_path):
    pdf = fpdf_pages("a page")
    names = ("a", "b.download", "c.2", "d.txt", "e.pdf")
    paths = [write(tmp_path / name, b"\r\n" * (name == "e.pdf") + pdf) for name in names]
    write(tmp_path / "f.xyz", b"%no PDF-")
    write(tmp_path / "g.zip", docx(tmp_path / "h.docx", p("a paragraph")).read_bytes())
    found = find([tmp_path])
    assert found.files == sorted([*paths, tmp_path / "h.docx"])
    assert all(text_of_page(path) == "a page" for path in paths)


def text_of_page(path):
    (page,) = read(path)
    return page.text.strip()


def test_texts_stay_what_their_suffix_says(tmp_path):
    for name in ("a.txt", "a.md", "a.csv"):
        assert "<td>" in first(write(tmp_path / name, _TABLE))
    assert "damaged, or not a .docx file" in refused(write(tmp_path / "b.docx", "only words"))
    assert "damaged, or not a .doc file" in refused(write(tmp_path / "b.doc", '<?xml version="1.0"?><w:wordDocument/>'))
    assert "no document of a known" not in refused(write(tmp_path / "c.docx", b"PK\3\4 and no zip"))
    assert refused(ole(tmp_path / "d", {"Other": b"x"})) == "a container without a document of a known format"


def test_the_suffix_decides_between_two_documents_in_one_zip(tmp_path):
    parts = {}
    for path in (
        docx(tmp_path / "text", p("a paragraph")),
        xlsx(tmp_path / "sheets", {"Parts": _ROW.format("a cell")}),
    ):
        with zipfile.ZipFile(path) as opened:
            parts |= {name: opened.read(name) for name in opened.namelist() if name != "_rels/.rels"}
    made = archive(tmp_path / "a.docx", parts)
    assert text_of(made) == "a paragraph"
    assert first(made.rename(tmp_path / "a.xlsx")) == "Parts\na cell"


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for name in ("a.pdf", "a.csv", "a"):
        assert refused(write(tmp_path / name, pointer)).startswith("a pointer of Git LFS, not the file itself")


def test_many_comments_take_no_time(tmp_path):
    path = write(tmp_path / "a.xls", "<!---->" * 580 + "<x")
    begin = time.monotonic()
    format_of(path)
    assert time.monotonic() - begin < 1
