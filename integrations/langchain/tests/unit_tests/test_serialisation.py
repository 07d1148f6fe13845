"""Every class, with every argument, comes back from pickle, copy, deepcopy and `model_dump` as it was."""

import copy
import json
import pickle
import threading

import chromadb
import pytest
from helpers.another_process import python
from helpers.copying import LockedEncoder, copies, holds, names_of, outcome, some, values
from helpers.word_encoder import WordEncoder
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps, loads
from langchain_core.retrievers import BaseRetriever
from langchain_smart_rag import (
    RerankingRetriever,
    SmartEmbeddings,
    SmartReranker,
    SmartRetriever,
    SmartVectorStore,
    answer_chain,
)

from smart_rag import CachedEncoder, SmartEncoder, SmartIndex
from smart_rag.errors import IndexClosed, IndexNotFound, InvalidInput

TEXTS = ["Dogs bark at night", "Cats sleep", "The boat house is locked", "Dogs and cats"]
DOCUMENTS = [Document(text, id=str(i), metadata={"n": i}) for i, text in enumerate(TEXTS)]
QUERY = "dogs bark"
OWN = st.builds(lambda: SmartEmbeddings(encoder=WordEncoder()))
WEIGHTS = st.none() | st.sampled_from([(1.0, 0.5), (0.0, 1.0)])
FRACTIONS = st.none() | st.floats(0, 1)
FIRST_STAGES = st.sampled_from(["auto", "pooled", "terms", "exhaustive"])
OF_LANGCHAIN = {
    "name": st.sampled_from(["mine", None]),
    "tags": st.lists(st.text(max_size=3), max_size=2),
    "metadata": st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
}
FOLDERS = st.sampled_from(["tokens", "~/tokens"])

# One strategy for each argument of a constructor. In the lambdas, the argument is the folder with the indexes.
OF_MODEL = {
    "model_name": st.sampled_from(["minilm", "BAAI/bge-small-en"]),
    "device": st.sampled_from([None, "cpu", ["cpu", "cpu"]]),
    "model_kwargs": st.sampled_from([{}, {"truncate_dim": 8, "revision": "main"}, {"token": "hf_secret"}]),
    "encode_kwargs": st.sampled_from([{}, {"normalize_embeddings": True, "batch_size": 3}, {"prompt": "Doc: "}]),
    "query_encode_kwargs": st.sampled_from([{}, {"prompt": "Ask: "}]),
    "cache_folder": FOLDERS,
    "show_progress": st.booleans(),
    "multi_process": st.booleans(),
    "token_store": FOLDERS,
    "encoder_options": st.sampled_from([{}, {"profile": "general"}]),
}
OF_ENCODER = {
    "dtype": st.sampled_from([None, "float64"]),
    "attn_implementation": st.just("eager"),
    "backend": st.just("torch"),
    "batch_size": st.integers(1, 9),
    "batch_tokens": st.integers(1, 999),
    "revision": st.just("main"),
    "trust_remote_code": st.booleans(),
    "query_prompt": st.text(max_size=3),
    "document_prompt": st.text(max_size=3),
    "prompt_names": st.just({"query": "search", "document": None}),
    "max_length": st.integers(1, 99),
    "profile": st.just("general"),
    "query_tokens": st.just("input"),
    "document_tokens": st.just("text"),
    "max_pixels": st.integers(1, 9_999),
    "paper": st.booleans(),
    "adapter": FOLDERS,
    "model_options": st.just({"truncate_dim": 8}),
}
OF_GIVEN_ENCODER = {
    "encoder": st.sampled_from([WordEncoder(), CachedEncoder(WordEncoder())]),
    "encode_kwargs": st.sampled_from([{}, {"normalize_embeddings": True}]),
    "show_progress": st.booleans(),
}
SOURCES = st.sampled_from([(), ("/some/scans",)])
ARGUMENTS = {
    SmartReranker: {
        "embeddings": OWN,
        "top_n": st.none() | st.integers(1, 5),
        "weights": WEIGHTS,
        "min_relevance": FRACTIONS,
    },
    RerankingRetriever: {
        "base_retriever": st.builds(lambda: Fixed(documents=DOCUMENTS)),
        "reranker": st.builds(lambda own, n: SmartReranker(own, top_n=n), OWN, st.integers(1, 4)),
        **OF_LANGCHAIN,
    },
    SmartRetriever: {
        "k": st.integers(1, 4),
        "candidates": st.integers(1, 4),
        "first_stage": FIRST_STAGES,
        "weights": WEIGHTS,
        "filter": st.sampled_from([None, {"n": {"$gt": 0}}]),
        "where_document": st.sampled_from([None, {"$contains": "a"}]),
        "min_relevance": FRACTIONS,
        "per_source": st.none() | st.integers(1, 3),
        "source_key": st.sampled_from(["source", "n"]),
        "fold_duplicates": st.booleans(),
        "neighbours": st.integers(0, 2),
        "with_score": st.booleans(),
        "sources": SOURCES,
        **OF_LANGCHAIN,
    },
    SmartVectorStore: {
        "candidates": st.integers(1, 4),
        "first_stage": FIRST_STAGES,
        "weights": WEIGHTS,
        "sources": SOURCES,
    },
}
# These go with only some of the others, so the tests below give them.
ELSEWHERE = {
    SmartReranker: {"model_name", "token_store"},
    SmartRetriever: {"index"},
    SmartVectorStore: {"index", "embedding"},
}


