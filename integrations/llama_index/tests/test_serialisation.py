"""Every class, with every argument, comes back from pickle, copy, deepcopy and `to_dict` as it was."""

import copy
import json
import logging
import pickle
import threading

import chromadb
import pytest
from helpers.another_process import python
from helpers.copying import LockedEncoder, copies, holds, names_of, outcome, some, values
from helpers.word_encoder import WordEncoder
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index_smart_rag import SmartEmbedding, SmartRerank, SmartRetriever, SmartVectorStore

from smart_rag import CachedEncoder, SmartEncoder, SmartIndex
from smart_rag.errors import InvalidInput

TEXTS = ["Dogs bark at night", "Cats sleep", "The boat house is locked", "Dogs and cats"]
NODES = [TextNode(id_=str(i), text=text, metadata={"n": i}) for i, text in enumerate(TEXTS)]
SCORED = [NodeWithScore(node=node, score=0.5) for node in NODES]
QUERY = "dogs bark"
OWN = st.builds(lambda: SmartEmbedding(encoder=WordEncoder()))
WEIGHTS = st.none() | st.sampled_from([(1.0, 0.5), (0.0, 1.0)])
FRACTIONS = st.none() | st.floats(0, 1)
FIRST_STAGES = st.sampled_from(["auto", "pooled", "terms", "exhaustive"])
FOLDERS = st.sampled_from(["tokens", "~/tokens"])
CALLBACKS = st.builds(lambda: CallbackManager([LlamaDebugHandler(print_trace_on_end=False)]))
FILTERS = MetadataFilters(filters=[MetadataFilter(key="n", value=0, operator=">")])

# One strategy for each argument of a constructor.
OF_MODEL = {
    "model_name": st.sampled_from(["minilm", "BAAI/bge-small-en"]),
    "device": st.sampled_from([None, "cpu"]),
    "max_length": st.integers(1, 99),
    "query_instruction": st.text(max_size=3),
    "text_instruction": st.text(max_size=3),
    "cache_folder": FOLDERS,
    "trust_remote_code": st.booleans(),
    "parallel_process": st.booleans(),
    "target_devices": st.sampled_from([None, ["cpu", "cpu"]]),
    "encoder_options": st.just({"profile": "general"}),
}
OF_EMBEDDING = {
    "token_store": FOLDERS,
    "normalize": st.booleans(),
    "show_progress_bar": st.booleans(),
    "embed_batch_size": st.integers(1, 99),
    "callback_manager": CALLBACKS,
}
# Options are in `encoder_options`, and paths become absolute, which `to_dict` shows.
OF_FIELDS = (OF_MODEL | OF_EMBEDDING).keys() - {"encoder_options", "token_store", "cache_folder", "callback_manager"}
# By **options: arguments of the encoder, of sentence-transformers and of LlamaIndex.
OPTIONS = {
    "dtype": st.sampled_from([None, "float64"]),
    "attn_implementation": st.just("eager"),
    "backend": st.just("torch"),
    "batch_size": st.integers(1, 9),
    "batch_tokens": st.integers(1, 999),
    "revision": st.just("main"),
    "profile": st.just("general"),
    "query_tokens": st.just("input"),
    "document_tokens": st.just("text"),
    "max_pixels": st.integers(1, 9_999),
    "paper": st.booleans(),
    "adapter": FOLDERS,
    "model_options": st.just({"truncate_dim": 8}),
    "token": st.just("hf_secret"),
    "truncate_dim": st.just(8),
    "local_files_only": st.booleans(),
    "model_kwargs": st.just({"dtype": "float16"}),
    "num_workers": st.integers(1, 4),
}
OF_SOURCES = {"sources": st.sampled_from([[], ["/some/scans"]]), "allow_urls": st.booleans()}
ARGUMENTS = {
    SmartRerank: {
        "embed_model": OWN,
        "top_n": st.integers(1, 5),
        "weights": WEIGHTS,
        "keep_retrieval_score": st.booleans(),
        "min_relevance": FRACTIONS,
        "with_relevance": st.booleans(),
        "callback_manager": CALLBACKS,
    },
    SmartRetriever: {
        "similarity_top_k": st.integers(1, 4),
        "candidates": st.integers(1, 4),
        "first_stage": FIRST_STAGES,
        "filters": st.sampled_from([None, FILTERS]),
        "where_document": st.sampled_from([None, {"$contains": "a"}]),
        "weights": WEIGHTS,
        "min_relevance": FRACTIONS,
        "per_source": st.none() | st.integers(1, 3),
        "source_key": st.sampled_from(["source", "n"]),
        "fold_duplicates": st.booleans(),
        "neighbours": st.integers(0, 2),
        "with_relevance": st.booleans(),
        "callback_manager": CALLBACKS,
        "object_map": st.sampled_from([{}, {"0": NODES[1]}]),
        "objects": st.none(),
        "verbose": st.booleans(),
        **OF_SOURCES,
    },
    SmartVectorStore: {
        "candidates": st.integers(1, 4),
        "first_stage": FIRST_STAGES,
        "weights": WEIGHTS,
        "with_relevance": st.booleans(),
        **OF_SOURCES,
    },
}
# These go with only some of the others, so the tests below give them.
ELSEWHERE = {
    SmartEmbedding: {"encoder", "encoder_class"},
    SmartRerank: {"model_name", "token_store"},
    SmartRetriever: {"index"},
    SmartVectorStore: {"index", "model_name"},
}
# Arguments of SmartEncoder with another name here; see `llama_index_smart_rag.arguments`.
RENAMED = {"model", "query_prompt", "document_prompt", "prompt_names"}


