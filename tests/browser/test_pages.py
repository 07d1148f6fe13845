"""Heat over pages and images, by a tiny random model: the best patch on screen is that of `similarity_map`."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import odd_files, tiny_vision
from helpers.served import server
from PIL import Image, ImageDraw

from smart_rag import Content, SmartEncoder, SmartIndex
from smart_rag.demo import sample_folder

QUESTION = "the seawater pump"
PLACE = re.compile(r"row (\d+), column (\d+) of (\d+) . (\d+), (\S+)")
# The share of the canvas that is coloured, and not grey.
COLOURED = """() => {
    const canvas = document.querySelector('.page canvas');
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let found = 0;
    for (let i = 0; i < data.length; i += 4) {
        const colour = [data[i], data[i + 1], data[i + 2]];
        found += Math.max(...colour) - Math.min(...colour) > 30;
    }
    return found / (data.length / 4);
}"""


def picture(path, size, ground):
    image = Image.new("RGB", size, ground)
    ImageDraw.Draw(image).ellipse((30, 30, 150, 150), fill="orange")
    image.save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    encoder = SmartEncoder(tiny_vision.colqwen2(folder / "model"), device="cpu")
    files = folder / "files"
    files.mkdir()
    for name, size, ground in (
        ("tall", (200, 800), "white"),
        ("wide", (900, 200), "white"),
        ("night", (300, 300), "navy"),
    ):
        picture(files / f"{name}.png", size, ground)
    (files / "report.pdf").write_bytes((sample_folder() / "engineering_report.pdf").read_bytes())
    with SmartIndex.create(folder / "pages.index", encoder) as index:
        index.add_files(files)
    return folder


@pytest.fixture(scope="module")
def pages(folder):
    with server({"pages": SmartIndex.open(folder / "pages.index")}) as client:
        yield client


def test_the_best_patch_is_that_of_python(folder, pages, window):
    watched = window(pages)
    page = watched.open()
    page.wait_for_selector("#question")
    watched.search(QUESTION)
    with SmartIndex.open(folder / "pages.index") as index:
        hits = {hit.id: hit for hit in index.search(QUESTION, 20)}
        for row in page.locator('[data-column="hybrid"] .hit').all():
            row.click()
            id = row.get_attribute("data-id")
            page.wait_for_selector(".why-body:not(.old) figure.page:not(.waiting)")
            explanation = hits[id].explain()
            for is_pinned in (False, True):
                token = None
                if is_pinned:
                    page.get_by_label("tokens", exact=True).check()
                    page.locator(".chip.word").filter(has_not_text="[prompt]").last.click()
                    watched.wait("location.hash.includes('tok=')")
                    token = int(re.search(r"tok=(\d+)", page.url)[1])
                expected = explanation.similarity_map(token)
                found = PLACE.search(page.inner_text(".page figcaption"))
                row_, column, rows, columns = map(int, found.groups()[:4])
                assert (rows, columns) == expected.shape
                best = np.unravel_index(expected.argmax(), expected.shape)
                # One byte for a similarity: a patch that is as good to two digits may win.
                assert expected[row_ - 1, column - 1] >= expected[best] - 0.01
                assert float(found[5].replace("\u2212", "-")) == pytest.approx(float(expected[best]), abs=0.011)
            page.locator(".chip.all").click()
            page.get_by_label("tokens", exact=True).uncheck()


def test_heat_is_drawn_and_switched_off(pages, window):
    watched = window(pages)
    page = watched.open()
    page.wait_for_selector("#question")
    watched.search(QUESTION)
    for name in ("night", "wide", "report"):
        page.locator('[data-column="hybrid"] .hit', has_text=name).first.click()
        page.wait_for_selector(".why-body:not(.old) figure.page:not(.waiting)")
        assert page.evaluate(COLOURED) > 0.02
        if name == "report":
            page.get_by_label("heat", exact=True).uncheck()
            assert page.evaluate(COLOURED) < 0.01
            page.get_by_label("heat", exact=True).check()
            page.get_by_label("without colour").check()
            assert page.evaluate(COLOURED) < 0.01
            page.get_by_label("without colour").uncheck()
    page.locator(".page canvas").focus()
    before = page.inner_text(".page figcaption")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.inner_text(".page figcaption") != before


@pytest.fixture
def clips(tmp_path):
    encoder = SmartEncoder(tiny_vision.qwen3_vl(tmp_path / "model"), profile="qwen3-vl-embedding", device="cpu")
    odd_files.video(tmp_path / "clip.mp4", frames=10)
    index = SmartIndex.create(tmp_path / "clips.index", encoder)
    index.add_files(tmp_path / "clip.mp4")
    with server({"clips": index}) as client:
        yield client


def test_the_strongest_frame_of_a_video_is_chosen(clips, window):
    watched = window(clips)
    page = watched.open()
    page.wait_for_selector("#question")
    watched.search("a clip")
    page.wait_for_selector("figure.page:not(.waiting)")
    frames = page.locator('[aria-label="Frames of the video"] button')
    values = [float(text.split()[-1]) for text in frames.all_inner_texts()]
    pressed = [frame.get_attribute("aria-pressed") for frame in frames.all()]
    assert len(values) > 1
    assert values[pressed.index("true")] == max(values)
    first = page.evaluate("document.querySelector('.page canvas').toDataURL()")
    frames.nth(pressed.index("false")).click()
    watched.wait("first => document.querySelector('.page:not(.waiting) canvas')?.toDataURL() !== first", first)


def test_an_image_asks(folder, pages, window, tmp_path):
    watched = window(pages, expected=["status of 422"])
    page = watched.open()
    page.wait_for_selector("#question")
    asked = picture(tmp_path / "ask.png", (200, 800), "white")
    page.set_input_files("input[type=file]", asked)
    page.wait_for_selector(".hits .hit")
    with SmartIndex.open(folder / "pages.index") as index:
        assert watched.ids("hybrid") == [hit.id for hit in index.search(Content(image=Image.open(asked)), 10)]
    assert "img=" in page.url
    page.wait_for_selector(".why .chip.word")
    assert "[image]" in page.inner_text(".why .chips")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    page.set_input_files("input[type=file]", tmp_path / "broken.png")
    page.wait_for_selector(".problem")
    page.get_by_role("button", name="Remove the image").click()
    page.wait_for_selector(".examples")
