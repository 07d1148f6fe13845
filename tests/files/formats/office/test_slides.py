"""Slides: each is a page, in the order of the presentation, with tables, groups, notes, comments and charts."""

from __future__ import annotations

from helpers.office_files import part, pptx, related, shape

from smart_rag.files.formats.office.slides import read_pptx


def test_slides_are_pages_in_the_order_of_the_presentation(tmp_path):
    path = pptx(tmp_path / "a.pptx", shape("Second"), shape("First", "and more") + shape("Another"))
    assert [(page.number, page.text, page.left_out) for page in read_pptx(path)] == [
        (1, "First\n\nand more\n\nAnother", ()),
        (2, "Second", ()),
    ]


def test_groups_tables_and_fields_are_read_in_their_order(tmp_path):
    def cell(text, attributes=""):
        return f"<a:tc {attributes}><a:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></a:txBody></a:tc>"

    merged = '<a:tc hMerge="1"><a:txBody><a:p/></a:txBody></a:tc>'
    wide = cell("wide", "gridSpan='2'")
    rows = f"<a:tr>{wide}{merged}</a:tr><a:tr>{cell('a')}{cell('b')}</a:tr>"
    table = f"<p:graphicFrame><a:graphic><a:tbl>{rows}</a:tbl></a:graphic></p:graphicFrame>"
    group = f"<p:grpSp><p:grpSp>{shape('In a group')}</p:grpSp></p:grpSp>"
    field = "<p:sp><p:txBody><a:p><a:fld><a:t>2026</a:t></a:fld><a:br/><a:r><a:t>x</a:t></a:r></a:p></p:txBody></p:sp>"
    (page,) = read_pptx(pptx(tmp_path / "a.pptx", shape("Title") + table + group + field))
    assert page.text.split("\n\n") == ["Title", "wide", "a | b", "In a group", "2026\nx"]
    assert page.left_out == ()


def test_notes_comments_charts_and_diagrams_are_read(tmp_path):
    frame = '<p:graphicFrame><c:chart r:id="c"/></p:graphicFrame>'
    diagram = '<p:graphicFrame><x:relIds xmlns:x="x" r:dm="d"/></p:graphicFrame>'
    (page,) = read_pptx(
        pptx(
            tmp_path / "a.pptx",
            shape("Title") + frame + diagram,
            slide1_rels=related(
                n=("notesSlide", "notes.xml"),
                c=("chart", "chart.xml"),
                d=("diagramData", "d.xml"),
                t=("comments", "t.xml"),
            ),
            notes=part("p:notes", shape("Say this.", kind="body") + shape("1", kind="sldNum")),
            chart=part("c:chartSpace", "<a:p><a:r><a:t>Sales</a:t></a:r></a:p>"),
            d=part("p:data", "<a:p><a:r><a:t>Step</a:t></a:r></a:p>"),
            t=part("p:cmLst", "<p:cm><p:text>Why?</p:text></p:cm>"),
        )
    )
    assert page.text.split("\n\n") == ["Title", "Sales", "Step", "Say this.", "Why?"]


def test_a_broken_slide_does_not_lose_the_others(tmp_path):
    path = pptx(tmp_path / "a.pptx", shape("Sound"), "", slide2="<broken")
    broken, sound = read_pptx(path)
    assert (broken.number, broken.text, sound.number, sound.text) == (1, "", 2, "Sound")
    assert "'ppt/slides/slide2.xml' cannot be read" in broken.left_out[0]
    assert sound.left_out == ()


def test_the_description_of_a_picture_is_read(tmp_path):
    picture = '<p:pic><p:nvPicPr><p:cNvPr id="2" name="Picture 1" descr="A red boat"/></p:nvPicPr></p:pic>'
    (page,) = read_pptx(pptx(tmp_path / "a.pptx", shape("first") + picture + shape("second")))
    assert (page.text, page.left_out) == ("first\n\nA red boat\n\nsecond", ())


def test_fonts_of_symbols_show_their_signs(tmp_path):
    def in_font(text, font):
        return f"<a:p><a:r><a:rPr>{font}</a:rPr><a:t>{text}</a:t></a:r></a:p>"

    texts = in_font("ab", "<a:latin typeface='Symbol'/>") + in_font("\uf0feJ", "<a:sym typeface='Wingdings'/>")
    (page,) = read_pptx(pptx(tmp_path / "a.pptx", f"<p:sp><p:txBody>{texts}</p:txBody></p:sp>"))
    assert (page.text, page.left_out) == ("\u03b1\u03b2\n\n\u2611", ("1 symbol of fonts such as Wingdings",))


def test_descriptions_of_shapes_tables_and_groups_are_read(tmp_path):
    def named(kind, description):
        return f"<p:{kind}><p:cNvPr id='1' name='x' descr='{description}'/></p:{kind}>"

    cell = "<a:tbl><a:tr><a:tc><a:txBody><a:p><a:r><a:t>cell</a:t></a:r></a:p></a:txBody></a:tc></a:tr></a:tbl>"
    slide = (
        f"<p:grpSp>{named('nvGrpSpPr', 'The crew')}<p:sp>{named('nvSpPr', 'An arrow to the left')}</p:sp></p:grpSp>"
        f"<p:graphicFrame>{named('nvGraphicFramePr', 'Prices by year')}{cell}</p:graphicFrame>"
        f"<p:cxnSp>{named('nvCxnSpPr', 'Picture 4')}</p:cxnSp>"
    )
    (page,) = read_pptx(pptx(tmp_path / "a.pptx", slide))
    assert page.text.split("\n\n") == ["The crew", "An arrow to the left", "Prices by year", "cell"]
    assert page.left_out == ()
