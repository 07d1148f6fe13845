"""Sizes of images: limits by the caller, the profile and the processor, in this order."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import tiny_vision
from PIL import Image
from transformers import SiglipImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize

from smart_rag import SmartEncoder
from smart_rag.demo import sample_folder
from smart_rag.encoders.models.image_sizes import ImageSizes, size_option, whole_units
from smart_rag.encoders.profiles import ARGUMENT, GENERAL, GENERAL_RULE, OWN_FILES, profile_of
from smart_rag.encoders.protocol import warn_once
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.types import Content, PdfPage

PAGE = PdfPage(sample_folder() / "engineering_report.pdf", 1)
MILLION = 1_000_000
GME = profile_of("any", "gme-qwen2-vl").value


def sizes(profile=GENERAL, max_pixels=None, **size):
    return ImageSizes(profile, SimpleNamespace(size=size) if size else None, max_pixels)


@pytest.mark.parametrize(
    ("made", "limits", "most", "source"),
    [
        (sizes(GME), (256 * 28 * 28, 1280 * 28 * 28), 1280 * 28 * 28, "profile gme-qwen2-vl"),
        (sizes(GME, 100), (100, 100), 100, ARGUMENT),
        (sizes(GME, MILLION), (256 * 28 * 28, MILLION), MILLION, ARGUMENT),
        (sizes(shortest_edge=3136, longest_edge=MILLION), (3136, MILLION), MILLION, OWN_FILES),
        (sizes(shortest_edge=3136, longest_edge=10**8), (3136, 1800 * 32 * 32), 1800 * 32 * 32, GENERAL_RULE),
        (sizes(height=56, width=28), None, 4 * 56 * 28, OWN_FILES),
        (sizes(shortest_edge=224), None, 4 * 224 * 224, OWN_FILES),
        (sizes(shortest_edge=224, longest_edge=1333), None, 4 * 224 * 224, OWN_FILES),
        (sizes(longest_edge=2048), None, 2048 * 2048, OWN_FILES),
        (sizes(), None, 1800 * 32 * 32, GENERAL_RULE),
        (sizes(max_pixels=50), None, 50, ARGUMENT),
    ],
)
def test_limits(made, limits, most, source):
    """A large number under "longest_edge" is a number of pixels, a small one the length of a side."""
    assert (made.limits, made.max_pixels) == (limits, most)
    name = "page_pixels" if limits is None and source != ARGUMENT else "image_pixels"
    assert (made.decision.name, made.decision.value, made.decision.source) == (name, most, source)


@pytest.mark.parametrize("build", [tiny_vision.clip, tiny_vision.siglip, tiny_vision.siglip2, tiny_vision.colpali])
def test_a_limit_that_changes_no_token_is_said(build, tmp_path, caplog):
    """The processors of these models decide the number of tokens alone."""
    folder = build(tmp_path / "model")
    image = Image.new("RGB", (400, 300), "red")
    counts = set()
    for limit in (None, 900, 90_000):
        encoder = SmartEncoder(folder, device="cpu", max_pixels=limit)
        counts.add(len(encoder.encode_document([Content(image=image)]).tokens[0]))
        sources = {decision.name: decision.source for decision in encoder.decisions}
        assert sources.keys() & {"image_pixels", "page_pixels"} == {"page_pixels" if limit is None else "image_pixels"}
        assert caplog.text.count("does not limit the number of tokens") == (limit is not None)
        caplog.clear()
        warn_once.cache_clear()
    assert len(counts) == 1


def test_pages_for_siglip2_are_drawn_with_the_pixels_of_its_patches(tmp_path):
    made = {each.name: each for each in SmartEncoder(tiny_vision.siglip2(tmp_path / "model"), device="cpu").decisions}
    assert (made["page_pixels"].value, made["page_pixels"].source) == (4 * 20 * 16 * 16, OWN_FILES)


def test_an_image_is_opened_with_as_many_pixels_as_allowed():
    image = Image.new("RGB", (400, 300))
    assert sizes(max_pixels=400 * 300).open(image).size == (400, 300)
    assert sizes(max_pixels=100 * 75).open(image).size == (100, 75)


A4 = (1240, 1754)


@pytest.mark.parametrize(
    ("profile", "patch", "patches"),
    [("qwen3-vl-embedding", 16, (35, 50)), ("gme-qwen2-vl", 14, (29, 42)), ("vlm2vec-v2", 14, (30, 42))],
)
def test_patches_of_a_page(profile, patch, patches):
    """Computed by hand. Shrunk to the limit first, and then to whole patches, an A4 page would have 36 x 50 of them.

    GME resizes twice, which takes a column away: first to 1232 x 1764 pixels.
    """
    processor = Qwen2VLImageProcessor(patch_size=patch)
    made = ImageSizes(profile_of("any", profile).value, processor, None)
    image, unit = made.open(Image.new("RGB", A4)), 2 * patch
    grid = processor([image], size=size_option(made.limits), return_tensors="pt")["image_grid_thw"][0].tolist()
    assert (grid[2] // 2, grid[1] // 2) == patches
    assert made.read_size(*A4) == (patches[0] * unit, patches[1] * unit)
    # A page of a PDF is drawn once, at the size that it would have at 300 dpi.
    at_300_dpi = (30, 42) if profile == "gme-qwen2-vl" else patches
    assert made.open(PAGE).size == made.read_size(2480, 3508) == (at_300_dpi[0] * unit, at_300_dpi[1] * unit)


@pytest.mark.parametrize("limits", [(4, 64), (256, 1280), (4, 16384)])
def test_whole_units_are_those_of_the_processor(limits):
    """Of images from half a unit to 3,000 pixels on each side."""
    rng = np.random.default_rng(0)
    limits = (limits[0] * 28 * 28, limits[1] * 28 * 28)
    for width, height in rng.integers(15, 3000, (300, 2)).tolist():
        theirs = smart_resize(height, width, 28, *limits)
        assert whole_units(width, height, 28, limits) == (theirs[1], theirs[0])


def test_who_resizes(tmp_path):
    """Pillow's bicubic filter, as in qwen-vl-utils; a huge image for the processor alone is shrunk one by one."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8))
    unit = Qwen2VLImageProcessor(patch_size=16)
    once = ImageSizes(profile_of("any", "qwen3-vl-embedding").value, unit, 8 * 32 * 32)
    assert once.open(noise).tobytes() == noise.resize((64, 96)).tobytes()
    alone = ImageSizes(profile_of("any", "vlm2vec-v2").value, unit, 8 * 32 * 32)
    assert alone.open(noise).tobytes() == noise.tobytes()
    huge = Image.new("RGB", (5000, 4000))
    assert alone.open(huge).size == (96, 64)
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 255, (3600, 3600), dtype=np.uint8))
    whole = unit([grey.convert("RGB")], size=size_option(alone.limits), return_tensors="pt")["pixel_values"]
    shrunk = alone.open(grey)
    assert shrunk.size == (64, 64)
    assert torch.equal(unit([shrunk], size=size_option(alone.limits), return_tensors="pt")["pixel_values"], whole)
    large = Image.new("RGB", (3584, 3584))
    assert alone.open(large).size == (3584, 3584)


