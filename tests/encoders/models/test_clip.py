"""CLIP and SigLIP against the towers, projections and heads of transformers."""

import functools

import numpy as np
import pytest
import torch
from helpers import tiny_vision
from helpers.vision_families import picture
from PIL import Image
from transformers import AutoModel, AutoProcessor

from smart_rag import Document, SmartEncoder, SmartIndex
from smart_rag.errors import InvalidInput
from smart_rag.types import Content

TEXTS = ["The cat sat on the mat.", "a", "Dogs bark at night, when nobody is there. " * 4, ""]
# The last one has many times the pixels that the models read.
IMAGES = [picture(150, 60), picture(60, 110, 1), picture(56, 56, 2), picture(500, 300, 3)]
BUILDERS = {"clip": tiny_vision.clip, "siglip": tiny_vision.siglip, "siglip2": tiny_vision.siglip2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    @functools.cache
    def make(name, wrapped=False):
        return BUILDERS[name](tmp_path_factory.mktemp(name), sentence_transformers_files=wrapped)

    return make


@pytest.fixture(scope="module")
def encoder(folders):
    return functools.cache(lambda name, wrapped=False: SmartEncoder(folders(name, wrapped)))


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=-1).numpy()


@torch.inference_mode()
def of_text(folder, name, text):
    """Return the pooled embedding and those of all but special tokens, by transformers alone."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder).tokenizer
    length = {} if name == "clip" else {"padding": "max_length", "max_length": 64}
    features = tokenizer(text, truncation=True, return_tensors="pt", **length)
    assert ("attention_mask" in features) == (name == "clip")
    output = model.text_model(**features)
    project = model.text_projection if name == "clip" else model.text_model.head
    ids = features["input_ids"][0].tolist()
    pooled_from = len(ids) - 1  # of CLIP it is a special token
    words = [i for i, id in enumerate(ids) if id not in tokenizer.all_special_ids and i != pooled_from]
    pooled = unit(model.get_text_features(**features).pooler_output)
    return pooled[0], unit(project(output.last_hidden_state[0, words]))


@torch.inference_mode()
def of_image(folder, name, image):
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    sizes = {"max_num_patches": 20} if name == "siglip2" else {}
    features = processor(images=image, return_tensors="pt", **sizes)
    states = model.vision_model(**features).last_hidden_state[0]
    if name == "siglip2":  # the patches that are not padding
        states = states[: int(features["spatial_shapes"][0].prod())]
        assert features["pixel_attention_mask"].sum() == len(states)
    if name == "clip":
        patches = torch.stack([model.visual_projection(model.vision_model.post_layernorm(row)) for row in states[1:]])
    else:
        patches = torch.cat([model.vision_model.head(row[None, None]) for row in states])
    return unit(model.get_image_features(**features).pooler_output)[0], unit(patches)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", BUILDERS)
def test_representations_equal_those_of_the_towers(folders, encoder, name, wrapped):
    ours = encoder(name, wrapped)
    assert ours.modalities == {"text", "image"}
    assert ours.dimension == {"clip": 24, "siglip": 32, "siglip2": 32}[name]
    items = [TEXTS[0], IMAGES[0], TEXTS[1], IMAGES[1], TEXTS[2], *IMAGES[2:]]
    got = ours.encode_document(items)
    for i, item in enumerate(items):
        pooled, tokens = (of_text if isinstance(item, str) else of_image)(folders(name), name, item)
        np.testing.assert_allclose(got.pooled[i], pooled, rtol=0, atol=1e-5)
        np.testing.assert_allclose(got.tokens[i], tokens, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(ours.encode_query(items).pooled, got.pooled)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_text_without_words_has_its_pooled_embedding(encoder, name):
    empty = encoder(name).encode_document([""])
    np.testing.assert_array_equal(empty.tokens[0], empty.pooled)


def test_a_shorter_max_length_is_not_a_shorter_text_to_siglip(folders):
    """It is padded to the length that the model was trained with."""
    short = SmartEncoder(folders("siglip"), max_length=20)
    text = TEXTS[2]
    words = short.model.tokenizer(text, truncation=True, max_length=20)["input_ids"][:-1]
    pooled, _ = of_text(folders("siglip"), "siglip", short.model.tokenizer.decode(words))
    np.testing.assert_allclose(short.encode_document([text]).pooled[0], pooled, rtol=0, atol=1e-5)


def test_the_position_that_siglip_pools_is_no_token(tmp_path):
    """Most tokenizers end a text with a special token. If one does not, SigLIP pools the last word of a long text."""
    encoder = SmartEncoder(tiny_vision.siglip(tmp_path, eos=False))
    assert [len(matrix) for matrix in encoder.encode_document([TEXTS[2], TEXTS[0]]).tokens] == [63, 11]


def test_boxes_are_parts_of_the_whole_image(encoder):
    """CLIP cuts the margins off, and SigLIP squeezes the image. Boxes are parts of the whole image in both cases."""
    wide = Image.new("RGB", (120, 56))
    for name, left in (("clip", (120 - 56) / 2 / 120), ("siglip", 0)):
        boxes = [origin.box for origin in encoder(name).token_origins(wide)]
        assert len(boxes) == 16 == len(encoder(name).encode_document([wide]).tokens[0])
        np.testing.assert_allclose([boxes[0][:2], boxes[-1][2:]], [(left, 0), (1 - left, 1)], atol=1e-9)
        np.testing.assert_allclose(boxes[1], (boxes[0][2], 0, boxes[0][2] + (1 - 2 * left) / 4, 0.25), atol=1e-9)
    # The second row of patches of a high image is below the first.
    high = [origin.box for origin in encoder("clip").token_origins(Image.new("RGB", (56, 120)))]
    np.testing.assert_allclose(high[4], (0, 32 / 120 + 14 / 120, 0.25, 32 / 120 + 28 / 120), atol=1e-9)


def test_the_boxes_of_an_image_that_keeps_its_shape(encoder):
    """SigLIP 2 NaFlex reads a wide image as a wide grid. The patches that fill it up have no box and no embedding."""
    for size, rows, columns in (((150, 60), 3, 6), ((60, 110), 6, 3), ((56, 56), 4, 4)):
        image = Image.new("RGB", size)
        boxes = [origin.box for origin in encoder("siglip2").token_origins(image)]
        assert len(boxes) == rows * columns == len(encoder("siglip2").encode_document([image]).tokens[0])
        assert boxes[0] == (0, 0, 1 / columns, 1 / rows)
        np.testing.assert_allclose(boxes[columns], (0, 1 / rows, 1 / columns, 2 / rows))
        assert boxes[-1][2:] == (1, 1)
    assert encoder("siglip2").tokens_per_page <= 20


def test_a_box_holds_the_spot_that_changes_its_patch(encoder):
    """A spot in the image changes the patch whose box holds the spot."""
    before = Image.new("RGB", (120, 56), "white")
    after = before.copy()
    after.paste("black", (60, 30, 66, 36))
    for name in ("clip", "siglip"):
        processor = encoder(name).model.processor.image_processor
        pixels = [processor(images=image, return_tensors="pt")["pixel_values"][0] for image in (before, after)]
        changed = (pixels[0] - pixels[1]).abs().amax(0).reshape(4, 14, 4, 14).amax((1, 3)).flatten()
        boxes = [origin.box for origin in encoder(name).token_origins(before)]
        most = boxes[int(changed.argmax())]
        assert most[0] * 120 <= 66
        assert most[2] * 120 >= 60
        assert most[1] * 56 <= 36
        assert most[3] * 56 >= 30


@pytest.mark.parametrize("name", BUILDERS)
def test_spans_of_texts(encoder, name):
    text = TEXTS[0]
    assert "".join(text[slice(*origin.span)] for origin in encoder(name).token_origins(text)) == text


@pytest.mark.parametrize("name", BUILDERS)
def test_a_text_and_an_image_together_are_refused(encoder, name, tmp_path):
    with pytest.raises(InvalidInput, match="item 0 has text and image together"):
        encoder(name).encode_document([Content("a caption", image=IMAGES[0])])


def test_an_index_of_images_and_texts(encoder, tmp_path):
    with SmartIndex.create(tmp_path / "index", encoder("clip")) as index:
        index.add([Document("a", image=IMAGES[0]), Document("b", "a text"), Document("c", image=IMAGES[1])])
        assert {hit.id for hit in index.search("a text")} == {"a", "b", "c"}
        assert index.search(Content(image=IMAGES[1]), top_k=1)[0].id == "c"


def test_decisions(encoder):
    found = {decision.name: decision.value for decision in encoder("siglip").decisions}
    assert found["pooling"] == "that of siglip"
    assert encoder("siglip").tokens_per_page == 16
