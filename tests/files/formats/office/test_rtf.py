"""Rich text: groups, code pages, tables, notes, and whatever bytes there are."""

from __future__ import annotations

import pytest
from helpers.text_files import refused, write
from hypothesis import given
from hypothesis import strategies as st

from smart_rag.files.formats.office.rtf import CUT, page_of_rtf, read_rtf

FONTS = r"{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset238 Arial CE;}{\f2\fcharset128 MS Mincho;}}"


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        (r"One.\par Two\line three\tab four\par\par", "One.\n\nTwo\nthree\tfour"),
        (r"caf\'e9 \{x\} a\~b \ldblquote c\rdblquote", "café {x} a\xa0b “c”"),
        (r"\f1 \'c8l\'e1nek {\f2 \'93\'fa\'96\'7b} x", "Článek 日本 x"),
        (r"\uc1\u8364? {\uc2\u8364\'80\'81}{\uc0\u8364 }x \u-10179?\u-8704? ", "€ €€x 😀"),
        (r"{\info{\title Secret}}{\*\unknown Secret}{\pict\bin4 }{}}ab}shown", "shown"),
        (r"See {\field{\*\fldinst HYPERLINK x}{\fldrslt the page}}.", "See the page."),
        (r"\trowd a\cell b\cell\row\trowd c\cell\cell\row after", "a | b\n\nc\n\nafter"),
        (r"Fact{\footnote\pard The {\b note}.\par}goes on.\par Next.", "Factgoes on.\n\nThe note.\n\nNext."),
        (r"{\header Top\par}Body\par{\*\shpinst{\sp{\sn x}{\sv 1}}{\shptxt Box}}end", "Body\n\nTop\n\nend\n\nBox"),
        (r"{\listtext 1.\tab}Item", "1.\tItem"),
        (r"a\par}}}}b", "a\n\nb"),
        (r"a {\*\do\dobxpage{\dptxbx\dptxbxtext\pard Box}} b\par end", "a  b\n\nBox\n\nend"),
        (r"{\shp{\*\shpinst{\shptxt Box\par}}{\shprslt{\*\do{\dptxbxtext Box\par}}}}end", "end\n\nBox"),
        (r"As {\mmath{\*\moMath{\mctrlPr\f1 x}{\mr E=mc}{\msSup{\me{\mr 2}}}}}.", "As E=mc2."),
        (r"{\upr{Gr?n}{\*\ud{Gr\u252?n}}} ist {\*\other{\*\ud x}}", "Grün ist"),
        ("{" * 50_000 + "deep" + "}" * 50_000, "deep"),
    ],
)
def test_text_is_read_as_it_is_shown(inner, text):
    found = page_of_rtf((r"{\rtf1\ansi\ansicpg1252\deff0" + FONTS + r"\pard " + inner + "}").encode("latin-1"))
    assert found.text == text
    assert found.left_out == ()


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        (r"{{{unbalanced", "unbalanced"),
        ("{" * 50_000 + "deep", "deep"),
        (r"before\bin99999999 after}", "beforeafter"),
        (r"before{\pict\bin99999999 abc} after}", "before after"),
        (r"one two {\b three", "one two three"),
    ],
)
def test_a_file_that_is_cut_is_named_as_such(inner, text):
    found = page_of_rtf((r"{\rtf1\ansi " + inner).encode())
    assert found.text == text
    assert found.left_out == (CUT,)


def test_the_code_page_of_the_file_holds_where_a_font_has_none():
    assert page_of_rtf(rb"{\rtf1\ansi\ansicpg1251 \'c0\'c1}").text == "АБ"
    assert page_of_rtf(rb"{\rtf1\mac caf\'8e}").text == "café"
    assert page_of_rtf(rb"{\rtf1\ansi\ansicpg99999 caf\'e9}").text == "café"