@pytest.mark.parametrize("size", [{"height": 56, "width": 28}, {"shortest_edge": 56}])
def test_a_model_with_one_size_resizes_itself(size):
    """Only a huge image is resized before, by the processor's own filter. A caller's limit shrinks every image."""
    processor = SiglipImageProcessor(size=size)
    made = ImageSizes(GENERAL, processor, None)
    large = Image.new("RGB", (3000, 2000))
    assert made.open(large).size == (3000, 2000)
    assert ImageSizes(GENERAL, processor, 600).open(large).size == (30, 20)
    assert (made.resizing, ImageSizes(GENERAL, processor, 600).resizing) == ("processor, any size", None)
    huge = Image.fromarray(np.random.default_rng(0).integers(0, 255, (3000, 5000), dtype=np.uint8))
    assert made.open(huge, is_alone=True).size == (5000, 3000)
    if "height" in size:
        whole, before = (
            processor([image], return_tensors="pt")["pixel_values"] for image in (huge.convert("RGB"), made.open(huge))
        )
        assert made.open(huge).size == (28, 56)
        assert torch.equal(before, whole)
    else:
        assert made.open(huge).width * made.open(huge).height <= 16_384 * 28 * 28


def test_an_image_that_is_too_narrow_is_refused(tmp_path):
    """Qwen's processors would raise an error of their own; others take any shape."""
    image = Image.new("RGB", (1000, 5))
    image.save(tmp_path / "line.png")
    with pytest.raises(InvalidInput, match="an image of 1000 x 5 is too narrow, one side is 200 times the other"):
        sizes(GME).open(image)
    with pytest.raises(DocumentError, match=r"line.png: an image of 1000 x 5 is too narrow"):
        sizes(GME).open(tmp_path / "line.png")
    assert sizes(GME).open(Image.new("RGB", (995, 5))).size == (995, 5)
    assert sizes(height=56, width=56).open(image).size == (1000, 5)


def test_the_names_of_limits():
    assert size_option((4, 9)) == {"shortest_edge": 4, "longest_edge": 9}