class LockedHandler(LlamaDebugHandler):
    """A handler that cannot be pickled."""

    def __init__(self):
        super().__init__(print_trace_on_end=False)
        self.lock = threading.Lock()


def handlers(given):
    return [type(handler) for handler in given.callback_manager.handlers]


def found(store):
    result = store.query(VectorStoreQuery(query_str=QUERY, similarity_top_k=3))
    return result.ids, result.similarities


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes") / "index"
    with SmartIndex.create(folder, WordEncoder()) as index:
        SmartVectorStore(index).add(NODES)
    return folder


def test_no_argument_is_forgotten_here():
    """A new argument needs a strategy above."""
    assert names_of(SmartEmbedding.__init__) == {*OF_MODEL, *OF_EMBEDDING, *ELSEWHERE[SmartEmbedding]}
    # A base model goes only with a LoRA.
    assert names_of(SmartEncoder.__init__) - {*RENAMED, "base_model"} <= {*OF_MODEL, *OPTIONS}
    for kind, strategies in ARGUMENTS.items():
        inherited = names_of(BaseRetriever.__init__) if kind is SmartRetriever else set()
        assert names_of(kind.__init__) | inherited == {*strategies, *ELSEWHERE[kind]}


@some
@given(values(OF_MODEL | OF_EMBEDDING | OPTIONS))
def test_embedding_of_a_model(arguments):
    """No model is loaded. With the same arguments, it gives the same vectors."""
    embedding = SmartEmbedding(**arguments)
    for other in copies(embedding):
        assert holds(other, {name: arguments[name] for name in arguments.keys() & {*OF_FIELDS}})
        assert other.to_dict() == embedding.to_dict()
        assert (other.device, other.target_devices) == (embedding.device, embedding.target_devices)
        assert handlers(other) == handlers(embedding)
        assert other.encoder._options == embedding.encoder._options
        assert (other.encoder._given, other.encoder.path) == (embedding.encoder._given, embedding.encoder.path)
    other = SmartEmbedding.from_dict(json.loads(embedding.to_json()))
    assert other.to_dict() == embedding.to_dict()
    # A description holds what another machine needs: neither the devices of this one, nor a secret.
    for encoder in (other.encoder, embedding.encoder):
        encoder._options.pop("device")
        encoder._options["model_options"].pop("token", None)
    assert other.encoder._options == embedding.encoder._options


@some
@given(values(OF_EMBEDDING), st.sampled_from([WordEncoder(), CachedEncoder(WordEncoder())]))
def test_embedding_of_an_encoder(arguments, encoder):
    embedding = SmartEmbedding(encoder=encoder, **{**arguments, "token_store": None})
    for other in copies(embedding):
        assert other.to_dict() == embedding.to_dict()
        assert handlers(other) == handlers(embedding)
        assert other.get_text_embedding_batch(TEXTS) == embedding.get_text_embedding_batch(TEXTS)
        assert other.get_query_embedding(QUERY) == embedding.get_query_embedding(QUERY)
    with pytest.raises(InvalidInput, match="WordEncoder"):
        SmartEmbedding.from_dict(embedding.to_dict())


