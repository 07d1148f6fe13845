"""Word documents: paragraphs and tables are read in their order, broken files are refused."""

from __future__ import annotations

import re
import sys
import zipfile

import pytest
from helpers.hostile_files import wide_table
from helpers.office_files import archive, docx, p, part, related, replaced, run
from helpers.text_files import refused, text_of, word_file, write

from smart_rag.errors import MissingExtra
from smart_rag.files.formats.office.docx import read_docx


def test_a_docx_gives_paragraphs_and_tables_in_their_order(tmp_path):
    assert text_of(word_file(tmp_path / "a.docx")).split("\n\n") == [
        "Spare parts",
        "They are kept in the workshop.",
        "part | drawer",
        "bearing | four",
        "Ask Tobias for the key.",
    ]


@pytest.mark.parametrize("columns", [2, 30_000_000])
def test_a_cell_over_many_columns_is_read_once(tmp_path, columns):
    """In a second, and in the memory of a small file."""
    assert text_of(wide_table(tmp_path / "a.docx", columns)) == "Before.\n\nwide | narrow\n\nAfter."


def test_merged_cells_are_read_once(tmp_path):
    import docx

    made = docx.Document()
    table = made.add_table(3, 3)
    for i in range(9):
        table.cell(i // 3, i % 3).text = f"cell {i}"
    table.cell(0, 0).merge(table.cell(0, 1)).text = "two columns"
    table.cell(0, 2).merge(table.cell(2, 2)).text = "three rows"
    made.save(str(tmp_path / "a.docx"))
    assert text_of(tmp_path / "a.docx").split("\n\n") == [
        "two columns | three rows",
        "cell 3 | cell 4",
        "cell 6 | cell 7",
    ]


def test_what_is_no_word_file_is_refused(tmp_path):
    reason = "damaged, or not a .docx file"
    assert refused(write(tmp_path / "a.docx", b"not a zip")) == reason
    sound = word_file(tmp_path / "sound.docx").read_bytes()
    assert refused(write(tmp_path / "cut.docx", sound[: len(sound) // 2])) == reason
    with zipfile.ZipFile(tmp_path / "other.docx", "w") as other:
        other.writestr("hello.txt", "a zip of something else")
    assert refused(tmp_path / "other.docx") == f"{reason} (it has no part 'word/document.xml')"


@pytest.mark.parametrize("damage", ["deflate", "xml", "no body"])
def test_a_damaged_word_file_is_refused(tmp_path, damage):
    path = word_file(tmp_path / "a.docx")
    data = path.read_bytes()
    if damage == "deflate":  # within the compressed bytes of the main part
        start = data.index(b"word/document.xml") + 40
        path.write_bytes(data[:start] + b"\xff" * 300 + data[start + 300 :])
    else:
        with zipfile.ZipFile(path) as sound:
            members = {name: sound.read(name) for name in sound.namelist()}
        main = members["word/document.xml"]
        members["word/document.xml"] = main[:50] if damage == "xml" else re.sub(rb"(?s)<w:body>.*</w:body>", b"", main)
        with zipfile.ZipFile(path, "w") as damaged:
            for name, member in members.items():
                damaged.writestr(name, member)
    assert ("no text in it" if damage == "no body" else "damaged, or not a .docx file") in refused(path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = word_file(tmp_path / "a.docx")
    monkeypatch.setitem(sys.modules, "lxml.etree", None)
    with pytest.raises(MissingExtra, match=r"reading a.docx needs the package 'lxml'.*smart-rag\[office\]"):
        list(read_docx(path))


def page_of(path):
    (page,) = read_docx(path)
    return page


def only_text(tmp_path, body, rels="", **parts):
    """Return the text of a document of which nothing is left out."""
    page = page_of(docx(tmp_path / "a.docx", body, rels, **parts))
    assert page.left_out == ()
    return page.text


def form(inner):
    """Return a form field of older documents. ``{0}`` stands for the entries of a list."""
    entries = "<w:name w:val='x'/><w:listEntry w:val='apple'/><w:listEntry w:val='pear'/>"
    data = inner.replace("&quot;", '"').format(entries)
    return (
        f"<w:r><w:fldChar w:fldCharType='begin'><w:ffData>{data}</w:ffData></w:fldChar></w:r>"
        "<w:r><w:instrText>FORM</w:instrText></w:r><w:r><w:fldChar w:fldCharType='end'/></w:r>"
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (f"<w:p>{run('The ')}<w:del>{run('brown ')}</w:del><w:ins>{run('crimson ')}</w:ins>{run('fox')}</w:p>", None),
        (f"<w:p><w:moveFrom>{run('x')}</w:moveFrom><w:moveTo>{run('The crimson ')}</w:moveTo>{run('fox')}</w:p>", None),
        (f"<w:p><w:pPr><w:rPr><w:del/></w:rPr></w:pPr>{run('The crim')}</w:p>{p('son fox')}", None),
        (f"<w:sdt><w:sdtPr><w:alias/></w:sdtPr><w:sdtContent>{p('The crimson fox')}</w:sdtContent></w:sdt>", None),
        (f"<w:p>{run('The ')}<w:sdt><w:sdtContent>{run('crimson fox')}</w:sdtContent></w:sdt></w:p>", None),
        (f"<w:p>{run('The ')}<w:fldSimple w:instr='REF x'>{run('crimson fox')}</w:fldSimple></w:p>", None),
        (f"<w:p><w:r><w:instrText>REF x</w:instrText></w:r>{run('The crimson fox')}</w:p>", None),
        (f"<w:p>{run('The ')}<w:smartTag>{run('crimson')}</w:smartTag>{run(' fox')}</w:p>", None),
        (f"<w:p>{run('The ')}<w:hyperlink>{run('crimson fox')}</w:hyperlink></w:p>", None),
        (f"<w:p><w:new>{run('The crimson fox')}</w:new></w:p>", None),
        ("<w:p><m:oMath><m:f><m:num><m:r><m:t>a</m:t></m:r></m:num><m:den><m:r><m:t>b</m:t></m:r></m:den></m:f>"
         "</m:oMath></w:p>", "a/b"),
        ("<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t>"
         "<w:noBreakHyphen/><w:t>d</w:t><w:sym w:char='2190'/></w:r></w:p>",
         "a\tb\nc-d←"),
        ("<w:p><w:r><w:sym w:font='Symbol' w:char='F061'/><w:sym w:font='Symbol' w:char='F053'/></w:r></w:p>",
         "\u03b1\u03a3"),
        ("<w:p><w:r><w:rPr><w:rFonts w:ascii='Symbol'/></w:rPr><w:t>a\uf0b3b 5\u0416</w:t></w:r></w:p>",
         "\u03b1\u2265\u03b2 5\u0416"),
        ("<w:p><w:r><w:rPr><w:rFonts w:hAnsi='Wingdings'/></w:rPr><w:t>\uf0fe</w:t></w:r>"
         "<w:r><w:sym w:font='Wingdings' w:char='F0A8'/></w:r></w:p>", "\u2611\u2610"),
        ("<w:p><w:r><w:pict><v:shape alt='Draft'><v:textpath string='DRAFT COPY'/></v:shape></w:pict></w:r></w:p>",
         "DRAFT COPY"),
        ("<w:p><w:r><w:pict><v:shape alt='A red boat'><v:imagedata r:id='x'/></v:shape></w:pict></w:r></w:p>",
         "A red boat"),
        ("<w:p><w:r><w:pict><v:shape alt='boat.png'><v:imagedata r:id='x'/></v:shape></w:pict>"
         "<w:t>none</w:t></w:r></w:p>", "none"),
        (f"<w:p>{run('One ')}{form('<w:ddList><w:result w:val=&quot;1&quot;/>{0}</w:ddList>')}</w:p>", "One pear"),
        (f"<w:p>{run('Fruit: ')}{form('<w:ddList>{0}</w:ddList>')}</w:p>", "Fruit: apple"),
        (f"<w:p>{form('<w:checkBox><w:default w:val=&quot;0&quot;/><w:checked/></w:checkBox>')}</w:p>", "\u2612"),
        (f"<w:p>{form('<w:checkBox><w:default w:val=&quot;0&quot;/></w:checkBox>')}</w:p>", "\u2610"),
        (f"<w:p>{form('<w:ddList><w:result w:val=&quot;9&quot;/>{0}</w:ddList>')}{run('none')}</w:p>", "none"),
        (f"<w:tbl><w:tr><w:trPr><w:del/></w:trPr><w:tc><w:p><w:del>{run('gone')}</w:del></w:p></w:tc></w:tr><w:tr><w:tc>{p('a')}</w:tc></w:tr>"
         "</w:tbl>", "a"),
    ],
)  # fmt: skip
def test_each_container_of_text_is_read(tmp_path, body, text):
    assert only_text(tmp_path, body) == (text or "The crimson fox")


def test_symbols_that_stand_for_no_character_are_counted(tmp_path):
    path = docx(
        tmp_path / "a.docx",
        f"<w:p>{run('box ')}<w:r><w:sym w:font='Wingdings' w:char='F04A'/><w:sym w:char='x'/></w:r></w:p>",
    )
    (page,) = read_docx(path)
    assert (page.text, page.left_out) == ("box", ("2 symbols of fonts such as Wingdings",))


def test_a_text_box_is_read_once_after_its_paragraph(tmp_path):
    box = f"<w:txbxContent>{p('In the box.')}{p('Another line.')}</w:txbxContent>"
    drawing = f"<mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback><w:pict>{box}</w:pict></mc:Fallback>"
    body = f"<w:p>{run('Before ')}<w:r>{drawing}</mc:AlternateContent></w:r>{run('and after.')}</w:p>{p('Next.')}"
    assert only_text(tmp_path, body) == "Before and after.\n\nIn the box.\n\nAnother line.\n\nNext."


def test_only_a_fallback_with_text_is_read(tmp_path):
    choices = f"<mc:Choice><w:drawing/></mc:Choice><mc:Fallback>{run('a picture')}</mc:Fallback>"
    assert only_text(tmp_path, f"<w:p><mc:AlternateContent>{choices}</mc:AlternateContent></w:p>") == "a picture"


def test_a_nested_table_is_read_within_its_cell(tmp_path):
    inner = f"<w:tbl><w:tr><w:tc>{p('x')}</w:tc><w:tc>{p('y')}</w:tc></w:tr></w:tbl>"
    table = f"<w:tbl><w:tr><w:tc>{p('a')}</w:tc><w:tc>{p('b')}{inner}<w:p/></w:tc></w:tr></w:tbl>"
    assert only_text(tmp_path, table + p("after")) == "a | b\nx | y\n\nafter"


def test_a_cell_that_continues_none_is_read(tmp_path):
    merged = "<w:tcPr><w:vMerge/></w:tcPr>"
    rows = f"<w:tr><w:tc>{p('a')}</w:tc></w:tr><w:tr><w:tc>{p('b')}</w:tc><w:tc>{merged}{p('c')}</w:tc></w:tr>"
    empty = f"<w:tr><w:tc>{p('d')}</w:tc><w:tc>{merged}<w:p/></w:tc></w:tr>"
    assert only_text(tmp_path, f"<w:tbl>{rows}{empty}</w:tbl>") == "a\n\nb | c\n\nd"


def test_headers_notes_comments_and_charts_are_read(tmp_path):
    rels = related(
        h1=("header", "header1.xml"), h2=("header", "header2.xml"), f=("footer", "/word/footer1.xml"),
        n=("footnotes", "footnotes.xml"), c=("comments", "comments.xml"), chart=("chart", "chart1.xml"),
    )  # fmt: skip
    separator = f'<w:footnote w:type="separator" w:id="0">{p("_____ separator")}</w:footnote>'
    notes = (
        f'{separator}<w:footnote w:id="2">{p("The note.")}</w:footnote><w:footnote w:id="3">{p("Lost.")}</w:footnote>'
    )
    references = '<w:r><w:footnoteReference w:id="2"/><w:commentReference w:id="0"/><c:chart r:id="chart"/></w:r>'
    labels = "<c:strCache><c:pt><c:v>Tea</c:v></c:pt></c:strCache><c:numCache><c:pt><c:v>7</c:v></c:pt></c:numCache>"
    text = only_text(
        tmp_path,
        f"<w:p>{run('Body')}{references}{run(' text.')}</w:p>{p('Next.')}",
        rels,
        header1=part("w:hdr", p("Top")),
        header2=part("w:hdr", p("Top")),
        footer1=part("w:ftr", p("Bottom")),
        footnotes=part("w:footnotes", separator + "".join(notes)),
        comments=part("w:comments", f'<w:comment w:id="0">{p("Really?")}</w:comment>'),
        chart1=part("c:chartSpace", f"<a:p><a:r><a:t>Drinks</a:t></a:r></a:p>{labels}{labels}"),
    )
    assert text.split("\n\n") == [
        "Top", "Body text.", "The note.", "Really?", "Drinks", "Tea", "Next.", "Bottom", "Lost.",
    ]  # fmt: skip


def test_hidden_text_is_counted(tmp_path):
    hidden = "<w:r><w:rPr><w:vanish/></w:rPr><w:t>quite secret</w:t></w:r>"
    shown = '<w:r><w:rPr><w:vanish w:val="0"/></w:rPr><w:t>shown</w:t></w:r>'
    page = page_of(docx(tmp_path / "a.docx", f"<w:p>{hidden}{shown}</w:p>"))
    assert (page.text, page.left_out) == ("shown", ("2 hidden words",))


def test_text_outside_of_paragraphs_and_deep_nesting(tmp_path):
    """A walk by recursion would end at a thousand levels."""
    deep = 1500
    body = "<w:sdt>" * deep + run("deep") + "</w:sdt>" * deep
    assert only_text(tmp_path, body) == "deep"


def test_a_broken_part_does_not_lose_the_others(tmp_path):
    rels = related(n=("footnotes", "footnotes.xml"), h=("header", "header1.xml"), i=("header", "header2.xml"))
    page = page_of(
        docx(tmp_path / "a.docx", p("Body."), rels, footnotes="<w:broken", header1=part("w:hdr", p("Top.")), header2="")
    )
    assert page.text == "Top.\n\nBody."
    damaged = "damaged, or not a .docx file (its part 'word/{0}' is not XML)"
    assert page.left_out == tuple(
        f"the part 'word/{name}' cannot be read ({damaged.format(name)})" for name in ("footnotes.xml", "header2.xml")
    )


def test_of_damaged_xml_the_sound_beginning_is_read(tmp_path):
    main = part("w:document", f"<w:body>{p('Sound.')}{p('Cut')}</w:body>")
    page = page_of(archive(tmp_path / "a.docx", {"word/document.xml": main[: main.index("Cut") + 2]}))
    assert page.text == "Sound.\n\nCu"
    assert page.left_out == ("the part 'word/document.xml' is damaged, and what follows the damage may be missing",)


def test_letters_in_fonts_of_pictures_are_counted(tmp_path):
    font = "<w:rPr><w:rFonts w:ascii='Webdings'/></w:rPr>"
    body = f"<w:p><w:r>{font}<w:t>ab</w:t></w:r><w:r><w:t>left \uf0b7</w:t></w:r></w:p>"
    page = page_of(docx(tmp_path / "a.docx", body))
    assert (page.text, page.left_out) == ("left", ("3 symbols of fonts such as Wingdings",))


def test_a_watermark_in_a_header_is_read(tmp_path):
    mark = "<w:p><w:r><w:pict><v:shape><v:textpath string='CONFIDENTIAL'/></v:shape></w:pict></w:r></w:p>"
    rels = related(h=("header", "header1.xml"))
    assert only_text(tmp_path, p("Body."), rels, header1=part("w:hdr", mark)) == "CONFIDENTIAL\n\nBody."


def with_chunk(tmp_path, name, data):
    """Return the page of a document that shows a part of another format between two paragraphs."""
    body = p("Before.") + '<w:altChunk r:id="c"/>' + p("After.")
    path = docx(tmp_path / "a.docx", body, related(c=("aFChunk", name)))
    return page_of(replaced(path, f"word/{name}", data))


@pytest.mark.parametrize("kind", ["html", "mht", "txt", "rtf", "docx"])
def test_a_part_of_another_format_is_read_where_word_shows_it(tmp_path, kind):
    inner = docx(tmp_path / "inner.docx", p("A caf\u00e9.")).read_bytes()
    data = {
        "html": "<meta charset=utf-8><p>A <b>caf\u00e9</b>.".encode(),
        "txt": "A caf\u00e9.".encode(),
        "mht": b"MIME-Version: 1.0\r\nContent-Type: multipart/related; boundary=x\r\n\r\n--x\r\n"
        b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        b"<p>A <b>caf=C3=A9</b>.\r\n--x--\r\n",
        "rtf": rb"{\rtf1\ansi A caf\'e9.}",
        "docx": inner,
    }
    page = with_chunk(tmp_path, f"c.{kind}", data[kind])
    assert (page.text.split("\n\n"), page.left_out) == (["Before.", "A caf\u00e9.", "After."], ())


@pytest.mark.parametrize(
    ("name", "data", "left_out"),
    [
        ("c.bin", b"MIME-Version: 1.0", "1 embedded file not read"),
        ("c.docx", b"not a zip", "the part 'word/c.docx' cannot be read (no sound document)"),
    ],
)
def test_a_part_of_another_format_that_is_not_read_is_named(tmp_path, name, data, left_out):
    page = with_chunk(tmp_path, name, data)
    assert page.text == "Before.\n\nAfter."
    assert left_out in page.left_out


def test_documents_in_documents_are_read_to_a_bound(tmp_path):
    path = docx(tmp_path / "0.docx", p("level 0"))
    for i in range(1, 8):
        outer = docx(
            tmp_path / f"{i}.docx", p(f"level {i}") + '<w:altChunk r:id="c"/>', related(c=("aFChunk", "c.docx"))
        )
        path = replaced(outer, "word/c.docx", path.read_bytes())
    page = page_of(path)
    assert page.text.split("\n\n") == ["level 7", "level 6", "level 5", "level 4"]
    assert any("nested too deeply" in phrase for phrase in page.left_out)


def test_embedded_files_are_counted(tmp_path):
    rels = related(a=("aFChunk", "a.html"), b=("oleObject", "embeddings/b.bin"), c=("image", "c.png"))
    assert page_of(docx(tmp_path / "a.docx", p("Body."), rels)).left_out == ("2 embedded files not read",)


@pytest.mark.parametrize(
    ("drawing", "picture", "text"),
    [
        ("A red boat", "boat.jpg", "A red boat"),
        ("A red boat", "A red boat", "A red boat"),
        ("", "A boat&#10;&#10;Description automatically generated with low confidence", "A boat"),
        ("AI-generated content may be incorrect.", "Picture 3", ""),
        (r"C:\my pictures\c.PNG", "", ""),
    ],
)
def test_the_description_of_a_picture_is_read_once(tmp_path, drawing, picture, text):
    """It is the only text about the picture, unless a program wrote it."""
    named = f'<pic:nvPicPr><pic:cNvPr id="0" name="Picture 1" descr="{picture}"/></pic:nvPicPr>'
    made = f"<a:graphicData><pic:pic xmlns:pic='pic'>{named}</pic:pic></a:graphicData>"
    inline = f'<wp:inline xmlns:wp="wp"><wp:docPr id="1" name="Picture 1" descr="{drawing}"/>{made}</wp:inline>'
    body = f"<w:p>{run('in ')}<w:r><w:drawing>{inline}</w:drawing></w:r>{run('words')}</w:p>{p('next')}"
    (page,) = read_docx(docx(tmp_path / "a.docx", body))
    assert page.text.split("\n\n") == ["in words", *[text] * bool(text), "next"]
    assert page.left_out == ()
