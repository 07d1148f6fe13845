"""Chat messages: the text that each family of models reads, letter by letter."""

import re

import numpy as np
import pytest
from helpers import tiny_vision
from helpers.vision_families import PIXELS, TEXT, picture
from PIL import Image
from sentence_transformers import SentenceTransformer

from smart_rag import SmartEncoder
from smart_rag.types import Content

WIDE = picture(200, 90)
# The evaluator of the paper (HanSolo9682/SMART, models/vlm2vec, process_input_text): the placeholder
# and a blank, the instruction and a blank, the text. A document has no instruction.
VLM2VEC = {
    "query": "Find a document image that matches the given query. Which animal barks?",
    "image": "<|image_pad|> ",
    "text": "Dogs bark at night.",
    "text and image": "<|image_pad|> Dogs bark at night.",
    "query by image": "<|image_pad|> Find a document image that matches the given query. Which animal barks?",
}
_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
# LamRA's own code (Code-kunkun/LamRA, dataset/datasets_mbeir.py, dataset/datasets_msrvtt.py and demo.py), in Qwen2-VL's
# chat template. A query is the instruction, a blank and the text.
_END = "<|im_end|>\n<|im_start|>assistant\n<emb>.<|im_end|>\n<|im_start|>assistant\n"
_FIND = "Find a document image that matches the given query."
LAMRA = {
    "query": f"{_SYSTEM}{_FIND} Which animal barks?\nSummarize above sentence in one word: {_END}",
    "image": f"{_SYSTEM}{_IMAGE}\nSummarize above image in one word: {_END}",
    "text": f"{_SYSTEM}Dogs bark at night.\nSummarize above sentence in one word: {_END}",
    "text and image": f"{_SYSTEM}{_IMAGE}Dogs bark at night.\nSummarize above image and sentence in one word: {_END}",
    "query by image": (
        f"{_SYSTEM}{_IMAGE}{_FIND} Which animal barks?\nSummarize above image and sentence in one word: {_END}"
    ),
    "image alone as a query": f"{_SYSTEM}{_IMAGE}{_FIND}\nSummarize above image and sentence in one word: {_END}",
}
DSE = {
    "query": f"{_SYSTEM}{_IMAGE}Query: Which animal barks?<|im_end|>\n<|endoftext|>",
    "image": f"{_SYSTEM}{_IMAGE}What is shown in this image?<|im_end|>\n<|endoftext|>",
    "text": f"{_SYSTEM}Dogs bark at night.<|im_end|>\n<|endoftext|>",
}


def rendered(encoder, content, task):
    """Return the text that the model reads, with one placeholder for the image, and the number of its placeholders."""
    inputs = encoder.trainable.prepare([content], task)
    text = encoder.model.tokenizer.decode(inputs["input_ids"][0][inputs["attention_mask"][0].bool()])
    return re.sub(r"(<\|image_pad\|>)+", "<|image_pad|>", text), text.count("<|image_pad|>")


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    return tiny_vision.qwen2_vl(tmp_path_factory.mktemp("qwen2"))


@pytest.mark.parametrize(
    ("profile", "wanted"), [("vlm2vec-v2", VLM2VEC), ("lamra-ret-qwen2", LAMRA), ("dse-qwen2", DSE)]
)
def test_texts_that_the_model_reads(qwen2, profile, wanted):
    encoder = SmartEncoder(qwen2, profile=profile, max_pixels=PIXELS)
    inputs = {
        "query": (Content("Which animal barks?"), "query"),
        "image": (Content(image=WIDE), "document"),
        "text": (Content("Dogs bark at night."), "document"),
        "text and image": (Content("Dogs bark at night.", WIDE), "document"),
        "query by image": (Content("Which animal barks?", WIDE), "query"),
        "image alone as a query": (Content(image=WIDE), "query"),
    }
    assert {name: rendered(encoder, *inputs[name])[0] for name in wanted} == wanted


def test_a_bare_placeholder_becomes_an_image(qwen2):
    """VLM2Vec's placeholder has no markers. It becomes all patches, and their states change with the picture."""
    encoder = SmartEncoder(qwen2, profile="vlm2vec-v2", max_pixels=PIXELS)
    _, count = rendered(encoder, Content(image=WIDE), "document")
    assert count == round(200 / 28) * round(90 / 28)
    origins = encoder.token_origins(Content(image=WIDE))
    assert sum(origin.box is not None for origin in origins) == count
    one, other = encoder.encode_document([WIDE, picture(200, 90, seed=5)])
    assert np.abs(one.pooled - other.pooled).max() > 1e-3
    assert np.abs(one.tokens[0][:count] - other.tokens[0][:count]).max() > 1e-3


def test_a_query_to_dse_has_a_blank_image(qwen2):
    """The image is black, of 56 x 56 pixels, four patches, as in training. It is part of the template."""
    encoder = SmartEncoder(qwen2, profile="dse-qwen2")
    assert rendered(encoder, Content("a"), "query")[1] == 4
    black = SmartEncoder(qwen2, profile="dse-qwen2", query_tokens="content", document_prompt="Query: ")
    given = black.encode_query([Content("a", image=Image.new("RGB", (56, 56)))])
    implied = black.encode_query(["a"])
    np.testing.assert_allclose(implied.tokens[0], given.tokens[0], atol=1e-5)
    assert not any(origin.box for origin in encoder.token_origins("a", "query"))
    for policy in ("input", "patches"):
        strict = SmartEncoder(qwen2, profile="dse-qwen2", query_tokens=policy)
        assert len(strict.encode_query(["a"]).tokens[0]) == 1


@pytest.mark.parametrize("asks", [True, False])
def test_a_models_own_files_decide_on_the_generation_prompt(tmp_path, asks):
    """sentence-transformers itself renders the chat in the same way."""
    folder = tiny_vision.qwen3_vl(tmp_path, sentence_transformers_files=True, generation_prompt=asks)
    encoder = SmartEncoder(folder, max_pixels=PIXELS, query_prompt="", document_prompt="")
    assert rendered(encoder, Content("a"), "query")[0].endswith("<|im_start|>assistant\n") == asks
    theirs = SentenceTransformer(folder, device="cpu").encode_query([TEXT])
    np.testing.assert_allclose(encoder.encode_query([TEXT]).pooled, theirs, rtol=0, atol=1e-5)
