"""`CachedEncoder`: entries and their keys, codecs, processes and threads; `rerank` on top of it."""

from __future__ import annotations

import copy
import pickle
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.word_encoder import TESTS, CountingEncoder, WordEncoder, plain_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag import CachedEncoder, Document, Hit, IndexConfig, SmartIndex, TokenBatch, rerank
from smart_rag.embeddings.tokens import TokenCodes
from smart_rag.errors import CorruptStore, IndexMismatch, InvalidInput, SmartRagError

TEXTS = ["the cat sat on the mat", "dogs bark at night", "taxes are due in april", "keys hang in the hall"]


def same(a, b, tolerance=2e-3):
    np.testing.assert_allclose(a.pooled, b.pooled, atol=1e-6)
    np.testing.assert_array_equal(a.tokens.offsets, b.tokens.offsets)
    np.testing.assert_allclose(a.tokens.embeddings, b.tokens.embeddings, atol=tolerance)


def test_each_document_is_encoded_once(tmp_path):
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, tmp_path / "tokens", codec="exact")
    same(cached.encode_document([*TEXTS[:2], TEXTS[0]]), WordEncoder().encode_document([*TEXTS[:2], TEXTS[0]]))
    assert encoder.documents == TEXTS[:2]
    same(cached.encode_document(TEXTS[::-1]), WordEncoder().encode_document(TEXTS[::-1]))
    assert encoder.documents == [*TEXTS[:2], TEXTS[3], TEXTS[2]]
    assert len(cached.encode_document([])) == 0


def test_the_first_result_equals_later_ones(tmp_path):
    cached = CachedEncoder(CountingEncoder(), tmp_path)
    first, second = cached.encode_document(TEXTS), cached.encode_document(TEXTS)
    np.testing.assert_array_equal(first.tokens.embeddings, second.tokens.embeddings)
    np.testing.assert_array_equal(first.pooled, second.pooled)


@given(st.lists(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_any_sequence_of_calls_equals_the_encoder(tmp_path_factory, calls):
    encoder = CountingEncoder()
    with_folder = CachedEncoder(encoder, tmp_path_factory.mktemp("tokens"), codec="exact")
    for texts in calls:
        same(with_folder.encode_document(texts), WordEncoder().encode_document(texts))
    assert sorted(encoder.documents) == sorted({text for texts in calls for text in texts})
    with_folder.close()


def test_a_query_is_encoded_once_and_documents_are_not_kept_without_a_folder():
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder)
    for _ in range(3):
        same(cached.encode_query(["where are the keys"]), WordEncoder().encode_query(["where are the keys"]))
        cached.encode_document(TEXTS[:1])
    assert encoder.queries == ["where are the keys"]
    assert encoder.documents == TEXTS[:1] * 3
    cached.encode_query(TEXTS)  # many at once are a batch job's
    assert encoder.queries == ["where are the keys", *TEXTS]


@pytest.mark.parametrize("codec", [None, "int8"])
def test_without_a_folder_the_encoder_codes(minilm, codec):
    encoded = CachedEncoder(minilm).encode_document(TEXTS, codec=codec)
    assert isinstance(encoded.tokens, TokenBatch if codec is None else TokenCodes)
    np.testing.assert_array_equal(
        encoded.tokens.embeddings, minilm.encode_document(TEXTS, codec=codec).tokens.embeddings
    )
    assert len(CachedEncoder(WordEncoder()).encode_document(TEXTS, codec=codec)) == len(TEXTS)


def test_unknown_and_merging_codecs_are_refused(tmp_path):
    for path in (None, tmp_path):
        for codec, message in (("zip", "unknown codec 'zip'"), ("compact", "pools 2 tokens into one")):
            with pytest.raises(InvalidInput, match=message):
                CachedEncoder(WordEncoder(), path).encode_document(TEXTS, codec=codec)


def test_an_index_stores_the_codes_of_the_folder(minilm, tmp_path):
    """With the same codec, they are not decoded, merged and coded again."""
    for codec in ("2bit", "2bit/2"):
        cached = CachedEncoder(minilm, tmp_path / "tokens", codec=codec)
        codes = cached.encode_document(TEXTS).tokens
        with SmartIndex.create(tmp_path / codec, cached, config=IndexConfig(codec=codec)) as index:
            index.add([Document(str(i), text) for i, text in enumerate(TEXTS)])
            stored = index.tokens([str(i) for i in range(len(TEXTS))])
        np.testing.assert_array_equal(stored.offsets, codes.offsets)
        np.testing.assert_array_equal(stored.embeddings, codes.embeddings)


def test_old_queries_are_forgotten():
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder)
    for i in range(200):
        cached.encode_query([f"query {i}"])
    cached.encode_query(["query 199"])
    cached.encode_query(["query 0"])
    assert encoder.queries.count("query 199") == 1
    assert encoder.queries.count("query 0") == 2


