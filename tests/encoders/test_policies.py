"""Which tokens of a vision-language model take part in late interaction; how each family is asked, to the letter."""

import functools
import re

import numpy as np
import pytest
from helpers import reference_smart, tiny_models, tiny_vision
from helpers.vision_families import FAMILIES, PIXELS, TEXT, expected, picture
from PIL import Image
from sentence_transformers import SentenceTransformer

from smart_rag import SmartEncoder
from smart_rag.errors import InvalidInput
from smart_rag.types import Content

WIDE = picture(200, 90)
ITEMS = {
    "text": (Content(TEXT), {"text": TEXT}),
    "image": (Content(image=WIDE), {"images": [WIDE]}),
    "text+image": (Content("A caption of it.", image=WIDE), {"text": "A caption of it.", "images": [WIDE]}),
}
PADS = {"<|image_pad|>"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function from a family to its folder and its reference."""

    @functools.cache
    def make(family):
        build, reference, options = FAMILIES[family]
        folder = build(tmp_path_factory.mktemp(family))
        return folder, reference(folder, max_pixels=PIXELS, **options)

    return make


@pytest.fixture(scope="module")
def encoder(made):
    @functools.cache
    def make(family, policy):
        return SmartEncoder(
            made(family)[0], profile=family, max_pixels=PIXELS, query_tokens=policy, document_tokens=policy
        )

    return make


def kept(encoder, content, task):
    positions = encoder._backbone.positions(content, task)
    return np.flatnonzero(encoder._passes.kept(positions, task)[0]).tolist()


def where_content_stands(reference, content, task, given):
    """Return where the patches and the text are in the whole prompt, which the reference writes out."""
    ids = expected(reference, task, given).prompt_ids
    tokenizer = reference.tokenizer
    patches = [i for i, id in enumerate(ids) if tokenizer.convert_ids_to_tokens(id) in PADS]
    text = tokenizer(content.text, add_special_tokens=False)["input_ids"] if content.text else []
    starts = [i for i in range(len(ids)) if text and ids[i : i + len(text)] == text]
    assert len(starts) == bool(text)
    return patches, [starts[0] + i for i in range(len(text))] if text else []


@pytest.mark.parametrize("task", ["query", "document"])
@pytest.mark.parametrize("name", ITEMS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", ["content", "text", "input", "patches"])
def test_each_policy_keeps_what_it_says(made, encoder, policy, family, name, task):
    reference = made(family)[1]
    content, given = ITEMS[name]
    patches, text = where_content_stands(reference, content, task, given)
    # The reference leaves the patches of a query to GME out, which is this family's own policy.
    everything = sorted({*expected(reference, task, given).positions, *patches})
    wanted = {
        "content": everything,
        "text": [i for i in everything if i not in patches],
        "input": sorted(patches + text),
        "patches": patches,
    }
    assert kept(encoder(family, policy), content, task) == wanted[policy]


def test_the_token_embeddings_are_those_of_the_kept_tokens(encoder):
    """The same states, fewer of them; without any, the pooled embedding is the only one."""
    content = ITEMS["text+image"][0]
    content_places = kept(encoder("gme-qwen2-vl", "content"), content, "document")
    everything = encoder("gme-qwen2-vl", "content").encode_document([content])
    for policy in ("text", "input", "patches"):
        places = kept(encoder("gme-qwen2-vl", policy), content, "document")
        got = encoder("gme-qwen2-vl", policy).encode_document([content])
        np.testing.assert_allclose(got.pooled, everything.pooled, atol=1e-6)
        np.testing.assert_allclose(
            got.tokens[0], everything.tokens[0][[content_places.index(i) for i in places]], atol=1e-5
        )
    alone = encoder("gme-qwen2-vl", "patches").encode_document([TEXT])
    np.testing.assert_array_equal(alone.tokens[0], alone.pooled)


def test_the_fingerprint_is_that_of_the_document_policy(encoder):
    folder = encoder("gme-qwen2-vl", "content").model_name
    make = functools.partial(SmartEncoder, folder, profile="gme-qwen2-vl", max_pixels=PIXELS)
    usual = make()
    assert (usual.describe()["query_tokens"], usual.describe()["document_tokens"]) == ("text", "content")
    for policy in ("content", "input", "patches"):
        assert make(query_tokens=policy).fingerprint == usual.fingerprint
    others = {make(document_tokens=policy).fingerprint for policy in ("text", "input", "patches")}
    assert len({usual.fingerprint, *others}) == 4


def test_a_policy_of_a_text_model(tmp_path):
    """A prompt is what `input` leaves out; a model without patches has none to keep."""
    folder = tiny_models.bert(tmp_path, prompts={"query": "query: ", "document": "document: "})
    text = "The cat sat on the mat."
    words = len(SmartEncoder(folder, query_prompt="", document_prompt="").encode_query(text).tokens[0])
    assert len(SmartEncoder(folder).encode_document(text).tokens[0]) == words + 2
    assert len(SmartEncoder(folder, document_tokens="input").encode_document(text).tokens[0]) == words
    assert len(SmartEncoder(folder, query_tokens="input").encode_query(text).tokens[0]) == words
    alone = SmartEncoder(folder, document_tokens="patches").encode_document(text)
    np.testing.assert_array_equal(alone.tokens[0], alone.pooled)


def test_a_policy_that_is_not_there():
    with pytest.raises(InvalidInput, match="query_tokens must be one of content, text, input, patches, got 'words'"):
        SmartEncoder("minilm", query_tokens="words")


# --- prompts, to the letter -----------------------------------------------------------------


def rendered(encoder, content, task):
    """What the model reads, with an image as one placeholder; and how many placeholders it stands for."""
    positions = encoder._backbone.positions(content, task)
    text = encoder._model.tokenizer.decode(positions.ids[0][positions.attended[0]])
    return re.sub(r"(<\|image_pad\|>)+", "<|image_pad|>", text), text.count("<|image_pad|>")


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    return tiny_vision.qwen2_vl(tmp_path_factory.mktemp("qwen2"))


VLM2VEC = {
    "query": "Find a document image that matches the given query: Which animal barks?",
    "image": "<|image_pad|> Understand the content of the provided document image.",
    "text": "Dogs bark at night.",
}
_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
DSE = {
    "query": f"{_SYSTEM}{_IMAGE}Query: Which animal barks?<|im_end|>\n<|endoftext|>",
    "image": f"{_SYSTEM}{_IMAGE}What is shown in this image?<|im_end|>\n<|endoftext|>",
    "text": f"{_SYSTEM}Dogs bark at night.<|im_end|>\n<|endoftext|>",
}


@pytest.mark.parametrize(("profile", "wanted"), [("vlm2vec-v2", VLM2VEC), ("dse-qwen2", DSE)])
def test_what_the_model_reads(qwen2, profile, wanted):
    encoder = SmartEncoder(qwen2, profile=profile, max_pixels=PIXELS)
    inputs = {
        "query": (Content("Which animal barks?"), "query"),
        "image": (Content(image=WIDE), "document"),
        "text": (Content("Dogs bark at night."), "document"),
    }
    assert {name: rendered(encoder, *given)[0] for name, given in inputs.items()} == wanted


def test_a_bare_placeholder_becomes_an_image(qwen2):
    """VLM2Vec's has no markers around it: as many patches, and their states change with the picture."""
    encoder = SmartEncoder(qwen2, profile="vlm2vec-v2", max_pixels=PIXELS)
    _, count = rendered(encoder, Content(image=WIDE), "document")
    assert count == round(200 / 28) * round(90 / 28)
    places = encoder.token_origins(Content(image=WIDE))
    assert sum(place.box is not None for place in places) == count
    one, other = encoder.encode_document([WIDE, picture(200, 90, seed=5)])
    assert np.abs(one.pooled - other.pooled).max() > 1e-3
    assert np.abs(one.tokens[0][:count] - other.tokens[0][:count]).max() > 1e-3


def test_a_query_to_dse_has_a_blank_image(qwen2):
    """Of 56 x 56 pixels, four patches; black, as those who trained it made it. It is part of the template."""
    encoder = SmartEncoder(qwen2, profile="dse-qwen2")
    assert rendered(encoder, Content("a"), "query")[1] == 4
    black = SmartEncoder(qwen2, profile="dse-qwen2", query_tokens="content", document_prompt="Query: ")
    given = black.encode_query([Content("a", image=Image.new("RGB", (56, 56)))])
    implied = black.encode_query(["a"])
    np.testing.assert_allclose(implied.tokens[0], given.tokens[0], atol=1e-5)
    assert not any(place.box for place in encoder.token_origins("a", "query"))
    for policy in ("input", "patches"):
        strict = SmartEncoder(qwen2, profile="dse-qwen2", query_tokens=policy)
        assert len(strict.encode_query(["a"]).tokens[0]) == 1


@pytest.mark.parametrize("asks", [True, False])
def test_a_models_own_files_say_whether_it_is_asked_to_answer(tmp_path, asks):
    """As sentence-transformers itself asks it."""
    folder = tiny_vision.qwen3_vl(tmp_path, sentence_transformers_files=True, generation_prompt=asks)
    encoder = SmartEncoder(folder, max_pixels=PIXELS, query_prompt="", document_prompt="")
    assert rendered(encoder, Content("a"), "query")[0].endswith("<|im_start|>assistant\n") == asks
    theirs = SentenceTransformer(folder, device="cpu").encode_query([TEXT])
    np.testing.assert_allclose(encoder.encode_query([TEXT]).pooled, theirs, rtol=0, atol=1e-5)


def test_a_query_to_gme_is_the_words(made, encoder):
    """Its profile says so: no patch of a query's image takes part, though every patch of a document's does."""
    folder, reference = made("gme-qwen2-vl")
    usual = SmartEncoder(folder, profile="gme-qwen2-vl", max_pixels=PIXELS)
    content, given = ITEMS["text+image"]
    assert isinstance(reference, reference_smart.GME)
    assert kept(usual, content, "query") == expected(reference, "query", given).positions
    assert kept(usual, content, "document") == expected(reference, "document", given).positions
