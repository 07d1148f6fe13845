"""The numbers of the families' own code: sizes of images, positions, frames of a video, the paper's set of tokens.

The reference is `reference_smart`, which runs transformers' own modules. Sources: qwen-vl-utils 0.0.14, and the code of
arXiv 2605.24938 (eval/src/models: qwen3_vl_embedding.py, gme_qwen2_vl.py, lamra_ret.py, and vlm2vec.py, which is
there as a compiled file).
"""

import functools

import numpy as np
import pytest
from helpers import published_folders, reference_smart, tiny_vision
from helpers.vision_families import FAMILIES, PIXELS, TEXT, TOLERANCE, expected, picture

from smart_rag import SmartEncoder
from smart_rag.errors import InvalidInput
from smart_rag.types import Content

# Small, large, wide, high, and with sides that are between two whole units.
SIZES = [(64, 64), (31, 45), (333, 77), (90, 640), (700, 500), (47, 272), (256, 256)]
VLM2VEC = {"query": "Find it.", "document": "Describe it."}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return a function from a family to its encoder and its reference, with the same weights."""

    @functools.cache
    def make(family):
        if family == "vlm2vec-v2":
            folder = tiny_vision.qwen2_vl(tmp_path_factory.mktemp(family))
            prompts = {f"{task}_prompt": prompt for task, prompt in VLM2VEC.items()}
            reference = reference_smart.VLM2Vec(folder, instructions=VLM2VEC, min_pixels=4 * 28 * 28, max_pixels=PIXELS)
            return SmartEncoder(folder, profile=family, max_pixels=PIXELS, **prompts), reference
        build, reference, options = FAMILIES[family]
        folder = build(tmp_path_factory.mktemp(family))
        return SmartEncoder(folder, profile=family, max_pixels=PIXELS), reference(folder, max_pixels=PIXELS, **options)

    return make


def assert_equal(got, i, want):
    assert got.tokens[i].shape == want.tokens.shape
    assert np.abs(got.pooled[i] - want.pooled).max() < TOLERANCE
    assert np.abs(got.tokens[i] - want.tokens).max() < TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", [*FAMILIES, "vlm2vec-v2"])
def test_images_of_several_sizes_in_one_batch(pair, family, side):
    """Alone and with a text, so that the rows have several lengths, padded on either side."""
    encoder, reference = pair(family)
    pictures = [picture(*size, seed) for seed, size in enumerate(SIZES)]
    texts = [None if i % 2 else " ".join(["Rates rose."] * (i + 1)) for i in range(len(SIZES))]
    tokenizer = encoder.model.tokenizer
    before, tokenizer.padding_side = tokenizer.padding_side, side
    try:
        got = encoder.encode_document([Content(text or "", image) for text, image in zip(texts, pictures, strict=True)])
    finally:
        tokenizer.padding_side = before
    for i, (text, image) in enumerate(zip(texts, pictures, strict=True)):
        assert_equal(got, i, reference.encode("document", text, [image]))


@pytest.mark.parametrize("name", ["text", "image", "text+image"])
def test_vlm2vec(pair, name):
    encoder, reference = pair("vlm2vec-v2")
    image = picture(200, 90)
    content = {"text": Content(TEXT), "image": Content(image=image), "text+image": Content(TEXT, image)}[name]
    given = (content.text or None, [image] if content.image else [])
    for task in ("query", "document"):
        if (name, task) != ("text", "document"):  # the family's own code has no such documents
            assert_equal(getattr(encoder, f"encode_{task}")([content]), 0, reference.encode(task, *given))


def frames_of(count, size=(70, 100)):
    return [picture(*size, seed) for seed in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5, pytest.param(70, marks=pytest.mark.slow)])
def test_a_video_that_is_a_list_of_frames(pair, count):
    """Two frames a second, an odd number of them filled up, and 64 at most."""
    encoder, reference = pair("qwen3-vl-embedding")
    frames = frames_of(count)
    got = encoder.encode_document([Content("What happens?", video=frames)])
    want = reference.encode("document", "What happens?", (), frames, None)
    assert_equal(got, 0, want)
    words = encoder.model.tokenizer.decode(want.prompt_ids)
    last = (min(count, 64) + min(count, 64) % 2) / 2
    assert f"<{last - 0.75:.1f} seconds><|vision_start|>" in words
    assert f"<{last + 0.25:.1f} seconds>" not in words
    assert "<|vision_start|><0.2 seconds>" not in words


@pytest.mark.parametrize("family", ["gme-qwen2-vl", "lamra-ret", "vlm2vec-v2"])
def test_frames_in_the_other_families(pair, family):
    """GME reads the frame in the middle. VLM2Vec-V2 reads 8 frames as they are."""
    encoder, reference = pair(family)
    frames = frames_of(8)
    given = {"video": frames} | ({"frames_per_second": None} if family == "lamra-ret" else {})
    assert_equal(encoder.encode_document([Content(video=frames)]), 0, expected(reference, "document", given))


@pytest.mark.parametrize("size", [(10, 10), (27, 300), (28, 300), (300, 5), (3000, 10)])
def test_tiny_images_of_vlm2vec(pair, size):
    """An image with a side below 28 pixels becomes a square of 56, even one too narrow for the processor."""
    encoder, reference = pair("vlm2vec-v2")
    image = picture(*size)
    assert_equal(encoder.encode_document([Content(image=image)]), 0, reference.encode("document", None, [image]))
    assert_equal(encoder.encode_query([Content(TEXT, image)]), 0, reference.encode("query", TEXT, [image]))


@pytest.mark.parametrize("size", [(70, 100), (420, 310)])
def test_a_frame_of_vlm2vec_has_no_more_pixels_than_an_image(tmp_path, size):
    """The limits of the processor are those of the published folder: 4 to 16,384 tokens for a frame."""
    folder, frames = published_folders.qwen2_vl(tmp_path), frames_of(8, size)
    encoder = SmartEncoder(folder, profile="vlm2vec-v2", max_pixels=PIXELS)
    reference = reference_smart.VLM2Vec(
        folder, instructions={"query": "", "document": ""}, min_pixels=4 * 28 * 28, max_pixels=PIXELS
    )
    want = reference.encode("document", None, (), frames)
    assert_equal(encoder.encode_document([Content(video=frames)]), 0, want)
    assert len(want.tokens) <= 4 * PIXELS / (28 * 28)
    assert encoder.describe()["images"]["frames_as_images"] is True
    assert encoder.describe()["images"]["tiny_image"] == (28, 56)


def test_frames_that_cannot_be_read(pair):
    encoder, _ = pair("qwen3-vl-embedding")
    with pytest.raises(InvalidInput, match="a list without frames"):
        encoder.encode_document([Content(video=[])])
    with pytest.raises(InvalidInput, match="must have one size, got 128 x 192, 192 x 128 after rounding"):
        encoder.encode_document([Content(video=[picture(120, 60), picture(60, 120)])])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_papers_set_of_tokens(pair, family):
    """The pooled token takes part where it is no special token: not in GME, which pools <|endoftext|>."""
    encoder, reference = pair(family)
    paper = SmartEncoder(encoder.model_name, profile=family, max_pixels=PIXELS, paper=True)
    assert paper.fingerprint != encoder.fingerprint
    assert [each.value for each in paper.decisions if each.name == "paper"] == [True]
    assert SmartEncoder.from_description(paper.describe()).fingerprint == paper.fingerprint
    for task in ("query", "document"):
        content, given = Content(TEXT, picture(200, 90)), {"text": TEXT, "images": [picture(200, 90)]}
        want = expected(reference, task, given)
        is_special = family == "gme-qwen2-vl"
        positions = want.positions if is_special else sorted([*want.positions, want.pooled_position])
        got = getattr(paper, f"encode_{task}")([content])
        assert np.flatnonzero(paper.trainable.prepare([content], task)["keep"][0]).tolist() == positions
        assert np.abs(got.pooled[0] - want.pooled).max() < TOLERANCE
        at_pooled = np.abs(got.tokens[0] - want.pooled).max(axis=1) < TOLERANCE
        assert at_pooled.tolist() == [i == want.pooled_position for i in positions]


@pytest.mark.parametrize(
    ("family", "described"),
    [
        ("qwen3-vl-embedding", {"resizing": "Pillow"}),
        ("gme-qwen2-vl", {"resizing": "Pillow, then processor", "positions": "counted"}),
        ("lamra-ret", {"resizing": "Pillow", "positions": "counted", "deepstack": False}),
        ("vlm2vec-v2", {"resizing": "processor, any size", "positions": "counted"}),
    ],
)
def test_the_description_names_these_settings(pair, family, described):
    encoder, _ = pair(family)
    images = encoder.describe()["images"]
    assert {name: images[name] for name in ("resizing", "positions", "deepstack") if name in images} == described
    named = {decision.name: decision.value for decision in encoder.decisions}
    assert named.get("positions") == described.get("positions")
    assert named.get("deepstack") == described.get("deepstack")


def test_a_model_with_its_own_files_keeps_its_own_positions(tmp_path):
    """sentence-transformers runs it, and gives it no others."""
    folder = tiny_vision.qwen2_vl(tmp_path, sentence_transformers_files=True)
    encoder = SmartEncoder(folder, profile="gme-qwen2-vl", max_pixels=PIXELS)
    assert "positions" not in encoder.describe()["images"]
    assert "position_ids" not in encoder.trainable.prepare(["a"], "query")
