"""`SmartEmbeddings`: the encoder's numbers as Python floats, token embeddings kept, no text encoded twice."""

import pickle
import subprocess
import sys
import threading

import pytest
from helpers.word_encoder import CountingEncoder
from langchain_smart_rag import SmartEmbeddings

from smart_rag import CachedEncoder
from smart_rag.errors import EncoderError, InvalidInput, ModelNotFound

TEXTS = ["The cat sat on the mat.", "", "Dogs bark at night."]


def test_numbers_are_the_encoders(embeddings, minilm):
    vectors = embeddings.embed_documents(TEXTS)
    documents, query = minilm.encode_document(TEXTS), minilm.encode_query(["cats"])
    assert vectors == (documents.pooled * documents.norms[:, None]).tolist()
    assert embeddings.embed_query("cats") == (query.pooled[0] * query.norms[0]).tolist()
    assert {type(value) for vector in vectors for value in vector} == {float}
    assert embeddings.embed_documents([]) == []


@pytest.mark.asyncio
async def test_async_gives_the_same(embeddings):
    assert await embeddings.aembed_documents(TEXTS) == embeddings.embed_documents(TEXTS)
    assert await embeddings.aembed_query("cats") == embeddings.embed_query("cats")


@pytest.mark.asyncio
async def test_async_runs_the_model_in_another_thread():
    encoder = CountingEncoder()
    await SmartEmbeddings(encoder=encoder).aembed_documents(["cats", "dogs"])
    assert encoder.threads
    assert threading.get_ident() not in encoder.threads


def test_a_token_store_is_filled_and_used_again(tmp_path):
    encoder = CountingEncoder()
    first = SmartEmbeddings(encoder=encoder, token_store=tmp_path)
    vectors = first.embed_documents(["cats", "dogs"])
    first.encoder.close()
    again = SmartEmbeddings(encoder=CachedEncoder(encoder, tmp_path))  # brings its own token store
    assert (first.token_store, again.token_store) == (tmp_path, tmp_path)
    assert again.embed_documents(["cats", "dogs"]) == vectors
    assert encoder.documents == ["cats", "dogs"]


def test_the_model_is_loaded_at_first_use():
    missing = SmartEmbeddings(model_name="/no/such/folder")
    with pytest.raises(ModelNotFound):
        missing.embed_query("cats")


def test_a_pickle_holds_the_settings(tmp_path):
    embeddings = SmartEmbeddings("minilm", tmp_path / "tokens", device="cpu", document_prompt="text: ")
    vectors = embeddings.embed_documents(TEXTS)
    pickled = pickle.dumps(embeddings)
    assert len(pickled) < 2_000
    assert pickle.loads(pickled).embed_documents(TEXTS) == vectors


def test_model_is_another_name_for_model_name():
    assert SmartEmbeddings(model="minilm").model_name == SmartEmbeddings(model_name="minilm").model_name == "minilm"


def test_wrong_options_are_found_at_once(minilm):
    with pytest.raises(TypeError, match="dtyp"):
        SmartEmbeddings("minilm", dtyp="bfloat16")
    with pytest.raises(InvalidInput, match="leave out"):
        SmartEmbeddings(encoder=minilm, device="cpu")


@pytest.mark.parametrize(
    "arguments", [{"encode_kwargs": {"prompt": "x: "}}, {"query_encode_kwargs": {"prompt": "x: "}}], ids=str
)
def test_arguments_of_a_model_do_not_go_with_an_encoder(minilm, arguments):
    with pytest.raises(InvalidInput, match="leave out"):
        SmartEmbeddings(encoder=minilm, **arguments)
    SmartEmbeddings(encoder=minilm, encode_kwargs={"normalize_embeddings": True})


def test_images_need_a_model_that_takes_them(embeddings):
    with pytest.raises(EncoderError, match="texts only"):
        embeddings.embed_image(["red.png"])


@pytest.mark.newest
def test_import_loads_no_other_framework():
    """Of LangChain the core alone, and neither Chroma nor sentence-transformers before they are needed."""
    code = "import sys, langchain_smart_rag; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"chromadb", "sentence_transformers"} & set(loaded)
    assert [name for name in loaded if name.startswith("langchain") and "smart_rag" not in name] == ["langchain_core"]
