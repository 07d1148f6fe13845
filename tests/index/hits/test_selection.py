"""Which documents of a ranking become hits: a plain loop over the full ranking says so."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from helpers.five_texts import EXACT, STAGES
from helpers.word_encoder import VocabularyEncoder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smart_rag import Document, SmartIndex
from smart_rag.errors import InvalidInput
from smart_rag.index.hits.selection import Rule, Scored, Selection
from smart_rag.store.row import Row

WORDS = ["boat", "key", "rain", "pump", "tax", "cat", "dog", "mat", "oil", "pike"]
COUNT = 60
KEYS = ["source", "one", "few", "mixed"]


def metadata_of(number, rng):
    """Return sources by several keys: a few files, one file, numbers, and some that are no sources."""
    sources = {
        "source": f"file{rng.randrange(4)}",
        "one": "book",
        "few": rng.choice(["a", "b", number % 3, 2.5]),
        "mixed": rng.choice([None, True, ["a", "b"], "a", 1]),
    }
    return {key: value for key, value in sources.items() if value is not None}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=8)) for _ in range(COUNT)]
    texts[7] = texts[8] = texts[20] = texts[3]
    with SmartIndex.create(tmp_path_factory.mktemp("hits") / "index", VocabularyEncoder(), config=EXACT) as index:
        index.add([Document(f"{i:02}", text, metadata_of(i, rng)) for i, text in enumerate(texts)])
        yield index


def by_a_plain_loop(ranked, top_k, per_source, key, fold):
    """Return the ids and the duplicates of the hits that the rule leaves of a full ranking."""
    kept, taken = [], {}
    for hit in ranked:
        if len(kept) == top_k:
            break
        source = hit.metadata.get(key)
        if isinstance(source, bool | list):
            source = None
        if source is not None and per_source is not None:
            if taken.get(source, 0) >= per_source:
                continue
            taken[source] = taken.get(source, 0) + 1
        same = [other for other in kept if fold and other[0].text == hit.text]
        if same:
            same[0][1].append(hit.id)
        else:
            kept.append((hit, []))
    return [replace(hit, duplicates=tuple(others)) for hit, others in kept]


def places(hits):
    """Return what is the same, however the scores are rounded."""
    return [(hit.id, hit.rank, hit.duplicates) for hit in hits]


RULES = {
    "query": st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join),
    "top_k": st.integers(1, 12),
    "per_source": st.none() | st.integers(1, 4),
    "key": st.sampled_from(KEYS),
    "fold": st.booleans(),
}


@given(**RULES)
@example(query="boat", top_k=12, per_source=1, key="mixed", fold=False)
@example(query="boat", top_k=60, per_source=2, key="few", fold=True)
@settings(max_examples=40, deadline=None)
def test_the_hits_are_those_of_a_plain_loop_over_the_full_ranking(index, query, top_k, per_source, key, fold):
    ranked = index.search(query, COUNT, first_stage="exhaustive")
    found = index.search(
        query, top_k, per_source=per_source, source_key=key, fold_duplicates=fold, first_stage="exhaustive"
    )
    assert found == by_a_plain_loop(ranked, top_k, per_source, key, fold)


@given(**RULES, first_stage=st.sampled_from(["terms", "pooled"]), candidates=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_there_are_as_many_hits_as_the_index_has(index, query, top_k, per_source, key, fold, first_stage, candidates):
    """With few candidates, the hits may be others, but never fewer. Their scores are those of the full ranking."""
    ranked = {hit.id: hit for hit in index.search(query, COUNT, first_stage="exhaustive")}
    found = index.search(
        query,
        top_k,
        per_source=per_source,
        source_key=key,
        fold_duplicates=fold,
        first_stage=first_stage,
        candidates=candidates,
    )
    assert len(found) == len(by_a_plain_loop(ranked.values(), top_k, per_source, key, fold))
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    for hit in found:
        assert hit.score == pytest.approx(ranked[hit.id].score, abs=1e-6)
    sources = [str(hit.metadata.get(key)) for hit in found if isinstance(hit.metadata.get(key), str | float)]
    assert per_source is None or max(map(sources.count, sources), default=0) <= per_source


@pytest.mark.parametrize("first_stage", STAGES)
def test_one_file_takes_all_candidates(tmp_path, first_stage):
    """Nine files answer, too, but are behind 300 passages of the first file."""
    texts = {f"big{i:03}": f"rain rain boat {WORDS[i % 10]}" for i in range(300)}
    texts |= {f"small{i}": f"boat {WORDS[i]} mat oil pike" for i in range(9)}
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder(), config=EXACT) as index:
        index.add([Document(id, text, {"source": id[:3] if id[0] == "b" else id}) for id, text in texts.items()])
        options = {"first_stage": first_stage, "candidates": 20}
        assert {hit.source for hit in index.search("rain rain boat", 10, **options)} == {"big"}
        found = index.search("rain rain boat", 10, per_source=1, **options)
        assert [hit.source for hit in found[:1]] == ["big"]
        assert sorted(hit.source for hit in found[1:]) == [f"small{i}" for i in range(9)]
        few = index.search("rain rain boat", 10, per_source=1, where={"source": {"$ne": "small3"}}, **options)
        assert len(few) == 9
        both = index.search_many(["rain rain boat", "mat"], 10, per_source=1, **options)
        again = asyncio.run(index.asearch("rain rain boat", 10, per_source=1, **options))
        assert places(both[0]) == places(again) == places(found)


def test_ranks_and_relevance_are_those_of_the_full_ranking(index):
    ranked = index.search("boat key", COUNT)
    found = index.search("boat key", 4, per_source=1)
    assert len(found) == 4
    assert found == [ranked[hit.rank - 1] for hit in found]
    assert [hit.relevance for hit in found] == [ranked[hit.rank - 1].relevance for hit in found]
    least = found[1].relevance
    assert index.search("boat key", 4, per_source=1, min_relevance=least) == [
        hit for hit in found if hit.relevance >= least
    ]


def test_without_a_settled_state_the_hits_are_the_same(index):
    queries = index.encode_queries(["boat key", "oil"])
    search = replace(index._search(5, None, None), rule=Rule(1, "source", True), candidates=5)
    states = [index._store.settled_state(), None]
    for stage in ("terms", "pooled"):
        with_state, without = ([places(hits) for hits in search._chosen(queries, stage, state)] for state in states)
        assert with_state == without


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_source": 0}, "per_source must be a whole number of at least 1, got 0"),
        ({"per_source": True}, "per_source must be a whole number"),
        ({"per_source": 1.5}, "per_source must be a whole number"),
        ({"per_source": 1, "source_key": ""}, "source_key must be the name of a metadata key, got ''"),
        ({"per_source": 1, "source_key": None}, "source_key must be the name of a metadata key, got None"),
        ({"fold_duplicates": 0.9}, "fold_duplicates must be True or False, got 0.9"),
    ],
)
def test_bad_values_are_refused(index, arguments, message):
    with pytest.raises(InvalidInput, match=message):
        index.search("boat", **arguments)


def test_rows_of_a_full_source_are_not_read():
    ids = [f"{i:05}" for i in range(20_000)]
    rows = {id: Row(Document(id, id, {"source": "last" if id == ids[-1] else "big"}), b"") for id in ids}
    read = []

    def read_rows(some):
        read.extend(some)
        return rows

    selection = Selection(2, Rule(per_source=1))
    selection.walk(ids, read_rows, lambda where: {id for id in ids[:-1] if where == {"source": {"$in": ["big"]}}})
    assert [chosen.row.document.id for chosen in selection.chosen] == [ids[0], ids[-1]]
    assert [chosen.place for chosen in selection.chosen] == [0, 19_999]
    assert len(read) < 20


def test_a_document_that_is_scored_again_stays(index):
    first, second = (index._search(1, None, None) for _ in range(2))
    blocks = [(s.ids, s.pooled[0], s.late[0]) for s in first.scan(index.encode_queries(["boat"]))]
    once, twice = Scored(), Scored()
    once.add(blocks)
    twice.add(blocks)
    twice.add((ids, pooled + 1, late) for ids, pooled, late in blocks)
    assert once.ranked(second.weights) == twice.ranked(second.weights)
