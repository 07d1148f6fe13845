"""Vision-language models against the specification, which `reference_smart` implements by itself."""

import functools
import itertools

import numpy as np
import pytest
from helpers import reference_smart
from helpers.vision_families import FAMILIES, PIXELS, TOLERANCE, contents_in, expected, picture

from smart_rag import SmartEncoder
from smart_rag.scoring.maxsim import late_interaction, pooled_similarity
from smart_rag.scoring.ranking import hybrid
from smart_rag.types import Content


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return contents_in(tmp_path_factory.mktemp("video"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return the encoder and the reference of a family, with the same weights."""

    @functools.cache
    def make(family):
        build, reference, options = FAMILIES[family]
        folder = build(tmp_path_factory.mktemp(family))
        return SmartEncoder(folder, profile=family, max_pixels=PIXELS), reference(folder, max_pixels=PIXELS, **options)

    return make


NAMES = ["text", "image", "text+image", "video", "text+video"]


@pytest.mark.parametrize("task", ["query", "document"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_representations_equal_the_specification(pair, contents, family, name, task):
    """Pooled embedding, kept tokens and token embeddings are equal."""
    encoder, reference = pair(family)
    content, given = contents[name]
    want = expected(reference, task, given)
    got = getattr(encoder, f"encode_{task}")([content])
    assert np.flatnonzero(encoder.trainable.prepare([content], task)["keep"][0]).tolist() == want.positions
    assert np.abs(got.pooled[0] - want.pooled).max() < TOLERANCE
    assert np.abs(got.tokens[0] - want.tokens).max() < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_hybrid_scores_equal_the_specification(pair, contents, family):
    encoder, reference = pair(family)
    queries = encoder.encode_query([content for content, _ in contents.values()])
    documents = encoder.encode_document([content for content, _ in contents.values()])
    scores = hybrid(
        pooled_similarity(queries.pooled, documents.pooled), late_interaction(queries.tokens, documents.tokens), (1, 1)
    )
    made = {
        task: [expected(reference, task, given) for _, given in contents.values()] for task in ("query", "document")
    }
    for (i, query), (j, document) in itertools.product(enumerate(made["query"]), enumerate(made["document"])):
        assert scores[i, j] == pytest.approx(reference_smart.hybrid(query, document), abs=TOLERANCE)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_contents_and_padding_change_nothing(pair, contents, family, side):
    """Texts, images and a video in one call, padded on either side, have the same numbers as alone."""
    encoder, _ = pair(family)
    items = [content for content, _ in contents.values()] + [Content("a"), Content(image=picture(40, 40, 3))]
    tokenizer = encoder.model.tokenizer
    before = tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        together = encoder.encode_document(items)
    finally:
        tokenizer.padding_side = before
    for i, content in enumerate(items):
        alone = encoder.encode_document([content])
        assert np.abs(together.pooled[i] - alone.pooled[0]).max() < TOLERANCE
        assert np.abs(together.tokens[i] - alone.tokens[0]).max() < TOLERANCE
