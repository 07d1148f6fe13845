"""Drawn SVG: what a viewer shows, in the size that is asked for, and nothing from outside of the file."""

from __future__ import annotations

import base64
import gzip
import io
import os
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from helpers.text_files import write
from PIL import Image

from smart_rag import Content, IndexConfig
from smart_rag.errors import DocumentError, MissingExtra
from smart_rag.files import limits
from smart_rag.files.content import identity, jpeg, open_image, open_image_as, page_boxes, page_text
from smart_rag.files.formats.images import A4_PIXELS
from smart_rag.files.formats.pictures import svg_drawing, svg_safe
from smart_rag.files.reader import Reader, survey
from smart_rag.types import PdfPage

pytest.importorskip("lxml")
pytest.importorskip("resvg_py")

NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
RED, WHITE = (255, 0, 0), (255, 255, 255)
RECT = '<rect width="100%" height="100%" fill="red"/>'


def picture(inner, attributes='width="40" height="20"', head=""):
    return f"{head}<svg {NAMESPACES} {attributes}>{inner}</svg>"


def drawn(folder, inner, attributes='width="40" height="20"', max_pixels=10**6, **options):
    return open_image(write(folder / "a.svg", picture(inner, attributes, **options)), max_pixels)


def losses(path):
    return svg_drawing.losses(str(path))


def colours(image):
    return {colour for _, colour in image.getcolors(image.width * image.height)}


def png(colour="red", size=(8, 8)):
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return data.getvalue()


def as_data(kind, data):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# --- sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ('width="96" height="48"', (300, 150)),  # 300 dpi, as pages of a PDF
        ('width="1in" height="36pt"', (300, 150)),
        ('width="25.4mm" height="1.27cm"', (300, 150)),
        ('viewBox="0 0 96 48"', (300, 150)),
        ('viewBox="-5,-5 96,48" width="100%" height="auto"', (300, 150)),
        ('viewBox="0 0 2 1" width="96px"', (300, 150)),
        ('viewBox="0 0 2 1" height="48"', (300, 150)),
        ('viewBox="0 0 1e9 1e9"', (1000, 1000)),
        ('width="1e9" height="1e9"', (1000, 1000)),
        ('width="1e30" height="1"', (1000000, 1)),
        ('viewBox="0 0 1e-30 1e-30"', (1, 1)),
        ('viewBox="0 0 nan inf" width="-5" height="x"', (1000, 1000)),  # as large as what is drawn
    ],
)
def test_the_size_is_the_one_that_the_file_states(tmp_path, attributes, size):
    assert drawn(tmp_path, '<rect width="9" height="9" fill="red"/>', attributes).size == size


