"""HTML: the text that a browser shows."""

from __future__ import annotations

import sys

import pytest
from helpers.text_files import text_of, write

from smart_rag.errors import MissingExtra
from smart_rag.files.formats.html import read_html

JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"


@pytest.mark.parametrize("name", ["a.html", "a.htm"])
def test_html_gives_what_a_reader_sees(tmp_path, name):
    html = """<!doctype html><html><head><style>p {color: red}</style><script>var secret = 1;</script></head>
        <body><!-- a comment --><h1>Prices</h1><p>Fish &amp; chips, 5&nbsp;pounds, caf&eacute;, <b>bo</b>ld
        <i>word</i>.</p><script>alert("no")</script>
        <table><tr><td>outer</td><td><table><tr><td>inner</td><td>cell</td></tr></table></td></tr>
        <tr><td>last</td></tr></table></body></html>"""
    text = text_of(write(tmp_path / name, html))
    assert " ".join(text.split()) == "Prices Fish & chips, 5 pounds, café, bold word. outer inner cell last"
    assert text.index("Prices") < text.index("\n") < text.index("Fish")


def test_html_of_another_encoding_is_read(tmp_path):
    html = f'<html><head><meta charset="shift_jis"></head><body><p>{JAPANESE}</p></body></html>'
    assert text_of(write(tmp_path / "a.html", html.encode("shift_jis"))).strip() == JAPANESE


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "inscriptis", None)
    with pytest.raises(MissingExtra, match=r"reading a.html needs the package 'inscriptis'.*smart-rag\[html\]"):
        list(read_html(write(tmp_path / "a.html", "<p>words</p>")))
