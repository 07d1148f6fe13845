"""Sizes of images: limits by the caller, the profile and the processor, in this order."""

from types import SimpleNamespace

import pytest
from PIL import Image

from smart_rag.encoders.models.image_sizes import ImageSizes, size_option
from smart_rag.encoders.profiles import ARGUMENT, GENERAL, GENERAL_RULE, OWN_FILES, profile_of
from smart_rag.errors import DocumentError, InvalidInput

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
        (sizes(), None, 1800 * 32 * 32, GENERAL_RULE),
        (sizes(max_pixels=50), None, 50, ARGUMENT),
    ],
)
def test_limits(made, limits, most, source):
    """A large number under "longest_edge" is a number of pixels, a small one the length of a side."""
    assert (made.limits, made.max_pixels) == (limits, most)
    assert (made.decision.name, made.decision.value, made.decision.source) == ("image_pixels", most, source)


def test_an_image_is_opened_with_as_many_pixels_as_allowed():
    image = Image.new("RGB", (400, 300))
    assert sizes(max_pixels=400 * 300).open(image).size == (400, 300)
    assert sizes(max_pixels=100 * 75).open(image).size == (100, 75)


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
