"""Positions: the tokens of a vision-language model that each policy keeps."""

import functools

import numpy as np
import pytest
from helpers import reference_smart
from helpers.vision_families import FAMILIES, PIXELS, TEXT, expected, picture

from smart_rag import SmartEncoder
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
    """Return a function from a family to its folder and its reference."""

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
    return np.flatnonzero(encoder.trainable.prepare([content], task)["keep"][0]).tolist()


def where_content_stands(reference, content, task, given):
    """Return the positions of the patches and of the text in the whole prompt of the reference."""
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
def test_tokens_that_each_policy_keeps(made, encoder, policy, family, name, task):
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
    """A policy keeps fewer of the same states. If it keeps none, the pooled embedding is the only one."""
    content = ITEMS["text+image"][0]
    all_positions = kept(encoder("gme-qwen2-vl", "content"), content, "document")
    everything = encoder("gme-qwen2-vl", "content").encode_document([content])
    for policy in ("text", "input", "patches"):
        positions = kept(encoder("gme-qwen2-vl", policy), content, "document")
        got = encoder("gme-qwen2-vl", policy).encode_document([content])
        np.testing.assert_allclose(got.pooled, everything.pooled, atol=1e-6)
        np.testing.assert_allclose(
            got.tokens[0], everything.tokens[0][[all_positions.index(i) for i in positions]], atol=1e-5
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


def test_a_query_to_gme_keeps_words_only(made, encoder):
    """By its profile, patches take part in a document, and not in a query."""
    folder, reference = made("gme-qwen2-vl")
    usual = SmartEncoder(folder, profile="gme-qwen2-vl", max_pixels=PIXELS)
    content, given = ITEMS["text+image"]
    assert isinstance(reference, reference_smart.GME)
    assert kept(usual, content, "query") == expected(reference, "query", given).positions
    assert kept(usual, content, "document") == expected(reference, "document", given).positions
