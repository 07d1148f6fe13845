"""LamRA-Ret as it is published: sizes of images and frames, positions and prompts of its own code.

The reference is `reference_lamra`, which runs transformers' own modules.
"""

import numpy as np
import pytest
from helpers import published_folders
from helpers.reference_lamra import LamRARetQwen2
from helpers.vision_families import TEXT, TOLERANCE, contents_in, picture, write_video

from smart_rag import SmartEncoder
from smart_rag.types import Content

# Awkward ones: thin, tiny, a little more than 300 tokens, and a large page.
SIZES = [(37, 500), (1000, 30), (640, 427), (1240, 1754), (10, 10), (27, 300)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return the encoder and the reference, with the same weights."""
    folder = published_folders.lamra_ret(tmp_path_factory.mktemp("any"))
    return SmartEncoder(folder), LamRARetQwen2(folder)


def assert_equal(got, i, want):
    assert got.tokens[i].shape == want.tokens.shape
    assert np.abs(got.pooled[i] - want.pooled).max() < TOLERANCE
    assert np.abs(got.tokens[i] - want.tokens).max() < TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_images_of_several_sizes_in_one_batch(pair, side):
    encoder, reference = pair
    pictures = [picture(*size, seed) for seed, size in enumerate(SIZES)]
    texts = ["" if i % 2 else " ".join(["Rates rose."] * (i + 1)) for i in range(len(SIZES))]
    tokenizer = encoder.model.tokenizer
    before, tokenizer.padding_side = tokenizer.padding_side, side
    try:
        got = encoder.encode_document([Content(text, image) for text, image in zip(texts, pictures, strict=True)])
    finally:
        tokenizer.padding_side = before
    for i, (text, image) in enumerate(zip(texts, pictures, strict=True)):
        assert_equal(got, i, reference.encode("document", text, [image]))


def test_texts_and_queries(pair):
    encoder, reference = pair
    image = picture(200, 90)
    assert_equal(encoder.encode_document([TEXT]), 0, reference.encode("document", TEXT))
    assert_equal(encoder.encode_query([TEXT]), 0, reference.encode("query", TEXT))
    assert_equal(encoder.encode_query([Content(image=image)]), 0, reference.encode("query", None, [image]))
    assert_equal(encoder.encode_query([Content(TEXT, image)]), 0, reference.encode("query", TEXT, [image]))


@pytest.mark.parametrize(("count", "size"), [(1, (70, 100)), (5, (70, 100)), (3, (900, 701)), (2, (20, 33))])
@pytest.mark.parametrize("text", ["", "What happens?"])
def test_a_frame_of_a_list_has_the_size_of_an_image(pair, count, size, text):
    encoder, reference = pair
    frames = [picture(*size, seed) for seed in range(count)]
    got = encoder.encode_document([Content(text, video=frames)])
    assert_equal(got, 0, reference.encode("document", text, (), frames, None))


def test_a_frame_of_a_file_has_the_size_of_a_video(pair, tmp_path):
    encoder, reference = pair
    contents = contents_in(tmp_path)
    for name in ("video", "text+video"):
        content, given = contents[name]
        assert_equal(encoder.encode_document([content]), 0, reference.encode("document", **given))


@pytest.mark.parametrize(("count", "rate"), [(19, 5), (26, 4), (15, 2), (3, 1), (30, 4)])
def test_the_number_of_frames_of_a_file_is_even(pair, tmp_path, count, rate):
    """7.6, 13 and 15 frames become 8, 12 and 16. Where there are only 15 or 3, it reads 14 or 2."""
    encoder, reference = pair
    frames = [picture(96, 64, seed) for seed in range(count)]
    path = tmp_path / "clip.mkv"
    write_video(path, frames, rate)
    want = reference.encode("document", None, (), frames, float(rate))
    assert_equal(encoder.encode_document([Content(video=path)]), 0, want)


def test_the_room_that_frames_leave_for_a_text(pair):
    """A text beside few small frames is not cut, although a video of a file could have so many tokens."""
    encoder, reference = pair
    text = " ".join(["Rates rose."] * 60)
    frames = [picture(70, 100, seed) for seed in range(2)]
    got = encoder.encode_document([Content(text, video=frames)])
    assert_equal(got, 0, reference.encode("document", text, (), frames, None))


def test_the_description_names_these_settings(pair):
    images = pair[0].describe()["images"]
    assert images["pixels"] == (4 * 28 * 28, 300 * 28 * 28)
    assert (images["resizing"], images["positions"], images["frames_as_images"]) == ("Pillow", "counted", True)
