"""Models that were trained for late interaction, against `MultiVectorEncoder`."""

import functools
import json
import math

import numpy as np
import pytest
import torch
from helpers import tiny_models, tiny_vbert, tiny_vision
from helpers.vision_families import picture
from PIL import Image
from sentence_transformers import MultiVectorEncoder
from transformers import (
    ColModernVBertForRetrieval,
    ColModernVBertProcessor,
    ColPaliForRetrieval,
    ColPaliProcessor,
    ColQwen2ForRetrieval,
    ColQwen2Processor,
)

from smart_rag import CachedEncoder, Document, IndexConfig, SmartEncoder, SmartIndex, rerank
from smart_rag.encoders.fingerprint import fingerprint_of
from smart_rag.errors import EncoderError, IndexMismatch, InvalidInput
from smart_rag.index.manifest import FILE_NAME
from smart_rag.types import Content

TEXTS = [*tiny_models.SENTENCES, "a", "!", "Dogs bark. " * 40]
# The last one has many times the pixels that the models read.
IMAGES = [picture(100, 90), picture(60, 110, 1), picture(56, 56, 2), picture(500, 300, 3)]
MODELS = {
    "colbert": tiny_models.colbert,
    "colqwen2": tiny_vision.colqwen2,
    "colpali": tiny_vision.colpali,
    "colmodernvbert": tiny_vbert.colmodernvbert,
    "colmodernvbert in squares": functools.partial(tiny_vbert.colmodernvbert, squares=3),
}
CLASSES = {
    "colqwen2": (ColQwen2ForRetrieval, ColQwen2Processor),
    "colpali": (ColPaliForRetrieval, ColPaliProcessor),
    "colmodernvbert": (ColModernVBertForRetrieval, ColModernVBertProcessor),
    "colmodernvbert in squares": (ColModernVBertForRetrieval, ColModernVBertProcessor),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    @functools.cache
    def make(name):
        folder = MODELS[name](tmp_path_factory.mktemp(name))
        return SmartEncoder(folder), MultiVectorEncoder(folder, device="cpu")

    return make


def assert_same(ours, theirs):
    assert [len(matrix) for matrix in ours.tokens] == [len(matrix) for matrix in theirs]
    for mine, other in zip(ours.tokens, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", ["query", "document"])
def test_the_tokens_of_colbert(models, task):
    encoder, reference = models("colbert")
    theirs = getattr(reference, f"encode_{task}")(TEXTS, convert_to_numpy=True)
    ours = getattr(encoder, f"encode_{task}")(TEXTS)
    assert_same(ours, theirs)
    for pooled, tokens in zip(ours.pooled, theirs, strict=True):
        mean = tokens.mean(axis=0)
        np.testing.assert_allclose(pooled, mean / np.linalg.norm(mean), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["colqwen2", "colpali"])
def test_the_tokens_of_vision_models(models, name):
    encoder, reference = models(name)
    assert encoder.modalities == {"text", "image"}
    assert encoder.dimension == 24
    short = TEXTS[:-1]
    assert_same(encoder.encode_query(short), reference.encode_query(short, convert_to_numpy=True))
    if name != "colqwen2":  # sentence-transformers gives it other positions than its training
        assert_same(encoder.encode_document(IMAGES), reference.encode_document(IMAGES, convert_to_numpy=True))
    # Texts and images in one call are taken apart, and put in order again.
    mixed = encoder.encode_document([TEXTS[0], IMAGES[0], TEXTS[1], IMAGES[1]])
    for i, item in enumerate([TEXTS[0], IMAGES[0], TEXTS[1], IMAGES[1]]):
        np.testing.assert_allclose(mixed.tokens[i], encoder.encode_document([item]).tokens[0], rtol=0, atol=1e-5)


def trained(model, features):
    """Return the token embeddings (length, dimension) of one input, as the training of the model computed them.

    colpali-engine's ColQwen2 is a Qwen2VLModel that gets the ids, and a projection. So the decoder itself computes its
    positions on three axes. In transformers' format, its class hands states to the decoder, which then counts them.
    """
    if not isinstance(model, ColQwen2ForRetrieval):
        return model(**features).embeddings[0].float()
    features = dict(features)
    if "pixel_values" in features:
        features["pixel_values"] = features["pixel_values"][0]
        kinds = features["input_ids"] == model.config.vlm_config.image_token_id
        features["mm_token_type_ids"] = kinds.int()
    states = model.vlm(**features).last_hidden_state
    return torch.nn.functional.normalize(model.embedding_proj_layer(states), dim=-1)[0]


@pytest.mark.parametrize("name", CLASSES)
@torch.inference_mode()
def test_vision_models_against_transformers(models, name):
    """One text or image at a time, by the classes of transformers and the methods of their processors."""
    encoder = models(name)[0]
    model_class, processor_class = CLASSES[name]
    model = model_class.from_pretrained(encoder.model_name).eval()
    processor = processor_class.from_pretrained(encoder.model_name)
    texts = TEXTS[:-1]
    queries = [processor.process_queries([text]) for text in texts]
    images = [processor.process_images([image]) for image in IMAGES]
    for ours, inputs in ((encoder.encode_query(texts), queries), (encoder.encode_document(IMAGES), images)):
        for i, features in enumerate(inputs):
            tokens = trained(model, features)
            assert features["attention_mask"].all()
            np.testing.assert_allclose(ours.tokens[i], tokens.numpy(), rtol=0, atol=1e-5)
            mean = torch.nn.functional.normalize(tokens.mean(0), dim=0)
            np.testing.assert_allclose(ours.pooled[i], mean.numpy(), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_positions_of_colqwen2_in_the_format_of_transformers(models):
    """transformers 4.53 called ``get_rope_index``, as the training did. transformers 5 does not.

    If this fails because both are equal, transformers gives the right positions again, and ours can go.
    """
    encoder = models("colqwen2")[0]
    model = ColQwen2ForRetrieval.from_pretrained(encoder.model_name).eval()
    features = ColQwen2Processor.from_pretrained(encoder.model_name).process_images([IMAGES[0]])
    assert (trained(model, features) * model(**features).embeddings[0]).sum(-1).mean() < 0.95
    found = {decision.name: decision for decision in encoder.decisions}
    assert (found["positions"].value, found["positions"].source) == ("three axes", "the model's training")
    # Images of several shapes in one batch, as documents and as queries.
    for encode in (encoder.encode_document, encoder.encode_query):
        assert_same(encode(IMAGES), [encode([image]).tokens[0] for image in IMAGES])


def test_an_index_of_colqwen2_with_other_positions_is_refused(models, tmp_path):
    """So the manifest of an older version describes it."""
    encoder = models("colqwen2")[0]
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add([Document("page", image=IMAGES[0])])
    file = tmp_path / "index" / FILE_NAME
    manifest = json.loads(file.read_text())
    assert manifest["encoder"]["images"].pop("positions") == "three axes"
    manifest["fingerprint"] = fingerprint_of(manifest["encoder"])
    file.write_text(json.dumps(manifest))
    with pytest.raises(IndexMismatch, match=r"other images and positions than this one \(positions\); encode"):
        SmartIndex.open(tmp_path / "index", encoder)


def test_the_words_around_those_of_colmodernvbert(models):
    """Ten tokens follow a query, and none follows a text that is a document."""
    encoder, text = models("colmodernvbert")[0], TEXTS[0]
    words = encoder.count_tokens(text)[0]
    assert [len(encode([text]).tokens[0]) for encode in (encoder.encode_query, encoder.encode_document)] == [
        *(words + 12, words + 2),
    ]
    assert "".join(text[slice(*origin.span)] for origin in encoder.token_origins(text) if origin.span) == text.replace(
        " ", ""
    )
    boxes = [origin.box for origin in encoder.token_origins(IMAGES[0]) if origin.box]
    assert (len(boxes), boxes[0][:2], boxes[-1][2:]) == (tiny_vbert.TOKENS_PER_SQUARE, (0, 0), (1, 1))


def test_the_boxes_of_an_image_that_is_cut_into_squares(models):
    """Three rows of three squares, then a small copy of the whole image."""
    boxes = [origin.box for origin in models("colmodernvbert in squares")[0].token_origins(IMAGES[0]) if origin.box]
    each = tiny_vbert.TOKENS_PER_SQUARE
    grid = math.isqrt(each)
    rows, columns = 3, 3  # 100 x 90 pixels become 192 x 192
    assert len(boxes) == (rows * columns + 1) * each
    for square, patch in ((0, 0), (1, 0), (columns, 2), (rows * columns - 1, each - 1)):
        x = square % columns + patch % grid / grid
        y = square // columns + patch // grid / grid
        box = (x / columns, y / rows, (x + 1 / grid) / columns, (y + 1 / grid) / rows)
        np.testing.assert_allclose(boxes[square * each + patch], box, atol=1e-9)
    assert (boxes[-each][:2], boxes[-1][2:]) == ((0, 0), (1, 1))
    assert boxes[-each][2:] == (1 / grid, 1 / grid)


@pytest.mark.parametrize("name", ["colqwen2", "colpali"])
def test_text_and_image_together_are_refused(models, name):
    with pytest.raises(InvalidInput, match=r"item 1 has text and image together, but .* pass one of them"):
        models(name)[0].encode_document(["a", Content("a caption", image=IMAGES[0])])


def test_an_image_that_is_too_narrow(models):
    """Qwen's processor would raise an error that does not say which image it is."""
    with pytest.raises(InvalidInput, match="an image of 2000 x 5 is too narrow"):
        models("colqwen2")[0].encode_document([Image.new("RGB", (2000, 5))])


def test_origins_in_texts_and_images(models):
    text = TEXTS[0]
    encoder = models("colbert")[0]
    for task in ("query", "document"):
        origins = encoder.token_origins(text, task)
        encoded = getattr(encoder, f"encode_{task}")(text).tokens
        assert len(origins) == len(encoded[0])
        words = [text[slice(*origin.span)] for origin in origins if origin.span and origin.span[1]]
        assert words == text.replace(".", "" if task == "document" else " .").split()
        # Neither the prompt nor a special token is a word; there are as many of them as there are ids.
        assert (encoded.ids >= 0).sum() == len(text.replace(".", "").split())
    for name, patches in (("colqwen2", 4 * 3), ("colpali", 16)):
        encoder = models(name)[0]
        origins = encoder.token_origins(IMAGES[0])
        boxes = [origin.box for origin in origins if origin.box]
        assert len(origins) == len(encoder.encode_document([IMAGES[0]]).tokens[0])
        assert len(boxes) == patches
        assert (boxes[0][:2], boxes[-1][2:]) == ((0, 0), (1, 1))
        assert sum((right - left) * (bottom - top) for left, top, right, bottom in boxes) == pytest.approx(1)
        spans = [origin.span for origin in encoder.token_origins(text, "query") if origin.span]
        assert "".join(text[slice(*span)] for span in spans) == text
        # Of what the processor puts around it, no word is the content's.
        assert (encoder.encode_document([IMAGES[0]]).tokens.ids == -1).all()


def test_policies_keep_fewer_of_the_counted_tokens(models):
    encoder, _ = models("colqwen2")
    only = SmartEncoder(encoder.model_name, document_tokens="patches", query_tokens="input")
    assert len(only.encode_document([IMAGES[0]]).tokens[0]) == 12
    assert len(only.encode_query([TEXTS[0]]).tokens[0]) == encoder.count_tokens(TEXTS[0])[0]
    assert only.fingerprint != encoder.fingerprint


def test_merged_tokens(tmp_path):
    folder = tiny_models.colbert(tmp_path, pool_factor=2)
    encoder, reference = SmartEncoder(folder), MultiVectorEncoder(folder, device="cpu")
    ours = encoder.encode_document(TEXTS)
    assert_same(ours, reference.encode_document(TEXTS, convert_to_numpy=True))
    assert (ours.tokens.ids == -1).all()
    assert_same(encoder.encode_query(TEXTS), reference.encode_query(TEXTS, convert_to_numpy=True))
    assert encoder.token_origins("a", "query")
    with pytest.raises(EncoderError, match="makes one token embedding of several"):
        encoder.token_origins("a")


def test_a_new_index_is_ranked_by_late_interaction_alone(models, tmp_path):
    encoder, reference = models("colbert")
    documents = list(dict.fromkeys(TEXTS))
    with SmartIndex.create(tmp_path / "own", encoder, config=IndexConfig(codec="float32", weighting="none")) as index:
        index.add_texts(documents, ids=list(map(str, range(len(documents)))))
        assert index.manifest.config.weights == (0, 1)
        hits = index.search(TEXTS[2], top_k=len(documents), first_stage="exhaustive")
        theirs = reference.similarity(reference.encode_query([TEXTS[2]]), reference.encode_document(documents))[0]
        got = {int(hit.id): hit.score for hit in hits}
        assert [got[i] * 24 for i in range(len(documents))] == pytest.approx(theirs.tolist(), abs=1e-3)
        assert index.search(TEXTS[2], top_k=1, first_stage="pooled")[0].id == hits[0].id
    with SmartIndex.open(tmp_path / "own") as index:
        assert index.manifest.config.weights == (0, 1)
    with SmartIndex.create(tmp_path / "given", encoder, config=IndexConfig(weights=(1, 1))) as index:
        assert index.manifest.config.weights == (1, 1)
    for given in (encoder, CachedEncoder(encoder)):
        assert all(hit.score == hit.late_score for hit in rerank(TEXTS[2], TEXTS[:3], given))


def test_other_encoders_keep_their_weights(minilm, tmp_path):
    assert minilm.default_weights == (1, 2)
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        assert index.manifest.config.weights == (1, 2)
    with SmartIndex.create(tmp_path / "vectors", None, dimension=4) as index:
        assert index.manifest.config.weights == (1, 2)


def test_max_length_is_that_of_documents(models, tmp_path):
    encoder, _ = models("colbert")
    assert encoder.max_length == 48
    short = SmartEncoder(encoder.model_name, max_length=12)
    assert short.max_length == 12
    assert len(short.encode_document(["cat " * 40]).tokens[0]) == 11  # the prompt's colon does not count
    assert short.fingerprint != encoder.fingerprint
    assert SmartEncoder.from_description(short.describe()).fingerprint == short.fingerprint
    unlimited = SmartEncoder(tiny_models.colbert(tmp_path, document_length=None))
    assert unlimited.max_length == 64


def test_decisions(models):
    found = {decision.name: decision for decision in models("colqwen2")[0].decisions}
    assert (found["pooling"].value, found["pooling"].source) == ("mean of the token embeddings", "general rule")
    assert found["document_tokens"].source == "the model's own files"
    assert found["image_pixels"].value == 64 * 28 * 28
    assert models("colpali")[0].tokens_per_page == len(models("colpali")[0].encode_document(IMAGES[:1]).tokens[0])


@pytest.mark.parametrize("name", ["colbert", "colqwen2"])
def test_texts_of_unequal_length_together(models, name):
    """Padding gives some models NaN as states. They take no part in the pooled embedding."""
    encoder, _ = models(name)
    texts = ["a text that is longer than the other one", "b"]
    for encode in (encoder.encode_query, encoder.encode_document):
        together = encode(texts)
        for i, text in enumerate(texts):
            assert np.abs(together.pooled[i] - encode([text]).pooled[0]).max() < 1e-5


def test_a_colmodernvbert_cuts_texts_where_the_caller_says(tmp_path):
    """Its own processor cuts none, so without a limit, there is none."""
    folder = tiny_vbert.colmodernvbert(tmp_path)
    whole, cut = (SmartEncoder(folder, device="cpu", max_length=length) for length in (None, 8))
    assert (whole.max_length, cut.max_length) == (None, 8)
    text = "The pump needs new bearings. " * 9
    long, short = (len(each.encode_document([text]).tokens[0]) for each in (whole, cut))
    assert short <= 8 < long
    np.testing.assert_array_equal(cut.encode_document(["a b"]).pooled, whole.encode_document(["a b"]).pooled)
