"""`SmartEmbedding` gives the vectors of ``HuggingFaceEmbedding``, so a store that one made serves the other."""

from __future__ import annotations

import chromadb
import numpy as np
import pytest
from helpers.model_kinds import KINDS, QUERIES, TEXTS, models_in
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index_smart_rag import SmartEmbedding

from smart_rag.errors import InvalidInput

pytestmark = [
    pytest.mark.newest,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ARGUMENTS = [
    {},
    {"normalize": False},
    {"query_instruction": "Ask: ", "text_instruction": "Find: ", "max_length": 9},
    {"truncate_dim": 8, "normalize": False, "embed_batch_size": 3},
    {"model_kwargs": {"dtype": "float64"}, "trust_remote_code": True},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models_in(tmp_path_factory)


def assert_equal(new, old, query):
    np.testing.assert_allclose(
        new.get_text_embedding_batch(TEXTS), old.get_text_embedding_batch(TEXTS), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(new.get_query_embedding(query), old.get_query_embedding(query), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_of_the_old_class_serves_the_new_one(model, kind, monkeypatch, tmp_path):
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from llama_index.vector_stores.chroma import ChromaVectorStore

    name = model(kind, monkeypatch)
    old = HuggingFaceEmbedding(name, device="cpu")
    new = SmartEmbedding(name, tmp_path / "tokens", device="cpu")
    assert_equal(new, old, QUERIES[0])
    collection = chromadb.PersistentClient(str(tmp_path / "chroma")).create_collection(
        "documents", embedding_function=None
    )
    store = ChromaVectorStore(chroma_collection=collection)
    nodes = [TextNode(id_=str(i), text=text) for i, text in enumerate(TEXTS)]
    before = VectorStoreIndex(
        nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=old
    ).as_retriever(similarity_top_k=10)
    after = VectorStoreIndex.from_vector_store(store, embed_model=new).as_retriever(similarity_top_k=10)
    for query in QUERIES:
        np.testing.assert_allclose(new.get_query_embedding(query), old.get_query_embedding(query), rtol=1e-6, atol=1e-6)
        found = before.retrieve(query)
        again = after.retrieve(query)
        assert [node.node_id for node in again] == [node.node_id for node in found]
        np.testing.assert_allclose([node.score for node in again], [node.score for node in found], atol=1e-6)


@pytest.mark.parametrize("kind", ["not normalised", "a name of Instructor", "SentencePiece"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_arguments_mean_the_same(model, kind, arguments, monkeypatch):
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    name = model(kind, monkeypatch)
    old, new = (of(name, device="cpu", **arguments) for of in (HuggingFaceEmbedding, SmartEmbedding))
    assert_equal(new, old, TEXTS[0])
    copy = SmartEmbedding.from_dict(new.to_dict())
    np.testing.assert_array_equal(copy.get_text_embedding(TEXTS[0]), new.get_text_embedding(TEXTS[0]))


def test_instructions_are_those_of_the_framework():
    from llama_index.embeddings.huggingface import utils
    from llama_index_smart_rag.arguments import encoder_arguments

    for name in (*utils.BGE_MODELS, *utils.INSTRUCTOR_MODELS, "intfloat/e5-base"):
        arguments = encoder_arguments(name, {}, query_instruction=None, text_instruction=None, cache_folder=None)
        assert arguments["model_options"]["prompts"] == {
            "query": utils.get_query_instruct_for_model_name(name),
            "text": utils.get_text_instruct_for_model_name(name),
        }


@pytest.mark.parametrize(
    ("argument", "instead"),
    [("promts", "prompts"), ("query_instructions", "query_instruction"), ("max_pixel", "max_pixels")],
)
def test_a_typo_gets_the_nearest_name(argument, instead):
    with pytest.raises(TypeError, match=f"did you mean '{instead}'"):
        SmartEmbedding("minilm", **{argument: 1})


@pytest.mark.parametrize("argument", ["model", "query_prompt", "prompts"])
def test_an_argument_with_another_name_here(argument):
    with pytest.raises(TypeError, match=r"use (model_name|query_instruction)="):
        SmartEmbedding("minilm", **{argument: "a"})


def test_another_backend_is_refused():
    with pytest.raises(InvalidInput, match="backend must be one of auto, torch"):
        SmartEmbedding("minilm", backend="onyx")
