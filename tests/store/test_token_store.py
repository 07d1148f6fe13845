"""`TokenStore`: keys and bytes, and its contents against a dict."""

import contextlib

import numpy as np
import pytest
from helpers.token_stores import (
    HEADER,
    LOCATION,
    assert_holds,
    contents,
    damage,
    flipped,
    key,
    put,
    raw,
    tokens_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.token_pooling import pool_tokens
from smart_rag.embeddings.tokens import TokenBatch, TokenCodes
from smart_rag.errors import CorruptStore, DimensionMismatch, IndexClosed, InvalidInput, MissingTokens
from smart_rag.store.token_store import StoreStats, TokenStore, content_key

FLOAT16 = get_codec("float16")
# Two tokens of three dimensions in float16, and the record that holds them.
TOKENS = np.float16([[1, -2, 0.5], [0, 65504, -0.25]])
GOLDEN_KEY = "a955a181f82fbc2fefa4479dc901c740"
GOLDEN_CODES = "003c00c00038" + "0000ff7b00b4"
GOLDEN_ENTRY = GOLDEN_KEY + "0c000000" + GOLDEN_CODES
GOLDEN_HEADER = "0c000000" + "02000000" + "0300" + "0200" + "6b14bb47276a1c3f"
GOLDEN_PLACE = "00000000" + "00000000" + GOLDEN_HEADER
GOLDEN_USAGE = "2000000000000000" + "2000000000000000" + "0200000000000000"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens"


@pytest.fixture
def store(path):
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        yield store


# --- keys and bytes -----------------------------------------------------------------------


def test_golden_keys():
    """Keys are on users' disks, so they never change."""
    assert content_key("fp", "float16", "hello").hex() == GOLDEN_KEY
    assert content_key("fp", "float16", "é😀").hex() == "e66c87d44c0d769575a01012fbf22b26"
    assert content_key("fp", "float16", "").hex() == "78610600d2cd02c7ef7f32ce60721c6c"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_different_contents_have_different_keys(one, two):
    """Equal contents have equal keys, as text or as bytes; different contents have different keys."""
    first = content_key("fp", "float16", one)
    assert first == content_key("fp", "float16", one.encode("utf-8"))
    assert len(first) == 16
    assert (first == content_key("fp", "float16", two)) == (one == two)


def test_different_encoders_and_codecs_have_different_keys():
    """The key depends on fingerprint, codec and content, and on where one ends and the next begins."""
    parts = [("a", "b", "c"), ("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x"), ("ab", "", "c"), ("a", "", "bc")]
    assert len({content_key(*part) for part in parts}) == len(parts)


def test_a_lone_surrogate_has_a_key():
    """A text that UTF-8 cannot encode has a key of its own, too."""
    assert content_key("fp", "float16", "\ud800") != content_key("fp", "float16", "\ud801")


def test_golden_record(store, path):
    """A known matrix is stored as these bytes."""
    store.put([bytes.fromhex(GOLDEN_KEY)], TokenBatch.from_list([TOKENS]))
    store.close()
    assert contents(path) == {
        "places": {bytes.fromhex(GOLDEN_KEY): bytes.fromhex(GOLDEN_PLACE)},
        "segments": {bytes(4): bytes.fromhex(GOLDEN_ENTRY)},
        "usage": {bytes(4): bytes.fromhex(GOLDEN_USAGE)},
    }
    with raw(path) as (transaction, _):
        assert {k for k, _ in transaction.cursor()} == {b"layout", b"places", b"segments", b"usage"}
        assert transaction.get(b"layout") == b"2"


def test_golden_segments_can_be_read(path):
    """These bytes can be read for ever, in any segment and at any offset."""
    path.mkdir()
    with raw(path) as (transaction, databases):
        transaction.put(b"layout", b"2")
        for name, entries in {
            "segments": {"00000102": "ff" * 300 + GOLDEN_ENTRY},
            "places": {GOLDEN_KEY: "02010000" + "2c010000" + GOLDEN_HEADER},
            "usage": {"00000102": "4c01000000000000" + "2000000000000000" + "0200000000000000"},
        }.items():
            for k, value in entries.items():
                transaction.put(bytes.fromhex(k), bytes.fromhex(value), db=databases[name])
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        np.testing.assert_array_equal(store.gather([bytes.fromhex(GOLDEN_KEY)])[0], TOKENS)
        assert (store.stats().entries, store.stats().tokens, store.verify()) == (1, 2, [])
        put(store, [1])
        assert_holds(store, [1])
    assert set(contents(path)["segments"]) == {bytes.fromhex("00000102")}


# --- calls --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("float16", np.float16), ("float32", np.float32)])
def test_gather_returns_ragged_texts_in_the_order_of_the_keys(path, name, expected):
    """Keys may come in any order and more than once; the codec decides the precision."""
    rng = np.random.default_rng(0)
    texts = [rng.standard_normal((n, 5)).astype(np.float32) for n in (1, 7, 2)]
    with contextlib.closing(TokenStore(path, get_codec(name))) as store:
        store.put([key(i) for i in range(3)], TokenBatch.from_list(texts))
        batch = store.gather([key(i) for i in (2, 0, 2, 1)])
    assert batch.embeddings.dtype == expected
    assert batch.embeddings.flags.c_contiguous
    for found, i in zip(batch, (2, 0, 2, 1), strict=True):
        np.testing.assert_array_equal(found, texts[i].astype(expected))


def test_gather_of_nothing(store):
    """No keys return no texts."""
    assert len(store.gather([])) == 0


def test_gather_owns_its_memory(store):
    """Gathered tokens stay as they are when the store changes or is closed."""
    put(store, [1])
    gathered = store.gather([key(1)])
    store.put([key(1)], TokenBatch.from_list([tokens_of(5)]))
    np.testing.assert_array_equal(store.gather([key(1)])[0], tokens_of(5))
    store.close()
    np.testing.assert_array_equal(gathered[0], tokens_of(1))
    assert gathered.embeddings.flags.writeable


@pytest.mark.parametrize("name", ["int8", "4bit", "2bit", "1bit", "2bit/2", "float16/3"])
def test_codes_of_ragged_texts(path, name):
    """Gathered tokens are the texts, pooled and encoded by the codec; they are decoded when they are asked for."""
    rng = np.random.default_rng(0)
    texts = [rng.standard_normal((n, 25)) for n in (1, 7, 2)]
    texts = [(text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32) for text in texts]
    found = get_codec(name)
    with contextlib.closing(TokenStore(path, found)) as store:
        store.put([key(i) for i in range(3)], TokenBatch.from_list(texts))
        gathered = store.gather([key(i) for i in (2, 0, 2, 1)])
        assert store.stats().tokens == sum(-(-n // found.pool_factor) for n in (1, 7, 2))
    assert (len(gathered), gathered.dimension, gathered.codec) == (4, 25, found)
    pooled = pool_tokens(TokenBatch.from_list(texts), found.pool_factor)
    expected = [found.encode(pooled[i]) for i in (2, 0, 2, 1)]
    np.testing.assert_array_equal(gathered.codes, np.concatenate(expected))
    decoded = gathered.decode()
    for i, codes in enumerate(expected):
        # The last bit of a matrix product depends on the processor, and on how many rows there are.
        tokens = found.decode(codes, 25)
        np.testing.assert_allclose(gathered[i], tokens, rtol=0, atol=1e-6)
        np.testing.assert_allclose(decoded[i], tokens, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(gathered.embeddings, decoded.embeddings)


@pytest.mark.parametrize("name", ["float16", "2bit", "2bit/2"])
def test_nothing_is_put_and_gathered(path, name):
    """No texts are no error, with any codec."""
    with contextlib.closing(TokenStore(path, get_codec(name))) as store:
        store.put([], TokenBatch.from_list([]))
        assert len(store) == 0
        nothing = store.gather([])
        assert (len(nothing), len(nothing.embeddings), list(nothing)) == (0, 0, [])


def test_a_pool_factor_does_not_change_the_layout(path):
    """Entries of one layout can be read with any factor; only their keys differ."""
    with contextlib.closing(TokenStore(path, get_codec("2bit/2"))) as store:
        store.put([key(1)], TokenBatch.from_list([np.eye(8, dtype=np.float32)]))
        with contextlib.closing(TokenStore(path, get_codec("2bit"))) as other:
            np.testing.assert_array_equal(other.gather([key(1)]).codes, store.gather([key(1)]).codes)
    assert content_key("fp", "2bit", "text") != content_key("fp", "2bit/2", "text")


def test_too_many_dimensions_are_refused_before_they_are_encoded(path):
    """An entry has 16 bits for the dimension. A rotation of that size would fill the memory."""
    wide = TokenBatch.from_list([np.ones((1, 1 << 16), dtype=np.float32)])
    with (
        contextlib.closing(TokenStore(path, get_codec("2bit"))) as store,
        pytest.raises(InvalidInput, match="of 65536 dimensions; a token store takes at most 65535"),
    ):
        store.put([key(1)], wide)


def test_missing_tokens_are_all_named(store):
    """The error names every missing document, by its id where ids are given."""
    put(store, [1, 2])
    keys = [key(i) for i in (1, 8, 2, 9)]
    assert store.missing(keys) == [1, 3]
    message = "no token embeddings for 2 of 4 documents, the first is 'h'"
    with pytest.raises(MissingTokens, match=message) as error:
        store.gather(keys, ["a", "h", "b", "i"])
    assert error.value.ids == ("h", "i")
    with pytest.raises(MissingTokens, match=f"the first is '{key(8).hex()}'") as error:
        store.gather(keys)
    assert error.value.ids == (key(8).hex(), key(9).hex())


def test_put_replaces(store):
    """The old tokens of a key are gone; other keys keep theirs."""
    put(store, [1, 2])
    store.put([key(1)], TokenBatch.from_list([tokens_of(7, n=4)]))
    np.testing.assert_array_equal(store.gather([key(1)])[0], tokens_of(7, n=4))
    assert_holds(store, [2])
    assert len(store) == 2


def test_put_of_one_key_twice(store):
    """Equal contents in one call are written once."""
    put(store, [1, 2, 1])
    assert len(store) == 2
    assert_holds(store, [1, 2])


def test_put_of_one_key_twice_keeps_the_last(store):
    """Of two texts under one key in one call, the later one is stored."""
    for i in range(8):
        store.put([key(1), key(1)], TokenBatch.from_list([tokens_of(i), tokens_of(i + 1)]))
        np.testing.assert_array_equal(store.gather([key(1)])[0], tokens_of(i + 1))


def test_put_wants_a_key_for_each_text(store):
    """The numbers of keys and texts must be equal; otherwise nothing is written."""
    with pytest.raises(InvalidInput, match="expected one key for each text, got 2 keys for 1 texts"):
        store.put([key(1), key(2)], TokenBatch.from_list([tokens_of(1)]))
    assert len(store) == 0


def test_gather_of_different_dimensions(store):
    """Texts of different dimensions cannot be in one matrix."""
    store.put([key(1)], TokenBatch.from_list([tokens_of(1, dimension=3)]))
    store.put([key(2)], TokenBatch.from_list([tokens_of(2, dimension=5)]))
    with pytest.raises(DimensionMismatch, match=r"have different dimensions: \[3, 5\]"):
        store.gather([key(1), key(2)])


def test_delete_and_vacuum(store):
    """Both remove entries and return how many there were."""
    put(store, range(6))
    assert store.delete([key(0), key(0), key(9)]) == 1
    assert store.delete(key(i) for i in [1]) == 1
    assert store.delete([]) == 0
    assert store.vacuum({key(2), key(3), key(77)}) == 2
    assert sorted(store.keys()) == [key(2), key(3)]
    assert store.vacuum([]) == 2
    assert len(store) == 0


def test_contains_len_keys_and_stats(store):
    """The counts follow what was written."""
    # One page lists the databases; each database that is not empty takes at least one more.
    assert (len(store), list(store.keys()), store.stats()) == (0, [], StoreStats(0, 0, 4096))
    store.put([key(2), key(1)], TokenBatch.from_list([tokens_of(2, 4), tokens_of(1, 3)]))
    assert key(1) in store
    assert key(3) not in store
    assert list(store.keys()) == [key(1), key(2)]
    stats = store.stats()
    assert (stats.entries, stats.tokens, stats.used_bytes) == (2, 7, 4 * 4096)
    put(store, range(10, 20), n=500)
    stats = store.stats()
    assert (stats.entries, stats.tokens) == (12, 5007)
    assert 80_160 < stats.used_bytes < 80_160 + 5 * 4096


def test_later_writes_do_not_change_keys(store):
    """A key that is put after the call is not in its result."""
    put(store, [1])
    keys = store.keys()
    put(store, [2])
    assert list(keys) == [key(1)]


# --- damage -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["segments", "places"])
@pytest.mark.parametrize("position", range(32))
def test_a_flipped_bit_is_found(store, path, name, position):
    """A flipped bit in an entry or in its location is found, damages no other entry, and can be repaired."""
    put(store, [1])
    store.put([key(2)], TokenBatch.from_list([TOKENS]))
    store.close()
    if name == "places":
        position = min(position, LOCATION.size - 1)
        damage(path, name, key(2), flipped(position))
    else:
        start = HEADER.size + 48  # length of the first entry
        assert len(contents(path)["segments"][bytes(4)]) == start + 32
        damage(path, name, bytes(4), flipped(start + position))
    assert_damaged_then_repaired(
        path, "the entry of 'my document' (fails its checksum|is .* bytes, expected|has codec)"
    )


def assert_damaged_then_repaired(path, message):
    """Assert that of the entries 1 and 2 the second cannot be read until it is put again."""
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        with pytest.raises(CorruptStore, match=message):
            store.gather([key(1), key(2)], ["other", "my document"])
        with pytest.raises(CorruptStore, match=f"the entry of '{key(2).hex()}' "):
            store.gather([key(2)])
        assert store.verify() == [key(2)]
        assert_holds(store, [1])
        put(store, [2])
        assert store.verify() == []
        assert_holds(store, [1, 2])
        put(store, [2], n=200)
        assert store.delete([key(2)]) == 1
        assert_holds(store, [1])


@pytest.mark.parametrize("change", [lambda value: b"", lambda value: value[:27], lambda value: value + b"\0"])
def test_a_location_of_another_length(store, path, change):
    """A location that is too short or too long cannot be used, and its entry is listed."""
    put(store, [1, 2])
    store.close()
    damage(path, "places", key(2), change)
    assert_damaged_then_repaired(path, "the entry of 'my document' has codec number 0")


def test_a_segment_cut_short(store, path):
    """Entries beyond the end of a segment cannot be read; entries before it can."""
    put(store, [1, 2])
    store.close()
    damage(path, "segments", bytes(4), lambda value: value[:-1])
    assert_damaged_then_repaired(path, "the entry of 'my document' fails its checksum")


def test_a_store_of_another_codec(store, path):
    """Entries of one codec are not read as another's."""
    put(store, [1])
    with contextlib.closing(TokenStore(path, get_codec("float32"))) as other:
        with pytest.raises(CorruptStore, match="the entry of 'a' has codec number 2, not 'float32'"):
            other.gather([key(1)], ["a"])
        assert other.verify() == [key(1)]


# --- closing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda store: put(store, [1]),
        lambda store: store.gather([key(1)]),
        lambda store: store.missing([key(1)]),
        lambda store: store.delete([key(1)]),
        lambda store: list(store.keys()),
        lambda store: key(1) in store,
        len,
        TokenStore.verify,
        TokenStore.stats,
        lambda store: store.vacuum([]),
        lambda store: store.delete([]),
    ],
)
def test_use_after_close(store, path, use):
    """Every call on a closed store raises; a second close does nothing."""
    put(store, [1])
    store.close()
    store.close()
    with pytest.raises(IndexClosed, match="the token store is closed; open it again"):
        use(store)


# --- codes --------------------------------------------------------------------------------


def test_codes_are_written_as_they_are(tmp_path):
    """Codes of the store's own codec are not decoded or pooled again, which would change them."""
    texts = TokenBatch.from_list([np.random.default_rng(i).standard_normal((9, 8)) for i in range(3)])
    with contextlib.closing(TokenStore(tmp_path / "a", get_codec("1bit/2"))) as store:
        store.put([key(i) for i in range(3)], texts)
        codes = store.gather([key(2), key(0)])
    assert np.diff(codes.offsets).tolist() == [5, 5]
    with contextlib.closing(TokenStore(tmp_path / "b", get_codec("1bit/2"))) as again:
        again.put([key(5), key(6)], codes)
        found = again.gather([key(5), key(6)])
    np.testing.assert_array_equal(found.codes, codes.codes)
    np.testing.assert_array_equal(found.offsets, codes.offsets)


def test_codes_of_another_codec_are_decoded_first(tmp_path):
    """Codes of another codec are decoded, then encoded with the store's own."""
    rows = np.eye(8, dtype=np.float32)[:3]
    codes = TokenCodes.from_list([get_codec("int8").encode(rows)], 8, get_codec("int8"))
    with contextlib.closing(TokenStore(tmp_path, get_codec("float32"))) as store:
        store.put([key(1)], codes)
        np.testing.assert_array_equal(store.gather([key(1)])[0], codes.embeddings)
