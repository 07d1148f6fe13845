"""The async methods: the loop goes on, the answers are the same, and a cancelled call stops."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest
from helpers.word_encoder import CountingEncoder, WordEncoder

from smart_rag import CachedEncoder, Document, SmartIndex, arerank, rerank, threads
from smart_rag.reports import AddReport

WORDS = ["cats", "dogs", "boats", "keys", "taxes", "rain"]
DOCUMENTS = [Document(str(i), f"{word} are what passage {i} is about") for i, word in enumerate(WORDS * 8)]

who = contextvars.ContextVar("who", default="nobody")


class SlowEncoder(WordEncoder):
    """Takes a while, and notes by whom it was called, and by how many threads at once."""

    def __init__(self, seconds=0.2):
        self.seconds = seconds
        self.callers, self.calls, self.running, self.most = [], 0, 0, 0
        self.mutex = threading.Lock()

    def encode_query(self, texts):
        with self.mutex:
            self.calls += 1
            self.callers.append(who.get())
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(self.seconds)
        with self.mutex:
            self.running -= 1
        return super().encode_query(texts)

    encode_document = encode_query


@pytest.fixture
def encoder():
    return SlowEncoder()


@pytest.fixture
def index(tmp_path, encoder):
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        yield index


async def ticks_during(call):
    """Await ``call``; return its result, and how often the loop came round in the meantime."""
    ticks = 0
    task = asyncio.ensure_future(call)
    while not task.done():
        await asyncio.sleep(0.005)
        ticks += 1
    return task.result(), ticks


def test_the_loop_goes_on_while_the_model_works(index, encoder):
    async def work():
        report, ticks = await ticks_during(index.aadd(DOCUMENTS))
        assert report == AddReport(added=48)
        assert ticks > 8
        for call, plain in (
            (index.asearch("keys", 3, weights=(1, 1)), index.search("keys", 3, weights=(1, 1))),
            (index.arerank("keys", ["cats", "keys"], 1), index.rerank("keys", ["cats", "keys"], 1)),
            (arerank("keys", DOCUMENTS, encoder, 3), rerank("keys", DOCUMENTS, encoder, 3)),
        ):
            found, ticks = await ticks_during(call)
            assert found == plain
            assert ticks > 8

    asyncio.run(work())


def test_many_searches_at_once_give_the_answers_of_one(tmp_path):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        index.add(DOCUMENTS)
        queries = [f"{word} and {other}" for word in WORDS for other in WORDS] * 3
        expected = [index.search(query, 4, first_stage="terms", candidates=9) for query in queries]

        async def work():
            return await asyncio.gather(
                *(index.asearch(query, 4, first_stage="terms", candidates=9) for query in queries)
            )

        assert asyncio.run(work()) == expected
        assert asyncio.run(work()) == expected  # in another loop


def test_few_threads_call_the_model(index, encoder):
    encoder.seconds = 0
    index.add(DOCUMENTS)
    encoder.seconds, encoder.most = 0.02, 0

    async def work():
        await asyncio.gather(*(index.asearch(f"query {i}") for i in range(24)))

    asyncio.run(work())
    assert 2 <= encoder.most <= threads._READERS <= 4


def test_searches_do_not_wait_for_a_long_writing(index, encoder, monkeypatch):
    monkeypatch.setattr("smart_rag.index.writing.ingest._BATCH", 4)

    async def work():
        writing = asyncio.create_task(index.aadd(DOCUMENTS))
        await asyncio.sleep(0.3)
        await index.asearch("keys")
        assert not writing.done()
        assert await writing == AddReport(added=48)

    asyncio.run(work())


def test_context_variables_reach_the_threads(index, encoder):
    async def call(name):
        who.set(name)
        await index.asearch(name)

    async def work():
        await asyncio.gather(call("one"), call("two"))

    asyncio.run(work())
    assert sorted(encoder.callers) == ["one", "two"]


def test_a_search_that_waits_is_dropped_when_it_is_cancelled(index, encoder):
    async def work():
        tasks = [asyncio.create_task(index.asearch(f"query {i}")) for i in range(20)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(done, asyncio.CancelledError) for done in await asyncio.gather(*tasks, return_exceptions=True)
        )
        await index.asearch("after")

    asyncio.run(work())
    assert encoder.calls <= threads._READERS + 1


def test_a_cancelled_writing_stops_and_can_be_made_again(index, encoder, monkeypatch):
    monkeypatch.setattr("smart_rag.index.writing.ingest._BATCH", 4)
    committed = []

    async def work():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(index.aadd(DOCUMENTS, on_commit=committed.extend), 0.7)
        index.vacuum()  # waits for the batch that is being written
        return index.count()

    there = asyncio.run(work())
    assert 0 < there < len(DOCUMENTS)
    assert len(committed) == there
    assert asyncio.run(index.aadd(DOCUMENTS)) == AddReport(added=len(DOCUMENTS) - there, unchanged=there)


def test_errors_come_through(index):
    with pytest.raises(ValueError, match="top_k"):
        asyncio.run(index.asearch("keys", 0))
    with pytest.raises(ValueError, match="no text"):
        asyncio.run(index.aadd([Document("a")]))


def test_arerank_uses_a_cache(tmp_path):
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, tmp_path)
    asyncio.run(arerank("keys", WORDS, cached))
    asyncio.run(arerank("keys", WORDS, cached))
    assert encoder.documents == WORDS
