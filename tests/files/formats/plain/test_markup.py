"""HTML inside of other files: blocks, cells, and what nobody sees."""

from __future__ import annotations

import pytest

from smart_rag.files.formats.plain.markup import html_text

XHTML = '<html xmlns="http://www.w3.org/1999/xhtml">'


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One <b>bold</b>,<i>x</i></p>tail<p>Two<br>Three", "One bold,x\n\ntail\n\nTwo\n\nThree"),
        ("<head><title>T</title></head><script>x()</script><style>a</style>seen<!-- no -->too", "seentoo"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a | b\n\nc"),
        ("<div>" * 3000 + "deep" + "</div>" * 3000 + "end", "deep\n\nend"),
        (f"{XHTML}<script/><a/>é &eacute; &lt;", "é é <"),
        (f"{XHTML}<script/>sound</html>", "sound"),
        ("<?xml version='1.0' encoding='latin-1'?><p>zażółć</p>", "zażółć"),
        ("  ", ""),
    ],
)
def test_html_is_read_as_it_is_seen(html, text):
    assert html_text(html, "a.html") == text
