"""SVG: the words that a viewer shows, in the order of the file, and nothing that it does not show."""

from __future__ import annotations

import gzip
from itertools import pairwise

import pytest
from helpers.text_files import refused, write

from smart_rag.files.formats.pictures import svg
from smart_rag.files.formats.pictures.svg import NO_WORDS
from smart_rag.files.reader import read

pytest.importorskip("lxml")

NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def picture(inner, attributes='width="200" height="100"', head=""):
    return f"{head}<svg {NAMESPACES} {attributes}>{inner}</svg>"


def page_of(folder, inner, name="a.svg", **options):
    (page,) = read(write(folder / name, picture(inner, **options)))
    return page


def lines(folder, inner, **options):
    return page_of(folder, inner, **options).text.splitlines()


def test_words_stand_in_the_order_of_the_file(tmp_path):
    inner = """
    <title>The plan</title><desc>of the <!-- not
    --> house</desc>
    <g><text x="5" y="20">A <tspan font-weight="bold">bold</tspan> word</text></g>
    <path id="p" d="M0 0L9 9"/><text><textPath href="#p">round the bend</textPath></text>
    <a href="https://example.org/"><text>a link</text></a>"""
    assert lines(tmp_path, inner) == ["The plan", "of the house", "A bold word", "round the bend", "a link"]


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ('<tspan x="0" y="10">one</tspan><tspan x="0" y="30">two</tspan>', ["one", "two"]),
        ('<tspan x="0" dy="1.2em">one</tspan><tspan x="0" dy="1.2em">two</tspan>', ["one", "two"]),
        ('<tspan>one</tspan><tspan dy="20">two</tspan>', ["one", "two"]),
        ('H<tspan dy="4">2</tspan><tspan dy="-4">O</tspan>', ["H2O"]),
        ('<tspan x="0" y="9">T</tspan><tspan x="8" y="9">ext</tspan>', ["Text"]),  # as programs write for kerning
        ('<tspan x="0" y="9">name</tspan><tspan x="150" y="9">price</tspan>', ["name price"]),
        ('<tspan x="0 9 18" y="9">abc</tspan>', ["abc"]),
        ("a\n     b", ["a b"]),
    ],
)
def test_parts_of_a_text_are_joined_as_they_are_seen(tmp_path, inner, expected):
    assert lines(tmp_path, f"<text>{inner}</text>") == expected


@pytest.mark.parametrize(
    "hidden",
    [
        '<text display="none">two words</text>',
        '<g style="fill:red; DISPLAY : none"><text>two</text><title>words</title></g>',
        '<text visibility="hidden">two words</text>',
        '<g visibility="collapse"><g><text>two words</text></g></g>',
        '<style>/* .no{} */ .no, rect { display: none }</style><text class="big no">two words</text>',
        "<style><![CDATA[ text#t{visibility:hidden} ]]></style><text id='t'>two words</text>",
        "<defs><text>two words</text></defs>",
        '<symbol id="s"><text>two words</text></symbol>',
        "<clipPath><text>two words</text></clipPath>",
    ],
)
def test_hidden_words_are_left_out_and_counted(tmp_path, hidden):
    page = page_of(tmp_path, f"{hidden}<text>seen</text>")
    assert page.text == "seen"
    assert page.left_out == ("2 words of hidden text",)


def test_what_is_shown_in_something_hidden_is_read(tmp_path):
    inner = """<g visibility="hidden"><text visibility="visible">one</text></g>
    <symbol id="s"><text>two</text></symbol><defs><g id="d"><text>three</text></g></defs>
    <use xlink:href="#s"/><use href="#d"/>
    <style>@media print { a { fill: red } text { display: none } } .a { display: none }</style>
    <text class="a" style="display:inline">four</text>"""
    page = page_of(tmp_path, inner)
    assert page.text.split() == ["one", "two", "three", "four"]
    assert page.left_out == ()


def test_scripts_and_styles_are_no_words(tmp_path):
    inner = "<script>let text = 1</script><style>text{fill:red}</style><metadata><a>b</a></metadata><text>seen</text>"
    page = page_of(tmp_path, inner)
    assert (page.text, page.left_out) == ("seen", ())


def test_html_in_the_picture_is_read(tmp_path):
    html = '<p>one <b>bold</b></p><font>two</font><br/>three<span style="display:none">x</span>'
    page = page_of(tmp_path, f'<foreignObject><div xmlns="http://www.w3.org/1999/xhtml">{html}</div></foreignObject>')
    assert page.text.splitlines() == ["one bold", "two", "three"]
    assert page.left_out == ("1 word of hidden text",)