class Fixed(BaseRetriever):
    """Finds all its documents."""

    documents: list[Document]

    def _get_relevant_documents(self, query, *, run_manager):
        return self.documents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with two indexes: one of words, and one of embeddings that have no tokens."""
    folder = tmp_path_factory.mktemp("indexes")
    for name, embeddings in (("words", SmartEmbeddings(encoder=WordEncoder())), ("plain", Plain())):
        SmartVectorStore.from_documents(DOCUMENTS, embeddings, index=folder / name).close()
    return folder


class Plain(Embeddings):
    """Embeddings of LangChain without token embeddings."""

    model = "plain"

    def embed_query(self, text):
        return [1.0 * len(text), 2.0, -1.0 * text.count("a")]

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


def test_no_argument_is_forgotten_here():
    """A new argument needs a strategy above."""
    # A base model goes only with a LoRA.
    assert names_of(SmartEncoder) - {"model", "device", "base_model"} == OF_ENCODER.keys()
    assert names_of(SmartEmbeddings) == {*OF_MODEL, *OF_GIVEN_ENCODER, "encoder_class"}
    for kind, strategies in ARGUMENTS.items():
        assert names_of(kind) | OF_LANGCHAIN.keys() == {*strategies, *ELSEWHERE.get(kind, ()), *OF_LANGCHAIN}


@some
@given(values(OF_MODEL | OF_ENCODER))
def test_embeddings_of_a_model(arguments):
    """No model is loaded. With the same arguments, it gives the same vectors."""
    embeddings = SmartEmbeddings(**arguments)
    again = [SmartEmbeddings(**embeddings.model_dump()), SmartEmbeddings(**json.loads(embeddings.model_dump_json()))]
    for other in [*copies(embeddings), *again]:
        assert other.model_dump() == embeddings.model_dump()
        assert other.encoder._options == embeddings.encoder._options
        assert (other.encoder._given, other.encoder.path) == (embeddings.encoder._given, embeddings.encoder.path)


@some
@given(values(OF_GIVEN_ENCODER).filter(lambda arguments: "encoder" in arguments))
def test_embeddings_of_an_encoder(arguments):
    embeddings = SmartEmbeddings(**arguments)
    for other in copies(embeddings):
        assert other.model_dump() == embeddings.model_dump()
        assert other.embed_documents(TEXTS) == embeddings.embed_documents(TEXTS)
        assert other.embed_query(QUERY) == embeddings.embed_query(QUERY)
    with pytest.raises(InvalidInput, match="WordEncoder"):
        SmartEmbeddings(**embeddings.model_dump())


def test_embeddings_of_a_smart_encoder():
    """Their description is that of the encoder, so `model_dump` is enough."""
    encoder = SmartEncoder("minilm", device="cpu", dtype="float64", query_prompt="Ask: ", max_length=7)
    embeddings = SmartEmbeddings(encoder=CachedEncoder(encoder))
    assert len(pickle.dumps(embeddings)) < 3_000
    for other in (pickle.loads(pickle.dumps(embeddings)), SmartEmbeddings(**embeddings.model_dump())):
        assert other.embed_query(QUERY) == embeddings.embed_query(QUERY)
        assert other.embed_documents(TEXTS) == embeddings.embed_documents(TEXTS)


@some
@given(values(ARGUMENTS[SmartReranker]))
def test_reranker(arguments):
    reranker = SmartReranker(**arguments)
    for other in copies(reranker):
        assert holds(other, arguments)
        assert other.model_dump() == reranker.model_dump()
        if "embeddings" in arguments:
            ranked = outcome(lambda: reranker.compress_documents(DOCUMENTS, QUERY))
            assert outcome(lambda other=other: other.compress_documents(DOCUMENTS, QUERY)) == ranked
    if "embeddings" not in arguments:
        assert SmartReranker(**reranker.model_dump()).model_dump() == reranker.model_dump()


@some
@given(st.sampled_from(["minilm", "BAAI/bge-small-en"]), FOLDERS)
def test_reranker_of_a_model(model_name, token_store):
    reranker = SmartReranker(model_name=model_name, token_store=token_store)
    for other in [*copies(reranker), SmartReranker(**reranker.model_dump())]:
        assert other.model_dump() == reranker.model_dump()
        assert other.embeddings.encoder.path == reranker.embeddings.encoder.path


@some
@given(st.fixed_dictionaries(ARGUMENTS[RerankingRetriever]))
def test_reranking_retriever(arguments):
    retriever = RerankingRetriever(**arguments)
    for other in copies(retriever):
        assert holds(other, arguments)
        assert other.model_dump() == retriever.model_dump()
        assert other.invoke(QUERY) == retriever.invoke(QUERY)


@some
@given(arguments=values(ARGUMENTS[SmartRetriever]))
def test_retriever(folder, arguments):
    with SmartIndex.open(folder / "words", WordEncoder()) as index:
        retriever = SmartRetriever(index, **arguments)
        for other in copies(retriever):
            assert holds(other, arguments)
            assert other.model_dump() == retriever.model_dump()
            assert outcome(lambda other=other: other.invoke(QUERY)) == outcome(lambda: retriever.invoke(QUERY))
            if other.index is not index:
                other.index.close()


@some
@given(is_open=st.booleans(), name=st.sampled_from(["words", "plain"]), arguments=values(ARGUMENTS[SmartVectorStore]))
def test_vector_store(folder, is_open, name, arguments):
    embeddings = SmartEmbeddings(encoder=WordEncoder()) if name == "words" else Plain()
    with SmartVectorStore(folder / name, embeddings, **arguments) as made:
        store = SmartVectorStore(made.index, **arguments) if is_open else made
        for other in copies(store):
            assert holds(other, arguments)
            assert other.weights == store.weights
            assert type(other.embeddings) is type(store.embeddings)
            assert other.index.path == store.index.path
            found = store.similarity_search_with_score(QUERY)
            assert other.similarity_search_with_score(QUERY) == found
            other.close()
            if other.index is not store.index:
                with pytest.raises(IndexClosed):
                    other.similarity_search(QUERY)
            assert store.similarity_search_with_score(QUERY) == found


def test_in_another_process(folder, tmp_path):
    """A closed store is opened again. The objects of one pickle share their model."""
    with SmartVectorStore(tmp_path / "index", SmartEmbeddings("minilm", device="cpu"), candidates=3) as store:
        store.add_documents(DOCUMENTS)
        reranker = SmartReranker(SmartEmbeddings("minilm", tmp_path / "tokens", device="cpu"), top_n=2)
        given = {
            "store": store,
            "its retriever": store.as_retriever(search_kwargs={"k": 2}),
            "retriever": SmartRetriever(tmp_path / "index", k=2),
            "reranked": reranker.wrap(SmartRetriever(store.index)),
        }
        expected = {
            "store": [document.page_content for document in store.similarity_search(QUERY)],
            **{name: [document.page_content for document in given[name].invoke(QUERY)] for name in [*given][1:]},
        }
    (tmp_path / "pickle").write_bytes(pickle.dumps(given))
    code = """
    import json, pickle, sys
    given = pickle.load(open(sys.argv[1], "rb"))
    store = given.pop("store")
    assert store.embeddings.encoder.encoder is store.index.encoder
    found = {"store": store.similarity_search(sys.argv[2])}
    found |= {name: retriever.invoke(sys.argv[2]) for name, retriever in given.items()}
    print(json.dumps({name: [document.page_content for document in documents] for name, documents in found.items()}))
    """
    assert json.loads(python(code, tmp_path / "pickle", QUERY).stdout) == expected


def test_a_deep_copy_shares_the_model(folder):
    """Also one that cannot be pickled."""
    encoder = LockedEncoder()
    with SmartIndex.open(folder / "words", encoder) as index:
        for holder in (SmartRetriever(index), SmartVectorStore(index, SmartEmbeddings(encoder=encoder))):
            copied = copy.deepcopy(holder)
            assert copied.index.encoder is encoder
            copied.index.close()
    assert copy.deepcopy(SmartEmbeddings(encoder=encoder)).encoder.encoder is encoder


def test_what_cannot_be_pickled_is_said(folder):
    """With the object that is meant, and what to do."""
    embeddings = SmartEmbeddings(encoder=LockedEncoder())
    with SmartIndex.open(folder / "words", LockedEncoder()) as index:
        for holder in (embeddings, SmartReranker(embeddings), SmartRetriever(index), SmartVectorStore(index)):
            with pytest.raises(InvalidInput, match=r"LockedEncoder cannot be pickled .*; (open|make)"):
                pickle.dumps(holder)
    plain = Plain()
    plain.lock = threading.Lock()
    with SmartVectorStore(folder / "plain", plain) as store, pytest.raises(InvalidInput, match="open the index where"):
        pickle.dumps(store)


def test_an_index_in_a_client_of_chroma(tmp_path):
    client = chromadb.EphemeralClient()  # in one process, all of them share their collections
    with SmartIndex.create(tmp_path / "index", WordEncoder(), client=client, collection="of_langchain") as index:
        store = SmartVectorStore(index)
        store.add_documents(DOCUMENTS)
        with pytest.raises(InvalidInput, match=r"Chroma client .* client=\.\.\."):
            pickle.dumps(store)
        assert copy.deepcopy(store).similarity_search(QUERY) == store.similarity_search(QUERY)


def test_a_store_whose_folder_is_gone_is_not_made_again(tmp_path):
    with SmartVectorStore(tmp_path / "index", SmartEmbeddings(encoder=WordEncoder())) as store:
        pickled = pickle.dumps(store)
    (tmp_path / "index").rename(tmp_path / "elsewhere")
    with pytest.raises(IndexNotFound):
        pickle.loads(pickled)
    assert not (tmp_path / "index").exists()


def test_a_relative_folder_is_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with SmartVectorStore("index", SmartEmbeddings(encoder=WordEncoder())) as store:
        store.add_documents(DOCUMENTS)
        pickled = [pickle.dumps(holder) for holder in (store, SmartRetriever(store.index))]
    monkeypatch.chdir("elsewhere")
    for holder in map(pickle.loads, pickled):
        assert holder.index.count() == len(DOCUMENTS)
        holder.index.close()


@pytest.mark.newest
@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_loads_of_langchain_needs_the_arguments(folder):
    """`dumps` writes a name, and `loads` refuses it; so it is for `HuggingFaceEmbeddings`. The README says so."""
    embeddings = SmartEmbeddings(encoder=WordEncoder())
    with SmartIndex.open(folder / "words", WordEncoder()) as index:
        for holder in (embeddings, SmartReranker(embeddings), SmartRetriever(index), SmartVectorStore(index)):
            assert json.loads(dumps(holder))["type"] == "not_implemented"
            with pytest.raises(NotImplementedError):
                loads(dumps(holder), allowed_objects="all", valid_namespaces=["langchain_smart_rag"])


def test_a_chain_is_copied_with_its_retriever(folder):
    """LangChain cannot pickle such a chain."""
    with SmartIndex.open(folder / "words", WordEncoder()) as index:
        chain = answer_chain(SmartRetriever(index, k=1), FakeListChatModel(responses=["At night [1]."]))
        assert copy.deepcopy(chain).invoke(QUERY) == chain.invoke(QUERY)
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickle.dumps(chain)