def test_embedding_of_a_smart_encoder():
    """`to_dict` describes the encoder, with the type of its weights."""
    encoder = SmartEncoder("minilm", device="cpu", dtype="float64", query_prompt="Ask: ", max_length=7)
    embedding = SmartEmbedding(encoder=CachedEncoder(encoder))
    assert len(pickle.dumps(embedding)) < 3_000
    for other in (pickle.loads(pickle.dumps(embedding)), SmartEmbedding.from_dict(embedding.to_dict())):
        assert other.get_query_embedding(QUERY) == embedding.get_query_embedding(QUERY)
        assert other.get_text_embedding_batch(TEXTS) == embedding.get_text_embedding_batch(TEXTS)


@some
@given(values(ARGUMENTS[SmartRerank]))
def test_rerank(arguments):
    reranker = SmartRerank(**arguments)
    for other in copies(reranker):
        assert holds(other, arguments)
        assert other.to_dict() == reranker.to_dict()
        assert handlers(other) == handlers(reranker)
        if "embed_model" in arguments:
            ranked = outcome(lambda: reranker.postprocess_nodes(SCORED, query_str=QUERY))
            assert outcome(lambda other=other: other.postprocess_nodes(SCORED, query_str=QUERY)) == ranked
    if "embed_model" not in arguments:
        assert SmartRerank.from_dict(json.loads(reranker.to_json())).to_dict() == reranker.to_dict()


@some
@given(st.sampled_from(["minilm", "BAAI/bge-small-en"]), FOLDERS)
def test_rerank_of_a_model(model_name, token_store):
    reranker = SmartRerank(model_name=model_name, token_store=token_store)
    for other in [*copies(reranker), SmartRerank.from_dict(json.loads(reranker.to_json()))]:
        assert other.to_dict() == reranker.to_dict()
        assert other.embed_model.encoder.path == reranker.embed_model.encoder.path


@some
@given(arguments=values(ARGUMENTS[SmartRetriever]))
def test_retriever(folder, arguments):
    with SmartIndex.open(folder, WordEncoder()) as index:
        retriever = SmartRetriever(index, **arguments)
        again = copies(retriever)
        if retriever.object_map:
            with pytest.raises(InvalidInput, match="object_map"):
                retriever.to_dict()
        else:
            described = json.loads(json.dumps(retriever.to_dict()))
            again.append(SmartRetriever.from_dict({**described, "index": index}))
            assert all(other.to_dict() == retriever.to_dict() for other in again)
        nodes = outcome(lambda: retriever.retrieve(QUERY))
        for other in again:
            assert outcome(lambda other=other: other.retrieve(QUERY)) == nodes
            assert (other.object_map, other._verbose) == (retriever.object_map, arguments.get("verbose", False))
            if other.index is not index:
                other.index.close()
        for other in again[:3]:
            assert handlers(other) == handlers(retriever)


@some
@given(arguments=values(ARGUMENTS[SmartVectorStore]))
def test_vector_store(folder, arguments):
    with SmartIndex.open(folder, WordEncoder()) as index:
        store = SmartVectorStore(index, **arguments)
        expected = found(store)
        for other in copies(store):
            assert holds(other, arguments)
            assert other.to_dict() == store.to_dict()
            assert found(other) == expected
            vector = store.embed_model.get_text_embedding(QUERY)
            assert other.embed_model.get_text_embedding(QUERY) == vector
            if other.index is not index:
                other.close()
        assert found(store) == expected
        described = SmartVectorStore.from_dict(json.loads(store.to_json()))
        assert described.to_dict() == store.to_dict()


@some
@given(st.sampled_from([None, "minilm", "folder/model"]))
def test_a_store_that_was_not_opened_yet(model_name):
    store = SmartVectorStore("folder/that/is/not/there", model_name)
    for other in [*copies(store), SmartVectorStore.from_dict(json.loads(store.to_json()))]:
        assert other.to_dict() == store.to_dict()


