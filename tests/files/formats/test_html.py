"""HTML: the title, the description, and the text that a browser shows."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from helpers.text_files import refused, text_of, write
from hypothesis import given
from hypothesis import strategies as st

from smart_rag.errors import MissingExtra
from smart_rag.files.formats.html import read_html, text_of_html

JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
ARTICLE = (
    "<p>The bearings of the seawater pump are of the type 6205-2RS, and two spares lie in the drawer of the workshop. "
)
ARTICLE += "Ask Tobias for the key before you go there, and write into the book what you take.</p>"


def page_of(html, name="a.html"):
    return text_of_html(html.encode(), Path(name))


@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.xhtml"])
def test_html_gives_what_a_reader_sees(tmp_path, name):
    html = """<!doctype html><html><head><style>p {color: red}</style><script>var secret = 1;</script></head>
        <body><!-- a comment --><h1>Prices</h1><p>Fish &amp; chips, 5&nbsp;pounds, caf&eacute;, <b>bo</b>ld
        <i>word</i>.</p><script>alert("no")</script>
        <table><tr><td>outer</td><td><table><tr><td>inner</td><td>cell</td></tr></table></td></tr>
        <tr><td>last</td></tr></table></body></html>"""
    text = text_of(write(tmp_path / name, html))
    assert text == "Prices\n\nFish & chips, 5\xa0pounds, café, bold word.\n\nouter\n\ninner | cell\n\nlast"


def test_html_of_another_encoding_is_read(tmp_path):
    html = f'<html><head><meta charset="shift_jis"></head><body><p>{JAPANESE}</p></body></html>'
    assert text_of(write(tmp_path / "a.html", html.encode("shift_jis"))).strip() == JAPANESE


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "selectolax.lexbor", None)
    with pytest.raises(MissingExtra, match=r"reading a.html needs the package 'selectolax'.*smart-rag\[html\]"):
        list(read_html(write(tmp_path / "a.html", "<p>words</p>")))


@pytest.mark.parametrize("opened", ["<div>", "<b>", "<span><i>", "<font color={}>", "<blockquote>", "<ul><li>"])
@pytest.mark.parametrize("depth", [10, 300, 3000])
def test_no_nesting_ends_the_text(opened, depth):
    html = "<p>First.</p>" + "".join(opened.format(i) for i in range(depth)) + "<p>Deep.</p>"
    text = page_of(html + opened.replace("<", "</") * depth + "<p>Last.</p>").text
    assert text.split() == ["First.", *(["-"] if "li" in opened else []), "Deep.", "Last."]


def test_a_page_of_many_elements_takes_no_time():
    html = "<div><p>one <b>two</b> <a href=x>three</a></p><table><tr><td>4<td>5</table></div>" * 10_000
    begin = time.perf_counter()
    assert len(page_of(html).text.split()) == 60_000
    assert time.perf_counter() - begin < 5


def test_title_and_description_come_first_each_once():
    html = """<title>Annual \n report</title><meta name=Description content="What we did"><meta property="og:title"
        content="Annual report"><meta property="og:description" content="What we did, told for all"><p>Body"""
    assert page_of(html).text == "Annual report\n\nWhat we did\n\nWhat we did, told for all\n\nBody"
    assert page_of("<title>Pumps</title><h1>Pumps</h1><p>Two.").text == "Pumps\n\nTwo."


def test_a_page_of_a_title_alone_has_text(tmp_path):
    assert text_of(write(tmp_path / "a.html", "<title>Pumps</title><body></body>")) == "Pumps"
    assert refused(write(tmp_path / "b.html", "<body>&#8203;<script>x</script></body>")).startswith("no text in it")


def test_tables_lists_and_preformatted_text_keep_their_form():
    html = """<table><caption>Parts</caption><tr><th>part<th>drawer<tr><td>bearing<td>4</table>
        <ul><li>one<li><p>two</ul><pre>  if x:\n    y()\n</pre>line<br>break <img src=a.png alt="A pump"> end"""
    assert page_of(html).text == (
        "Parts\npart | drawer\nbearing | 4\n\n- one\n- two\n\n  if x:\n    y()\n\nline\nbreak A pump end"
    )


def test_forms_keep_their_words():
    html = """<form><label>Name</label><input value=Maria><input placeholder="Street"><input type=hidden value=token>
        <select><option>Berlin<option>Bonn</select><textarea>Some notes</textarea><input type=submit value=Send>
        <button>Reset</button></form>"""
    assert page_of(html).text.split() == ["Name", "Maria", "Street", "Berlin", "Bonn", "Some", "notes", "Send", "Reset"]


def test_neighbours_that_a_style_divides_are_words():
    assert page_of("<a>Follow</a><a>Reply</a><b>bo</b><i>ld</i> H<sub>2</sub>O").text == "Follow Replybold H2O"


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ("<nav><a href=1>One page</a> <a href=2>Other</a></nav>", "3 words of navigation"),
        ('<div role="navigation"><a href=1>One page</a></div>', "2 words of navigation"),
        ('<div id="cookie-banner">We use cookies <button>Yes</button></div>', "4 words of cookie banners"),
        ("<div hidden>Not yet</div>", "2 words of hidden text"),
        ('<p style="color:red; display: none">Not yet<script>no words</script></p>', "2 words of hidden text"),
    ],
)
def test_what_the_page_marks_is_left_out_and_counted(part, what):
    page = page_of(f"{part}{ARTICLE}")
    assert page.text == page_of(ARTICLE).text
    assert page.left_out == (what,)


@pytest.mark.parametrize("part", ["script", "style", "template", "iframe"])
def test_what_no_browser_shows_is_not_counted(part):
    page = page_of(f"<p>a<{part}><p>no words</p></{part}>{ARTICLE}")
    assert page.text == page_of(f"<p>a{ARTICLE}").text
    assert page.left_out == ()


@pytest.mark.parametrize(
    "before",
    [
        '<script>var s = "<noscript>";</script>',
        "<!-- a <noscript> is below -->",
        "<textarea><noscript></textarea>",
        "<title><noscript></title>",
        '<img alt="<noscript>">',
        "<img alt='<noscript>' title = \"a > b\">",
        "<!--><script><!-- <noscript> --></script  >",
        "<STYLE>/* <noscript> */</STYLE>",
    ],
)
def test_noscript_in_a_string_hides_nothing(before):
    page = page_of(f"{before}<p>First words.</p><NoScript ><p>On with <b>scripts</b>!</p></noscript><p>Last words.</p>")
    assert page.text.endswith("First words.\n\nLast words.")
    assert page.left_out == ("3 words of text for browsers that run no scripts",)


def test_a_shadow_root_is_shown():
    page = page_of(
        "<my-page><template shadowrootmode=open><p>In the shadow.</p><template>x</template></template></my-page>"
    )
    assert page.text == "In the shadow."
    assert page_of("<p>a</p><template><p>in a mould</p></template>").text == "a"


def test_navigation_in_navigation_is_counted_once():
    inner = "<nav><a href=1>One two</a></nav>"
    page = page_of(f"<nav>{inner}<a href=2>three</a>{inner}</nav>{ARTICLE}")
    assert page.left_out == ("5 words of navigation",)
    assert page.text == page_of(ARTICLE).text
    page = page_of(f"<nav><p>These words are a text in the navigation.</p>{inner}</nav>{ARTICLE}")
    assert page.left_out == ("2 words of navigation",)
    assert page.text.startswith("These words")


@pytest.mark.parametrize(
    "part", ["<table><tr><td>x", "<nav>word ", "<noscript ", "<noscript></noscript ", "<!--", '<a b="', "<p hidden>a"]
)
def test_the_time_grows_with_the_length(part):
    begin = time.perf_counter()
    page_of(part * 8000 + "</noscript>")
    assert time.perf_counter() - begin < 5


def test_navigation_with_text_is_text_and_so_is_a_table_of_contents():
    assert page_of(f"<nav><p>Read this first.</p><a href=1>One</a></nav>{ARTICLE}").text.startswith("Read this first.")
    page = page_of("<h1>Contents</h1><nav><ol><li><a href=1>Pumps</a><li><a href=2>Valves</a></ol></nav>")
    assert page.text == "Contents\n\n- Pumps\n- Valves"
    assert page.left_out == ()


def test_a_page_that_a_script_will_show_is_read():
    assert page_of('<body style="display:none"><p>Words</p></body>').text == "Words"


def test_xhtml_ends_elements_in_their_start_tags():
    html = f"""<?xml version="1.0" encoding="UTF-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/>
        <script src="a.js"/></head><body><a id="x"/><p>Words<br/>here</p><p><![CDATA[a < b]]></p>{ARTICLE}
        </body></html>"""
    assert page_of(html).text.startswith("Words\nhere\n\na < b\n\nThe bearings")
    assert page_of("<script src='a.js'/><p>Words</p>", "chapter.xhtml").text == "Words"


def test_what_could_not_be_decoded_is_said():
    page = text_of_html("<p>Schlüssel für Gäste".encode() + b" \xe9 .", Path("a.html"))
    assert page.left_out == ("1 character could not be decoded as utf-8",)


TAGS = st.sampled_from(
    "div p b a table tr td th ul li pre nav br img select option textarea svg math title body".split()  # noqa: SIM905
)


@given(st.lists(st.tuples(TAGS, st.sampled_from(["<{}>", "</{}>", "<{} hidden>", "<{}/>"])), max_size=40))
def test_any_tags_keep_the_words_or_count_them(tags):
    html = "".join(f"w{i} {form.format(tag)}" for i, (tag, form) in enumerate(tags))
    page = page_of(f"<body>{html}")
    counted = sum(int(phrase.split()[0]) for phrase in page.left_out)
    assert sum(f"w{i}" in page.text for i in range(len(tags))) + counted >= len(tags)


@pytest.mark.parametrize("tag", ["<div>", "<b>", "<ul><li>", "<table><tr><td>", "<nav>", "<pre>", "<a><div>"])
def test_a_deep_page_is_read_to_its_end_in_little_time(tmp_path, tag):
    """Unclosed blocks took the square of their number: a page of 1 MB took minutes."""
    begin = time.monotonic()
    deep = tag * (300_000 // len(tag))
    assert "the end" in text_of(write(tmp_path / "a.html", f"<p>the begin{deep}the<br>middle</div>{deep}the end"))
    assert time.monotonic() - begin < 10


def test_blocks_that_are_nested_deeply_stay_apart(tmp_path):
    blocks = "".join(f"<div>block {i}" for i in range(1000))
    text = text_of(write(tmp_path / "a.html", f"{blocks}{'</div>' * 1000}<div>last</div>"))
    assert text.split() == [word for i in range(1000) for word in ("block", str(i))] + ["last"]
    assert [line for line in text.split("\n") if line] == [*(f"block {i}" for i in range(1000)), "last"]
