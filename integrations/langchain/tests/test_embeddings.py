"""`SmartEmbeddings`: plain floats, kept tokens, no work twice."""

import asyncio
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from langchain_smart_rag import SmartEmbeddings

from smart_rag import CachedEncoder, Representation, SmartEncoder
from smart_rag.errors import EncoderError, InvalidInput, ModelNotFound
from smart_rag.files.images import open_image

TEXTS = ["The cat sat on the mat.", "", "Dogs bark at night."]


def test_numbers_are_the_encoders(embeddings, minilm):
    vectors = embeddings.embed_documents(TEXTS)
    assert vectors == minilm.encode_document(TEXTS).pooled.tolist()
    assert embeddings.embed_query("cats") == minilm.encode_query(["cats"]).pooled[0].tolist()
    assert {type(value) for vector in vectors for value in vector} == {float}
    assert embeddings.embed_documents([]) == []


@pytest.mark.asyncio
async def test_async_gives_the_same(embeddings):
    assert await embeddings.aembed_documents(TEXTS) == embeddings.embed_documents(TEXTS)
    assert await embeddings.aembed_query("cats") == embeddings.embed_query("cats")


@pytest.mark.asyncio
async def test_async_leaves_the_event_loop_free():
    """The encoder runs in another thread than the event loop."""
    threads = set()

    class Encoder(SmartEncoder):
        def encode_document(self, documents, **options):
            threads.add(threading.get_ident())
            return super().encode_document(documents, **options)

    await SmartEmbeddings(encoder=await asyncio.to_thread(Encoder, "minilm", device="cpu")).aembed_documents(TEXTS)
    assert threads
    assert threading.get_ident() not in threads


def test_a_token_store_is_filled_and_used_again(counting, tmp_path):
    folder = tmp_path / "tokens"
    counting.documents = 0
    first = SmartEmbeddings(encoder=counting, token_store=folder)
    vectors = first.embed_documents(TEXTS)
    assert counting.documents == 3
    assert first.embed_documents([*TEXTS, "New."])[:3] == vectors
    assert counting.documents == 4
    first.encoder.close()
    again = SmartEmbeddings(encoder=counting, token_store=folder)
    assert again.embed_documents(TEXTS) == vectors
    assert counting.documents == 4
    tokens = again.encoder.encode_document(TEXTS[:1]).tokens
    cosines = (tokens.embeddings * counting.encode_document(TEXTS[:1]).tokens.embeddings).sum(axis=1)
    assert cosines.min() > 0.9  # two bits a dimension


def test_the_model_is_loaded_at_first_use():
    missing = SmartEmbeddings(model_name="/no/such/folder")
    with pytest.raises(ModelNotFound):
        missing.embed_query("cats")


def test_threads_load_one_model():
    embeddings = SmartEmbeddings("minilm", device="cpu")
    encoders = []
    threads = [threading.Thread(target=lambda: encoders.append(embeddings.encoder.encoder)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {id(encoder) for encoder in encoders} == {id(embeddings.encoder.encoder)}
    assert isinstance(embeddings.encoder, CachedEncoder)


def test_a_pickle_holds_the_settings(tmp_path):
    embeddings = SmartEmbeddings("minilm", tmp_path / "tokens", device="cpu", document_prompt="text: ")
    vectors = embeddings.embed_documents(TEXTS)
    pickled = pickle.dumps(embeddings)
    assert len(pickled) < 2_000
    assert pickle.loads(pickled).embed_documents(TEXTS) == vectors


def test_wrong_options_are_found_at_once(minilm):
    with pytest.raises(TypeError, match="dtyp"):
        SmartEmbeddings("minilm", dtyp="bfloat16")
    with pytest.raises(InvalidInput, match="set up already"):
        SmartEmbeddings(encoder=minilm, device="cpu")


class ImageEncoder:
    """Sees the mean colour of an image."""

    modalities = ("text", "image")
    dimension = 3
    fingerprint = "colours"

    def describe(self):
        return {"model": "colours"}

    def encode_document(self, documents):
        images = [open_image(document.image) for document in documents]
        return Representation.from_embeddings(np.stack([np.asarray(image).mean(axis=(0, 1)) for image in images]))

    encode_query = encode_document


def test_images(embeddings, tmp_path):
    from PIL import Image

    Image.new("RGBA", (4, 4), "red").save(tmp_path / "red.png")
    with pytest.raises(EncoderError, match="texts only"):
        embeddings.embed_image([str(tmp_path / "red.png")])
    seeing = SmartEmbeddings(encoder=ImageEncoder(), token_store=tmp_path / "tokens")
    assert seeing.embed_image([str(tmp_path / "red.png")]) == [[1.0, 0.0, 0.0]]


@pytest.mark.newest
def test_import_loads_no_other_framework():
    """Of LangChain the core alone, and neither Chroma nor sentence-transformers before they are needed."""
    code = "import sys, langchain_smart_rag; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"chromadb", "sentence_transformers"} & set(loaded)
    assert [name for name in loaded if name.startswith("langchain") and "smart_rag" not in name] == ["langchain_core"]
