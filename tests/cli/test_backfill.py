"""``smart-rag backfill``: the documents of a Chroma store, for the reranker of a framework."""

from __future__ import annotations

import hashlib
import json
import logging
import sys

import chromadb
import pytest
from helpers.command_line import Terminal, error_of, good, run, usage_error_of

pytestmark = pytest.mark.newest

TEXTS = ["The cat sat\non the mat.", "Dogs bark at night.", "Keys hang behind the barometer."]


@pytest.fixture(scope="module")
def langchain(tmp_path_factory):
    """A folder that an application of LangChain filled before the swap, with one blank document."""
    from langchain_chroma import Chroma
    from langchain_smart_rag import SmartEmbeddings

    folder = tmp_path_factory.mktemp("langchain") / "chroma"
    store = Chroma("documents", SmartEmbeddings("minilm"), persist_directory=str(folder))
    store.add_texts([*TEXTS, " "], ids=["a", "b", "c", "blank"])
    return folder


@pytest.fixture(scope="module")
def llama_index(tmp_path_factory):
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.chroma import ChromaVectorStore
    from llama_index_smart_rag import SmartEmbedding

    folder = tmp_path_factory.mktemp("llama_index") / "chroma"
    collection = chromadb.PersistentClient(str(folder)).create_collection("nodes")
    VectorStoreIndex(
        [TextNode(text=text, metadata={"page": i}) for i, text in enumerate(TEXTS)],
        storage_context=StorageContext.from_defaults(vector_store=ChromaVectorStore(chroma_collection=collection)),
        embed_model=SmartEmbedding("minilm"),
    )
    return folder


SCALE = ", and the scale of relevance"


def hashes(folder):
    return {path: hashlib.blake2b(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.*"))}


def arguments(framework, chroma, tokens, *more):
    return ("backfill", "--for", framework, "--chroma", chroma, "--token-store", tokens, "--model", "minilm", *more)


def stored(tokens):
    """The number of documents in the folder ``tokens``; their pooled embeddings are written last."""
    from smart_rag.embeddings.codec import get_codec
    from smart_rag.store.token_store import TokenStore

    store = TokenStore(tokens / "vectors", get_codec("float32"))
    try:
        return len(store)
    finally:
        store.close()


@pytest.mark.slow
def test_for_langchain(langchain, tmp_path, caplog):
    from langchain_chroma import Chroma
    from langchain_smart_rag import SmartEmbeddings, SmartReranker

    before = hashes(langchain)
    tokens = tmp_path / "tokens"
    output = good(*arguments("langchain", langchain, tokens, "--collection", "documents"))
    assert output == f"documents: 3 added, 1 left out\n{tokens} has the token embeddings of 3 documents{SCALE}\n"
    assert "1 document was left out: blank: no text" in caplog.messages
    output = good(*arguments("langchain", langchain, tokens))
    assert output == f"documents: 3 unchanged, 1 left out\n{tokens} has the token embeddings of 3 documents{SCALE}\n"
    assert hashes(langchain) == before
    embeddings = SmartEmbeddings("minilm", tokens)
    store = Chroma("documents", embeddings, persist_directory=str(langchain))
    retriever = store.as_retriever(search_kwargs={"k": 3, "where_document": {"$contains": "a"}})  # not the blank one
    found = SmartReranker(embeddings).wrap(retriever).invoke("Where are the keys?")
    assert len(found) == 3
    assert found[0].id == "c"
    reranker = SmartReranker(embeddings, min_relevance=0.5)
    assert [found.id for found in reranker.wrap(retriever).invoke("Where are the keys?")] == ["c"]
    embeddings.encoder.close()
    assert stored(tokens) == 3


def test_for_llama_index(llama_index, tmp_path):
    from llama_index.core import VectorStoreIndex
    from llama_index.vector_stores.chroma import ChromaVectorStore
    from llama_index_smart_rag import SmartEmbedding, SmartRerank

    tokens = tmp_path / "tokens"
    output = good(*arguments("llama-index", llama_index, tokens))
    assert output == f"documents: 3 added\n{tokens} has the token embeddings of 3 documents{SCALE}\n"
    embed_model = SmartEmbedding("minilm", tokens)
    collection = chromadb.PersistentClient(str(llama_index)).get_collection("nodes")
    index = VectorStoreIndex.from_vector_store(ChromaVectorStore(chroma_collection=collection), embed_model)
    found = index.as_retriever(similarity_top_k=3).retrieve("Where are the keys?")
    assert "Keys" in SmartRerank(embed_model).postprocess_nodes(found, query_str="Where are the keys?")[0].text
    embed_model.encoder.close()
    assert stored(tokens) == 3


def test_options_are_those_of_the_application(langchain, tmp_path):
    tokens = tmp_path / "tokens"
    good(*arguments("langchain", langchain, tokens))
    options = json.dumps({"encode_kwargs": {"prompt": "passage: "}})
    assert "3 added" in good(*arguments("langchain", langchain, tokens, "--options", options, "--device", "cpu"))
    assert stored(tokens) == 6


@pytest.mark.slow
def test_progress(langchain, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("smart_rag.progress._LOG_SECONDS", 0.0)
    code, _, errors = run(*arguments("langchain", langchain, tmp_path / "one"), stream=Terminal)
    assert code == 0
    assert "4/4" in errors
    with caplog.at_level(logging.NOTSET, "smart_rag.progress"):  # puts the level back afterwards
        code, _, errors = run(*arguments("langchain", langchain, tmp_path / "two"))
    assert (code, errors) == (0, "")
    assert any(message.startswith("4 of 4 documents done, ") for message in caplog.messages)


def test_errors(langchain, tmp_path):
    chromadb.PersistentClient(str(tmp_path / "empty"))
    tokens = tmp_path / "tokens"
    assert "with a file chroma.sqlite3; there is none" in error_of(*arguments("langchain", tmp_path / "none", tokens))
    assert not (tmp_path / "none").exists()
    assert "expected a single collection, found none" in error_of(*arguments("langchain", tmp_path / "empty", tokens))
    wrong = ("--collection", "langchain")
    assert "expected the collection 'langchain', found documents" in error_of(
        *arguments("langchain", langchain, tokens, *wrong)
    )
    assert "--options is not JSON" in error_of(*arguments("langchain", langchain, tokens, "--options", "{"))
    assert "expected a JSON object" in error_of(*arguments("langchain", langchain, tokens, "--options", "[]"))
    options = ("--options", '{"max_lenght": 3}')
    assert "--options: SmartEmbeddings has no argument 'max_lenght'" in error_of(
        *arguments("langchain", langchain, tokens, *options)
    )
    assert "'--for'" in usage_error_of(*arguments("haystack", langchain, tokens))
    assert not tokens.exists()


def test_a_framework_that_is_not_installed(langchain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain_smart_rag", None)
    message = error_of(*arguments("langchain", langchain, tmp_path / "tokens"))
    assert "--for langchain needs the package 'langchain_smart_rag'" in message
    assert "pip install 'smart-rag[langchain]'" in message