def test_a_picture_without_a_size_shows_all_of_it(tmp_path):
    image = drawn(tmp_path, '<rect width="500" height="100"/><rect x="1900" width="100" height="100" fill="red"/>', "")
    assert abs(image.width / image.height - 20) < 0.5
    assert image.getpixel((image.width - 3, image.height // 2)) == RED


def test_an_image_fills_the_size_that_a_model_asks_for(tmp_path):
    path = write(tmp_path / "a.svg", picture(RECT))
    asked = []

    def size_of(width, height):
        asked.append((width, height))
        return 64, 32

    for source in (path, str(path), PdfPage(path, 1)):
        image = open_image_as(source, size_of)
        assert (image.size, colours(image)) == ((64, 32), {RED})
    assert asked == [(125, 62)] * 3
    assert Image.open(io.BytesIO(jpeg(path, 100))).size == (14, 7)


def test_by_default_it_is_as_large_as_a_page(tmp_path):
    image = open_image(write(tmp_path / "a.svg", picture(RECT, 'viewBox="0 0 1e9 1e9"')))
    assert 0.99 * A4_PIXELS < image.width * image.height <= A4_PIXELS


# --- what is drawn --------------------------------------------------------------------------


def test_shapes_are_drawn_on_white(tmp_path):
    image = drawn(tmp_path, '<rect width="20" height="20" fill="red"/>')
    assert image.mode == "RGB"
    assert (image.getpixel((9, 9)), image.getpixel((image.width - 9, 9))) == (RED, WHITE)


@pytest.mark.skipif(not svg_drawing._fonts(), reason="no fonts on this machine")
@pytest.mark.parametrize("family", ["", "Nobody Has This Font", "Arial", "monospace", "fantasy"])
def test_words_are_drawn_whatever_their_font(tmp_path, family):
    inner = f'<text x="2" y="18" font-size="18" fill="red" font-family="{family}">HH</text>'
    assert RED in colours(drawn(tmp_path, inner))
    assert losses(tmp_path / "a.svg") == []


def test_without_fonts_the_report_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(svg_drawing, "_fonts", dict)
    words = write(tmp_path / "a.svg", picture("<text>words</text>"))
    shapes = write(tmp_path / "b.svg", picture(f"<title>words</title>{RECT}"))
    assert losses(words) == ["its words are not drawn, because this system has no usual font"]
    assert losses(shapes) == []


@pytest.mark.skipif(not svg_drawing._fonts(), reason="no fonts on this machine")
def test_html_is_drawn_where_nothing_stands_in_for_it(tmp_path):
    html = '<foreignObject width="40" height="20"><div xmlns="http://www.w3.org/1999/xhtml">HH</div></foreignObject>'
    assert len(colours(drawn(tmp_path, html))) > 1
    assert colours(drawn(tmp_path, f"<switch>{html}{RECT}</switch>")) == {RED}
    instead = '<text x="2" y="18" font-size="18" fill="red">{}</text>'
    expected = drawn(tmp_path, instead.format("HH")).tobytes()
    unknown = '<foreignObject requiredExtensions="http://ns.adobe.com/x/">no</foreignObject>'
    for inner in (html + instead.format("[Not supported by viewer]"), unknown + instead.format("HH")):
        assert drawn(tmp_path, f"<switch>{inner}</switch>").tobytes() == expected


def test_of_a_switch_the_branch_of_viewers_is_drawn(tmp_path):
    feature = 'requiredFeatures="http://www.w3.org/TR/SVG11/feature#Extensibility"'
    blue = RECT.replace("red", "blue")
    for branch, colour in ((f"<g {feature}>{RECT}</g>", RED), (f'<g requiredExtensions="x">{RECT}</g>', (0, 0, 255))):
        assert colours(drawn(tmp_path, f"<switch>{branch}<a>{blue}</a></switch>")) == {colour}
    assert colours(drawn(tmp_path, f"<switch><g {feature}/><a>{blue}</a></switch>")) == {WHITE}


def test_styles_count(tmp_path):
    inner = "<style>/* a */ .a > rect { fill: red } .b { display: none }</style>"
    inner += '<g class="a"><rect width="40" height="20"/></g><g class="b"><rect width="9" height="9"/></g>'
    assert colours(drawn(tmp_path, inner)) == {RED}


def test_a_gradient_is_drawn_though_it_has_an_address(tmp_path):
    inner = '<linearGradient id="g"><stop stop-color="red"/></linearGradient><linearGradient id="h" xlink:href="#g"/>'
    for fill in ('fill="url(#h)"', "style=\"fill: url( '#h' )\""):
        assert colours(drawn(tmp_path, f'{inner}<rect width="40" height="20" {fill}/>')) == {RED}
    inner += "<style>rect { fill: url(#h) }</style>"
    assert colours(drawn(tmp_path, f'{inner}<rect width="40" height="20"/>')) == {RED}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_pictures_in_the_file_are_drawn(tmp_path, kind):
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, kind)
    for name in ("href", "xlink:href"):
        image = drawn(tmp_path, f'<image width="40" height="40" {name}="{as_data("image/x", data.getvalue())}"/>')
        assert max(abs(a - b) for a, b in zip(image.getpixel((20, 9)), RED, strict=True)) < 5
    assert losses(tmp_path / "a.svg") == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_svg_in_an_svg_is_drawn(tmp_path, pack):
    inner = pack(picture(RECT).encode())
    assert RED in colours(drawn(tmp_path, f'<image width="40" height="20" href="{as_data("image/svg+xml", inner)}"/>'))
    assert losses(tmp_path / "a.svg") == []


# --- nothing from outside -------------------------------------------------------------------


def outside(red, folder):
    """Yield pictures that want to show the file ``red``, which lies in ``folder``."""
    image = '<image width="40" height="20" {}/>'
    addresses = [red, red.name, f"./{red.name}", f" {red}", f"file://{red}", f"\n{red}", "red.svg", folder / "red.svg"]
    for address in addresses:
        for name in ("href", "xlink:href"):
            yield picture(image.format(f'{name}="{address}"'))
    yield picture(f'<filter id="f"><feImage href="{red}"/></filter><rect width="40" height="20" filter="url(#f)"/>')
    yield picture(image.format(f'href="{red.name}"'), f'width="40" height="20" xml:base="{folder}/"')
    yield picture(image.format('href="&f;"'), head=f'<!DOCTYPE svg [<!ENTITY f "{red}">]>')
    yield picture("<text>&f;</text>", head=f'<!DOCTYPE svg [<!ENTITY f SYSTEM "{red}">]>')
    yield picture(RECT.replace("red", "blue"), head=f'<?xml-stylesheet href="{folder}/red.css"?>')
    yield picture(f'<use href="{folder}/red.svg#r"/><use href="red.svg"/>')
    for css in (f"@import '{folder}/red.css';", f"rect{{fill:url({folder}/red.svg#p)}}", "image{href:url('red.png')}"):
        yield picture(f'<style>{css}</style><image width="40" height="20"/><rect width="40" height="20" fill="blue"/>')
    yield picture(f'<rect width="40" height="20" style="fill:u\\72l({folder}/red.svg#p)"/>')
    hrefs = (f'href="{red}"', f'href="{as_data("image/png", png())}"')
    nested = [f"<svg {NAMESPACES}>{image.format(href)}</svg>" for href in hrefs]
    for inner in nested:
        for kind in ("image/svg+xml", "text/plain", "image/png"):
            yield picture(image.format(f'href="{as_data(kind, inner.encode())}"'))
            yield picture(image.format(f'href="{as_data(kind, gzip.compress(inner.encode()))}"'))
        yield picture(image.format(f'href="data:image/svg+xml,{quote(inner)}"'))


def test_no_other_file_is_read(tmp_path, monkeypatch):
    """Not by the working directory, and not by the folder of the file. resvg itself would read most of these."""
    folder = tmp_path / "secret"
    red = write(folder / "red.png", png())
    write(folder / "red.svg", picture(f'<g id="r">{RECT}</g><pattern id="p" width="9" height="9">{RECT}</pattern>'))
    write(folder / "red.css", "rect { fill: red }")
    os.utime(red, ns=(0, 0))
    monkeypatch.chdir(folder)
    with limits(file_seconds=None, file_memory=None):  # in this process, whose working directory is the folder
        for i, text in enumerate(outside(red, folder)):
            image = open_image(write(folder / f"{i}.svg", text), 10_000)
            assert RED not in colours(image), text


def test_what_is_not_drawn_is_counted(tmp_path):
    red = write(tmp_path / "red.png", png())
    image = '<image width="9" height="9" href="{}"/>'
    nested = as_data("image/svg+xml", picture(image.format(red) + image.format(as_data("image/png", png()))).encode())
    addresses = (red, "https://example.org/a.png", "data:image/png;base64,AAAA", nested)
    path = write(tmp_path / "a.svg", picture("".join(map(image.format, addresses)) + '<use href="other.svg#a"/>'))
    assert losses(path) == ["4 pictures of other files not drawn", "2 pictures in it not drawn"]


def test_pictures_of_too_many_pixels_are_not_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(svg_safe, "MAX_SOURCE_PIXELS", 100)
    image = f'<image width="40" height="40" href="{as_data("image/png", png())}"/>'
    one, two = (write(tmp_path / f"{count}.svg", picture(image * count)) for count in (1, 2))
    assert (losses(one), losses(two)) == ([], ["1 picture in it not drawn"])


@pytest.mark.parametrize(
    ("css", "safe"),
    [
        ("fill:url(#a)", "fill:url(#a)"),
        ("fill:URL( '#a' )", "fill:URL( '#a' )"),
        ("fill:url(a.svg#a)", "fill:none"),
        ('fill:url( "/a b" )', "fill:none"),
        ("fill:u\\72 l(/a)", "fill:none"),
        ("fill:\\000075RL(/a)", "fill:none"),
        ("fill:u\\rl(/a)", "fill:none"),
        ("fill:url(/a", "fill:none"),
        ("@IMPORT url(/a); a{}", " a{}"),
        ("@im\\70ort '/a'; a{}", " a{}"),
        ("/* url(/a) */b", " b"),
    ],
)
def test_addresses_in_styles_are_left_out(css, safe):
    assert svg_safe.safe_css(css) == safe


# --- hostile and broken files ---------------------------------------------------------------


def test_deep_nesting_does_not_crash(tmp_path):
    inner = '<g opacity="0.9">' * 1000 + RECT + "</g>" * 1000
    with pytest.raises(DocumentError, match="nested more than"):
        drawn(tmp_path, inner)
    assert RED in colours(drawn(tmp_path, "<g>" * 60 + RECT + "</g>" * 60))


def test_parts_that_use_each_other_end(tmp_path):
    inner = '<g id="a"><use href="#a"/></g>'
    inner += '<pattern id="p" width="9" height="9"><rect width="9" height="9" fill="url(#p)"/></pattern>'
    assert drawn(tmp_path, f'{inner}<rect width="9" height="9" fill="url(#p)"/>').size == (125, 62)
    uses = [30 * f'<use href="#g{i}"/>' for i in range(8)]
    groups = "".join(f'<g id="g{i}">{inner}</g>' for i, inner in enumerate([RECT, *uses]))
    for inner in (groups, '<g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g>'):
        with pytest.raises(DocumentError, match="cannot be drawn"):
            drawn(tmp_path, inner)


@pytest.mark.parametrize("text", ["words", "<html/>", f"<x {NAMESPACES}><svg/></x>"])
def test_a_file_that_cannot_be_drawn_is_named(tmp_path, text):
    path = write(tmp_path / "a.svg", text)
    with pytest.raises(DocumentError) as caught:
        open_image(path)
    assert caught.value.path == path
    assert "\n" not in caught.value.reason


def test_it_has_one_page(tmp_path):
    path = write(tmp_path / "a.svg", picture(RECT))
    with pytest.raises(DocumentError, match="no page 2"):
        open_image(PdfPage(path, 2))
    assert page_text(PdfPage(path, 1)) == ""
    assert page_boxes(PdfPage(path, 1), [(0, 1)]) == [[]]


# --- documents ------------------------------------------------------------------------------


def read(path, *modalities):
    return Reader(modalities, len, IndexConfig()).read(path)


def test_a_model_that_reads_images_gets_the_picture_and_the_words(tmp_path):
    path = write(tmp_path / "a.svg", picture('<text>words</text><image width="9" height="9" href="b.png"/>'))
    reading = read(path, "text", "image")
    (document,) = reading.documents
    assert (document.text, document.image) == ("words", PdfPage(path, 1))
    assert document.metadata == {"source": str(path), "chunk": 0}
    assert reading.left_out == ["1 picture of other files not drawn"]
    assert survey(path, ("text", "image")).left_out == ("1 picture of other files not drawn",)
    (document,) = read(write(tmp_path / "b.svg", picture(RECT)), "text", "image").documents
    assert (document.text, document.image) == ("", PdfPage(tmp_path / "b.svg", 1))
    assert identity(Content(image=document.image)) != identity(Content(image=PdfPage(path, 1)))


def test_a_model_that_reads_text_gets_the_words(tmp_path):
    path = write(tmp_path / "a.svg", picture('<text>words</text><text display="none">no</text>'))
    reading = read(path, "text")
    assert [document.text for document in reading.documents] == ["words"]
    assert reading.left_out == ["1 word of hidden text"]


def test_without_the_package_words_are_read_and_pictures_are_not(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    path = write(tmp_path / "a.svg", picture("<text>words</text>"))
    with limits(file_seconds=None, file_memory=None):
        (document,) = read(path, "text").documents
        assert (document.text, document.image) == ("words", None)
        for ask in (lambda: read(path, "text", "image"), lambda: survey(path, ("image",)), lambda: open_image(path)):
            with pytest.raises(MissingExtra, match=r"resvg-py.*smart-rag\[svg\]"):
                ask()


def test_without_lxml_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lxml", None)
    with limits(file_seconds=None, file_memory=None), pytest.raises(MissingExtra, match=r"lxml.*smart-rag\[svg\]"):
        read(write(tmp_path / "a.svg", picture("<text>words</text>")), "text")


def test_the_file_is_not_changed(tmp_path):
    path = write(tmp_path / "a.svg", picture('<image href="b.png"/>'))
    before = path.read_bytes()
    open_image(path, 100)
    assert (path.read_bytes(), sorted(Path(tmp_path).iterdir())) == (before, [path])
