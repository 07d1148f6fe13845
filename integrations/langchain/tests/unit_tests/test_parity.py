"""`SmartEmbeddings` gives the vectors of ``HuggingFaceEmbeddings``, so a store that one made serves the other."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.model_kinds import KINDS, QUERIES, TEXTS, models_in
from langchain_smart_rag import SmartEmbeddings, SmartReranker

from smart_rag.errors import InvalidInput

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("one_thread")]

ARGUMENTS = [
    {},
    {"encode_kwargs": {"normalize_embeddings": True, "batch_size": 3}},
    {"encode_kwargs": {"prompt": "Find: "}, "query_encode_kwargs": {"prompt": "Ask: ", "normalize_embeddings": True}},
    {"model_kwargs": {"truncate_dim": 8, "device": "cpu"}},
    {"encode_kwargs": {"truncate_dim": 8, "precision": "float32", "convert_to_numpy": True}},
    {"model_kwargs": {"prompts": {"q": "Query: ", "d": "Text: "}}, "encode_kwargs": {"prompt_name": "q"}},
    {"model_kwargs": {"prompts": {"q": "Query: "}, "default_prompt_name": "q"}},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models_in(tmp_path_factory)


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_of_the_old_class_serves_the_new_one(model, kind, monkeypatch, tmp_path):
    from langchain_chroma import Chroma
    from langchain_huggingface import HuggingFaceEmbeddings

    name = model(kind, monkeypatch)
    old = HuggingFaceEmbeddings(model_name=name, model_kwargs={"device": "cpu"})
    new = SmartEmbeddings(model_name=name, model_kwargs={"device": "cpu"}, token_store=tmp_path / "tokens")
    np.testing.assert_allclose(new.embed_documents(TEXTS), old.embed_documents(TEXTS), rtol=1e-6, atol=1e-6)
    store = Chroma("documents", old, persist_directory=str(tmp_path / "chroma"))
    store.add_texts(TEXTS, ids=[str(i) for i in range(len(TEXTS))])
    again = Chroma("documents", new, persist_directory=str(tmp_path / "chroma"))
    for query in QUERIES:
        np.testing.assert_allclose(new.embed_query(query), old.embed_query(query), rtol=1e-6, atol=1e-6)
        found = [document.id for document in store.similarity_search(query, k=10)]
        assert [document.id for document in again.similarity_search(query, k=10)] == found


def test_a_store_of_another_model_is_noticed_at_the_first_query(model, monkeypatch, tmp_path, caplog):
    """Vectors of the same width, but of another model or of another length."""
    from langchain_chroma import Chroma
    from langchain_huggingface import HuggingFaceEmbeddings

    old = HuggingFaceEmbeddings(model_name=model("not normalised", monkeypatch))
    store = Chroma("documents", old, persist_directory=str(tmp_path / "chroma"))
    store.add_texts(TEXTS)
    same = SmartEmbeddings(model_name=old.model_name)
    longer = SmartEmbeddings(model_name=old.model_name, encode_kwargs={"normalize_embeddings": True})
    other = SmartEmbeddings(model_name=model("cls, not normalised", monkeypatch))
    for embeddings, says in (
        (same, None),
        (longer, "another length"),
        (other, "does not make the vectors of this store"),
    ):
        caplog.clear()
        retriever = SmartReranker(embeddings).wrap(Chroma("documents", embeddings, client=store._client).as_retriever())
        for _ in range(2):
            retriever.invoke("dogs")
        assert [says] * (says is not None) == [says for record in caplog.records if says and says in record.message]
        assert len(caplog.records) == (says is not None)


@pytest.mark.parametrize("kind", ["not normalised", "a default prompt", "SentencePiece"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_arguments_mean_the_same(model, kind, arguments, monkeypatch):
    from langchain_huggingface import HuggingFaceEmbeddings

    name = model(kind, monkeypatch)
    old, new = HuggingFaceEmbeddings(model=name, **arguments), SmartEmbeddings(model=name, **arguments)
    np.testing.assert_allclose(new.embed_documents(TEXTS), old.embed_documents(TEXTS), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(new.embed_query(TEXTS[0]), old.embed_query(TEXTS[0]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        ({"encode_kwargs": {"precision": "int8"}}, "vector store can quantize"),
        ({"encode_kwargs": {"output_value": None}}, "encoder.encode_document"),
        ({"encode_kwargs": {"normalise_embeddings": True}}, "did you mean 'normalize_embeddings'"),
        ({"query_encode_kwargs": {"promt": "a"}}, "did you mean 'prompt'"),
        ({"query_encode_kwargs": {"truncate_dim": 8}}, "must be the same"),
        ({"model_kwargs": {"backend": "onyx"}}, "backend must be one of auto, torch"),
        ({"model_kwargs": {"truncate_dims": 8}}, "did you mean 'truncate_dim'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_at_once(arguments, instead):
    with pytest.raises(InvalidInput, match=instead):
        SmartEmbeddings("minilm", **arguments)


def test_a_prompt_that_the_model_does_not_have_is_named():
    with pytest.raises(InvalidInput, match="did you mean 'query'"):
        SmartEmbeddings("minilm", encode_kwargs={"prompt_name": "qery"}).embed_query("a")


def test_a_typo_gets_the_nearest_name():
    with pytest.raises(TypeError, match="did you mean 'model_kwargs'"):
        SmartEmbeddings("minilm", model_kwarg={})