def test_hidden_text_is_counted(tmp_path):
    (page,) = read_rtf(write(tmp_path / "a.rtf", r"{\rtf1 shown {\v quite secret} \v x\v0 too}"))
    assert page.text == "shown  too"
    assert page.left_out == ("3 hidden words",)


SYMBOLS = r"{\fonttbl{\f0\froman Times;}{\f3\froman\fcharset2{\*\panose 05}Symbol;}{\f4\fnil\fcharset2 Wingdings;}}"


@pytest.mark.parametrize(
    ("inner", "text", "lost"),
    [
        (r"{\f3 abc\'b3\u-3999?} abc", "\u03b1\u03b2\u03c7\u2265\u03b1 abc", 0),
        (r"\f3 a\plain a", "\u03b1a", 0),
        (r"{\f4 \u-3842?J} left", "\u2611 left", 1),
        (r"x\u-3913?y", "xy", 1),
        (r'{\field{\*\fldinst SYMBOL 97 \\f "Symbol" \\s 10}{\fldrslt\f3\fs20}}.', "\u03b1.", 0),
        (r"{\field{\*\fldinst {\b SYMBOL 0xFE \\f Wingdings}}{\fldrslt}}.", "\u2611.", 0),
        (r"{\field{\*\fldinst {PAGE }}{\fldrslt 7}}.", "7.", 0),
        (r"{\field{\*\fldinst SYMBOL 99999999999999999999}{\fldrslt}}.", ".", 0),
    ],
)
def test_fonts_of_symbols_show_their_signs(inner, text, lost):
    page = page_of_rtf((r"{\rtf1\ansi\ansicpg1252\deff0" + SYMBOLS + r"\pard " + inner + "}").encode())
    counted = {0: (), 1: ("1 symbol of fonts such as Wingdings",)}
    assert (page.text, page.left_out) == (text, counted[lost])


def test_embedded_files_are_counted_once():
    page = page_of_rtf(rb"{\rtf1 a {\object\objemb{\*\objdata 01{\*\objdata 02}}{\result shown}} b}")
    assert (page.text, page.left_out) == ("a shown b", ("1 embedded file not read",))


@pytest.mark.parametrize(
    ("states", "box"),
    [(r"\ffres1", "\u2612"), (r"\ffres0\ffdefres1", "\u2610"), (r"\ffres25\ffdefres1", "\u2612"), ("", "\u2610")],
)
def test_boxes_of_forms_have_their_states(states, box):
    field = r"{\field{\*\fldinst FORMCHECKBOX {\*\formfield{\fftype1" + states + r"}}}{\fldrslt}}"
    page = page_of_rtf((r"{\rtf1 " + field + " Yes}").encode())
    assert (page.text, page.left_out) == (f"{box} Yes", ())


def test_a_star_within_a_group_hides_nothing():
    assert page_of_rtf(rb"{\rtf1 {\*\cs7 unknown}{\i0\*\cs7\cf0 The quick fox}}").text == "The quick fox"
    assert page_of_rtf(b"{\\rtf1 {\r\n\\*\\cs7 unknown}fox}").text == "fox"


def test_the_numbers_of_a_list_are_no_text():
    assert (
        page_of_rtf(rb"{\rtf1 {\list{\listlevel{\leveltext \'02\'00.}{\levelnumbers \'01}}{\listname a;}}fox}").text
        == "fox"
    )


def test_what_is_no_rich_text_is_refused(tmp_path):
    assert refused(write(tmp_path / "a.rtf", b"just words\0\1")) == "damaged, or not a .rtf file"


tokens = st.sampled_from(
    [b"{", b"}", b"\\", b"\\u", b"\\bin9", b"\\'e9", b"\\f1", b"\\footnote", b"\\fcharset128", b"\\*"]
)


@given(st.lists(tokens | st.binary(max_size=4)))
def test_no_bytes_end_the_run(parts):
    page = page_of_rtf(b"{\\rtf1" + b"".join(parts))
    assert isinstance(page.text, str)