def test_in_another_process(tmp_path):
    """A closed index is opened again. The objects of one pickle share it."""
    with SmartVectorStore(tmp_path / "index", "minilm") as store:
        store.add(NODES)
        retriever, embed_model = SmartRetriever(store.index, 3), store.embed_model
        reranker = SmartRerank(SmartEmbedding("minilm", tmp_path / "tokens", query_instruction="Ask: "), top_n=2)
        expected = [
            found(store)[0],
            [node.node_id for node in retriever.retrieve(QUERY)],
            [node.node_id for node in reranker.postprocess_nodes(SCORED, query_str=QUERY)],
            embed_model.get_query_embedding(QUERY)[:3],
        ]
        # By its description, it does not need the index.
        described = SmartEmbedding.from_dict(embed_model.to_dict())
        assert described.get_query_embedding(QUERY)[:3] == expected[-1]
        assert described.encoder._options["dtype"] is None  # as the index loads it, and not as LlamaIndex does
    (tmp_path / "pickle").write_bytes(pickle.dumps((store, retriever, reranker, embed_model, SCORED)))
    code = """
    import json, pickle, sys
    from llama_index.core.vector_stores import VectorStoreQuery
    store, retriever, reranker, embed_model, nodes = pickle.load(open(sys.argv[1], "rb"))
    assert store.index is retriever.index
    query = sys.argv[2]
    print(json.dumps([
        store.query(VectorStoreQuery(query_str=query, similarity_top_k=3)).ids,
        [node.node_id for node in retriever.retrieve(query)],
        [node.node_id for node in reranker.postprocess_nodes(nodes, query_str=query)],
        embed_model.get_query_embedding(query)[:3],
    ]))
    """
    assert json.loads(python(code, tmp_path / "pickle", QUERY).stdout) == expected


def test_a_deep_copy_shares_the_model(folder):
    """Also one that cannot be pickled."""
    encoder = LockedEncoder()
    with SmartIndex.open(folder, encoder) as index:
        for holder in (SmartRetriever(index), SmartVectorStore(index)):
            copied = copy.deepcopy(holder)
            assert copied.index.encoder is encoder
            copied.index.close()
        assert index.count() == len(NODES)
    assert copy.deepcopy(SmartEmbedding(encoder=encoder)).encoder.encoder is encoder


def test_what_cannot_be_pickled_is_said(folder):
    """LlamaIndex would leave it out without an error, and a reranker would rank by the default model."""
    embedding = SmartEmbedding(encoder=LockedEncoder())
    with SmartIndex.open(folder, LockedEncoder()) as index:
        store = SmartVectorStore(index)
        for holder in (embedding, SmartRerank(embedding), SmartRetriever(index), store, store.embed_model):
            with pytest.raises(InvalidInput, match=r"LockedEncoder cannot be pickled .*; (open|make)"):
                pickle.dumps(holder)


def test_an_index_in_a_client_of_chroma(tmp_path):
    client = chromadb.EphemeralClient()  # in one process, all of them share their collections
    with SmartIndex.create(tmp_path / "index", WordEncoder(), client=client, collection="of_llama_index") as index:
        store = SmartVectorStore(index)
        store.add(NODES)
        with pytest.raises(InvalidInput, match=r"Chroma client .* client=\.\.\."):
            pickle.dumps(store)
        assert found(copy.deepcopy(store)) == found(store)


def test_handlers_that_cannot_be_pickled_are_left_out(folder, caplog):
    """As LlamaIndex leaves them out, with a warning."""
    manager = CallbackManager([LockedHandler()])
    with SmartIndex.open(folder, WordEncoder()) as index:
        for holder in (
            SmartEmbedding("minilm", callback_manager=manager),
            SmartRerank(model_name="minilm", callback_manager=manager),
            SmartRetriever(index, callback_manager=manager),
        ):
            with caplog.at_level(logging.WARNING):
                other = pickle.loads(pickle.dumps(holder))
            assert "no callback handlers" in caplog.text
            caplog.clear()
            assert handlers(other) == []
            assert handlers(holder) == [LockedHandler]


def test_a_relative_folder_is_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with SmartIndex.create("index", WordEncoder()) as index:
        store = SmartVectorStore(index)
        store.add(NODES)
        pickled = [pickle.dumps(holder) for holder in (store, SmartRetriever(index))]
    monkeypatch.chdir("elsewhere")
    for holder in map(pickle.loads, pickled):
        assert holder.index.count() == len(NODES)
        holder.index.close()