def test_two_models_share_a_folder_and_nothing_else(tmp_path):
    class Other(CountingEncoder):
        def encode_document(self, texts):
            return super().encode_document([f"other {text}" for text in texts])

    one, other = CachedEncoder(CountingEncoder("one"), tmp_path), CachedEncoder(Other("other"), tmp_path)
    a, b = one.encode_document(TEXTS), other.encode_document(TEXTS)
    assert not np.allclose(a.pooled, b.pooled)
    same(one.encode_document(TEXTS), a)
    same(other.encode_document(TEXTS), b)


def test_another_process_finds_the_entries(tmp_path):
    CachedEncoder(WordEncoder(), tmp_path / "tokens").encode_document(TEXTS)
    code = """
import sys
sys.path.insert(0, sys.argv[2])
TEXTS = sys.argv[3:]
from helpers.word_encoder import CountingEncoder
from smart_rag import CachedEncoder
encoder = CountingEncoder()
CachedEncoder(encoder, sys.argv[1]).encode_document(TEXTS)
assert encoder.documents == [], encoder.documents
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "tokens"), TESTS, *TEXTS], check=True)


def test_threads_get_the_same_numbers(tmp_path):
    cached = CachedEncoder(CountingEncoder(), tmp_path, codec="exact")
    texts = [f"{a} {b}" for a in TEXTS for b in TEXTS]
    expected = WordEncoder().encode_document(texts)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: cached.encode_document(texts), range(32)):
            same(result, expected)


@pytest.mark.parametrize(("codec", "cosine"), [("exact", 0.999), ("balanced", 0.9), ("4bit", 0.98), (None, 0.9)])
def test_tokens_are_kept_in_the_chosen_codec(tmp_path, codec, cosine):
    cached = CachedEncoder(CountingEncoder(), tmp_path, **({} if codec is None else {"codec": codec}))
    found, exact = cached.encode_document(TEXTS), WordEncoder().encode_document(TEXTS)
    np.testing.assert_allclose(found.pooled, exact.pooled, atol=1e-6)
    cosines = (found.tokens.embeddings * exact.tokens.embeddings).sum(axis=1)
    assert cosines.mean() > cosine
    assert (cosines.mean() < 0.99) == (cosine == 0.9)


def test_a_preset_and_its_codec_share_entries(tmp_path):
    encoder = CountingEncoder()
    CachedEncoder(encoder, tmp_path, codec="balanced").encode_document(TEXTS)
    CachedEncoder(encoder, tmp_path, codec="2bit").encode_document(TEXTS)
    assert encoder.documents == TEXTS
    pooled = CachedEncoder(encoder, tmp_path, codec="compact").encode_document(TEXTS)
    assert encoder.documents == [*TEXTS, *TEXTS]
    assert np.diff(pooled.tokens.offsets).tolist() == [-(-len(text.split()) // 2) for text in TEXTS]


def test_vacuum_keeps_the_named_documents(tmp_path):
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, tmp_path)
    cached.encode_document(TEXTS)
    assert cached.vacuum(TEXTS[:1]) == 3
    encoder.documents.clear()
    cached.encode_document(TEXTS[:2])
    assert encoder.documents == [TEXTS[1]]
    assert CachedEncoder(encoder).vacuum(TEXTS) == 0


def test_loading_is_lazy_and_a_copy_holds_names_only(tmp_path):
    cached = CachedEncoder("no/such-model", tmp_path / "tokens", device="cpu")
    for copied in (pickle.loads(pickle.dumps(cached)), copy.deepcopy(cached)):
        assert copied.path == cached.path
    assert not (tmp_path / "tokens").exists()
    used = CachedEncoder(WordEncoder(), tmp_path / "tokens")
    expected = used.encode_document(TEXTS)
    same(pickle.loads(pickle.dumps(used)).encode_document(TEXTS), expected)
    assert threading.Lock not in map(type, pickle.loads(pickle.dumps(used)).__getstate__().values())


def test_a_closed_folder_opens_again(tmp_path):
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, tmp_path)
    cached.encode_document(TEXTS)
    cached.close()
    cached.close()
    cached.encode_document(TEXTS)
    assert encoder.documents == TEXTS


def test_properties_are_those_of_the_encoder(tmp_path):
    cached = CachedEncoder(WordEncoder(), tmp_path)
    assert (cached.dimension, cached.fingerprint, cached.describe()) == (24, "words", {"model": "words"})
    assert cached.device == "cpu"


def test_options_need_a_name():
    with pytest.raises(InvalidInput, match="device"):
        CachedEncoder(WordEncoder(), device="cpu")


def test_a_damaged_folder_says_what_to_do(tmp_path):
    import lmdb

    cached = CachedEncoder(WordEncoder(), tmp_path)
    cached.encode_document(TEXTS)
    cached.close()
    with lmdb.open(str(tmp_path / "tokens"), max_dbs=1) as environment:
        segments = environment.open_db(b"segments")
        with environment.begin(segments, write=True) as transaction:
            transaction.put(bytes(4), transaction.get(bytes(4))[:-1] + b"\x55")
    with pytest.raises(CorruptStore, match=r"delete .* it is filled again"):
        cached.encode_document(TEXTS)


def test_a_folder_of_an_older_layout_says_what_to_do(tmp_path):
    import lmdb

    (tmp_path / "tokens").mkdir()
    with lmdb.open(str(tmp_path / "tokens")) as environment, environment.begin(write=True) as transaction:
        transaction.put(bytes(16), bytes(28))
    with pytest.raises(IndexMismatch, match=rf"layout 1, .* or delete {tmp_path}; it is filled again"):
        CachedEncoder(WordEncoder(), tmp_path).encode_document(TEXTS)


def test_a_folder_that_was_deleted_is_made_again(tmp_path):
    """The encoder does not write into deleted files, and not under what is in another folder on the path now."""
    expected = WordEncoder().encode_document(TEXTS)
    cached = CachedEncoder(WordEncoder(), tmp_path / "tokens", codec="exact")
    other = CachedEncoder(WordEncoder(), tmp_path / "other", codec="exact")
    other.encode_document(TEXTS[:1])
    other.close()
    same(cached.encode_document(TEXTS), expected)
    shutil.rmtree(tmp_path / "tokens")
    same(cached.encode_document(TEXTS), expected)
    assert cached.vacuum(TEXTS[:1]) == len(TEXTS) - 1
    shutil.rmtree(tmp_path / "tokens")
    (tmp_path / "other").rename(tmp_path / "tokens")
    same(cached.encode_document(TEXTS), expected)
    cached.close()
    reopened = CachedEncoder(WordEncoder(), tmp_path / "tokens", codec="exact")
    assert reopened.vacuum([]) == len(TEXTS)
    reopened.close()


def test_a_file_that_is_no_database_says_what_to_do(tmp_path):
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(CorruptStore, match=rf"not an LMDB file.*, or delete {tmp_path}; it is filled again"):
        CachedEncoder(WordEncoder(), tmp_path).encode_document(TEXTS)


# --- rerank -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.0), (0.2, 3.0)])
def test_rerank_scores_equal_plain_loops(weights):
    expected = plain_scores("where are the keys", TEXTS, weights)
    hits = rerank("where are the keys", TEXTS, WordEncoder(), weights=weights)
    assert [hit.id for hit in hits] == [str(i) for i in np.argsort(-np.asarray(expected), kind="stable")]
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]


def test_rerank_takes_documents_and_hits_and_changes_none():
    document = Document("a", TEXTS[0], {"page": 3})
    hit = Hit("b", TEXTS[1], {"source": "x"}, 0.1, 0.1, 0.0, 7)
    hits = rerank("dogs at night", [document, hit, TEXTS[2]], WordEncoder(), top_k=2)
    assert len(hits) == 2
    metadata = {found.id: dict(found.metadata) for found in rerank("x", [document, hit, TEXTS[2]], WordEncoder())}
    assert metadata == {"a": {"page": 3}, "b": {"source": "x"}, "2": {}}
    assert hits[0].id == "b"
    assert (hit.rank, hit.score) == (7, 0.1)


def test_equal_texts_keep_their_order():
    hits = rerank("night", ["dogs bark"] * 12, WordEncoder())
    assert [int(hit.id) for hit in hits] == list(range(12))


def test_rerank_bad_input():
    for query in ("", " \n", 3):
        with pytest.raises(InvalidInput, match="the query is"):
            rerank(query, TEXTS, WordEncoder())
    for wrong in ("abc", ["a", None], [{"text": "a"}]):
        with pytest.raises(InvalidInput, match="expected"):
            rerank("x", wrong, WordEncoder())
    with pytest.raises(InvalidInput, match=r"CachedEncoder\('minilm'\)"):
        rerank("x", TEXTS, "minilm")
    with pytest.raises(InvalidInput, match="top_k"):
        rerank("x", TEXTS, WordEncoder(), top_k=0)
    with pytest.raises(InvalidInput, match="weights"):
        rerank("x", TEXTS, WordEncoder(), weights=(0, 0))
    assert rerank("x", [], WordEncoder()) == []
    assert len(rerank("x", iter(TEXTS), WordEncoder())) == len(TEXTS)


def test_bad_texts_and_folders(tmp_path, monkeypatch):
    cached = CachedEncoder(WordEncoder(), tmp_path / "tokens", codec="exact")
    with pytest.raises(InvalidInput, match=r"text 1: expected a str, .* got NoneType"):
        cached.encode_document(["a", None])
    same(cached.encode_document("dogs bark"), WordEncoder().encode_document(["dogs bark"]))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SmartRagError, match="file"):
        CachedEncoder(WordEncoder(), tmp_path / "file").encode_document(["a"])
    monkeypatch.chdir(tmp_path)
    relative = CachedEncoder(WordEncoder(), "here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    relative.encode_document(["a"])
    assert (tmp_path / "here").is_dir()
    assert CachedEncoder(WordEncoder(), "~/tokens").path == Path("~/tokens").expanduser()