def test_of_a_switch_one_branch_is_shown(tmp_path):
    """As draw.io and Illustrator write it."""
    drawio = "<switch><foreignObject><p>whole label</p></foreignObject><text>whole la...</text></switch>"
    illustrator = (
        '<switch><foreignObject requiredExtensions="&ns_ai;">x</foreignObject><g><text>words</text></g></switch>'
    )
    head = '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "a.dtd" [ <!ENTITY ns_ai "http://ns.adobe.com/x/"> ]>'
    page = page_of(tmp_path, f"{drawio}<switch>{illustrator}</switch>", head=head)
    assert (page.text.splitlines(), page.left_out) == (["whole label", "words"], ())


def test_a_switch_of_languages_gives_each(tmp_path):
    inner = (
        '<switch><text systemLanguage="de">Hallo</text><text systemLanguage="fr">Salut</text><text>Hi</text></switch>'
    )
    assert lines(tmp_path, inner) == ["Hallo", "Salut", "Hi"]


def test_a_picture_without_words_says_so(tmp_path):
    path = write(tmp_path / "a.svg", picture('<rect width="9" height="9"/>'))
    assert refused(path) == NO_WORDS


# --- encodings, packed and broken files -----------------------------------------------------


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "windows-1251"])
def test_encodings_are_known(tmp_path, codec):
    word = "слово" if codec == "windows-1251" else "Größe"
    text = picture(
        f"<text>{word} &#xe9; &lt;</text>", head=f'<?xml version="1.0" encoding="{codec.removesuffix("-sig")}"?>\n'
    )
    (page,) = read(write(tmp_path / "a.svg", text.encode(codec)))
    assert page.text == f"{word} é <"


def test_packed_files_are_read(tmp_path):
    data = gzip.compress(picture("<text>packed</text>").encode())
    for name in ("a.svgz", "a.svg"):
        assert [page.text for page in read(write(tmp_path / name, data))] == ["packed"]
    assert "cannot be unpacked" in refused(write(tmp_path / "b.svgz", b"\x1f\x8b" + bytes(50)))
    assert refused(write(tmp_path / "c.svgz", data[:20])) != ""


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(svg, "MOST_BYTES", 1_000_000)
    path = write(tmp_path / "a.svgz", gzip.compress(picture(" " * 2_000_000).encode()))
    assert "more than 1 MB" in refused(path)


def test_entities_are_replaced_if_they_are_short_and_plain(tmp_path):
    entities = '<!ENTITY co "Acme"> <!-- "it\'s" --> <!ENTITY lol "&co;&co;"> <!ENTITY f SYSTEM "/etc/hostname">'
    head = f"<!DOCTYPE svg [ {entities} ]>"
    page = page_of(tmp_path, "<text>&co; &amp; sons&lol;&f;</text>", head=head)
    assert page.text == "Acme & sons"
    assert page.left_out == ("2 XML entities not read",)


@pytest.mark.parametrize("place", ["<text>&i;</text>", '<text id="&i;">x</text>'])
def test_a_billion_laughs_take_no_memory(tmp_path, place):
    names = "abcdefghi"
    entities = "".join(f'<!ENTITY {name} "{20 * f"&{before};"}">' for before, name in pairwise(names))
    head = f'<!DOCTYPE svg [ <!ENTITY a "ha"> {entities} ]>'
    page = page_of(tmp_path, f"{place}<text>end</text>", head=head)
    assert page.text.splitlines()[-1] == "end"
    assert page.left_out == ("1 XML entity not read",)


def test_entities_that_cannot_be_parsed_are_refused(tmp_path):
    head = '<!DOCTYPE svg [ <!ENTITY a "ha> ]>'
    assert "XML entities" in refused(write(tmp_path / "a.svg", picture("<text>&a;</text>", head=head)))


def test_a_damaged_file_gives_what_is_before_the_damage(tmp_path):
    text = picture("<text>one</text><g><text>two</text></g><text>three</text>")
    (page,) = read(write(tmp_path / "a.svg", text[: text.index("three")]))
    assert page.text.split() == ["one", "two"]
    assert page.left_out == ("the file is damaged, and what follows the damage may be missing",)


@pytest.mark.parametrize("data", [b"words", b"\x89PNG\r\n\x1a\n", b"<", b"\0" * 99])
def test_other_files_are_refused(tmp_path, data):
    assert refused(write(tmp_path / "a.svg", data)) != ""


def test_deep_nesting_is_read(tmp_path):
    inner = "<g>" * 1_500 + "<text>deep</text>" + "</g>" * 1_500
    assert page_of(tmp_path, inner).text == "deep"
