"""`SmartEmbeddings.backfill`: after it, the reranker finds everything that the store holds."""

import pytest
from helpers.word_encoder import CountingEncoder, SeeingEncoder, WordEncoder
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_smart_rag import SmartEmbeddings, SmartReranker, SmartVectorStore
from PIL import Image

from smart_rag.errors import InvalidInput
from smart_rag.reports import BackfillReport

pytestmark = pytest.mark.newest

TEXTS = [
    *(f"passage {i} is\nabout {word}\r\n\n" for i, word in enumerate(["cats", "dogs", "boats"] * 200)),
    "  blanks around  ",
]


def documents(texts=TEXTS):
    return [Document(text, id=f"d{i}", metadata={"page": i} if i % 2 else {}) for i, text in enumerate(texts)]


def before(folder, given=None):
    """Return a Chroma store as an application has it, filled before the swap."""
    from langchain_chroma import Chroma

    store = Chroma("old", SmartEmbeddings(encoder=WordEncoder()), persist_directory=str(folder))
    store.add_documents(documents() if given is None else given)
    return store


def after(folder, encoder):
    from langchain_chroma import Chroma

    embeddings = SmartEmbeddings(encoder=encoder, token_store=folder / "tokens")
    return Chroma("old", embeddings, persist_directory=str(folder)), embeddings


def content(store):
    return store.get(include=["documents", "metadatas", "embeddings"])


def test_a_rerank_encodes_no_document_after_it(tmp_path):
    old = content(before(tmp_path))
    encoder = CountingEncoder()
    store, embeddings = after(tmp_path, encoder)
    assert embeddings.backfill(store) == BackfillReport(added=601)
    assert embeddings.backfill(store) == BackfillReport(unchanged=601)
    # In both calls, the first is compared with its stored vector.
    first, texts = encoder.documents[0], [text.replace("\n", " ") for text in TEXTS]
    assert sorted(encoder.documents) == sorted([*texts, first, first])
    encoder.documents.clear()
    retriever = SmartReranker(embeddings, top_n=10).wrap(store.as_retriever(search_kwargs={"k": 601}))
    assert "boats" in retriever.invoke("boats")[0].page_content
    assert encoder.documents == []
    new = content(store)
    assert [new[key] for key in ("ids", "documents", "metadatas")] == [
        old[key] for key in ("ids", "documents", "metadatas")
    ]
    assert (new["embeddings"] == old["embeddings"]).all()


def in_memory():
    store = InMemoryVectorStore(SmartEmbeddings(encoder=WordEncoder()))
    store.add_documents(documents())
    return store


STORES = {
    "in memory": lambda folder: in_memory(),
    "a collection": lambda folder: before(folder)._collection,
    "documents": lambda folder: documents(),
    "an iterator": lambda folder: iter(documents()),
}


@pytest.mark.parametrize("kind", STORES)
def test_each_kind_of_store(kind, tmp_path):
    encoder = CountingEncoder()
    embeddings = SmartEmbeddings(encoder=encoder, token_store=tmp_path / "tokens")
    assert embeddings.backfill(STORES[kind](tmp_path)).added == 601
    encoder.documents.clear()
    SmartReranker(embeddings).compress_documents(documents(), "cats")
    assert encoder.documents == []


def test_a_store_of_another_model_is_taken_with_a_warning(tmp_path, caplog):
    from langchain_core.embeddings import DeterministicFakeEmbedding

    store = before(tmp_path)
    embeddings = SmartEmbeddings(encoder=WordEncoder(), token_store=tmp_path / "tokens")
    embeddings.backfill(store)
    assert "does not make the vectors" not in caplog.text
    for size in (24, 8):
        other = type(store)("other", DeterministicFakeEmbedding(size=size), persist_directory=str(tmp_path / str(size)))
        other.add_documents(documents(["cats", "dogs"]))
        caplog.clear()
        assert embeddings.backfill(other).left_out == 0
        assert "words does not make the vectors of this store: the cosine of its vector of 'd" in caplog.text


def test_the_store_is_read_in_pages(tmp_path):
    from langchain_chroma import Chroma

    calls = []

    class Watched(Chroma):
        def get(self, ids=None, where=None, limit=None, offset=None, where_document=None, include=None):
            calls.append((limit, offset, len(encoder.documents)))
            return super().get(ids, where, limit, offset, where_document, include)

    before(tmp_path)
    encoder = CountingEncoder()
    embeddings = SmartEmbeddings(encoder=encoder, token_store=tmp_path / "tokens")
    embeddings.backfill(Watched("old", embeddings, persist_directory=str(tmp_path)))
    assert [call[:2] for call in calls] == [(1, 0), (256, 0), (256, 256), (256, 512), (256, 601)]
    assert [call[2] for call in calls] == [0, 1, 257, 513, 513]  # a page is encoded before the next one is read


def test_entries_without_text_are_left_out(tmp_path, caplog):
    store = before(tmp_path, documents(["cats", "dogs"]))
    store._collection.add(["empty", "none"], embeddings=[[1.0] * 24] * 2, documents=["\n", None])
    embeddings = SmartEmbeddings(encoder=CountingEncoder(), token_store=tmp_path / "tokens")
    report = embeddings.backfill(store)
    assert (report.added, report.left_out) == (2, 2)
    assert report.reasons == (("empty", "no text"), ("none", "no text"))
    assert "2 documents were left out: empty: no text; none: no text" in caplog.messages


def test_images(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (3, 3), "red").save(path)
    given = [Document("a caption", metadata={"image_path": str(path)}), Document("a caption")]
    encoder = SeeingEncoder()
    embeddings = SmartEmbeddings(encoder=encoder, token_store=tmp_path / "tokens")
    assert embeddings.backfill(given).added == 2
    encoder.documents.clear()
    SmartReranker(embeddings).compress_documents(given, "red")
    assert encoder.documents == []


def test_progress(tmp_path, capsys):
    store = before(tmp_path)
    SmartEmbeddings(encoder=WordEncoder(), token_store=tmp_path / "tokens").backfill(store, show_progress_bar=True)
    assert "601/601" in capsys.readouterr().err


def test_what_cannot_be_listed_is_refused(tmp_path):
    embeddings = SmartEmbeddings(encoder=WordEncoder(), token_store=tmp_path / "tokens")
    with SmartVectorStore(tmp_path / "index", SmartEmbeddings(encoder=WordEncoder())) as store:
        for wrong, name in ((store, "SmartVectorStore"), ("chroma", "str"), (3, "int")):
            with pytest.raises(InvalidInput, match=f"documents of a {name} cannot be listed; expected a Chroma store"):
                embeddings.backfill(wrong)
    with pytest.raises(InvalidInput, match="expected documents of LangChain, got a str"):
        embeddings.backfill(["a text"])
    with pytest.raises(InvalidInput, match="give it a folder"):
        SmartEmbeddings(encoder=WordEncoder()).backfill(documents())
